//! A real file log as a store of the run: its calls meet the faults of the plan, and its answers are compared with the
//! files.

use std::future::{Future, pending};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hydrant::{
    Batch, Checkpoint, CheckpointEntry, CheckpointStore, CommitPoint, Durability, Error, ErrorKind, EventId,
    EventSink, EventSource, EventStream, MemoryCheckpoints, Primary, Prune, ReadFrom, Result,
};
use hydrant_file::FileStore;

use super::reader;
use crate::plan::{Call, Effect, Moment, Site, Store};
use crate::world::process::{denied, refused, unknown};
use crate::world::{ModelRoster, Process, State, truth};

/// A handle of one process.
#[derive(Clone)]
pub struct FileLog {
    process: Arc<Process>,
    store: Store,
    inner: FileStore,
    /// Counts the handles that are alive, where it is a sink.
    _token: Option<Arc<()>>,
}

impl FileLog {
    /// Opens the log of a store, as its program does.
    ///
    /// # Errors
    /// What opening meets.
    pub async fn open(process: Arc<Process>, store: Store, token: Option<Arc<()>>) -> Result<Self> {
        process.alive().await;
        let disk = process.disk().clone();
        let (dir, options) = process.world.with(|state| {
            let files = state.files.as_mut().expect("the plan has a disk");
            if store == Store::Primary {
                files.begins(Moment::Opening).ring();
            }
            (files.dir(store), files.options(store))
        });
        // What recovery is to know of the secondaries. The roster itself is one that fails as the plan says.
        let delivered = MemoryCheckpoints::default();
        let entries = process.world.lock().delivered(store);
        for entry in entries {
            delivered.swap(&entry.name, None, Some(&entry)).await?;
        }
        let opened = FileStore::open_on(Arc::new(disk), &dir, Arc::new(delivered), options).await;
        survive(&process).await;
        match opened {
            Ok(inner) => {
                process.world.with(|state| {
                    if let Some(files) = state.files.as_mut().filter(|_| store == Store::Primary) {
                        files.failed_opens = 0;
                        // An empty file that no record names is opened as an empty log.
                        files.is_replaced &= files.damage.is_some();
                    }
                });
                for recovered in inner.recovered() {
                    process.world.note(|| format!("     {store:?} set aside: {recovered:?}"));
                }
                Ok(Self { process, store, inner, _token: token })
            }
            Err(error) => {
                process.world.with(|state| {
                    state.judge_error(store, "opening a log", None, &error);
                    if store == Store::Primary {
                        state.operate_on_files(Some(&error));
                    }
                });
                Err(error)
            }
        }
    }

    /// Closes the log, although other handles of it exist.
    pub async fn close(&self) {
        let closed = self.inner.close().await;
        survive(&self.process).await;
        if let Err(error) = closed {
            self.process.world.note(|| format!("     {:?} was not closed in order: {error}", self.store));
        }
    }

    fn site(&self, call: Call) -> Site {
        Site { store: self.store, call }
    }

    async fn call<T>(&self, call: Call, work: impl Future<Output = Result<T>>) -> Result<T> {
        let site = self.site(call);
        let result = strike(&self.process, site, work).await;
        survive(&self.process).await;
        self.process.world.with(|state| {
            state.note(|| match &result {
                Ok(_) => format!("     {site}: ok"),
                Err(error) => format!("     {site}: {error}"),
            });
            if let Err(error) = &result {
                state.judge_error(self.store, "a call", None, error);
            }
        });
        result
    }
}

/// Hangs forever if the process is dead, or has just died with its disk.
pub(super) async fn survive(process: &Process) {
    if process.disk().has_ended() {
        process.kill();
    }
    if process.is_dead() {
        pending::<()>().await;
    }
}

/// Makes one call, and injects the fault that the plan has for it.
async fn strike<T>(process: &Process, site: Site, work: impl Future<Output = Result<T>>) -> Result<T> {
    process.alive().await;
    let effect = process.world.with(|state| {
        let (nth, effect) = state.enter(site, None);
        if let Some(effect) = effect {
            state.note(|| format!("**   {site} #{nth}: {effect:?}"));
        }
        effect
    });
    let Some(effect) = effect else { return work.await };
    match effect {
        Effect::Refuse => Err(refused()),
        Effect::Deny => Err(denied()),
        Effect::Fail | Effect::End => Err(unknown()),
        Effect::FailAfter | Effect::Late { .. } => {
            drop(work.await);
            Err(unknown())
        }
        Effect::Hang => {
            process.world.hang().await;
            Err(unknown())
        }
        Effect::HangAfter => {
            drop(work.await);
            process.world.hang().await;
            Err(unknown())
        }
        Effect::Slow { ms } => {
            tokio::time::sleep(Duration::from_millis(ms)).await;
            work.await
        }
        Effect::SlowAfter { ms } => {
            let done = work.await;
            tokio::time::sleep(Duration::from_millis(ms)).await;
            done
        }
        Effect::Panic => panic!("sim: {site} panics"),
        Effect::PanicAfter => {
            drop(work.await);
            panic!("sim: {site} panics after its effect")
        }
        Effect::Crash => {
            process.kill();
            pending().await
        }
        Effect::CrashAfter => {
            drop(work.await);
            process.kill();
            pending().await
        }
        _ => work.await,
    }
}

#[async_trait]
impl EventSink for FileLog {
    async fn append(&self, batch: Batch<'_>) -> Result<()> {
        let store = self.store;
        if let Store::Sink(_) = store {
            self.process.world.with(|state| {
                let is_early = |event: &&hydrant::Event| !state.truth.is_durable(truth::fact(event));
                if let Some(event) = batch.events().iter().find(is_early) {
                    state.fail(
                        "early",
                        format!("{store:?} is given event {} before it is durable", event.id()),
                    );
                }
            });
        }
        let last = batch.events().last().map(hydrant::Event::id);
        self.call(Call::Append, self.inner.append(batch)).await?;
        self.process.world.with(|state| state.acknowledge_files(store, last));
        Ok(())
    }

