//! The status of a fan-out and its secondaries.

use std::fmt;
use std::time::{Duration, SystemTime};

use serde::{Serialize, Serializer};

use crate::{Error, EventId};

/// A log and its secondaries, as they are now.
///
/// As JSON, times are RFC 3339 in UTC, durations are seconds, and errors are one line.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct FanOutStatus {
    /// What the log is kept in, as its options describe it.
    pub target: Option<String>,
    /// The newest event that the fan-out knows to be durable.
    pub head: Option<EventId>,
    /// All secondaries of the roster, by name.
    pub secondaries: Vec<SecondaryStatus>,
    /// Why the log takes no more events, if so.
    #[serde(serialize_with = "error_as_line")]
    pub stopped: Option<Error>,
    /// Set if every attached sink that has a checkpoint contradicts the primary: it is empty, or older than all of
    /// its sinks. The message names the ways out.
    #[serde(serialize_with = "error_as_line")]
    pub stale: Option<Error>,
}

/// One secondary, as it is now.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct SecondaryStatus {
    /// Its name.
    pub name: String,
    /// What it writes to.
    pub target: String,
    /// What it is doing.
    pub state: SecondaryState,
    /// The newest event that it acknowledged, with all before it from its floor on.
    pub checkpoint: Option<EventId>,
    /// The first event that it received, if it could not start at the origin.
    pub floor: Option<EventId>,
    /// How many events it has not acknowledged yet. For events older than the ring, ids are
    /// counted: an upper bound if they have gaps.
    pub lag_events: u64,
    /// The age of the oldest event that it has not acknowledged, since the primary acknowledged it.
    #[serde(rename = "lagSeconds", serialize_with = "duration_as_seconds")]
    pub lag: Duration,
    /// The error that it has not recovered from.
    #[serde(serialize_with = "error_as_line")]
    pub last_error: Option<Error>,
    /// When the newest error happened, recovered from or not.
    #[serde(serialize_with = "time_as_text")]
    pub last_error_at: Option<SystemTime>,
    /// The number of retries since the secondary was attached.
    pub retries: u64,
    /// How many events went to its dead letters.
    pub dead_letters: u64,
}

/// What a secondary is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum SecondaryState {
    /// In the roster, but not attached in this process. It holds back `prune` until it is detached.
    Detached,
    /// Asking the sink for its checkpoint, and comparing histories.
    Starting,
    /// Delivering, and more than one batch or one second from the head.
    CatchingUp,
    /// At the head of the log, or within one batch and one second (and its linger time) of it.
    Live,
    /// Pausing before a retry; `last_error` says why.
    Retrying,
    /// Stopped until an operator resumes it; `last_error` says why. The others continue.
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

/// A secondary that did not handle an event in time.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Laggard {
    /// Its name.
    pub name: String,
    /// What it writes to.
    pub target: String,
    /// What it is doing.
    pub state: SecondaryState,
    /// The newest event that it acknowledged.
    pub checkpoint: Option<EventId>,
    /// How many events it has not acknowledged, of those that the primary acknowledged.
    pub lag_events: u64,
    /// Why, if something went wrong.
    #[serde(serialize_with = "error_as_line")]
    pub last_error: Option<Error>,
}

impl fmt::Display for Laggard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.state)?;
        if self.lag_events > 0 {
            let plural = if self.lag_events == 1 { "" } else { "s" };
            write!(f, " misses {} event{plural}", self.lag_events)?;
            match self.checkpoint {
                Some(id) => write!(f, " after event {id}")?,
                None => f.write_str(" from the beginning")?,
            }
        }
        match &self.last_error {
            Some(error) => write!(f, ": {error}"),
            None => Ok(()),
        }
    }
}

/// The secondaries that did not handle an event in time: a slice of them, and an error that names them.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(transparent)]
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

#[expect(clippy::ref_option, reason = "serde passes a reference to the field")]
fn error_as_line<S: Serializer>(error: &Option<Error>, serializer: S) -> Result<S::Ok, S::Error> {
    error.as_ref().map(ToString::to_string).serialize(serializer)
}

fn duration_as_seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    duration.as_secs_f64().serialize(serializer)
}

#[expect(clippy::ref_option, reason = "serde passes a reference to the field")]
fn time_as_text<S: Serializer>(time: &Option<SystemTime>, serializer: S) -> Result<S::Ok, S::Error> {
    let time = time.map(|time| jiff::Timestamp::try_from(time).unwrap_or(jiff::Timestamp::MAX).to_string());
    time.serialize(serializer)
}
