//! Settings, with their units and defaults.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hydrant::{CheckpointStore, Error, Result};

/// Where a read from the origin begins in the stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum KinesisStart {
    /// At the oldest record that the stream keeps (`TRIM_HORIZON`). The event there must be the first of the
    /// log, else a read from the origin is `Pruned`. The default.
    #[default]
    TrimHorizon,
    /// At the first record that arrived at this time or later (`AT_TIMESTAMP`), by the clock of the service.
    At(SystemTime),
    /// At what is put from now on (`LATEST`).
    Latest,
}

/// Which shards are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum KinesisShards {
    /// The one that the partition key (the log's name) leads to, and its ancestors and descendants. At any
    /// time that is one open shard. The default.
    #[default]
    OfLog,
    /// The same for a log that is written with an explicit hash key: its number.
    OfHashKey(u128),
    /// All of them, and the log's events are put in order across shards: for producers that spread a log over
    /// hash keys of their own. Every shard costs its own reads.
    All,
}

/// What is made of an event whose record does not name the event before it, as other producers write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unnamed {
    /// Takes the predecessor to be the id before it. In a log whose ids have gaps these are errors, too: a
    /// false alarm rather than a silent loss. The default.
    #[default]
    Contiguous,
    /// Takes any greater id for the next: for logs whose ids have gaps. A loss then looks like a gap, in the
    /// middle and at the beginning.
    Ascending,
    /// Refuses it as `Corrupt`.
    Refuse,
}

/// Settings of a [`KinesisSource`](crate::KinesisSource).
#[derive(Clone)]
#[non_exhaustive]
pub struct KinesisSourceOptions {
    /// Where a read from the origin begins. Default: [`KinesisStart::TrimHorizon`].
    pub start: KinesisStart,
    /// Which shards are read. Default: [`KinesisShards::OfLog`].
    pub shards: KinesisShards,
    /// What is made of events that do not name their predecessor. Default: [`Unnamed::Contiguous`].
    pub unnamed: Unnamed,
    /// The name of a registered consumer, under which `follow` subscribes to shards (enhanced fan-out) instead
    /// of asking them: 2 MB/s of its own for each shard, and a delay of about 70 ms, at a price. It is
    /// registered where there is none; see
    /// [`deregister_consumer`](crate::KinesisSource::deregister_consumer). `read` asks in any case. Default: none.
    pub enhanced_fan_out: Option<String>,
    /// Where positions in the stream are kept, and under which name, so that a read after an event does not
    /// begin at the oldest record. Default: none.
    pub positions: Option<(Arc<dyn CheckpointStore>, String)>,
    /// How many events a reader yields before it saves its position again. Default: 1,000.
    pub position_interval_events: u64,
    /// The time between two `GetRecords` of one shard, more than zero. Default: 250 ms, 4 a second of the 5 that
    /// all consumers of a shard share.
    pub poll_interval: Duration,
    /// How many records a `GetRecords` asks for, 1 to 10,000. A page has 10 MiB at most. Default: 10,000.
    pub page_records_max: i32,
    /// How long after it was acknowledged a record may still be invisible. `read` ends at the first page that
    /// reaches the end of the shard and was asked for this long after the read began. With
    /// [`KinesisShards::All`], a missing event is given up no earlier than this long after a later event came. AWS
    /// says: typically less than a second. Default: 1 s.
    pub settle: Duration,
    /// The largest event that is put together from chunks, in bytes of its envelope. Default: 64 MiB.
    pub event_bytes_max: usize,
    /// How many of the newest events a reader remembers (by 32 bytes each), at least 2, to compare an event that comes
    /// again. One that is older is dropped without a comparison. Default: 65,536.
    pub compared_events_max: usize,
    /// How long one call may take, and how long a subscription may be silent. Default: 1 min.
    pub call_timeout: Duration,
    /// How long throttling is waited out before it is an error. Default: 1 min.
    pub throttled_max: Duration,
    /// The seed of the jitter in waits. Default: from the operating system.
    pub seed: Option<u64>,
}

impl Default for KinesisSourceOptions {
    fn default() -> Self {
        Self {
            start: KinesisStart::default(),
            shards: KinesisShards::default(),
            unnamed: Unnamed::default(),
            enhanced_fan_out: None,
            positions: None,
            position_interval_events: 1_000,
            poll_interval: Duration::from_millis(250),
            page_records_max: 10_000,
            settle: Duration::from_secs(1),
            event_bytes_max: 64 << 20,
            compared_events_max: 65_536,
            call_timeout: Duration::from_mins(1),
            throttled_max: Duration::from_mins(1),
            seed: None,
        }
    }
}

