//! Settings of the sink, with their units and defaults.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use hydrant::{CheckpointStore, Clock};

/// How events become records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Packing {
    /// As many events as fit into one record, in the aggregated format of the Kinesis Producer Library, which
    /// consumers built on KCL (and Lambda's helpers) take apart by themselves. The default.
    #[default]
    Aggregated,
    /// As many events as fit into one record, as lines of JSON. For consumers without KCL, such as Firehose.
    Lines,
    /// One event a record, and so one request an event: for consumers that must have it so.
    Single,
}

/// What a [`KinesisSink`](crate::KinesisSink) does with an event that is larger than a record may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Oversize {
    /// Answers `Invalid`, naming the event and its size; nothing of its batch is put. A fan-out parks the sink,
    /// or, under `DeadLetter`, keeps the event aside and continues. The default.
    #[default]
    Park,
    /// Puts it in several records, in a format that only [`KinesisSource`](crate::KinesisSource) puts together.
    Chunk,
}

/// Settings of a [`KinesisSink`](crate::KinesisSink).
#[derive(Clone)]
#[non_exhaustive]
pub struct KinesisSinkOptions {
    /// How events become records. Default: [`Packing::Aggregated`].
    pub packing: Packing,
    /// What is done with an event that is larger than a record may be. Default: [`Oversize::Park`].
    pub oversize: Oversize,
    /// The largest record, in bytes of its data and its partition key. Default: 1 MiB, what every stream takes;
    /// up to 10 MiB where the stream's `MaxRecordSizeInKiB` was raised.
    pub record_bytes_max: usize,
    /// The largest event, in bytes of its envelope. Default: 16 MiB; readers accept 64 MiB by default.
    pub event_bytes_max: usize,
    /// Sends the log to the shard that holds this hash key instead of the MD5 of its name, to spread few logs
    /// evenly by hand. It must stay the same for as long as the stream keeps events of the log, and its readers
    /// need the same key. Default: none.
    pub explicit_hash_key: Option<u128>,
    /// How long an append may take, the wait for its turn and for throttling included; a batch with an earlier
    /// deadline ends earlier. Default: 25 s, just below what a fan-out gives a call.
    pub append_timeout: Duration,
    /// How long one record may take to be acknowledged, before its outcome counts as unknown. Default: 10 s.
    pub put_timeout: Duration,
    /// The bound of the first pause when the shard is throttled; it doubles up to `backoff_max`. A pause is a random
    /// 10 to 100 % of it. Default: 50 ms.
    pub backoff_initial: Duration,
    /// The bound of the longest pause. Default: 2 s.
    pub backoff_max: Duration,
    /// The seed of the jitter. Default: from the operating system.
    pub seed: Option<u64>,
    /// How far the first look back for the log's last event goes; then eight times as far, and so on to the
    /// oldest record kept. `Duration::MAX`: to the oldest record at once. Default: 1 minute.
    pub read_back_window: Duration,
    /// The pause between two requests of a look back: a shard gives five answers a second to all its readers
    /// together. Default: 250 ms.
    pub read_back_interval: Duration,
    /// How long after it was acknowledged a record may still be invisible: a look back waits that long for what a
    /// process put that has just ended. AWS says: typically less than a second. Default: 1 second.
    pub settle: Duration,
    /// How often the checkpoint is written to the store of
    /// [`with_checkpoints`](KinesisSinkOptions::with_checkpoints), at most. Zero, the default: with each append, which
    /// is acknowledged only then.
    ///
    /// Above zero, an append does not wait for the entry. After a crash, a fan-out that asks this sink for its
    /// checkpoint puts the events behind the entry again. Under a [`Checkpointed`](hydrant::Checkpointed) the sink is
    /// not asked, so the interval must stay zero there. Otherwise the next event below `Filtered` or `DeadLetter`
    /// names a predecessor that is not the last of the stream, which readers refuse for ever; below `Mapped` it
    /// is a gap.
    pub checkpoint_interval: Duration,
    /// The clock that says where to look back. Default: the machine's.
    pub clock: Clock,
    pub(crate) checkpoints: Option<(Arc<dyn CheckpointStore>, String)>,
}

