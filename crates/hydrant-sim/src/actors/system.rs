//! The program under test: what is open now, and how it comes back after a crash.

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use hydrant::{EventId, FanOut, FanOutStatus, Journal, Laggards, Relay, Result};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::bounds::Bounds;
use super::build;
use super::tokens::Tokens;
use crate::plan::{Broken, Store, Topology};
use crate::world::bell::Bell;
use crate::world::held::Opening;
use crate::world::truth::Fact;
use crate::world::{AnyPrimary, FileLog, FileReader, ModelPrimary, ModelRoster, Process, World};

/// What a journal of the run saves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Saved {
    pub n: u64,
    pub pad: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<Folded>,
}

/// The state that is folded from a log: how many events, and a hash of their numbers in order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Folded {
    pub events: u64,
    pub hash: u64,
}

impl Folded {
    pub fn apply(&mut self, saved: &Saved) {
        if let Some(state) = saved.state {
            *self = state;
        }
        self.count(saved.n);
    }

    pub fn count(&mut self, n: u64) {
        self.events += 1;
        self.hash = (self.hash ^ n).wrapping_mul(0x0100_0000_01b3);
    }
}

/// Operations that write to the log of the opening that they began with.
const WRITERS: [&str; 6] = ["append", "append before", "append blind", "submit", "slot", "snapshot"];

#[derive(Clone)]
pub enum Engine {
    FanOut(FanOut<Arc<dyn AnyPrimary>>),
    Relay(Relay),
}

/// Forwards a call to the fan-out or the relay.
macro_rules! either {
    ($self:ident, $log:ident => $call:expr) => {
        match $self {
            Engine::FanOut($log) => $call,
            Engine::Relay($log) => $call,
        }
    };
}

impl Engine {
    pub fn status(&self) -> FanOutStatus {
        either!(self, log => log.status())
    }

    pub async fn attach(
        &self,
        name: &str,
        sink: build::BoxedSink,
        options: hydrant::SecondaryOptions,
    ) -> Result<()> {
        either!(self, log => log.attach(name, sink, options).await)
    }

    pub async fn detach(&self, name: &str) -> Result<()> {
        either!(self, log => log.detach(name).await)
    }

    pub fn watch(&self) -> futures_util::stream::BoxStream<'static, FanOutStatus> {
        either!(self, log => log.watch().boxed())
    }

    pub fn park(&self, name: &str) -> Result<()> {
        either!(self, log => log.park(name))
    }

    pub fn resume(&self, name: &str) -> Result<()> {
        either!(self, log => log.resume(name))
    }

    pub async fn delivered(&self, id: EventId, timeout: Duration) -> Result<(), Laggards> {
        either!(self, log => log.delivered(id, timeout).await)
    }

    pub async fn close(&self, timeout: Duration) -> Laggards {
        either!(self, log => log.close(timeout).await)
    }
}

/// What a watcher of the status saw last.
#[derive(Default)]
pub struct Watcher {
    /// The head, plus one; 0 before the first event.
    pub head: AtomicU64,
}

/// One opening of the program.
pub struct Up {
    pub generation: u32,
    pub process: Arc<Process>,
    pub engine: Engine,
    /// The primary, where it is a file log.
    pub store: Option<FileLog>,
    /// The fence of the primary when it was opened.
    fence: u64,
    pub opened_at: Instant,
    _opening: Opening,
    pub journal: tokio::sync::Mutex<Option<Journal<Saved>>>,
    /// The head as a caller that chooses ids knows it; `None` while an outcome is open.
    pub writer: tokio::sync::Mutex<Option<Option<EventId>>>,
    /// The event with the highest id that was acknowledged.
    acknowledged: Mutex<Option<Fact>>,
    /// The newest event that this opening acknowledged to a caller that chooses ids.
    pub acknowledged_id: Mutex<Option<EventId>>,
    /// Counts the handles of each sink that are alive.
    pub tokens: Tokens,
    /// Calls under way that hold handles of sinks themselves.
    pub busy: AtomicU32,
    closed: AtomicBool,
    /// Journals that were given up and may still commit.
    pub journals_closing: AtomicU32,
    /// Whether a journal was opened at a head that another one may still move.
    pub journal_is_unsure: AtomicBool,
    pub watchers: Mutex<Vec<Arc<Watcher>>>,
}

