//! A memory store that fails as a test plans, and events to feed it.

mod scripted;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use hydrant::{
    Batch, Checkpoint, CheckpointStore, CommitPoint, Durability, Error, ErrorKind, Event, EventId, EventSink,
    EventSource, EventStream, MemoryStore, Primary, Prune, ReadFrom, Result, Retry,
};

pub use scripted::{Fault, Scripted};

/// What a [`Faulty`] store does to an append.
#[derive(Clone, Debug)]
pub enum Mode {
    Fine,
    Hang,
    Slow(Duration),
    Panic,
    /// Fails without applying anything.
    Before(Error),
    /// Applies, then fails.
    After(Error),
    /// One of the above, or none, by chance.
    Chance(fastrand::Rng),
}

/// A memory store whose appends fail as planned. Clones share everything.
#[derive(Clone)]
pub struct Faulty {
    pub inner: MemoryStore,
    mode: Arc<Mutex<Mode>>,
    appends: Arc<AtomicU64>,
}

impl Faulty {
    pub fn new(mode: Mode) -> Self {
        Self { inner: MemoryStore::default(), mode: Arc::new(Mutex::new(mode)), appends: Arc::default() }
    }

    pub fn set(&self, mode: Mode) {
        *self.mode.lock().unwrap() = mode;
    }

    /// How often it was called.
    pub fn appends(&self) -> u64 {
        self.appends.load(Ordering::Relaxed)
    }

    fn mode(&self) -> Mode {
        match &mut *self.mode.lock().unwrap() {
            Mode::Chance(rng) => match rng.u8(..12) {
                0 => Mode::Hang,
                1 => Mode::Slow(Duration::from_millis(rng.u64(..500))),
                2 => Mode::Before(safe()),
                3 => Mode::Before(unknown()),
                4 => Mode::After(unknown()),
                _ => Mode::Fine,
            },
            mode => mode.clone(),
        }
    }
}

#[async_trait]
impl EventSink for Faulty {
    async fn append(&self, batch: Batch<'_>) -> Result<()> {
        self.appends.fetch_add(1, Ordering::Relaxed);
        match self.mode() {
            Mode::Fine | Mode::Chance(_) => self.inner.append(batch).await,
            Mode::Hang => std::future::pending().await,
            Mode::Slow(pause) => {
                tokio::time::sleep(pause).await;
                self.inner.append(batch).await
            }
            Mode::Panic => panic!("the sink is broken"),
            Mode::Before(error) => Err(error),
            Mode::After(error) => {
                self.inner.append(batch).await?;
                Err(error)
            }
        }
    }

    async fn checkpoint(&self) -> Result<Checkpoint> {
        self.inner.checkpoint().await
    }
}

impl EventSource for Faulty {
    fn read(&self, from: ReadFrom) -> EventStream {
        self.inner.read(from)
    }

    fn follow(&self, from: ReadFrom) -> EventStream {
        self.inner.follow(from)
    }
}

#[async_trait]
impl Prune for Faulty {
    async fn prune(&self, before: EventId) -> Result<()> {
        self.inner.prune(before).await
    }
}

#[async_trait]
impl CommitPoint for Faulty {
    async fn head(&self) -> Result<Checkpoint> {
        self.inner.head().await
    }

    fn event_bytes_max(&self) -> usize {
        self.inner.event_bytes_max()
    }
}

impl Primary for Faulty {
    fn roster(&self) -> Arc<dyn CheckpointStore> {
        self.inner.roster()
    }

    fn durability(&self) -> Durability {
        Durability::Durable
    }
}

pub fn safe() -> Error {
    Error::new(ErrorKind::Unavailable, Retry::Safe, "refused before anything was applied")
}

pub fn unknown() -> Error {
    Error::new(ErrorKind::Unavailable, Retry::AfterCheckpoint, "the answer was lost")
}

pub fn event(id: u64) -> Event {
    Event::new(EventId::new(id), &format!("event {id}")).unwrap()
}

pub fn snapshot(id: u64) -> Event {
    Event::builder(EventId::new(id)).payload_json(format!("{{\"state\":{id}}}")).snapshot().build().unwrap()
}

pub fn events(ids: std::ops::Range<u64>) -> Vec<Event> {
    ids.map(event).collect()
}

/// A batch behind the event before its first, in a log without gaps.
pub fn batch(events: &[Event]) -> Batch<'_> {
    let after = events[0].id().prev();
    Batch::new(after, events).unwrap()
}

/// Appends a log that snapshot events open segments of.
pub async fn append_log(sink: &impl EventSink, events: &[Event]) {
    for part in Batch::segments(events) {
        sink.append(batch(part)).await.unwrap();
    }
}

pub fn id(id: u64) -> EventId {
    EventId::new(id)
}

/// Polls a future once.
pub async fn poll_once<F: Future + Unpin>(future: &mut F) -> std::task::Poll<F::Output> {
    std::future::poll_fn(|context| std::task::Poll::Ready(std::pin::Pin::new(&mut *future).poll(context)))
        .await
}

/// The seeds of a randomised test: the one given as `HYDRANT_SEED`, or so many.
pub fn seeds(count: u64) -> Vec<u64> {
    match std::env::var("HYDRANT_SEED") {
        Ok(seed) => vec![seed.parse().expect("HYDRANT_SEED is a number")],
        Err(_) => (0..count).collect(),
    }
}
