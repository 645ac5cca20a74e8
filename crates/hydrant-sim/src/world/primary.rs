//! A model primary, also the source of a relay and the primary of a nested fan-out.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hydrant::store::follow_by_reading;
use hydrant::{
    Batch, Checkpoint, CheckpointStore, CommitPoint, Durability, Error, Event, EventId, EventSink,
    EventSource, EventStream, Primary, Prune, ReadFrom, Result,
};

use super::sink::detached;
use tokio::time::Instant;

use super::state::State;
use super::{ModelRoster, Process, read, sink, truth};
use crate::plan::{Broken, Call, SinkKind, Site, Store};

/// A handle of one process.
#[derive(Clone)]
pub struct ModelPrimary {
    process: Arc<Process>,
    store: Store,
    /// The fence of the store when this handle was opened; another writer since then fences it.
    fence: u64,
}

impl ModelPrimary {
    pub fn new(process: Arc<Process>, store: Store) -> Self {
        let fence = process.world.lock().log(store).fence;
        Self { process, store, fence }
    }

    fn site(&self, call: Call) -> Site {
        Site { store: self.store, call }
    }

    fn accepts(&self) -> Option<u64> {
        let accepts = self.process.world.lock().config.accepts_ms;
        accepts.filter(|_| self.store == Store::Primary)
    }

    fn sync_later(&self) {
        if let Some(ms) = self.accepts() {
            let process = self.process.clone();
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(ms)).await;
                if !process.is_dead() {
                    process.world.with(|state| state.sync_accepted(Duration::from_millis(ms)));
                }
            });
        }
    }
}

/// Returns the newest event that a store reports as durable.
fn newest_shown(state: &mut State, store: Store) -> Checkpoint {
    let is_broken = state.config.broken == Some(Broken::PrimaryShowsUndurable);
    let is_other = state.config.broken == Some(Broken::PrimaryReportsOther);
    let log = state.log(store);
    if let Some(id) = log.durable_id().filter(|id| is_other && id.get() > 20) {
        return Event::new(id, "another").map_or(Checkpoint::Empty, |other| Checkpoint::at(&other));
    }
    if is_broken { log.head() } else { log.checkpoint() }
}

/// Takes a batch into the main primary, and remembers what followed what.
pub fn commit(state: &mut State, after: Option<EventId>, events: &[Event], durable: bool) -> Result<()> {
    let batch = Batch::new(after, events)?;
    if state.config.broken == Some(Broken::PrimaryStoresNothing) {
        return Ok(());
    }
    let broken = state.config.broken;
    if broken == Some(Broken::PrimaryRefuses) {
        return Err(super::process::refused());
    }
    let log = state.logs.get_mut(&Store::Primary).expect("the primary has a log");
    let before = log.events.len();
    log.append(batch)?;
    if broken == Some(Broken::PrimaryRepeats) {
        let twice = Event::builder(log.head().id().and_then(EventId::next).unwrap_or(EventId::ZERO));
        let json = batch.first().payload().to_vec();
        log.events.extend(twice.payload_json(json).build());
    }
    for index in before..log.events.len() {
        let lost = state.lost_head.filter(|(id, _)| Some(*id) == after).map(|(_, fact)| fact);
        if index == 0 && lost.is_some() {
            state.lost_floors.extend(after);
        }
        let log = &state.logs[&Store::Primary];
        let parent = index.checked_sub(1).map_or(lost, |parent| Some(truth::fact(&log.events[parent])));
        if let Err(twice) = state.truth.commit(&log.events[index], parent) {
            state.fail("once", twice);
            break;
        }
    }
    if durable {
        state.sync_primary();
    } else {
        let length = state.log(Store::Primary).events.len();
        state.accepted.push((Instant::now(), length));
    }
    let length = state.log(Store::Primary).events.len();
    if before / 16 != length / 16 {
        state.back_up();
    }
    if broken == Some(Broken::PrimaryDeniesWrite) {
        return Err(super::process::refused());
    }
    Ok(())
}

