//! The durable world: what survives a crash of the process, and what the checkers know.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hydrant::{CheckpointEntry, Event, EventId};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::files::Files;
use super::held::Held;
use super::log::Log;
use super::memory::Bound;
use super::truth::{self, Truth};
use crate::plan::{Call, Config, Effect, Fault, Plan, SinkKind, Site, Store};

pub type Roster = BTreeMap<String, CheckpointEntry>;
type Apply = Box<dyn FnOnce(&mut State) + Send>;

/// Everything behind the one lock of the world.
#[expect(clippy::struct_excessive_bools, reason = "each is one fact of its own")]
pub struct State {
    pub config: Config,
    pub(super) memory: Bound,
    pub truth: Truth,
    pub logs: BTreeMap<Store, Log>,
    /// The logs that are files on a simulated disk.
    pub files: Option<Files>,
    /// Something damaged the files of the primary.
    pub was_damaged: bool,
    pub rosters: BTreeMap<Store, Roster>,
    /// What is known of each sink beside its log.
    pub sinks: Vec<SinkFacts>,
    /// Effects that take place later.
    late: Vec<(u64, Store, Apply)>,
    late_next: u64,
    faults: BTreeMap<(Site, u32), Effect>,
    pub counts: BTreeMap<Site, u32>,
    pub healed: bool,
    pub fired: BTreeMap<(Site, &'static str), u64>,
    pub covered: BTreeMap<(&'static str, &'static str), u64>,
    /// How many times an operation ended in each way.
    pub outcomes: BTreeMap<(&'static str, &'static str), u64>,
    /// How many times each state of a secondary or a log was seen.
    pub states: BTreeMap<(&'static str, &'static str), u64>,
    /// How far the system clock is from where it began, in seconds.
    pub clock_seconds: i64,
    /// Operations under way, by name.
    pub under_way: BTreeMap<u32, &'static str>,
    pub operations: u64,
    pub failure: Option<Failure>,
    pub trace: Vec<String>,
    pub traced: bool,
    begin: Instant,
    instant: Instant,
    calls_at_instant: u32,
    backup: Option<(Option<EventId>, Roster)>,
    foreign: u64,
    pub crashes: u32,
    /// The next append of a sink takes only a part of its batch.
    pub partial: bool,
    /// The newest event that the primary lost last. A snapshot may follow it in a log that was emptied.
    pub lost_head: Option<(EventId, truth::Fact)>,
    /// Events of `lost_head` that a snapshot followed in an emptied log.
    pub lost_floors: BTreeSet<EventId>,
    /// The roster was restored from a backup, or two fan-outs of one process wrote to it.
    pub roster_is_unsure: bool,
    /// A fan-out that was replaced without a `close` still appends, and is not fenced.
    pub has_rivals: bool,
    /// The newest event that was ever durable.
    pub durable_max: Option<EventId>,
    /// When the log of the primary was durable up to each event.
    durable_at: Vec<(EventId, Instant)>,
    /// A relay that is opened now ends at the end of the log.
    pub relay_ends: bool,
    /// How long the log of the primary was when it accepted something that is not durable yet.
    pub accepted: Vec<(Instant, usize)>,
    /// A file of another log was copied over one of the primary.
    pub is_overwritten: bool,
    /// Since when each event of a file log is gone from its files.
    pub gone: BTreeMap<truth::Fact, Instant>,
    /// When each event was acknowledged to its caller.
    pub acknowledged_at: BTreeMap<truth::Fact, Instant>,
}

/// A checker that found something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub checker: String,
    pub message: String,
}

#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is one fact of its own")]
pub struct SinkFacts {
    /// What a sink without a memory was given.
    pub given: Vec<Event>,
    /// Every event that it ever held durably.
    pub held: BTreeSet<truth::Fact>,
    /// The highest id that it acknowledged since it last lost something.
    pub acknowledged: Option<EventId>,
    /// It lost events, so that what the program knows of it may be too high.
    pub shaken: bool,
    /// It lost events that it held durably.
    pub forgot: bool,
    /// How many events a sink that is durable later was asked to make durable.
    pub requested: usize,
    /// Whether it now takes what it refused before.
    pub cured: bool,
    /// It left the roster at some time, so that events that it needs may be gone.
    pub left: bool,
}