    async fn checkpoint(&self) -> Result<Checkpoint> {
        let checkpoint = self.call(Call::Checkpoint, self.inner.checkpoint()).await?;
        let store = self.store;
        self.process.world.with(|state| {
            state.check_checkpoint(store, &checkpoint);
            if let Some(files) = &mut state.files {
                files.shadow(store).shows(checkpoint.id());
            }
        });
        Ok(checkpoint)
    }
}

impl EventSource for FileLog {
    fn read(&self, from: ReadFrom) -> EventStream {
        let inner = self.inner.clone();
        reader::watched(
            self.process.clone(),
            self.site(Call::Read),
            from,
            reader::Kind::OfWriter,
            move || inner.read(from),
        )
    }

    fn follow(&self, from: ReadFrom) -> EventStream {
        self.inner.follow(from)
    }
}

#[async_trait]
impl Prune for FileLog {
    async fn prune(&self, before: EventId) -> Result<()> {
        let store = self.store;
        self.process.world.with(|state| {
            if let Some(files) = &mut state.files {
                let shadow = files.shadow(store);
                shadow.prune_asked = shadow.prune_asked.max(before.prev());
                if store == Store::Primary {
                    files.begins(Moment::Prune).ring();
                }
            }
        });
        self.call(Call::Prune, self.inner.prune(before)).await
    }
}

#[async_trait]
impl CommitPoint for FileLog {
    async fn head(&self) -> Result<Checkpoint> {
        self.call(Call::Head, self.inner.head()).await
    }

    fn event_bytes_max(&self) -> usize {
        self.inner.event_bytes_max()
    }
}

impl Primary for FileLog {
    fn roster(&self) -> Arc<dyn CheckpointStore> {
        Arc::new(ModelRoster::new(self.process.clone(), Store::Roster))
    }

    fn durability(&self) -> Durability {
        self.inner.durability()
    }
}

impl State {
    /// The entries of the secondaries of a log.
    fn delivered(&self, store: Store) -> Vec<CheckpointEntry> {
        let roster = self.rosters.get(&Store::Roster).filter(|_| store == Store::Primary);
        roster.into_iter().flat_map(|roster| roster.values().cloned()).collect()
    }

    /// An append has acknowledged events up to `last`: where that promises so, the files hold them through any power cut.
    fn acknowledge_files(&mut self, store: Store, last: Option<EventId>) {
        let durable = self.log(store).checkpoint().id();
        let head = self.log(store).head().id();
        let Some(files) = &mut self.files else { return };
        let accepts = store == Store::Primary && files.accepts_ms.is_some();
        let held = if accepts { head } else { durable };
        let was_damaged = files.was_damaged && store == Store::Primary;
        let shadow = files.shadow(store);
        if !accepts {
            shadow.shows(last);
        }
        if !accepts && !was_damaged {
            shadow.acknowledged = shadow.acknowledged.max(last);
        }
        if held < last && !was_damaged {
            let message = format!("{store:?} acknowledged {last:?}, and the disk holds {held:?} for sure");
            self.fail("acknowledged", message);
        }
        if let Store::Sink(sink) = store {
            let facts = &mut self.sinks[usize::from(sink)];
            facts.acknowledged = facts.acknowledged.max(last);
        }
    }

    /// A checkpoint is never ahead of what the disk holds durably.
    pub(super) fn check_checkpoint(&mut self, store: Store, checkpoint: &Checkpoint) {
        let Checkpoint::At { id, .. } = checkpoint else { return };
        let was_damaged =
            self.files.as_ref().is_some_and(|files| files.was_damaged) && store == Store::Primary;
        let log = self.log(store);
        let held = log.events[..log.durable].iter().find(|event| event.id() == *id).map(Checkpoint::at);
        if held.as_ref() != Some(checkpoint) && !was_damaged {
            let durable = log.checkpoint();
            self.fail("early", format!("{store:?} says that it holds {checkpoint}, durable are {durable}"));
        }
        if let Store::Sink(sink) = store {
            let facts = &mut self.sinks[usize::from(sink)];
            facts.acknowledged = facts.acknowledged.max(Some(*id));
        }
    }

    /// What an error of the code under test may say: nothing is damaged unless something damaged it.
    pub(super) fn judge_error(&mut self, store: Store, what: &str, position: Option<EventId>, error: &Error) {
        let was_damaged =
            self.files.as_ref().is_some_and(|files| files.was_damaged) && store == Store::Primary;
        if was_damaged && error.kind() != ErrorKind::Bug {
            return;
        }
        let after = self.log(store).after;
        match error.kind() {
            ErrorKind::Corrupt | ErrorKind::Bug | ErrorKind::Unsupported => {
                self.fail("alarm", format!("{store:?}: {what} fails, and nothing was damaged: {error}"));
            }
            ErrorKind::Diverged => {
                self.fail("alarm", format!("{store:?}: {what} fails, and nothing was replaced: {error}"));
            }
            // The floor may be on its way: the segment goes first, and then its name is made durable.
            ErrorKind::Pruned { oldest }
                if what == "a read" && after.is_none_or(|after| position >= Some(after)) =>
            {
                let message =
                    format!("{store:?}: a read at {position:?} is sent to {oldest}, the floor is {after:?}");
                self.fail("alarm", message);
            }
            _ => {}
        }
    }
}