#[async_trait]
impl EventSink for ModelPrimary {
    async fn append(&self, batch: Batch<'_>) -> Result<()> {
        let (store, after, events) = (self.store, batch.after(), detached(&batch));
        let (fence, durable) = (self.fence, self.accepts().is_none());
        let append = move |state: &mut State| {
            if state.log(store).fence != fence {
                return Err(Error::fenced("another writer took over this log"));
            }
            match store {
                Store::Inner(sink) => sink::take(state, store, sink, after, &events),
                _ => commit(state, after, &events, durable),
            }
        };
        // The sync also happens if the answer is lost.
        self.sync_later();
        let appended = self.process.call(self.site(Call::Append), append).await;
        self.sync_later();
        appended
    }

    async fn checkpoint(&self) -> Result<Checkpoint> {
        let store = self.store;
        self.process.call(self.site(Call::Checkpoint), move |state| Ok(newest_shown(state, store))).await
    }
}

impl EventSource for ModelPrimary {
    fn read(&self, from: ReadFrom) -> EventStream {
        read::read(self.process.clone(), self.store, from)
    }

    fn follow(&self, from: ReadFrom) -> EventStream {
        let changed = self.process.world.lock().log(self.store).changed.clone();
        follow_by_reading(Arc::new(self.clone()), from, move || {
            let (changed, seen) = (changed.clone(), changed.rung());
            async move { changed.after(seen).await }
        })
    }
}

#[async_trait]
impl Prune for ModelPrimary {
    async fn prune(&self, before: EventId) -> Result<()> {
        let store = self.store;
        let prune = move |state: &mut State| {
            check_prune(state, store, before);
            Ok(())
        };
        self.process.call(self.site(Call::Prune), prune).await
    }
}

/// Prunes, and checks that no secondary of the roster needed what goes.
fn check_prune(state: &mut State, store: Store, before: EventId) {
    let all = state.config.broken == Some(Broken::PrimaryPrunesAll);
    state.log(store).prune(if all { EventId::new(u64::MAX) } else { before });
    check_floor(state, store);
}

/// No secondary of the roster needs what is below the floor.
pub(super) fn check_floor(state: &mut State, store: Store) {
    let Some(floor) = state.log(store).after.filter(|_| store == Store::Primary) else { return };
    // A snapshot that follows what an emptied log lost has its floor there.
    let is_lost = state.lost_floors.contains(&floor);
    if state.config.retain_bytes.is_some() || is_lost {
        return;
    }
    let entries: Vec<_> = state.rosters[&Store::Roster].values().cloned().collect();
    for entry in entries {
        let Some(sink) = super::roster::sink_of(&entry.name) else { continue };
        let facts = &state.sinks[usize::from(sink)];
        // Events that a wrapper does not give its sink count as delivered.
        let is_whole = state.is_exact(sink);
        let durable = state.logs[&Store::Sink(sink)].durable_id();
        let is_buffered = state.kind(sink) == SinkKind::Buffered && state.truth.lost.is_empty();
        if is_buffered && durable < Some(floor) && !facts.forgot && !facts.left {
            let name = &entry.name;
            state.fail("prune", format!("events up to {floor} went, and {name} holds {durable:?} durably"));
            return;
        }
        if is_whole && facts.acknowledged < Some(floor) && !facts.forgot && !facts.left {
            let message = format!(
                "events up to {floor} went, and {} in the roster has acknowledged {:?}",
                entry.name, facts.acknowledged
            );
            state.fail("prune", message);
        }
    }
}

#[async_trait]
impl CommitPoint for ModelPrimary {
    async fn head(&self) -> Result<Checkpoint> {
        let store = self.store;
        self.process.call(self.site(Call::Head), move |state| Ok(state.log(store).head())).await
    }

    fn event_bytes_max(&self) -> usize {
        1 << 20
    }
}

impl Primary for ModelPrimary {
    fn roster(&self) -> Arc<dyn CheckpointStore> {
        let store = match self.store {
            Store::Inner(sink) => Store::InnerRoster(sink),
            _ => Store::Roster,
        };
        Arc::new(ModelRoster::new(self.process.clone(), store))
    }

    fn durability(&self) -> Durability {
        if self.accepts().is_some() { Durability::Accepted } else { Durability::Durable }
    }
}
