//! Settings of a journal.

use std::time::Duration;

use super::Clock;

/// Settings of a [`Journal`](crate::Journal).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct JournalOptions {
    /// How many bytes of payload and metadata may wait for their commit; who comes then waits for room.
    /// The memory in use is about three times as much (queue, envelopes, what the store copies).
    /// Default: 16 MiB.
    pub in_flight_bytes_max: usize,
    /// How many events may wait for their commit; who comes then waits for room. Default: 65,536.
    pub in_flight_events_max: usize,
    /// How long one call of the store's `append` may take before its outcome counts as unknown. Over a
    /// fan-out whose appends wait for a secondary (`lag_events_max`): longer than they may wait.
    /// Default: 30 s.
    pub append_timeout: Duration,
    /// How long the same bytes are sent again while their outcome is unknown, before the journal stops.
    /// Default: 5 minutes.
    pub resolve_timeout: Duration,
    /// The first pause between two such attempts, doubled from one to the next. The pause that is taken is
    /// drawn evenly between nothing and this. Default: 20 ms.
    pub backoff_min: Duration,
    /// The longest of these pauses. Default: 2 s.
    pub backoff_max: Duration,
    /// The seed of the jitter between attempts. Default: from the operating system.
    pub seed: Option<u64>,
    /// How many events behind the newest snapshot make a rotation due; see
    /// [`rotation_due`](crate::Journal::rotation_due). Default: none, rotation is never due.
    pub rotate_every: Option<u64>,
    /// How many tasks decode while one reads and folds in [`hydrate`](crate::Journal::hydrate), each on a
    /// thread for blocking work. 0 decodes where it folds. Default: 0.
    pub hydrate_tasks: usize,
    /// Where event times come from. Default: the machine's clock.
    pub clock: Clock,
}

impl Default for JournalOptions {
    fn default() -> Self {
        Self {
            in_flight_bytes_max: 16 << 20,
            in_flight_events_max: 1 << 16,
            append_timeout: Duration::from_secs(30),
            resolve_timeout: Duration::from_secs(300),
            backoff_min: Duration::from_millis(20),
            backoff_max: Duration::from_secs(2),
            seed: None,
            rotate_every: None,
            hydrate_tasks: 0,
            clock: Clock::system(),
        }
    }
}

impl JournalOptions {
    /// Sets how many bytes may wait for their commit.
    #[must_use]
    pub fn with_in_flight_bytes_max(mut self, bytes: usize) -> Self {
        self.in_flight_bytes_max = bytes;
        self
    }

    /// Sets how many events may wait for their commit.
    #[must_use]
    pub fn with_in_flight_events_max(mut self, events: usize) -> Self {
        self.in_flight_events_max = events;
        self
    }

    /// Sets how long one append may take before its outcome counts as unknown.
    #[must_use]
    pub fn with_append_timeout(mut self, timeout: Duration) -> Self {
        self.append_timeout = timeout;
        self
    }

    /// Sets how long an unknown outcome is resolved before the journal stops.
    #[must_use]
    pub fn with_resolve_timeout(mut self, timeout: Duration) -> Self {
        self.resolve_timeout = timeout;
        self
    }

    /// Sets the first and the longest pause between attempts.
    #[must_use]
    pub fn with_backoff(mut self, min: Duration, max: Duration) -> Self {
        self.backoff_min = min;
        self.backoff_max = max;
        self
    }

    /// Sets the seed of the jitter, so that a run can be replayed.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Sets how many events behind the newest snapshot make a rotation due.
    #[must_use]
    pub fn with_rotate_every(mut self, events: u64) -> Self {
        self.rotate_every = Some(events);
        self
    }

    /// Sets how many tasks decode during `hydrate`.
    #[must_use]
    pub fn with_hydrate_tasks(mut self, tasks: usize) -> Self {
        self.hydrate_tasks = tasks;
        self
    }

    /// Sets where event times come from.
    #[must_use]
    pub fn with_clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }
}
