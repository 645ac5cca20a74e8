//! An open log: its sides, and how to close it.

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, stream};
use hydrant::store::follow_by_reading;
use hydrant::{
    Batch, Checkpoint, CheckpointStore, CommitPoint, Error, Event, EventSink, EventSource, EventStream,
    Primary, Prune, ReadFrom, Result, Store,
};

/// A future from the author of the store. The mutex makes it `Sync` and is never locked.
pub(crate) type Ending = Mutex<BoxFuture<'static, Result<()>>>;

/// One run of a verification: the findings, as text.
pub(crate) type Verify = Arc<dyn Fn() -> BoxFuture<'static, Result<Vec<String>>> + Send + Sync>;

/// An open log: its sides, and how to close it.
pub struct Opened {
    pub(crate) sink: Arc<dyn EventSink>,
    pub(crate) source: Option<Arc<dyn EventSource>>,
    pub(crate) prune: Option<Arc<dyn Prune>>,
    pub(crate) commit_point: Option<Arc<dyn CommitPoint>>,
    pub(crate) roster: Option<Arc<dyn CheckpointStore>>,
    pub(crate) verify: Option<Verify>,
    pub(crate) close: Option<Ending>,
    pub(crate) crash: Option<Ending>,
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened")
            .field("source", &self.source.is_some())
            .field("prune", &self.prune.is_some())
            .field("commit_point", &self.commit_point.is_some())
            .field("roster", &self.roster.is_some())
            .field("verify", &self.verify.is_some())
            .field("close", &self.close.is_some())
            .field("crash", &self.crash.is_some())
            .finish_non_exhaustive()
    }
}

impl Opened {
    /// A sink alone. [`seen_as`](Opened::seen_as) or [`seen_through`](Opened::seen_through) shows the kit what it
    /// holds.
    pub fn sink(sink: impl EventSink + 'static) -> Self {
        Self {
            sink: Arc::new(sink),
            source: None,
            prune: None,
            commit_point: None,
            roster: None,
            verify: None,
            close: None,
            crash: None,
        }
    }

    /// A store, sink and source in one.
    pub fn store(store: impl Store + 'static) -> Self {
        let store = Arc::new(store);
        Self { source: Some(store.clone()), ..Self::sink(store) }
    }

    /// A store that can forget its oldest segments.
    pub fn prunable(store: impl Prune + 'static) -> Self {
        let store = Arc::new(store);
        Self { prune: Some(store.clone()), ..Self::store(store) }
    }

    /// A primary: a store that can prune, commits batches and keeps a roster.
    pub fn primary(store: impl Primary + Prune + 'static) -> Self {
        let store = Arc::new(store);
        Self::prunable(store.clone()).with_roster(store.roster()).with_commit_point(store)
    }

    /// A store of checkpoints alone, without a log.
    pub fn checkpoints(store: impl CheckpointStore + 'static) -> Self {
        Self::sink(NoLog).with_roster(store)
    }

    /// A source, and any writing side whose events it must yield.
    pub fn source(source: impl EventSource + 'static, written_by: impl EventSink + 'static) -> Self {
        Self::sink(written_by).seen_through(source)
    }

    /// Shows the kit what a sink alone holds: a test's own reader of the table, stream or socket.
    #[must_use]
    pub fn seen_through(mut self, source: impl EventSource + 'static) -> Self {
        self.source = Some(Arc::new(source));
        self
    }

    /// Like [`seen_through`](Opened::seen_through), for a sink whose events are looked up: `held` returns all events
    /// that it holds at the moment of the call.
    #[must_use]
    pub fn seen_as(self, held: impl Fn() -> Result<Vec<Event>> + Send + Sync + 'static) -> Self {
        self.seen_through(Held(Arc::new(held)))
    }

    /// Lets the kit try the store as a commit point as well: its `head` and `event_bytes_max`.
    #[must_use]
    pub fn with_commit_point(mut self, store: impl CommitPoint + 'static) -> Self {
        self.commit_point = Some(Arc::new(store));
        self
    }

    /// Lets the kit try the checkpoints that the store keeps for sinks.
    #[must_use]
    pub fn with_roster(mut self, roster: impl CheckpointStore + 'static) -> Self {
        self.roster = Some(Arc::new(roster));
        self
    }

    /// Lets the kit try the store's own verification, which returns one line for each finding.
    #[must_use]
    pub fn verified_by<F>(mut self, verify: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<Vec<String>>> + Send + 'static,
    {
        self.verify = Some(Arc::new(move || verify().boxed()));
        self
    }

    /// Sets what closes the log, usually `async move { store.close().await }`.
    ///
    /// The kit first drops all other handles. Without this hook, dropping them must be enough.
    #[must_use]
    pub fn closed_by(mut self, close: impl Future<Output = Result<()>> + Send + 'static) -> Self {
        self.close = Some(Mutex::new(Box::pin(close)));
        self
    }

    /// Sets what crashes the log.
    ///
    /// When the future ends, opening the namespace again must find what a power cut at that instant would leave, and
    /// the work of old handles must not be seen. Without this hook, the kit drops the log without closing it.
    #[must_use]
    pub fn crashed_by(mut self, crash: impl Future<Output = Result<()>> + Send + 'static) -> Self {
        self.crash = Some(Mutex::new(Box::pin(crash)));
        self
    }

    /// Drops all handles, and returns what closes the log.
    pub(crate) fn into_close(self) -> Option<Ending> {
        self.close
    }
}

/// The sink of a store that has checkpoints and no log.
struct NoLog;

#[async_trait]
impl EventSink for NoLog {
    async fn append(&self, _batch: Batch<'_>) -> Result<()> {
        Err(Error::unsupported("a store of checkpoints has no log"))
    }

    async fn checkpoint(&self) -> Result<Checkpoint> {
        Ok(Checkpoint::Unknown)
    }
}

/// What a sink holds, as a source.
struct Held<F>(Arc<F>);

impl<F: Fn() -> Result<Vec<Event>> + Send + Sync + 'static> EventSource for Held<F> {
    fn read(&self, from: ReadFrom) -> EventStream {
        let events = match (self.0)() {
            Ok(events) => events,
            Err(error) => return stream::iter([Err(error)]).boxed(),
        };
        let start = match from.exclusive() {
            ReadFrom::After(id) => events.partition_point(|event| event.id() <= id),
            ReadFrom::Snapshot => events.iter().rposition(Event::is_snapshot).unwrap_or(0),
            ReadFrom::Origin | ReadFrom::At(_) => 0,
        };
        stream::iter(events.into_iter().skip(start).map(Ok)).boxed()
    }

    fn follow(&self, from: ReadFrom) -> EventStream {
        let source = Arc::new(Self(Arc::clone(&self.0)));
        follow_by_reading(source, from, || tokio::time::sleep(std::time::Duration::from_millis(1)))
    }
}
