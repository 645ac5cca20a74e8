//! Model sinks, and what each write must satisfy.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use hydrant::{Batch, Checkpoint, Error, Event, EventId, EventSink, Result};

use super::Process;
use super::state::State;
use super::truth::{self, Fact};
use crate::plan::{Broken, Call, SinkKind, Site, Start, Store};

/// A handle of one process on a sink, or on its dead letters.
pub struct ModelSink {
    process: Arc<Process>,
    store: Store,
    sink: u8,
    /// Whether it was given an event.
    has_begun: Arc<AtomicBool>,
    /// The head that was known when the attach of this handle began.
    opened_at: Option<EventId>,
    /// Counts the handles that are alive.
    _token: Arc<()>,
}

impl ModelSink {
    pub fn new(process: Arc<Process>, sink: u8, token: Arc<()>, opened_at: Option<EventId>) -> Self {
        Self::of(process, Store::Sink(sink), sink, token, opened_at)
    }

    pub fn dead_letters(process: Arc<Process>, sink: u8, token: Arc<()>) -> Self {
        Self::of(process, Store::Dead(sink), sink, token, None)
    }

    fn of(process: Arc<Process>, store: Store, sink: u8, token: Arc<()>, opened_at: Option<EventId>) -> Self {
        if process.world.is_broken(Broken::SinkIsKept) {
            std::mem::forget(token.clone());
        }
        Self { process, store, sink, has_begun: Arc::default(), opened_at, _token: token }
    }
}

#[async_trait]
impl EventSink for ModelSink {
    async fn append(&self, batch: Batch<'_>) -> Result<()> {
        let (store, sink, after, events) = (self.store, self.sink, batch.after(), detached(&batch));
        let site = Site { store, call: Call::Append };
        let (has_begun, opened_at) = (self.has_begun.clone(), self.opened_at);
        let append = move |state: &mut State| {
            if state.kind(sink) == SinkKind::Forgetful && store == Store::Sink(sink) {
                check_start(state, sink, &events[0], has_begun.swap(true, Ordering::Relaxed), opened_at);
            }
            take(state, store, sink, after, &events)
        };
        if self.process.world.is_broken(Broken::SinkIsSlow) && self.process.world.lock().healed {
            tokio::time::sleep(std::time::Duration::from_secs(10)).await;
        }
        self.process.call(site, append).await
    }

    async fn checkpoint(&self) -> Result<Checkpoint> {
        let (store, sink) = (self.store, self.sink);
        let ask = move |state: &mut State| {
            let kind = state.kind(sink);
            if kind == SinkKind::Forgetful && store == Store::Sink(sink) {
                return Ok(Checkpoint::Unknown);
            }
            if kind == SinkKind::Buffered && store == Store::Sink(sink) {
                // What the sink had at the last look is durable now.
                let length = state.log(store).events.len();
                let requested = std::mem::replace(&mut state.sinks[usize::from(sink)].requested, length);
                sync_to(state, store, sink, requested.min(length));
            }
            let is_ahead = state.config.broken == Some(Broken::SinkReportsAhead);
            let log = state.log(store);
            let checkpoint = if is_ahead { log.head() } else { log.checkpoint() };
            Ok(checkpoint)
        };
        self.process.call(Site { store, call: Call::Checkpoint }, ask).await
    }
}

/// Copies the events of a batch: the events that the code under test holds are counted by their buffers.
pub fn detached(batch: &Batch<'_>) -> Vec<Event> {
    batch.events().iter().map(Event::detached).collect()
}

/// Which events a kind of sink is given.
pub fn keeps(kind: SinkKind, fact: Fact) -> bool {
    match kind {
        SinkKind::Filtered => !fact.is_multiple_of(3),
        SinkKind::DeadLetter => !is_poison(fact),
        _ => true,
    }
}

pub fn is_poison(fact: Fact) -> bool {
    fact.is_multiple_of(5)
}

/// Takes a batch into a sink or into the primary of a nested fan-out, and checks what comes in.
pub fn take(
    state: &mut State,
    store: Store,
    sink: u8,
    after: Option<EventId>,
    events: &[Event],
) -> Result<()> {
    for event in events {
        if !state.truth.is_durable(truth::fact(event)) && !state.is_below_lost_floor(event) {
            state.fail("early", format!("{store:?} is given event {} before it is durable", event.id()));
        }
    }
    let broken = state.config.broken;
    if broken == Some(Broken::SinkRefuses) {
        return Err(super::process::refused());
    }
    let mut events = events.to_vec();
    if broken == Some(Broken::SinkDropsEvent) && events.len() > 2 {
        events.remove(1);
    }
    let events = &events[..];
    let partial = std::mem::take(&mut state.partial) && events.len() > 1;
    let events = if partial { &events[..events.len() / 2] } else { events };
    let kind = state.kind(sink);
    if kind == SinkKind::Forgetful {
        give(state, sink, events);
        return if partial { Err(super::process::unknown()) } else { Ok(()) };
    }
    let batch = Batch::new(after, events)?;
    let is_picky = kind == SinkKind::Picky && !state.healed && !state.sinks[usize::from(sink)].cured;
    let log = state.log(store);
    if is_picky || kind == SinkKind::DeadLetter && store == Store::Sink(sink) {
        // As a server does: compares what it holds first, and looks only at what is new.
        let fresh = batch.fresh_after(&log.head())?;
        if let Some(poison) = fresh.iter().find(|event| is_poison(truth::fact(event))) {
            let id = poison.id();
            return compare_held(log.events.as_slice(), &batch, &log.head())
                .and(Err(Error::invalid("the server never takes this event").at(id)));
        }
    }
    let fresh = log.append(batch)?;
    if kind != SinkKind::Buffered || store != Store::Sink(sink) {
        sync(state, store, sink);
    }
    check_lineage(state, store, sink, fresh);
    let facts = &mut state.sinks[usize::from(sink)];
    if store != Store::Dead(sink) {
        facts.acknowledged = facts.acknowledged.max(events.last().map(Event::id));
    }
    if partial { Err(super::process::unknown()) } else { Ok(()) }
}