impl fmt::Debug for KinesisSourceOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KinesisSourceOptions")
            .field("start", &self.start)
            .field("shards", &self.shards)
            .field("unnamed", &self.unnamed)
            .field("enhanced_fan_out", &self.enhanced_fan_out)
            .field("positions", &self.positions.as_ref().map(|(_, name)| name))
            .field("position_interval_events", &self.position_interval_events)
            .field("poll_interval", &self.poll_interval)
            .field("page_records_max", &self.page_records_max)
            .field("settle", &self.settle)
            .field("event_bytes_max", &self.event_bytes_max)
            .field("compared_events_max", &self.compared_events_max)
            .field("call_timeout", &self.call_timeout)
            .field("throttled_max", &self.throttled_max)
            .field("seed", &self.seed)
            .finish()
    }
}

impl KinesisSourceOptions {
    /// What would only fail later, or never work.
    pub(crate) fn check(&self) -> Result<()> {
        if !(1..=10_000).contains(&self.page_records_max) {
            let message = format!("`page_records_max` is {}; take 1 to 10,000", self.page_records_max);
            return Err(Error::invalid(message));
        }
        if self.poll_interval.is_zero() {
            return Err(Error::invalid("a `poll_interval` of zero never rests"));
        }
        if self.call_timeout.is_zero() {
            return Err(Error::invalid("a `call_timeout` of zero lets no call through"));
        }
        if self.compared_events_max < 2 {
            return Err(Error::invalid(
                "`compared_events_max` is at least 2: the last event, and the one before",
            ));
        }
        match &self.enhanced_fan_out {
            Some(name) if name.is_empty() => Err(Error::invalid("`enhanced_fan_out` names no consumer")),
            _ => Ok(()),
        }
    }

    /// Sets where a read from the origin begins.
    #[must_use]
    pub fn with_start(mut self, start: KinesisStart) -> Self {
        self.start = start;
        self
    }

    /// Sets which shards are read.
    #[must_use]
    pub fn with_shards(mut self, shards: KinesisShards) -> Self {
        self.shards = shards;
        self
    }

    /// Sets what is made of events that do not name their predecessor.
    #[must_use]
    pub fn with_unnamed(mut self, unnamed: Unnamed) -> Self {
        self.unnamed = unnamed;
        self
    }

    /// Lets `follow` subscribe under this consumer's name instead of asking.
    #[must_use]
    pub fn with_enhanced_fan_out(mut self, consumer: impl Into<String>) -> Self {
        self.enhanced_fan_out = Some(consumer.into());
        self
    }

    /// Keeps positions in `store` under `name`, of which it takes `name.0` to `name.7` and `name.snapshot`.
    ///
    /// A saved position is a fact about the stream, so readers of one log may share a name.
    #[must_use]
    pub fn with_positions(mut self, store: Arc<dyn CheckpointStore>, name: impl Into<String>) -> Self {
        self.positions = Some((store, name.into()));
        self
    }

    /// Sets how many events a reader yields before it saves its position again.
    #[must_use]
    pub fn with_position_interval_events(mut self, events: u64) -> Self {
        self.position_interval_events = events;
        self
    }

    /// Sets the time between two `GetRecords` of one shard.
    #[must_use]
    pub fn with_poll_interval(mut self, interval: Duration) -> Self {
        self.poll_interval = interval;
        self
    }

    /// Sets how many records a `GetRecords` asks for, 1 to 10,000.
    #[must_use]
    pub fn with_page_records_max(mut self, records: i32) -> Self {
        self.page_records_max = records;
        self
    }

    /// Sets how long after it was acknowledged a record may still be invisible.
    #[must_use]
    pub fn with_settle(mut self, settle: Duration) -> Self {
        self.settle = settle;
        self
    }

    /// Sets the largest event that is put together from chunks, in bytes of its envelope.
    #[must_use]
    pub fn with_event_bytes_max(mut self, bytes: usize) -> Self {
        self.event_bytes_max = bytes;
        self
    }

    /// Sets how many of the newest events a reader remembers.
    #[must_use]
    pub fn with_compared_events_max(mut self, events: usize) -> Self {
        self.compared_events_max = events;
        self
    }

    /// Sets how long one call may take.
    #[must_use]
    pub fn with_call_timeout(mut self, timeout: Duration) -> Self {
        self.call_timeout = timeout;
        self
    }

    /// Sets how long throttling is waited out before it is an error.
    #[must_use]
    pub fn with_throttled_max(mut self, limit: Duration) -> Self {
        self.throttled_max = limit;
        self
    }

    /// Sets the seed of the jitter in waits, so that a run can be replayed.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }
}
