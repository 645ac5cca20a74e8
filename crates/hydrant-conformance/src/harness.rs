//! What an author writes to enrol a store: how to open it, and what it promises.

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use futures_util::{StreamExt, stream};
use hydrant::{
    Capabilities, Durability, Event, EventId, EventSink, EventSource, EventStream, Prune, ReadFrom, Result,
    Store, follow_by_reading,
};

/// How the kit reaches a store. Two methods are enough; the hooks let more laws be tried in earnest.
///
/// What is not declared or has no hook is said in the run, in a line of its own, and never passed over.
#[async_trait]
pub trait Harness: Send + Sync + 'static {
    /// What the store declares. Whatever stands here is tested.
    fn capabilities(&self) -> Capabilities;

    /// Opens the log of a namespace, and creates it where there is none.
    ///
    /// The kit uses each namespace (letters, digits, `_`) for one test. Opening it again must find what
    /// was held; opening it while it is open is a second writer.
    ///
    /// # Errors
    /// What the store answers; a second writer may be refused with `Fenced` here already.
    async fn open(&self, namespace: &str) -> Result<Opened>;

    /// What `Ok` from an append means.
    fn durability(&self) -> Durability {
        Durability::Durable
    }

    /// What the store can take and how long it may need.
    fn limits(&self) -> Limits {
        Limits::default()
    }

    /// Why the store cannot be tried here, for example because its server is not there: every test then says
    /// `skipped: <reason>`. A harness whose server is required panics instead.
    fn unavailable(&self) -> Option<String> {
        None
    }

    /// Removes what a test left, whether it passed or not: all namespaces that begin with this one. All
    /// handles are closed or dropped.
    ///
    /// # Errors
    /// What went wrong while doing so; the run says it and goes on.
    async fn remove(&self, _prefix: &str) -> Result<()> {
        Ok(())
    }

    /// Hook for law 13: damages what is stored in a namespace that is closed. `false`: there is no way.
    ///
    /// # Errors
    /// What went wrong while doing so.
    async fn damage(&self, _namespace: &str, _damage: Damage) -> Result<bool> {
        Ok(false)
    }

    /// Hook for law 7: makes the next write to the server or disk fail, in a namespace that is open. The `n`th
    /// kind of failure that the harness knows, from 0; `false`: there are no more.
    ///
    /// # Errors
    /// What went wrong while doing so.
    async fn fail_next_write(&self, _namespace: &str, _n: usize) -> Result<bool> {
        Ok(false)
    }
}

/// How stored bytes are damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Damage {
    /// An event in the middle of the log no longer decodes or checks.
    Inside,
    /// Half an event stands behind the last one, as a crash in the middle of a write leaves it.
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
    /// The largest id that the store can hold. Default: 2^64-1.
    pub id_max: EventId,
    /// How long a case may take before it counts as hanging. Default: a minute.
    pub patience: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            event_bytes_max: 16 << 20,
            events_max: 50_000,
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

/// Never locked: the mutex only makes the future shareable.
pub(crate) type Hook = Mutex<BoxFuture<'static, Result<()>>>;

/// An open log: its sides, and how to close it.
pub struct Opened {
    pub(crate) sink: Arc<dyn EventSink>,
    pub(crate) source: Option<Arc<dyn EventSource>>,
    pub(crate) prune: Option<Arc<dyn Prune>>,
    pub(crate) close: Option<Hook>,
    pub(crate) crash: Option<Hook>,
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened")
            .field("source", &self.source.is_some())
            .field("prune", &self.prune.is_some())
            .field("close", &self.close.is_some())
            .field("crash", &self.crash.is_some())
            .finish_non_exhaustive()
    }
}

impl Opened {
    /// A store, sink and source in one.
    pub fn store(store: impl Store + 'static) -> Self {
        let store = Arc::new(store);
        Self { sink: store.clone(), source: Some(store), prune: None, close: None, crash: None }
    }

    /// A store that can forget its oldest segments.
    pub fn prunable(store: impl Prune + 'static) -> Self {
        let store = Arc::new(store);
        Self {
            sink: store.clone(),
            source: Some(store.clone()),
            prune: Some(store),
            close: None,
            crash: None,
        }
    }

    /// A sink alone. How the kit sees what it took: [`seen_as`](Opened::seen_as) or
    /// [`seen_through`](Opened::seen_through).
    pub fn sink(sink: impl EventSink + 'static) -> Self {
        Self { sink: Arc::new(sink), source: None, prune: None, close: None, crash: None }
    }

    /// A source, and any writing side whose events it must yield.
    pub fn source(source: impl EventSource + 'static, written_by: impl EventSink + 'static) -> Self {
        Self::sink(written_by).seen_through(source)
    }

    /// How the kit sees what a sink alone took: a test's own reader of the table, stream or socket.
    #[must_use]
    pub fn seen_through(mut self, source: impl EventSource + 'static) -> Self {
        self.source = Some(Arc::new(source));
        self
    }

    /// The same for a sink whose events are simply looked up: all that it holds at the moment of the call.
    #[must_use]
    pub fn seen_as(self, held: impl Fn() -> Result<Vec<Event>> + Send + Sync + 'static) -> Self {
        self.seen_through(Held(Arc::new(held)))
    }

    /// How to close it, usually `async move { store.close().await }`. Runs when all other handles that
    /// the kit had are dropped. Without it, dropping must be enough.
    #[must_use]
    pub fn closed_by(mut self, close: impl Future<Output = Result<()>> + Send + 'static) -> Self {
        self.close = Some(Mutex::new(Box::pin(close)));
        self
    }

    /// How to crash it: when the future ends, opening the namespace again must find what a power cut at
    /// that instant would leave, and nothing that the old handles still do may be seen. Without it, a
    /// crash is tried as a drop without close.
    #[must_use]
    pub fn crashed_by(mut self, crash: impl Future<Output = Result<()>> + Send + 'static) -> Self {
        self.crash = Some(Mutex::new(Box::pin(crash)));
        self
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
        follow_by_reading(source, from, || tokio::time::sleep(Duration::from_millis(1)))
    }
}
