//! Settings of a fan-out, a relay and their secondaries.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use crate::mutants::mutant;
use crate::{Clock, EventId};

/// Settings of a [`FanOut`](crate::FanOut).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FanOutOptions {
    /// Memory for the newest events, which all secondaries share: events. Default: 65,536.
    pub ring_events_max: usize,
    /// Memory for the newest events, which all secondaries share: bytes. Default: 16 MiB.
    pub ring_bytes_max: usize,
    /// How long one call into the primary or the roster may take before its outcome counts as unknown. Default: 30 s.
    pub call_timeout: Duration,
    /// How long an append without a deadline waits for back-pressure; and how long its attempts may take together, before
    /// an unknown outcome stops the log. Default: 2 minutes.
    pub resolve_timeout: Duration,
    /// How often to ask how far the primary is durable, while acknowledged events are not. The longer that takes, the
    /// rarer it is asked, up to once a second. Default: 5 ms.
    pub sync_poll: Duration,
    /// How often to ask the primary of an idle log for its checkpoint, so that a primary that lost events is noticed
    /// without an append. Default: 1 minute.
    pub idle_poll: Duration,
    /// How long a read of the primary may yield nothing before it fails, and is begun anew. It doubles while reads fail
    /// so, for a source that takes long to find a place. Default: 2 minutes.
    pub read_timeout: Duration,
    /// A secondary with more than so many bytes of backlog no longer holds back `prune`: it parks as `Pruned` instead.
    /// Default: off, nothing is pruned that a secondary still needs.
    pub retain_bytes_max: Option<u64>,
    /// Refuses appends while every attached sink that has a checkpoint contradicts the primary, which is empty or
    /// older than all of them (see [`FanOutStatus::stale`](crate::FanOutStatus::stale)). The error is
    /// [`Retry::Safe`](crate::Retry::Safe), so a journal continues once the sinks agree or are detached. Default: off,
    /// no sink stops a primary.
    pub stop_if_stale: bool,
    /// What the log is kept in, for the status: for example its URL without secrets. Default: none.
    pub target: Option<String>,
    /// The clock that the times of errors are read from. Default: the machine's clock.
    pub clock: Clock,
    /// The seed of the jitter between retries. Default: from the operating system.
    pub seed: Option<u64>,
}

impl Default for FanOutOptions {
    fn default() -> Self {
        Self {
            ring_events_max: 1 << 16,
            ring_bytes_max: 16 << 20,
            call_timeout: Duration::from_secs(30),
            resolve_timeout: Duration::from_secs(120),
            sync_poll: Duration::from_millis(5),
            idle_poll: Duration::from_secs(60),
            read_timeout: Duration::from_secs(120),
            retain_bytes_max: None,
            stop_if_stale: false,
            target: None,
            clock: Clock::system(),
            seed: None,
        }
    }
}

impl FanOutOptions {
    /// Sets the memory for the newest events: how many, and their bytes.
    #[must_use]
    pub fn with_ring(mut self, events_max: usize, bytes_max: usize) -> Self {
        (self.ring_events_max, self.ring_bytes_max) = (events_max, bytes_max);
        self
    }

    /// Sets how long one call into the primary may take.
    #[must_use]
    pub fn with_call_timeout(mut self, timeout: Duration) -> Self {
        self.call_timeout = timeout;
        self
    }

    /// Sets how long a write whose outcome is unknown is sent again before the log stops.
    #[must_use]
    pub fn with_resolve_timeout(mut self, timeout: Duration) -> Self {
        self.resolve_timeout = timeout;
        self
    }

    /// Sets how often a primary that accepts first is asked how far it is durable.
    #[must_use]
    pub fn with_sync_poll(mut self, interval: Duration) -> Self {
        self.sync_poll = interval;
        self
    }

    /// Sets how often the primary of an idle log is asked for its checkpoint.
    #[must_use]
    pub fn with_idle_poll(mut self, interval: Duration) -> Self {
        self.idle_poll = interval;
        self
    }

    /// Sets how long a read of the primary may yield nothing.
    #[must_use]
    pub fn with_read_timeout(mut self, timeout: Duration) -> Self {
        self.read_timeout = timeout;
        self
    }