impl Up {
    /// Sets what was acknowledged last, and returns what was before.
    pub fn replace_acknowledged(&self, last: Fact) -> Option<Fact> {
        self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).replace(last)
    }

    /// Whether a `close` has returned.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst) || self.process.world.is_broken(Broken::CountsAsClosed)
    }

    /// Whether another writer took the primary over since it was opened.
    pub fn is_fenced(&self) -> bool {
        self.process.world.lock().log(Store::Primary).fence != self.fence
    }

    /// Counts a call as long as the result lives.
    pub fn busy(&self) -> impl Drop {
        Counted::new(&self.busy)
    }
}

/// Counts while it lives.
struct Counted<'a>(&'a AtomicU32);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicU32) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

pub struct System {
    pub world: Arc<World>,
    pub topology: Topology,
    pub bounds: Bounds,
    /// The process that writes to the files that a relay follows.
    pub(super) writer: tokio::sync::Mutex<Option<(Arc<Process>, FileLog)>>,
    slot: Mutex<Slot>,
    changed: Bell,
    opening: tokio::sync::Mutex<()>,
}

struct Slot {
    process: Arc<Process>,
    up: Option<Arc<Up>>,
    generation: u32,
    wanted: BTreeSet<u8>,
    /// What dead processes held. It is dropped only once the faults have stopped, because their tasks are zombies.
    graveyard: Vec<Arc<Up>>,
}

impl System {
    pub fn new(world: Arc<World>, topology: Topology) -> Arc<Self> {
        let bounds = Bounds::of(&world.lock().config);
        let process = Process::new(world.clone(), 0);
        let sinks = u8::try_from(world.lock().config.sinks.len()).unwrap_or(u8::MAX);
        let slot = Slot { process, up: None, generation: 0, wanted: (0..sinks).collect(), graveyard: vec![] };
        Arc::new(Self {
            world,
            topology,
            bounds,
            writer: tokio::sync::Mutex::default(),
            slot: Mutex::new(slot),
            changed: Bell::default(),
            opening: tokio::sync::Mutex::default(),
        })
    }

    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn process(&self) -> Arc<Process> {
        self.slot().process.clone()
    }

    pub fn want(&self, sink: u8, wanted: bool) {
        let mut slot = self.slot();
        if wanted {
            slot.wanted.insert(sink)
        } else {
            slot.wanted.remove(&sink)
        };
    }

    /// What is open now.
    pub fn is_up(&self) -> Option<Arc<Up>> {
        self.slot().up.clone()
    }

    /// Drops what dead processes held, so that their tasks end.
    pub fn bury(&self) {
        let dead = std::mem::take(&mut self.slot().graveyard);
        drop(dead);
    }

    /// Drops what is open.
    pub fn drop_all(&self) {
        let up = self.slot().up.take();
        drop(up);
    }

    /// Waits until the program is open.
    pub async fn up(&self) -> Arc<Up> {
        loop {
            let seen = self.changed.rung();
            if let Some(up) = self.slot().up.clone() {
                return up;
            }
            self.changed.after(seen).await;
        }
    }

    /// Opens the program, and opens it again in a new process each time it died.
    pub async fn supervise(self: Arc<Self>) {
        loop {
            let process = self.process();
            {
                let _opening = self.opening.lock().await;
                tokio::select! {
                    biased;
                    () = process.death() => {}
                    () = self.bring_up(&process) => {}
                }
            }
            process.death().await;
            let mut slot = self.slot();
            let dead = slot.up.take();
            slot.graveyard.extend(dead);
            slot.process = Process::new(self.world.clone(), process.number + 1);
        }
    }