impl Default for KinesisSinkOptions {
    fn default() -> Self {
        Self {
            packing: Packing::default(),
            oversize: Oversize::default(),
            record_bytes_max: 1 << 20,
            event_bytes_max: 16 << 20,
            explicit_hash_key: None,
            append_timeout: Duration::from_secs(25),
            put_timeout: Duration::from_secs(10),
            backoff_initial: Duration::from_millis(50),
            backoff_max: Duration::from_secs(2),
            seed: None,
            read_back_window: Duration::from_mins(1),
            read_back_interval: Duration::from_millis(250),
            settle: Duration::from_secs(1),
            checkpoint_interval: Duration::ZERO,
            clock: Clock::default(),
            checkpoints: None,
        }
    }
}

impl KinesisSinkOptions {
    /// Keeps the checkpoint in a store (files, S3, Postgres) under this name, which must be the sink's own there.
    /// The usual start then asks the store instead of reading the stream back, and a log that rests for longer
    /// than the stream's retention is not taken for an empty one.
    #[must_use]
    pub fn with_checkpoints(mut self, store: Arc<dyn CheckpointStore>, name: impl Into<String>) -> Self {
        self.checkpoints = Some((store, name.into()));
        self
    }

    /// Sets how events become records.
    #[must_use]
    pub fn with_packing(mut self, packing: Packing) -> Self {
        self.packing = packing;
        self
    }

    /// Sets what is done with an event that is larger than a record may be.
    #[must_use]
    pub fn with_oversize(mut self, oversize: Oversize) -> Self {
        self.oversize = oversize;
        self
    }

    /// Sets the largest record, in bytes of its data and its partition key.
    #[must_use]
    pub fn with_record_bytes_max(mut self, bytes: usize) -> Self {
        self.record_bytes_max = bytes;
        self
    }

    /// Sets the largest event, in bytes of its envelope.
    #[must_use]
    pub fn with_event_bytes_max(mut self, bytes: usize) -> Self {
        self.event_bytes_max = bytes;
        self
    }

    /// Sends the log to the shard that holds this hash key.
    #[must_use]
    pub fn with_explicit_hash_key(mut self, hash_key: u128) -> Self {
        self.explicit_hash_key = Some(hash_key);
        self
    }

    /// Sets how long an append may take, the wait for its turn and for throttling included.
    #[must_use]
    pub fn with_append_timeout(mut self, timeout: Duration) -> Self {
        self.append_timeout = timeout;
        self
    }

    /// Sets how long one record may take to be acknowledged.
    #[must_use]
    pub fn with_put_timeout(mut self, timeout: Duration) -> Self {
        self.put_timeout = timeout;
        self
    }

    /// Sets the first and the longest pause when the shard is throttled.
    #[must_use]
    pub fn with_backoff(mut self, initial: Duration, max: Duration) -> Self {
        self.backoff_initial = initial;
        self.backoff_max = max;
        self
    }

    /// Sets the seed of the jitter, so that a run can be replayed.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Sets how far the first look back goes.
    #[must_use]
    pub fn with_read_back_window(mut self, window: Duration) -> Self {
        self.read_back_window = window;
        self
    }

    /// Sets the pause between two requests of a look back.
    #[must_use]
    pub fn with_read_back_interval(mut self, interval: Duration) -> Self {
        self.read_back_interval = interval;
        self
    }

    /// Sets how long after it was acknowledged a record may still be invisible.
    #[must_use]
    pub fn with_settle(mut self, settle: Duration) -> Self {
        self.settle = settle;
        self
    }

    /// Sets how often the checkpoint is written, at most. Not above zero under a
    /// [`Checkpointed`](hydrant::Checkpointed).
    #[must_use]
    pub fn with_checkpoint_interval(mut self, interval: Duration) -> Self {
        self.checkpoint_interval = interval;
        self
    }

    /// Sets the clock that says where to look back.
    #[must_use]
    pub fn with_clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }
}

impl fmt::Debug for KinesisSinkOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KinesisSinkOptions")
            .field("packing", &self.packing)
            .field("oversize", &self.oversize)
            .field("record_bytes_max", &self.record_bytes_max)
            .field("event_bytes_max", &self.event_bytes_max)
            .field("explicit_hash_key", &self.explicit_hash_key)
            .field("append_timeout", &self.append_timeout)
            .field("put_timeout", &self.put_timeout)
            .field("backoff_initial", &self.backoff_initial)
            .field("backoff_max", &self.backoff_max)
            .field("seed", &self.seed)
            .field("read_back_window", &self.read_back_window)
            .field("read_back_interval", &self.read_back_interval)
            .field("settle", &self.settle)
            .field("checkpoint_interval", &self.checkpoint_interval)
            .field("clock", &self.clock)
            .field("checkpoints", &self.checkpoints.as_ref().map(|(_, name)| name))
            .finish()
    }
}