/// More calls than this at one instant are a busy loop.
const CALLS_MAX: u32 = 30_000;
const TRACE_MAX: usize = 4_000;
/// Lines at the begin of a trace that stay: the cause of a log that retries for ever is there.
const TRACE_HEAD: usize = 2_000;

impl State {
    pub fn new(plan: &Plan, traced: bool) -> Self {
        let mut logs = BTreeMap::from([(Store::Primary, Log::default())]);
        let mut rosters = BTreeMap::from([(Store::Roster, Roster::new())]);
        for index in 0..u8::try_from(plan.config.sinks.len()).unwrap_or(u8::MAX) {
            for store in [Store::Sink(index), Store::Dead(index), Store::Inner(index)] {
                logs.insert(store, Log::default());
            }
            for store in [Store::Cell(index), Store::InnerRoster(index)] {
                rosters.insert(store, Roster::new());
            }
        }
        let faults = plan.faults.iter().map(|Fault { site, nth, effect, .. }| ((*site, *nth), *effect));
        let now = Instant::now();
        Self {
            memory: Bound::of(&plan.config),
            config: plan.config.clone(),
            truth: Truth::default(),
            logs,
            files: Files::new(plan),
            was_damaged: false,
            rosters,
            sinks: plan.config.sinks.iter().map(|_| SinkFacts::default()).collect(),
            late: Vec::new(),
            late_next: 0,
            faults: faults.collect(),
            counts: BTreeMap::new(),
            healed: false,
            fired: BTreeMap::new(),
            covered: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            states: BTreeMap::new(),
            clock_seconds: 0,
            under_way: BTreeMap::new(),
            operations: 0,
            failure: None,
            trace: Vec::new(),
            traced,
            begin: now,
            instant: now,
            calls_at_instant: 0,
            backup: None,
            foreign: truth::FOREIGN,
            crashes: 0,
            partial: false,
            lost_head: None,
            lost_floors: BTreeSet::new(),
            roster_is_unsure: false,
            has_rivals: false,
            durable_max: None,
            durable_at: Vec::new(),
            relay_ends: false,
            accepted: Vec::new(),
            is_overwritten: false,
            gone: BTreeMap::new(),
            acknowledged_at: BTreeMap::new(),
        }
    }

    pub fn log(&mut self, store: Store) -> &mut Log {
        self.logs.get_mut(&store).expect("every store has a log")
    }

    pub fn note(&mut self, text: impl FnOnce() -> String) {
        if self.traced {
            let line = format!("{:>10.3}s  {}", self.begin.elapsed().as_secs_f64(), text());
            self.trace.push(line);
            if self.trace.len() > TRACE_MAX {
                self.trace.drain(TRACE_HEAD..TRACE_HEAD + TRACE_MAX / 4);
            }
        }
    }

    /// Keeps the first failure.
    pub fn fail(&mut self, checker: &'static str, message: impl Into<String>) {
        let message = message.into();
        self.note(|| format!("!! {checker}: {message}"));
        self.failure.get_or_insert(Failure { checker: checker.to_owned(), message });
    }

    /// Counts a call, and returns its number and the fault that strikes there.
    pub fn enter(&mut self, site: Site, held: Option<&Held>) -> (u32, Option<Effect>) {
        let now = Instant::now();
        if now != self.instant {
            (self.instant, self.calls_at_instant) = (now, 0);
        }
        self.calls_at_instant += 1;
        if self.calls_at_instant == CALLS_MAX {
            self.fail("busy", format!("{CALLS_MAX} calls at one instant, the last to {site}"));
        }
        if let Some(held) = held {
            self.check_memory(held);
        }
        let count = self.counts.entry(site).or_default();
        let nth = *count;
        *count += 1;
        let effect = if self.healed { None } else { self.faults.remove(&(site, nth)) };
        if let Some(effect) = effect {
            *self.fired.entry((site, effect.name())).or_default() += 1;
            for name in self.names_under_way() {
                *self.covered.entry((name, effect.name())).or_default() += 1;
            }
        }
        (nth, effect)
    }

