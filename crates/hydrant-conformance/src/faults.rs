//! Sinks and sources that fail on command.
//!
//! [`Faulty`] wraps any sink, source or store; [`Faults`] is the switch, cloned into the test, which turns
//! faults on and off while it runs. Wrappers nest. All waits use tokio's clock, so that paused time works, and
//! all chance is seeded, so that one seed replays a run. A fault that was queued with [`Faults::next`] and met no call
//! fails the test when the last clone of the switch is dropped; [`Faults::clear`] forgets it.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> hydrant::Result<()> {
//! use hydrant::{Batch, Event, EventId, EventSink, MemoryStore};
//! use hydrant_conformance::faults::{Fault, Faults, Faulty};
//!
//! let faults = Faults::new(7);
//! let sink = Faulty::new(MemoryStore::default(), faults.clone());
//! let events = [Event::new(EventId::ZERO, "hello")?];
//!
//! faults.next(Fault::ErrorAfter);
//! assert!(sink.append(Batch::new(None, &events)?).await.is_err());     // the call failed,
//! assert_eq!(sink.checkpoint().await?.id(), Some(EventId::ZERO));      // but applied
//! # Ok(()) }
//! ```

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use fastrand::Rng;
use futures_util::{StreamExt, stream};
use hydrant::{
    Batch, Checkpoint, CheckpointEntry, CheckpointStore, CommitPoint, Durability, Error, ErrorKind, EventId,
    EventSink, EventSource, EventStream, Primary, Prune, ReadFrom, Result, Retry,
};
use tokio::sync::watch;
use tokio::time::sleep;

/// A way in which a call goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// An error (`Unavailable`, `Safe`) before anything was applied.
    ErrorBefore,
    /// Applied, but the call fails (`Unavailable`, `AfterCheckpoint`).
    ErrorAfter,
    /// No return until the faults are [cleared](Faults::clear); then the call continues.
    Hang,
    /// A return only after this long.
    Slow(Duration),
    /// A panic, before anything was applied.
    Panic,
    /// The first half of a batch is applied, and the call fails (`Unavailable`, `AfterCheckpoint`).
    /// Other calls fail as with [`ErrorBefore`](Fault::ErrorBefore).
    PartialBatch,
}

/// The switch of one or several [`Faulty`] wrappers; clones are the same switch.
#[derive(Clone, Debug)]
pub struct Faults {
    plan: Arc<Mutex<Plan>>,
    /// Counts how often the plan was cleared, for calls that hang.
    cleared: watch::Sender<u64>,
}

#[derive(Debug)]
struct Plan {
    next: VecDeque<Fault>,
    always: Option<Fault>,
    flaky: Option<(f64, Vec<Fault>)>,
    rng: Rng,
    calls: u64,
    injected: u64,
}

impl Drop for Plan {
    fn drop(&mut self) {
        let unfired = &self.next;
        assert!(
            unfired.is_empty() || std::thread::panicking(),
            "queued, and met by no call: {unfired:?}; `Faults::clear` forgets faults"
        );
    }
}

impl Faults {
    /// A switch without any fault; the seed is for [`flaky`](Faults::flaky).
    pub fn new(seed: u64) -> Self {
        let plan = Plan {
            next: VecDeque::new(),
            always: None,
            flaky: None,
            rng: Rng::with_seed(seed),
            calls: 0,
            injected: 0,
        };
        Self { plan: Arc::new(Mutex::new(plan)), cleared: watch::Sender::new(0) }
    }

    /// Makes the next call fail like this. Several faults queue up, before those of the methods below.
    pub fn next(&self, fault: Fault) {
        self.lock().next.push_back(fault);
    }

    /// Makes every call fail like this, until [`clear`](Faults::clear).
    pub fn always(&self, fault: Fault) {
        self.lock().always = Some(fault);
    }

    /// Makes each call fail with this probability (0 to 1), like one of `faults`, by the seed.
    ///
    /// # Panics
    /// If there are no faults to choose from.
    pub fn flaky(&self, probability: f64, faults: &[Fault]) {
        assert!(!faults.is_empty(), "flaky needs faults to choose from");
        self.lock().flaky = Some((probability, faults.to_vec()));
    }

    /// Ends all faults, also those that met no call; calls that hang continue.
    pub fn clear(&self) {
        let mut plan = self.lock();
        plan.next.clear();
        plan.always = None;
        plan.flaky = None;
        drop(plan);
        self.cleared.send_modify(|count| *count += 1);
    }

    /// How many calls failed so far.
    pub fn injected(&self) -> u64 {
        self.lock().injected
    }

    /// How many calls there were so far.
    pub fn calls(&self) -> u64 {
        self.lock().calls
    }

