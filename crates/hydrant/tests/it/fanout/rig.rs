//! Stores and a roster whose every call can be made to misbehave.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use hydrant::{
    Batch, Checkpoint, CheckpointEntry, CheckpointStore, CommitPoint, Durability, Error, Event, EventId,
    EventSink, EventSource, EventSourceExt, EventStream, MemoryCheckpoints, MemoryStore, Primary, Prune,
    ReadFrom, Result,
};
use tokio::sync::watch;

use crate::support::{append_log, safe};

/// How a call behaves.
#[derive(Clone, Debug)]
pub enum Act {
    Fine,
    Hang,
    /// Takes its time, then does its work.
    Slow(Duration),
    /// Does its work, then takes its time.
    Late(Duration),
    /// Fails without applying anything.
    Fail(Error),
    /// Does its work, then fails.
    Lose(Error),
    Panic,
    /// Hangs, and panics when it is dropped.
    PanicOnDrop,
}

/// Panics when it is dropped.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        assert!(std::thread::panicking(), "dropped");
    }
}

impl Act {
    async fn around<T>(self, work: impl Future<Output = Result<T>>) -> Result<T> {
        match self {
            Self::Fine => work.await,
            Self::Hang => std::future::pending().await,
            Self::Slow(pause) => {
                tokio::time::sleep(pause).await;
                work.await
            }
            Self::Late(pause) => {
                let done = work.await;
                tokio::time::sleep(pause).await;
                done
            }
            Self::Fail(error) => Err(error),
            Self::Lose(error) => work.await.and(Err(error)),
            Self::Panic => panic!("the store is broken"),
            Self::PanicOnDrop => {
                let _bomb = Bomb;
                std::future::pending().await
            }
        }
    }
}

/// A way to behave that can be changed at any time.
#[derive(Clone, Debug)]
pub struct Switch(Arc<Mutex<Act>>);

impl Default for Switch {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Act::Fine)))
    }
}

impl Switch {
    pub fn set(&self, act: Act) {
        *self.0.lock().unwrap() = act;
    }

    pub fn get(&self) -> Act {
        self.0.lock().unwrap().clone()
    }
}

/// A roster in memory.
#[derive(Clone, Default)]
pub struct Roster {
    pub inner: MemoryCheckpoints,
    pub load: Switch,
    pub swap: Switch,
    /// How much later swaps are applied, even if they are dropped.
    pub delay: Arc<Mutex<Option<Duration>>>,
}

#[async_trait]
impl CheckpointStore for Roster {
    async fn load(&self, name: &str) -> Result<Option<CheckpointEntry>> {
        self.load.get().around(self.inner.load(name)).await
    }

    async fn list(&self) -> Result<Vec<CheckpointEntry>> {
        self.load.get().around(self.inner.list()).await
    }

    async fn swap(
        &self,
        name: &str,
        expected: Option<&CheckpointEntry>,
        new: Option<&CheckpointEntry>,
    ) -> Result<()> {
        let delay = *self.delay.lock().unwrap();
        let (inner, name) = (self.inner.clone(), name.to_owned());
        let (expected, new) = (expected.cloned(), new.cloned());
        let work = async move { inner.swap(&name, expected.as_ref(), new.as_ref()).await };
        let Some(delay) = delay else { return self.swap.get().around(work).await };
        let late = tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            work.await
        });
        self.swap.get().around(async { late.await.unwrap() }).await
    }
}

/// One address at which one copy of a log can replace another.
#[derive(Clone)]
pub struct Server {
    copy: Arc<Mutex<MemoryStore>>,
    pub append: Switch,
    pub checkpoint: Switch,
    pub roster: Roster,
    appends: Arc<AtomicU64>,
    checkpoints: Arc<AtomicU64>,
    reads: Arc<AtomicU64>,
    breaks: watch::Sender<()>,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            copy: Arc::default(),
            append: Switch::default(),
            checkpoint: Switch::default(),
            roster: Roster::default(),
            appends: Arc::default(),
            checkpoints: Arc::default(),
            reads: Arc::default(),
            breaks: watch::Sender::new(()),
        }
    }
}

impl Server {
    pub async fn holding(log: &[Event]) -> Self {
        let server = Self::default();
        server.fail_over(log).await;
        server
    }

    /// Puts a copy with these events at the address. Streams that follow end with an error.
    pub async fn fail_over(&self, log: &[Event]) -> MemoryStore {
        let copy = MemoryStore::default();
        append_log(&copy, log).await;
        *self.copy.lock().unwrap() = copy.clone();
        self.breaks.send_replace(());
        copy
    }

    pub fn copy(&self) -> MemoryStore {
        self.copy.lock().unwrap().clone()
    }

    pub fn appends(&self) -> u64 {
        self.appends.load(Ordering::SeqCst)
    }