fn compare_held(log: &[Event], batch: &Batch<'_>, head: &Checkpoint) -> Result<()> {
    let from = log.partition_point(|event| Some(event.id()) <= batch.after());
    match batch.held_by(head).iter().zip(&log[from..]).find(|(event, stored)| event != stored) {
        Some((event, _)) => Err(Error::fenced("another event is held under this id").at(event.id())),
        None => Ok(()),
    }
}

fn sync(state: &mut State, store: Store, sink: u8) {
    let length = state.log(store).events.len();
    sync_to(state, store, sink, length);
}

/// Makes so many events durable.
fn sync_to(state: &mut State, store: Store, sink: u8, length: usize) {
    let log = state.logs.get_mut(&store).expect("every store has a log");
    if length > log.durable {
        let facts = &mut state.sinks[usize::from(sink)];
        facts.held.extend(log.events[log.durable..length].iter().map(truth::fact));
        log.durable = length;
        log.changed.ring();
    }
}

/// Each event comes right after its true predecessor: no gap, no other history.
pub(super) fn check_lineage(state: &mut State, store: Store, sink: u8, fresh: usize) {
    if matches!(store, Store::Dead(_)) {
        return;
    }
    let kind = state.kind(sink);
    let log = &state.logs[&store];
    let begin = log.events.len() - fresh;
    let mut wrong = None;
    for index in begin..log.events.len() {
        let event = &log.events[index];
        let before = index.checked_sub(1).map(|before| truth::fact(&log.events[before]));
        let parent = state.truth.parent(truth::fact(event), |fact| keeps(kind, fact));
        let opens = before.is_none() && event.is_snapshot();
        // The primary pruned the sink's newest event after the sink had left the roster.
        let before_id = index.checked_sub(1).map(|before| log.events[before].id());
        let is_unknown =
            state.sinks[usize::from(sink)].left && before_id <= state.logs[&Store::Primary].after;
        // A filter may keep only one of the two events that have one id.
        let joins = |before| {
            let joined = state.truth.joined_parent(truth::fact(event), |fact| keeps(kind, fact));
            state.truth.have_one_id(before, parent) || before == joined
        };
        let is_mixed = state.is_contested() || state.is_overwritten && joins(before);
        if before != parent && !opens && !is_unknown && !is_mixed {
            wrong = Some(format!(
                "{store:?} ({kind:?}) holds event {} (n={}) behind n={before:?}, the primary has it behind n={parent:?}",
                event.id(),
                truth::fact(event)
            ));
            break;
        }
    }
    if let Some(wrong) = wrong {
        state.fail("history", wrong);
    }
}

/// Checks that the first event for a sink without a memory is the one that its start names.
fn check_start(state: &mut State, sink: u8, first: &Event, has_begun: bool, opened_at: Option<EventId>) {
    let fact = truth::fact(first);
    let parent = state.truth.parent(fact, |_| true);
    let parent_id = parent.and_then(|parent| state.truth.id(parent));
    let is_known = parent.is_none_or(|parent| state.sinks[usize::from(sink)].held.contains(&parent));
    let begins = match state.config.sinks[usize::from(sink)].start {
        None => parent.is_none(),
        Some(Start::OldestSnapshot) => parent.is_none() || first.is_snapshot(),
        Some(Start::After(id)) => parent_id <= Some(EventId::new(id)) && EventId::new(id) < first.id(),
        // A source that ends early, or was restored, has its head there.
        Some(Start::Head) => {
            parent_id >= opened_at || !state.truth.lost.is_empty() || state.has_ended_early()
        }
    };
    // The reply to its first event was lost, and a prune removed that event: it begins at the snapshot.
    let floor = state.logs[&Store::Primary].after;
    let begins_anew = state.config.sinks[usize::from(sink)].start == Some(Start::OldestSnapshot)
        && first.is_snapshot()
        && parent_id <= floor;
    if !is_known && (has_begun && !begins_anew || !begins) {
        state.fail("history", format!("Sink({sink}) begins with n={fact}, behind n={parent:?}"));
    }
    state.sinks[usize::from(sink)].held.extend(parent);
}

/// Gives events to a sink without a memory, and checks that each follows one that the sink was given before.
fn give(state: &mut State, sink: u8, events: &[Event]) {
    for event in events {
        let fact = truth::fact(event);
        let parent = state.truth.parent(fact, |_| true);
        let facts = &mut state.sinks[usize::from(sink)];
        let follows = parent.is_none_or(|parent| facts.held.contains(&parent));
        facts.held.insert(fact);
        facts.given.push(event.clone());
        facts.acknowledged = facts.acknowledged.max(Some(event.id()));
        if !follows {
            state.fail("history", format!("Sink({sink}) is given n={fact} before n={parent:?}"));
        }
    }
}