    /// Closes or only drops what is open, and opens it again, unless that has happened meanwhile.
    ///
    /// If a caller drops this future, the program still does the work.
    pub async fn reopen(self: &Arc<Self>, up: Arc<Up>, close: bool) {
        let process = up.process.clone();
        let opening = tokio::spawn(self.clone().open_again(up, close));
        tokio::select! {
            biased;
            () = process.death() => {}
            _ = opening => {}
        }
    }

    async fn open_again(self: Arc<Self>, up: Arc<Up>, close: bool) {
        let _opening = self.opening.lock().await;
        let process = up.process.clone();
        if self.slot().generation != up.generation || process.is_dead() {
            return;
        }
        let again = async {
            let timeout = Duration::from_secs(1);
            let begun = Instant::now();
            if close {
                drop(self.close(&up, timeout).await);
            } else {
                // A reader may still hold the old opening, whose pumps then continue.
                let mut state = self.world.lock();
                state.roster_is_unsure = true;
                state.has_rivals |= state.under_way.values().any(|name| WRITERS.contains(name));
            }
            if up.busy.load(Ordering::SeqCst) > 0 && (!close || begun.elapsed() >= timeout) {
                // An attach that `close` did not wait for may enter the roster after the next program has read it.
                self.world.lock().roster_is_unsure = true;
            }
            self.slot().up = None;
            if let Some(store) = &up.store {
                store.close().await;
            }
            drop(up);
            self.bring_up(&process).await;
        };
        tokio::select! {
            biased;
            () = process.death() => {}
            () = again => {}
        }
    }