    /// The names of the operations under way.
    pub(super) fn names_under_way(&self) -> BTreeSet<&'static str> {
        self.under_way.values().copied().collect()
    }

    /// Whether an event may follow another one than its writer meant: it lost that one while a rival wrote.
    pub fn is_contested(&self) -> bool {
        self.has_rivals && !self.truth.lost.is_empty()
    }

    /// Whether the primary lost this event with everything else, and begins anew at a snapshot. The code under test cannot
    /// distinguish that primary from one that was pruned.
    pub fn is_below_lost_floor(&self, event: &Event) -> bool {
        let is_below = self.lost_floors.iter().any(|floor| event.id() <= *floor);
        is_below && self.truth.lost.contains(&truth::fact(event))
    }

    /// Keeps an effect for later. It takes place at its time, or before the next call on its store.
    pub fn postpone(&mut self, store: Store, apply: Apply) -> u64 {
        self.late_next += 1;
        self.late.push((self.late_next, store, apply));
        self.late_next
    }

    pub fn land(&mut self, due: impl Fn(u64, Store) -> bool) {
        let (now, later) =
            std::mem::take(&mut self.late).into_iter().partition(|(id, store, _)| due(*id, *store));
        self.late = later;
        let now: Vec<(u64, Store, Apply)> = now;
        for (_, store, apply) in now {
            self.note(|| format!("late effect at {store:?}"));
            apply(self);
        }
    }

    /// Changes a store before a call reaches it.
    pub fn shift(&mut self, site: Site, effect: Effect) {
        let store = match site.store {
            Store::Roster => Store::Primary,
            Store::InnerRoster(i) => Store::Inner(i),
            Store::Cell(i) => Store::Sink(i),
            store => store,
        };
        let length = self.log(store).events.len();
        match effect {
            Effect::Lose { events } => self.lose(store, length.saturating_sub(usize::from(events))),
            // The reply shows the other copy, which does not fence: the fan-out has to compare it.
            Effect::Fork { events } if events % 2 == 0 && site.call == Call::Checkpoint => {
                let fence = self.log(store).fence;
                self.fork(store, usize::from(events), 1);
                self.log(store).fence = fence;
            }
            Effect::Fork { events } => self.fork(store, usize::from(events), 0),
            Effect::Restore => self.restore(),
            Effect::Forget => self.lose(store, 0),
            _ => {}
        }
    }

    fn lose(&mut self, store: Store, keep: usize) {
        let log = self.log(store);
        let cut = log.cut(keep);
        if cut.is_empty() {
            return;
        }
        log.epoch += 1;
        log.changed.ring();
        match store {
            Store::Primary => {
                for event in &cut {
                    self.truth.lose(event);
                }
                self.lost_head = cut.last().map(|event| (event.id(), truth::fact(event)));
            }
            Store::Sink(i) | Store::Inner(i) => {
                let facts = &mut self.sinks[usize::from(i)];
                let head = self.logs[&store].head().id();
                facts.acknowledged = facts.acknowledged.min(head);
                facts.shaken = true;
                facts.forgot |= cut.iter().any(|event| facts.held.contains(&truth::fact(event)));
            }
            _ => {}
        }
    }

    /// Replaces the newest events by those of another writer, and `more`.
    fn fork(&mut self, store: Store, events: usize, more: usize) {
        let length = self.log(store).events.len();
        let events = events.min(length);
        if store != Store::Primary || events == 0 {
            return;
        }
        self.lose(store, length - events);
        for _ in 0..events + more {
            self.foreign += 1;
            let id = self.log(store).head().id().map_or(EventId::ZERO, |id| EventId::new(id.get() + 1));
            let built = Event::builder(id).payload_json(truth::payload(self.foreign, 1)).build();
            self.commit(built.expect("a number is JSON"));
        }
        self.log(store).fence += 1;
        self.sync_primary();
    }

    fn commit(&mut self, event: Event) {
        let parent = self.logs[&Store::Primary].events.last().map(truth::fact);
        if let Err(twice) = self.truth.commit(&event, parent) {
            self.fail("once", twice);
        }
        self.log(Store::Primary).events.push(event);
    }

    /// Whether the log of the primary, pruned or not, has this event.
    pub fn is_in_history(&self, seen: truth::Fact) -> bool {
        let head = self.logs[&Store::Primary].events.last().map(truth::fact);
        head.is_some_and(|head| self.truth.history(head).contains(&seen))
    }

    /// Makes everything durable that the primary accepted.
    pub fn sync_primary(&mut self) {
        self.accepted.clear();
        self.sync_primary_to(usize::MAX);
    }

    /// Makes durable what the primary accepted so long ago.
    pub fn sync_accepted(&mut self, age: Duration) {
        let now = Instant::now();
        let due = self.accepted.partition_point(|(at, _)| *at + age <= now);
        let newest = self.accepted.drain(..due).next_back();
        if let Some((_, length)) = newest {
            self.sync_primary_to(length);
        }
    }

    fn sync_primary_to(&mut self, length: usize) {
        let log = self.logs.get_mut(&Store::Primary).expect("the primary has a log");
        let length = length.min(log.events.len()).max(log.durable);
        for event in &log.events[log.durable..length] {
            self.truth.sync(event);
        }
        log.durable = length;
        log.changed.ring();
        let durable = log.durable_id();
        self.durable_max = self.durable_max.max(durable);
        self.durable_at.extend(durable.map(|id| (id, Instant::now())));
    }

    /// When an event became durable, in a run that lost nothing.
    pub fn durable_at(&self, id: EventId) -> Option<Instant> {
        let index = self.durable_at.partition_point(|(durable, _)| *durable < id);
        self.durable_at.get(index).map(|(_, at)| *at)
    }

    /// Remembers what a backup would hold now.
    pub fn back_up(&mut self) {
        let head = self.logs[&Store::Primary].durable_id();
        self.backup = Some((head, self.rosters[&Store::Roster].clone()));
    }

    fn restore(&mut self) {
        let Some((head, roster)) = self.backup.clone() else { return };
        let log = &self.logs[&Store::Primary];
        if head < log.after {
            return;
        }
        let keep = log.behind(head);
        let keep = if head.is_none() { 0 } else { keep };
        self.lose(Store::Primary, keep);
        self.rosters.insert(Store::Roster, roster);
        self.roster_is_unsure = true;
        self.sinks.iter_mut().for_each(|sink| sink.left = true);
    }

    /// Crashes the process. If the power fails too, the stores lose what they had not made durable yet.
    pub fn crash(&mut self, power: bool) {
        self.crashes += 1;
        self.land(|_, _| true);
        if !power {
            return;
        }
        let stores: Vec<Store> = self.logs.keys().copied().collect();
        for store in stores.into_iter().filter(|store| !self.is_on_disk(*store)).collect::<Vec<_>>() {
            let durable = self.log(store).durable;
            self.lose(store, durable);
        }
    }

    pub fn kind(&self, sink: u8) -> SinkKind {
        self.config.sinks[usize::from(sink)].kind
    }

    /// Whether a read has ended before the end of its log.
    pub fn has_ended_early(&self) -> bool {
        let is_old = self.files.as_ref().is_some_and(|files| files.ended_early);
        is_old || self.fired.keys().any(|(_, effect)| *effect == Effect::End.name())
    }

    /// Whether the sink gets every event from the origin or a snapshot on.
    pub fn is_exact(&self, sink: u8) -> bool {
        self.config.sinks[usize::from(sink)].is_exact()
    }

    pub fn calls(&self, store: Store, call: Call) -> u32 {
        self.counts.get(&Site { store, call }).copied().unwrap_or_default()
    }
}
