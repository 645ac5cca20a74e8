//! What is to be seen of a fan-out and its secondaries.

use std::fmt;
use std::time::Duration;

use crate::{Error, EventId};

/// A log and its secondaries, as they stand now.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FanOutStatus {
    /// The last event that the fan-out knows to be durable.
    pub head: Option<EventId>,
    /// All secondaries of the roster, by name.
    pub secondaries: Vec<SecondaryStatus>,
    /// Why nothing more comes from the log, where that is so.
    pub stopped: Option<Error>,
}

/// One secondary, as it stands now.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SecondaryStatus {
    /// Its name.
    pub name: String,
    /// What it writes to.
    pub target: String,
    /// What it is doing.
    pub state: SecondaryState,
    /// The last event that it acknowledged, with all before it from its floor on.
    pub checkpoint: Option<EventId>,
    /// The first event that it was given, where it could not start at the origin.
    pub floor: Option<EventId>,
    /// How many events it lacks. Below the shared memory ids are counted, an upper bound where they have gaps.
    pub lag_events: u64,
    /// The age of the oldest event that it lacks, since that was acknowledged by the primary.
    pub lag: Duration,
    /// The newest error, also one that was overcome.
    pub last_error: Option<Error>,
    /// How often a call was made again.
    pub retries: u64,
    /// How many events went to its dead letters.
    pub dead_letters: u64,
}

/// What a secondary is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SecondaryState {
    /// In the roster, but not attached in this process.
    Detached,
    /// Asking the sink where it stands, and comparing histories.
    Starting,
    /// Reading the primary from its checkpoint.
    CatchingUp,
    /// Being fed from memory.
    Live,
    /// Pausing before a retry.
    Retrying,
    /// Stopped, waiting for a person; `last_error` says why. The others go on.
    Parked,
}

impl fmt::Display for SecondaryState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Detached => "detached",
            Self::Starting => "starting",
            Self::CatchingUp => "catching up",
            Self::Live => "live",
            Self::Retrying => "retrying",
            Self::Parked => "parked",
        })
    }
}

/// A secondary that had not disposed of an event in time.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Laggard {
    /// Its name.
    pub name: String,
    /// What it is doing.
    pub state: SecondaryState,
    /// The last event that it acknowledged.
    pub checkpoint: Option<EventId>,
    /// How many events it lacks.
    pub lag_events: u64,
    /// Why, where something went wrong.
    pub last_error: Option<Error>,
}

impl fmt::Display for Laggard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.state)?;
        if self.lag_events > 0 {
            let plural = if self.lag_events == 1 { "" } else { "s" };
            write!(f, " lacks {} event{plural}", self.lag_events)?;
            match self.checkpoint {
                Some(id) => write!(f, " behind event {id}")?,
                None => f.write_str(" from the beginning")?,
            }
        }
        match &self.last_error {
            Some(error) => write!(f, ": {error}"),
            None => Ok(()),
        }
    }
}

/// The secondaries that had not disposed of an event in time: a slice of them, and an error that names them.
#[derive(Clone, Debug, Default)]
#[must_use = "these secondaries do not hold every event"]
pub struct Laggards(pub(crate) Vec<Laggard>);

impl std::ops::Deref for Laggards {
    type Target = [Laggard];

    fn deref(&self) -> &[Laggard] {
        &self.0
    }
}

impl IntoIterator for Laggards {
    type Item = Laggard;
    type IntoIter = std::vec::IntoIter<Laggard>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> IntoIterator for &'a Laggards {
    type Item = &'a Laggard;
    type IntoIter = std::slice::Iter<'a, Laggard>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl FromIterator<Laggard> for Laggards {
    fn from_iter<I: IntoIterator<Item = Laggard>>(laggards: I) -> Self {
        Self(laggards.into_iter().collect())
    }
}

impl fmt::Display for Laggards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, laggard) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "; " };
            write!(f, "{comma}{laggard}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Laggards {}