    /// Closes the log, and checks that no handle of a sink is left. Returns the sinks that miss events.
    pub async fn close(&self, up: &Up, timeout: Duration) -> Laggards {
        let bound = timeout + self.bounds.close;
        let closed = self.bounds.within(&self.world, "close", bound, up.engine.close(timeout)).await;
        let Some(laggards) = closed else { return Laggards::default() };
        up.closed.store(true, Ordering::SeqCst);
        self.world.note(|| format!("     closed: {laggards}"));
        if self.shown(up.engine.status()).stopped.is_none() {
            self.world
                .fail("status", "closed, and the status does not say that the log takes no more events");
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        crate::check::no_handles_left(&self.world, up);
        laggards
    }

    async fn bring_up(&self, process: &Arc<Process>) {
        loop {
            let opened = AssertUnwindSafe(self.open(process)).catch_unwind().await;
            let opened = opened.unwrap_or_else(|_| {
                self.world.fail("panic", "opening panicked because a store did");
                Err(crate::world::process::unknown())
            });
            match opened {
                Ok(up) => {
                    self.world.note(|| format!("## open, generation {}", up.generation));
                    self.slot().up = Some(Arc::new(up));
                    self.changed.ring();
                    return;
                }
                Err(error) => {
                    self.world.note(|| format!("## cannot open: {error}"));
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
        }
    }

    async fn open(&self, process: &Arc<Process>) -> Result<Up> {
        let (config, wanted, generation) = {
            let mut slot = self.slot();
            slot.generation += 1;
            (self.world.lock().config.clone(), slot.wanted.clone(), slot.generation)
        };
        let seed = self.world.seed.wrapping_add(u64::from(generation));
        let (topology, has_files) = (self.topology, config.files.is_some());
        let fence = self.world.lock().log(Store::Primary).fence;
        let opening = async {
            let mut store = None;
            let engine = match topology {
                Topology::FanOut | Topology::Journal => {
                    let primary: Arc<dyn AnyPrimary> = if has_files {
                        let log = FileLog::open(process.clone(), Store::Primary, None).await?;
                        Arc::new(store.insert(log).clone())
                    } else {
                        Arc::new(ModelPrimary::new(process.clone(), Store::Primary))
                    };
                    let options = build::fan_out_options(&self.world, &config, seed);
                    Engine::FanOut(FanOut::open(primary, options).await?)
                }
                Topology::Relay => {
                    let roster = Arc::new(ModelRoster::new(process.clone(), Store::Roster));
                    let options = build::relay_options(&self.world, &config, seed);
                    let relay = if has_files {
                        Relay::open(FileReader::open(process.clone()).await?, roster, options).await
                    } else {
                        Relay::open(ModelPrimary::new(process.clone(), Store::Primary), roster, options).await
                    };
                    Engine::Relay(relay?)
                }
            };
            Ok((engine, store))
        };
        let opened = self.bounds.within(&self.world, "open", self.bounds.roster, opening).await;
        let (engine, store) = opened.unwrap_or_else(|| Err(crate::world::process::unknown()))?;
        let up = Up {
            generation,
            process: process.clone(),
            engine,
            store,
            fence,
            opened_at: Instant::now(),
            _opening: process.held.opening(),
            journal: tokio::sync::Mutex::default(),
            writer: tokio::sync::Mutex::default(),
            acknowledged_id: Mutex::default(),
            tokens: Tokens::default(),
            busy: AtomicU32::new(0),
            closed: AtomicBool::new(false),
            journals_closing: AtomicU32::new(0),
            acknowledged: Mutex::new(None),
            journal_is_unsure: AtomicBool::new(false),
            watchers: Mutex::default(),
        };
        for sink in wanted {
            if let Err(error) = self.attach(&up, sink).await {
                self.world.note(|| format!("## cannot attach sink{sink}: {error}"));
            }
        }
        Ok(up)
    }

    /// Attaches a sink, as the program does.
    ///
    /// # Errors
    /// What opening and attaching meet.
    pub async fn attach(&self, up: &Up, sink: u8) -> Result<()> {
        let _busy = up.busy();
        let token = up.tokens.of(sink);
        // No option bounds what the program opens itself.
        let patience = Duration::from_secs(10);
        let head = build::known_head(&self.world, &up.engine);
        let opening = AssertUnwindSafe(build::sink(&up.process, sink, &token, head)).catch_unwind();
        let opened = tokio::time::timeout(patience, opening).await;
        drop(token);
        self.world.lock().sinks[usize::from(sink)].left |= !matches!(opened, Ok(Ok(Ok(_))));
        let Ok(Ok(opened)) = opened else { return Err(crate::world::process::unknown()) };
        let (opened, was_closed) = (opened?, up.is_closed());
        let options = build::secondary_options(&self.world.lock().config.sinks[usize::from(sink)]);
        let name = name(sink);
        let attach = up.engine.attach(&name, opened, options);
        match self.bounds.within(&self.world, "attach", self.bounds.roster, attach).await {
            Some(Ok(())) if was_closed => {
                self.world.fail("attach", "a sink was attached to a log that was closed");
                Ok(())
            }
            Some(Ok(())) if up.is_closed() => {
                self.world.fail("attach", "`close` had returned, and then a sink was attached");
                Ok(())
            }
            Some(attached) => {
                if attached.is_err() {
                    // The sink may not be in the roster, so what it needs may be pruned.
                    self.world.lock().sinks[usize::from(sink)].left = true;
                }
                attached
            }
            None => Err(crate::world::process::unknown()),
        }
    }

    /// Returns the journal, and opens it first if it is not open.
    pub async fn journal(&self, up: &Up) -> Result<Journal<Saved>> {
        let mut slot = up.journal.lock().await;
        if let Some(journal) = &*slot {
            return Ok(journal.clone());
        }
        let Engine::FanOut(log) = &up.engine else { return Err(crate::world::process::denied()) };
        let config = self.world.lock().config.clone();
        let options = build::journal_options(&self.world, &config, self.world.seed);
        if up.journals_closing.load(Ordering::SeqCst) > 0 {
            up.journal_is_unsure.store(true, Ordering::SeqCst);
        }
        let opening = Journal::open(log.clone(), options);
        let opened = self.bounds.within(&self.world, "open journal", self.bounds.call, opening).await;
        let journal = opened.unwrap_or_else(|| Err(crate::world::process::unknown()))?;
        self.world.note(|| format!("     a journal opens after {:?}", journal.head()));
        *slot = Some(journal.clone());
        Ok(journal)
    }
}

pub fn name(sink: u8) -> String {
    format!("sink{sink}")
}
