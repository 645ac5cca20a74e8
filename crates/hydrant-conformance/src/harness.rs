//! What the author of a store writes to enrol it: how to open it, what it promises, and how to break it.

use std::time::Duration;

use async_trait::async_trait;
use hydrant::{Capabilities, Durability, Event, EventId, Result};

use crate::Opened;

/// Opens a store for the kit. Two methods are enough; with each hook the kit tries more of the laws.
///
/// What is not declared or has no hook is reported in the run, in a line of its own.
#[async_trait]
pub trait Harness: Send + Sync + 'static {
    /// The capabilities that the store declares. Each of them is tested.
    fn capabilities(&self) -> Capabilities;

    /// Opens the log of a namespace, and creates it if it does not exist.
    ///
    /// The kit uses each namespace (letters, digits, `_`) for one test. Opening it again must find what
    /// was held; opening it while it is open is a second writer.
    ///
    /// # Errors
    /// The store's own error; a second writer may be refused with `Fenced` here already.
    async fn open(&self, namespace: &str) -> Result<Opened>;

    /// What `Ok` from an append means.
    fn durability(&self) -> Durability {
        Durability::Durable
    }

    /// What the store can take and how long it may need.
    fn limits(&self) -> Limits {
        Limits::default()
    }

    /// Returns why the store cannot be tried here, for example because its server is missing.
    ///
    /// Every test then prints `skipped: <reason>`. A harness whose server is required panics instead.
    fn unavailable(&self) -> Option<String> {
        None
    }

    /// Returns why the store cannot have this hook, for example because a transaction is never torn.
    ///
    /// The run prints the reason with what was not tried. `None` if the hook is only missing.
    fn impossible(&self, _hook: Hook) -> Option<&'static str> {
        None
    }

    /// Removes what a test left, whether it passed or not: all namespaces that begin with this one. All
    /// handles are closed or dropped.
    ///
    /// # Errors
    /// What went wrong while removing; the run reports it and continues.
    async fn remove(&self, _prefix: &str) -> Result<()> {
        Ok(())
    }

    /// Hook for law 13: damages what is stored in a namespace that is closed. Returns `false` if that is impossible.
    ///
    /// # Errors
    /// What went wrong while damaging.
    async fn damage(&self, _namespace: &str, _damage: Damage) -> Result<bool> {
        Ok(false)
    }

    /// Hook for law 13: replaces all that is stored in a namespace, which is open and followed, by `events`, as a
    /// restore from a backup or a failover to another copy does. Returns `false` if that is not possible.
    ///
    /// # Errors
    /// What went wrong while replacing.
    async fn replace(&self, _namespace: &str, _events: &[Event]) -> Result<bool> {
        Ok(false)
    }

    /// Hook for law 7: makes the next write to the server or disk fail, in a namespace that is open.
    ///
    /// `n` numbers the kinds of failure that the harness knows, from 0. Returns `false` if there are no more.
    ///
    /// `Tcp::arm` of the proxy (feature `proxy`) has the kinds of failure of a connection. The append after this call
    /// must meet the fault; [`unfired`](Harness::unfired) proves it.
    ///
    /// # Errors
    /// What went wrong while arming.
    async fn fail_next_write(&self, _namespace: &str, _n: usize) -> Result<bool> {
        Ok(false)
    }

    /// Returns the faults of [`fail_next_write`](Harness::fail_next_write) that are armed and did not fire.
    ///
    /// The kit asks after the append that had to meet them, and fails if there are any: a fault that does not fire
    /// proves nothing.
    fn unfired(&self, _namespace: &str) -> Vec<String> {
        Vec::new()
    }

    /// Returns whether failure `n` stops the handle for good although its error is retryable.
    ///
    /// For example, after a sync that failed, what the store holds is unknown until it is opened again. The store's
    /// page must say so. The kit then expects `Closed` from the handle, and opens the log again.
    fn stops(&self, _n: usize) -> bool {
        false
    }

    /// Hook for laws 7 and 8: makes each answer of the server or disk take this long, in a namespace that is open.
    /// Returns `false` if that is not possible.
    ///
    /// # Errors
    /// What went wrong while arming.
    async fn delay(&self, _namespace: &str, _delay: Duration) -> Result<bool> {
        Ok(false)
    }

    /// Ends what [`fail_next_write`](Harness::fail_next_write) and [`delay`](Harness::delay) began, so that the
    /// server or disk works again.
    ///
    /// # Errors
    /// What went wrong while healing.
    async fn heal(&self, _namespace: &str) -> Result<()> {
        Ok(())
    }
}