    /// The faults that were queued with [`next`](Faults::next) and met no call yet.
    pub fn unfired(&self) -> Vec<Fault> {
        self.lock().next.iter().copied().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Draws the fault of one call, with a receiver that notices when faults are cleared.
    fn draw(&self) -> (Option<Fault>, watch::Receiver<u64>) {
        let mut plan = self.lock();
        let plan = &mut *plan;
        let queued = plan.next.pop_front().or(plan.always);
        let fault = queued.or_else(|| {
            let (probability, faults) = plan.flaky.as_ref()?;
            (plan.rng.f64() < *probability).then(|| faults[plan.rng.usize(..faults.len())])
        });
        plan.calls += 1;
        plan.injected += u64::from(fault.is_some());
        // Subscribed under the lock: a clear that comes now is seen.
        (fault, self.cleared.subscribe())
    }

    /// Fails or delays a call; returns the fault that comes after it.
    async fn before(&self) -> Result<Option<Fault>> {
        let (fault, mut cleared) = self.draw();
        match fault {
            Some(Fault::ErrorBefore) => return Err(injected(Retry::Safe, "nothing was applied")),
            Some(Fault::Panic) => panic!("an injected panic"),
            // It cannot close: the sender lives in `self`.
            Some(Fault::Hang) => drop(cleared.changed().await),
            Some(Fault::Slow(time)) => sleep(time).await,
            other => return Ok(other),
        }
        Ok(None)
    }

    /// Makes a call that is no append, with its fault.
    async fn around<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        match self.before().await? {
            None => call.await,
            Some(Fault::PartialBatch) => Err(injected(Retry::Safe, "nothing was applied")),
            Some(_) => {
                call.await?;
                Err(injected(Retry::AfterCheckpoint, "the outcome is open"))
            }
        }
    }
}

fn injected(retry: Retry, what: &str) -> Error {
    Error::new(ErrorKind::Unavailable, retry, format!("an injected fault; {what}"))
}

/// A sink, source, store or checkpoint store whose calls fail as its [`Faults`] say.
#[derive(Clone, Debug)]
pub struct Faulty<S> {
    inner: S,
    faults: Faults,
}

impl<S> Faulty<S> {
    /// Wraps `inner`.
    pub fn new(inner: S, faults: Faults) -> Self {
        Self { inner, faults }
    }

    /// The wrapped store, without faults.
    pub fn inner(&self) -> &S {
        &self.inner
    }

    /// The switch.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }
}

#[async_trait]
impl<S: EventSink> EventSink for Faulty<S> {
    async fn append(&self, batch: Batch<'_>) -> Result<()> {
        let fault = self.faults.before().await?;
        if fault == Some(Fault::PartialBatch) {
            let half = batch.events().len() / 2;
            if half > 0 {
                self.inner.append(Batch::new(batch.after(), &batch.events()[..half])?).await?;
            }
            return Err(injected(Retry::AfterCheckpoint, "half of the batch was applied"));
        }
        self.inner.append(batch).await?;
        match fault {
            None => Ok(()),
            Some(_) => Err(injected(Retry::AfterCheckpoint, "the outcome is open")),
        }
    }

    async fn checkpoint(&self) -> Result<Checkpoint> {
        self.faults.around(self.inner.checkpoint()).await
    }
}

impl<S: EventSource> Faulty<S> {
    /// A stream that draws a fault when it is first polled. `ErrorAfter` and `PartialBatch` end it with an
    /// error after the first event.
    fn faulty(&self, inner: EventStream) -> EventStream {
        let faults = self.faults.clone();
        let begun = async move {
            match faults.before().await {
                Ok(None) => inner,
                Ok(Some(_)) => {
                    let error = injected(Retry::Safe, "reading again is safe");
                    inner.take(1).chain(stream::iter([Err(error)])).boxed()
                }
                Err(error) => stream::iter([Err(error)]).boxed(),
            }
        };
        stream::once(begun).flatten().boxed()
    }
}

impl<S: EventSource> EventSource for Faulty<S> {
    fn read(&self, from: ReadFrom) -> EventStream {
        self.faulty(self.inner.read(from))
    }

    fn follow(&self, from: ReadFrom) -> EventStream {
        self.faulty(self.inner.follow(from))
    }
}

#[async_trait]
impl<S: Prune> Prune for Faulty<S> {
    async fn prune(&self, before: EventId) -> Result<()> {
        self.faults.around(self.inner.prune(before)).await
    }
}

#[async_trait]
impl<S: CommitPoint> CommitPoint for Faulty<S> {
    async fn head(&self) -> Result<Checkpoint> {
        self.faults.around(self.inner.head()).await
    }

    fn event_bytes_max(&self) -> usize {
        self.inner.event_bytes_max()
    }
}

impl<S: Primary> Primary for Faulty<S> {
    fn roster(&self) -> Arc<dyn CheckpointStore> {
        self.inner.roster()
    }

    fn durability(&self) -> Durability {
        self.inner.durability()
    }
}

#[async_trait]
impl<S: CheckpointStore> CheckpointStore for Faulty<S> {
    async fn load(&self, name: &str) -> Result<Option<CheckpointEntry>> {
        self.faults.around(self.inner.load(name)).await
    }

    async fn list(&self) -> Result<Vec<CheckpointEntry>> {
        self.faults.around(self.inner.list()).await
    }

    async fn swap(
        &self,
        name: &str,
        expected: Option<&CheckpointEntry>,
        new: Option<&CheckpointEntry>,
    ) -> Result<()> {
        self.faults.around(self.inner.swap(name, expected, new)).await
    }
}