    /// Lets `prune` remove what a secondary with more than so many bytes of backlog still needs.
    #[must_use]
    pub fn with_retain_bytes_max(mut self, bytes: u64) -> Self {
        self.retain_bytes_max = Some(bytes);
        self
    }

    /// Chooses whether appends stop while every attached sink contradicts the primary.
    #[must_use]
    pub fn with_stop_if_stale(mut self, stop: bool) -> Self {
        self.stop_if_stale = stop;
        self
    }

    /// Names what the log is kept in, for the status. Must hold no secret.
    #[must_use]
    pub fn with_target(mut self, target: impl Into<String>) -> Self {
        self.target = Some(target.into());
        self
    }

    /// Sets the clock that the times of errors are read from.
    #[must_use]
    pub fn with_clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Sets the seed of the jitter, so that a run can be replayed.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }
}

/// Settings of a [`Relay`](crate::Relay).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RelayOptions {
    /// Memory for the newest events, which all secondaries share: events. Default: 65,536.
    pub ring_events_max: usize,
    /// Memory for the newest events, which all secondaries share: bytes. Default: 16 MiB.
    pub ring_bytes_max: usize,
    /// Whether to follow the log, or to end where it ends when it is read. Default: follow.
    pub follow: bool,
    /// How long one call into the roster may take. Default: 30 s.
    pub call_timeout: Duration,
    /// How long a read of the source may yield nothing before it fails, and is begun anew. It doubles while reads fail
    /// so, for a source that takes long to find a place. A source that is followed may be silent. Default: 2 minutes.
    pub read_timeout: Duration,
    /// What the log is kept in, for the status: for example its URL without secrets. Default: none.
    pub target: Option<String>,
    /// The clock that the times of errors are read from. Default: the machine's clock.
    pub clock: Clock,
    /// The seed of the jitter between retries. Default: from the operating system.
    pub seed: Option<u64>,
}

impl Default for RelayOptions {
    fn default() -> Self {
        Self {
            ring_events_max: 1 << 16,
            ring_bytes_max: 16 << 20,
            follow: true,
            call_timeout: Duration::from_secs(30),
            read_timeout: Duration::from_secs(120),
            target: None,
            clock: Clock::system(),
            seed: None,
        }
    }
}

impl RelayOptions {
    /// Sets the memory for the newest events: how many, and their bytes.
    #[must_use]
    pub fn with_ring(mut self, events_max: usize, bytes_max: usize) -> Self {
        (self.ring_events_max, self.ring_bytes_max) = (events_max, bytes_max);
        self
    }

    /// Chooses whether to follow the log.
    #[must_use]
    pub fn with_follow(mut self, follow: bool) -> Self {
        self.follow = follow;
        self
    }

    /// Sets how long one call into the roster may take.
    #[must_use]
    pub fn with_call_timeout(mut self, timeout: Duration) -> Self {
        self.call_timeout = timeout;
        self
    }

    /// Sets how long a read of the source may yield nothing.
    #[must_use]
    pub fn with_read_timeout(mut self, timeout: Duration) -> Self {
        self.read_timeout = timeout;
        self
    }

    /// Names what the log is kept in, for the status. Must hold no secret.
    #[must_use]
    pub fn with_target(mut self, target: impl Into<String>) -> Self {
        self.target = Some(target.into());
        self
    }

    /// Sets the clock that the times of errors are read from.
    #[must_use]
    pub fn with_clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Sets the seed of the jitter, so that a run can be replayed.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }
}

/// Where a secondary starts whose sink is empty, or has no memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum StartAt {
    /// After its own checkpoint; an empty sink at the origin. A sink without memory is refused.
    #[default]
    Checkpoint,
    /// After its own checkpoint; an empty sink at the origin or, if that was pruned, at the oldest snapshot that is
    /// kept.
    OldestSnapshot,
    /// For a sink without memory: the first event.
    Origin,
    /// For a sink without memory: the first event after this one.
    After(EventId),
    /// For a sink without memory: the events appended after `attach` returned. Over a relay: after the newest event that the
    /// source has when the secondary starts.
    Head,
}

