//! A store in memory that follows a script of faults.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use hydrant::{
    Batch, Checkpoint, CommitPoint, Error, ErrorKind, Event, EventId, EventSink, EventSource, EventStream,
    MemoryStore, ReadFrom, Result, Retry,
};
use tokio::time::Instant;

/// What an append does instead of its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is applied, and the store knows it.
    Before(ErrorKind),
    /// Nothing is applied, but the store does not know.
    Lost,
    /// Everything is applied, but the store replies that it does not know.
    After,
    /// Never answers; applied or not.
    Hang { applied: bool },
    /// Works, but takes its time.
    Slow(Duration),
    /// Nothing is applied, and an operator is needed.
    Never(ErrorKind),
    /// Back-pressure: waits until the deadline of the batch, and applies nothing.
    Busy,
    /// Panics.
    Panic,
}

/// Follows its script, an append an entry; beyond it, it works.
#[derive(Clone, Debug, Default)]
pub struct Scripted {
    store: Arc<Mutex<MemoryStore>>,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    script: VecDeque<Option<Fault>>,
    /// Payloads that hold this are `Invalid`.
    poison: Option<&'static str>,
    /// What was sent, an append an entry.
    sent: Vec<Vec<Event>>,
    /// How long each append had until its deadline.
    time_left: Vec<Option<Duration>>,
}

impl Scripted {
    pub fn new(script: impl IntoIterator<Item = Option<Fault>>) -> Self {
        let this = Self::default();
        this.script(script);
        this
    }

    pub fn script(&self, script: impl IntoIterator<Item = Option<Fault>>) {
        self.lock().script.extend(script);
    }

    /// Works from here on.
    pub fn clear(&self) {
        self.lock().script.clear();
    }

    /// Refuses payloads that hold `text`.
    pub fn refuse(&self, text: &'static str) {
        self.lock().poison = Some(text);
    }

    /// Loses everything it holds.
    pub fn empty(&self) {
        *self.store.lock().unwrap() = MemoryStore::default();
    }

    /// What was sent, an append an entry.
    pub fn sent(&self) -> Vec<Vec<Event>> {
        self.lock().sent.clone()
    }

    /// How long each append had until its deadline, an append an entry.
    pub fn time_left(&self) -> Vec<Option<Duration>> {
        self.lock().time_left.clone()
    }

    fn store(&self) -> MemoryStore {
        self.store.lock().unwrap().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap()
    }
}

fn poisoned(batch: Batch<'_>, poison: &str) -> Option<EventId> {
    let holds = |event: &&Event| String::from_utf8_lossy(event.payload()).contains(poison);
    batch.events().iter().find(holds).map(Event::id)
}

#[async_trait]
impl EventSink for Scripted {
    async fn append(&self, batch: Batch<'_>) -> Result<()> {
        let (fault, poison) = {
            let mut shared = self.lock();
            shared.sent.push(batch.events().to_vec());
            shared.time_left.push(batch.deadline().map(|deadline| deadline - Instant::now()));
            (shared.script.pop_front().flatten(), shared.poison)
        };
        tokio::task::yield_now().await;
        if let Some(id) = poison.and_then(|poison| poisoned(batch, poison)) {
            return Err(Error::invalid("this store does not take it").at(id));
        }
        match fault {
            None => self.store().append(batch).await,
            Some(Fault::Before(kind)) => Err(Error::new(kind, Retry::Safe, "not now")),
            Some(Fault::Never(kind)) => Err(Error::new(kind, Retry::Never, "never")),
            Some(Fault::Lost) => Err(Error::new(ErrorKind::Unavailable, Retry::AfterCheckpoint, "lost")),
            Some(Fault::After) => {
                self.store().append(batch).await?;
                Err(Error::new(ErrorKind::Unavailable, Retry::AfterCheckpoint, "no answer came back"))
            }
            Some(Fault::Hang { applied }) => {
                if applied {
                    self.store().append(batch).await?;
                }
                std::future::pending().await
            }
            Some(Fault::Slow(time)) => {
                tokio::time::sleep(time).await;
                self.store().append(batch).await
            }
            Some(Fault::Busy) => {
                tokio::time::sleep_until(batch.deadline().expect("back-pressure needs a deadline")).await;
                Err(Error::new(ErrorKind::Unavailable, Retry::Safe, "a secondary is too far behind"))
            }
            Some(Fault::Panic) => panic!("the script says so"),
        }
    }

    async fn checkpoint(&self) -> Result<Checkpoint> {
        self.store().checkpoint().await
    }
}

impl EventSource for Scripted {
    fn read(&self, from: ReadFrom) -> EventStream {
        self.store().read(from)
    }

    fn follow(&self, from: ReadFrom) -> EventStream {
        self.store().follow(from)
    }
}

#[async_trait]
impl CommitPoint for Scripted {
    async fn head(&self) -> Result<Checkpoint> {
        self.store().head().await
    }

    fn event_bytes_max(&self) -> usize {
        self.store().event_bytes_max()
    }
}