    pub fn checkpoints(&self) -> u64 {
        self.checkpoints.load(Ordering::SeqCst)
    }

    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl EventSink for Server {
    async fn append(&self, batch: Batch<'_>) -> Result<()> {
        self.appends.fetch_add(1, Ordering::SeqCst);
        // The copy is the one that is there once the call gets through.
        self.append.get().around(async { self.copy().append(batch).await }).await
    }

    async fn checkpoint(&self) -> Result<Checkpoint> {
        self.checkpoints.fetch_add(1, Ordering::SeqCst);
        self.checkpoint.get().around(async { self.copy().checkpoint().await }).await
    }
}

impl EventSource for Server {
    fn read(&self, from: ReadFrom) -> EventStream {
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.copy().read(from)
    }

    fn follow(&self, from: ReadFrom) -> EventStream {
        let mut breaks = self.breaks.subscribe();
        let broken = async move { drop(breaks.changed().await) };
        let events = self.copy().follow(from).take_until(broken);
        events.chain(stream::once(async { Err(safe()) })).boxed()
    }
}

#[async_trait]
impl Prune for Server {
    async fn prune(&self, before: EventId) -> Result<()> {
        self.copy().prune(before).await
    }
}

#[async_trait]
impl CommitPoint for Server {
    async fn head(&self) -> Result<Checkpoint> {
        self.copy().head().await
    }

    fn event_bytes_max(&self) -> usize {
        64 << 20
    }
}

impl Primary for Server {
    fn roster(&self) -> Arc<dyn CheckpointStore> {
        Arc::new(self.roster.clone())
    }

    fn durability(&self) -> Durability {
        Durability::Durable
    }
}

/// A primary that accepts, compare-and-append, and is durable as far as `sync` was called.
#[derive(Clone, Default)]
pub struct Accepting {
    accepted: Arc<Mutex<MemoryStore>>,
    durable: Arc<Mutex<MemoryStore>>,
    roster: MemoryCheckpoints,
    pub append: Switch,
    pub checkpoint: Switch,
    /// Only `Fail` changes a read.
    pub read: Switch,
    checkpoints: Arc<AtomicU64>,
}

impl Accepting {
    pub async fn sync(&self) {
        let durable = self.durable();
        let after = durable.checkpoint().await.unwrap().id();
        let ready = self.accepted().collect(after.into()).await.unwrap();
        append_after(&durable, after, &ready).await;
    }

    /// Loses what is not durable, as in a power cut.
    pub async fn lose_tail(&self) {
        let kept = self.durable().collect(ReadFrom::Origin).await.unwrap();
        self.restore(&kept).await;
    }

    /// Fails over to a copy with these events.
    pub async fn restore(&self, log: &[Event]) {
        for copy in [&self.accepted, &self.durable] {
            let restored = MemoryStore::default();
            append_after(&restored, None, log).await;
            *copy.lock().unwrap() = restored;
        }
    }

    pub fn checkpoints(&self) -> u64 {
        self.checkpoints.load(Ordering::SeqCst)
    }

    fn accepted(&self) -> MemoryStore {
        self.accepted.lock().unwrap().clone()
    }

    fn durable(&self) -> MemoryStore {
        self.durable.lock().unwrap().clone()
    }
}

/// Appends events that follow `after`; their ids may have gaps.
async fn append_after(store: &MemoryStore, mut after: Option<EventId>, log: &[Event]) {
    for part in Batch::segments(log) {
        store.append(Batch::new(after, part).unwrap()).await.unwrap();
        after = part.last().map(Event::id);
    }
}

#[async_trait]
impl EventSink for Accepting {
    async fn append(&self, batch: Batch<'_>) -> Result<()> {
        self.append.get().around(async { self.accepted().append(batch).await }).await
    }

    async fn checkpoint(&self) -> Result<Checkpoint> {
        self.checkpoints.fetch_add(1, Ordering::SeqCst);
        self.checkpoint.get().around(async { self.durable().checkpoint().await }).await
    }
}

impl EventSource for Accepting {
    fn read(&self, from: ReadFrom) -> EventStream {
        match self.read.get() {
            Act::Fail(error) => stream::once(async { Err(error) }).boxed(),
            _ => self.durable().read(from),
        }
    }

    fn follow(&self, from: ReadFrom) -> EventStream {
        self.durable().follow(from)
    }
}

#[async_trait]
impl CommitPoint for Accepting {
    async fn head(&self) -> Result<Checkpoint> {
        self.accepted().checkpoint().await
    }

    fn event_bytes_max(&self) -> usize {
        64 << 20
    }
}

impl Primary for Accepting {
    fn roster(&self) -> Arc<dyn CheckpointStore> {
        Arc::new(self.roster.clone())
    }

    fn durability(&self) -> Durability {
        Durability::Accepted
    }
}

/// Takes every event, and has no checkpoint.
#[derive(Clone, Default)]
pub struct Forgetful(pub Arc<Mutex<Vec<u64>>>);

#[async_trait]
impl EventSink for Forgetful {
    async fn append(&self, batch: Batch<'_>) -> Result<()> {
        self.0.lock().unwrap().extend(batch.events().iter().map(|event| event.id().get()));
        Ok(())
    }

    async fn checkpoint(&self) -> Result<Checkpoint> {
        Ok(Checkpoint::Unknown)
    }
}