/// Settings of one secondary.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SecondaryOptions {
    /// What the sink writes to, for example its URL without secrets. Another target under the same name is
    /// refused until `detach`. Default: the name.
    pub target: Option<String>,
    /// Where it starts when it holds nothing. Default: the origin.
    pub start: StartAt,
    /// The largest batch: events. Default: 1,024.
    pub batch_events_max: usize,
    /// The largest batch: bytes; one event may exceed it. Default: 1 MiB.
    pub batch_bytes_max: usize,
    /// How long to wait for a batch to fill. The wait ends early when more than `lag_events_max` events are ready.
    /// Default: not at all.
    pub linger_max: Duration,
    /// How long one call into the sink may take. Default: 30 s.
    pub call_timeout: Duration,
    /// The first pause before a retry; doubles up to `backoff_max`, with full jitter. Default: 100 ms.
    pub backoff_min: Duration,
    /// The longest pause before a retry. Default: 30 s.
    pub backoff_max: Duration,
    /// Back-pressure: appends wait while this secondary lags by more than so many events, and fail as
    /// `Unavailable` with [`Retry::Safe`](crate::Retry::Safe) at their deadline. A parked secondary holds back no append.
    /// Default: none.
    pub lag_events_max: Option<u64>,
    /// Counts this secondary's dead letters: the counter of its `DeadLetter` wrapper. Default: none.
    pub dead_letters: Option<Arc<AtomicU64>>,
}

impl Default for SecondaryOptions {
    fn default() -> Self {
        Self {
            target: None,
            start: StartAt::default(),
            batch_events_max: 1024,
            batch_bytes_max: 1 << 20,
            linger_max: Duration::ZERO,
            call_timeout: Duration::from_secs(30),
            backoff_min: Duration::from_millis(100),
            backoff_max: Duration::from_secs(30),
            lag_events_max: None,
            dead_letters: None,
        }
    }
}

impl SecondaryOptions {
    /// The same settings; a batch holds at least one event.
    pub(crate) fn within_bounds(mut self) -> Self {
        if mutant("batch-of-zero") {
            return self;
        }
        self.batch_events_max = self.batch_events_max.max(1);
        self.batch_bytes_max = self.batch_bytes_max.max(1);
        self.backoff_max = self.backoff_max.max(self.backoff_min);
        self
    }

    /// Names what the sink writes to.
    #[must_use]
    pub fn with_target(mut self, target: impl Into<String>) -> Self {
        self.target = Some(target.into());
        self
    }

    /// Sets where it starts when it holds nothing.
    #[must_use]
    pub fn with_start(mut self, start: StartAt) -> Self {
        self.start = start;
        self
    }

    /// Sets the largest batch: events and bytes.
    #[must_use]
    pub fn with_batch(mut self, events_max: usize, bytes_max: usize) -> Self {
        (self.batch_events_max, self.batch_bytes_max) = (events_max.max(1), bytes_max.max(1));
        self
    }

    /// Sets how long to wait for a batch to fill.
    #[must_use]
    pub fn with_linger_max(mut self, linger: Duration) -> Self {
        self.linger_max = linger;
        self
    }

    /// Sets how long one call into the sink may take.
    #[must_use]
    pub fn with_call_timeout(mut self, timeout: Duration) -> Self {
        self.call_timeout = timeout;
        self
    }

    /// Sets the first and the longest pause before a retry.
    #[must_use]
    pub fn with_backoff(mut self, min: Duration, max: Duration) -> Self {
        (self.backoff_min, self.backoff_max) = (min, max.max(min));
        self
    }

    /// Lets appends wait while this secondary lags by more than so many events.
    #[must_use]
    pub fn with_lag_events_max(mut self, events: u64) -> Self {
        self.lag_events_max = Some(events);
        self
    }

    /// Shows the count of a `DeadLetter` wrapper in the status.
    #[must_use]
    pub fn with_dead_letters(mut self, counter: Arc<AtomicU64>) -> Self {
        self.dead_letters = Some(counter);
        self
    }
}