/// A hook of a harness or an open log, with which the kit tries more of a law.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Hook {
    /// [`Opened::primary`] or [`Opened::with_commit_point`].
    CommitPoint,
    /// [`Opened::crashed_by`].
    Crash,
    /// [`Harness::damage`].
    Damage(Damage),
    /// [`Harness::delay`].
    Delay,
    /// [`Harness::fail_next_write`].
    FailNextWrite,
    /// [`Harness::replace`].
    Replace,
    /// [`Opened::primary`] or [`Opened::with_roster`].
    Roster,
    /// [`Opened::seen_as`] or [`Opened::seen_through`].
    Seen,
    /// [`Opened::verified_by`].
    Verify,
}

impl Hook {
    /// What the kit tries with the hook, and the hook's name.
    pub(crate) fn tries(self) -> &'static str {
        match self {
            Self::CommitPoint => {
                "the head of a commit point (`Opened::primary`, `Opened::with_commit_point`)"
            }
            Self::Crash => "a crash (`Opened::crashed_by`); the log was dropped without close instead",
            Self::Damage(Damage::Inside) => "damage in the middle of what is stored (`Harness::damage`)",
            Self::Damage(Damage::TornTail) => {
                "half an event at the end of what is stored (`Harness::damage`)"
            }
            Self::Delay => "a server or disk that is slow (`Harness::delay`)",
            Self::FailNextWrite => "errors of the server or disk (`Harness::fail_next_write`)",
            Self::Replace => "a follower of a log that was replaced or lost its tail (`Harness::replace`)",
            Self::Roster => {
                "the checkpoints that it keeps for sinks (`Opened::primary`, `Opened::with_roster`)"
            }
            Self::Seen => "what the sink holds (`Opened::seen_through`); its Ok was believed",
            Self::Verify => "a verification beside a writer (`Opened::verified_by`)",
        }
    }
}

/// How stored bytes are damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Damage {
    /// An event in the middle of the log no longer decodes or checks.
    Inside,
    /// Half an event follows the last one, as a crash in the middle of a write leaves it.
    TornTail,
}

/// What a store can take. The counts of events and bytes in all cases follow it.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Limits {
    /// The largest event that the store was opened to take, in bytes of its envelope. Default: 16 MiB.
    pub event_bytes_max: usize,
    /// How many events the largest cases append. Lower it for slow servers. Default: 50,000.
    pub events_max: usize,
    /// How many events the largest batch holds. A fan-out sends up to 1,024 by default, and an option of it or another
    /// caller may send more, so lower this only for a store whose page states a limit. Default: 12,000.
    pub batch_events_max: usize,
    /// The largest id that the store can hold. Default: 2^64-1.
    pub id_max: EventId,
    /// How long a case may take before it counts as hanging. Default: a minute.
    ///
    /// One call may take a sixth of it, and a twelfth may pass until acknowledged events are seen, dropped handles
    /// are gone, and a sink that failed works again.
    pub patience: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            event_bytes_max: 16 << 20,
            events_max: 50_000,
            batch_events_max: 12_000,
            id_max: EventId::new(u64::MAX),
            patience: Duration::from_secs(60),
        }
    }
}

impl Limits {
    /// Sets the largest event, in bytes of its envelope.
    #[must_use]
    pub fn with_event_bytes_max(mut self, bytes: usize) -> Self {
        self.event_bytes_max = bytes;
        self
    }

    /// Sets how many events the largest cases append.
    #[must_use]
    pub fn with_events_max(mut self, events: usize) -> Self {
        self.events_max = events;
        self
    }

    /// Sets how many events the largest batch holds.
    #[must_use]
    pub fn with_batch_events_max(mut self, events: usize) -> Self {
        self.batch_events_max = events;
        self
    }

    /// Sets the largest id that the store can hold.
    #[must_use]
    pub fn with_id_max(mut self, id: EventId) -> Self {
        self.id_max = id;
        self
    }

    /// Sets how long a case may take before it counts as hanging.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }
}
