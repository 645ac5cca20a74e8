//! Settings of a journal.

use std::time::Duration;

use super::Clock;

/// Settings of a [`Journal`](crate::Journal).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct JournalOptions {
    /// How many bytes of payload and metadata may wait for their commit; later callers wait for room. The memory in
    /// use is about three times as much (queue, envelopes, the store's copy). Default: 16 MiB.
    pub in_flight_bytes_max: usize,
    /// How many events may wait for their commit; later callers wait for room. Default: 65,536.
    pub in_flight_events_max: usize,
    /// How long one call of the store's `append` may take before its outcome is unknown: the deadline of the batch.
    /// Over a fan-out with `lag_events_max`, also how long an append waits for a slow secondary before it fails with
    /// [`Retry::Safe`](crate::Retry::Safe). Default: 30 s.
    pub append_timeout: Duration,
    /// How long the same bytes are sent again while their outcome is unknown, before the journal stops. Time in
    /// which the store replies that it takes nothing for now (`Unavailable` with
    /// [`Retry::Safe`](crate::Retry::Safe), as under back-pressure) does not count. Default: 5 minutes.
    pub resolve_timeout: Duration,
    /// The first pause between two such attempts. Each following pause may be twice as long; each is drawn evenly
    /// between 1 ms and that limit. Default: 20 ms.
    pub backoff_min: Duration,
    /// The longest of these pauses. Default: 2 s.
    pub backoff_max: Duration,
    /// The seed of the jitter between attempts. Default: from the operating system.
    pub seed: Option<u64>,
    /// How many events after the newest snapshot make a rotation due; see
    /// [`rotation_due`](crate::Journal::rotation_due). Default: none, rotation is never due.
    pub rotate_every: Option<u64>,
    /// How many blocking tasks decode while one task reads and folds in [`hydrate`](crate::Journal::hydrate). At most
    /// 256. With 0, the task that folds also decodes. Default: 0.
    pub hydrate_tasks: usize,
    /// The clock of event times. Default: the machine's clock.
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

    /// Sets how long one append may take before its outcome is unknown.
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

    /// Sets how many events after the newest snapshot make a rotation due.
    #[must_use]
    pub fn with_rotate_every(mut self, events: u64) -> Self {
        self.rotate_every = Some(events);
        self
    }

    /// Sets how many blocking tasks decode during `hydrate`.
    #[must_use]
    pub fn with_hydrate_tasks(mut self, tasks: usize) -> Self {
        self.hydrate_tasks = tasks;
        self
    }

    /// Sets the clock of event times.
    #[must_use]
    pub fn with_clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }
}
