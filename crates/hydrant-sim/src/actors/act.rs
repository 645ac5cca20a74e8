//! What each step does.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use hydrant::{
    Batch, CommitPoint, Error, ErrorKind, Event, EventId, EventSink, EventSource, EventStream, Prune,
    ReadFrom, Result,
};
use tokio::time::Instant;

use super::Actor;
use super::system::{Engine, Folded, Saved, Up, name};
use crate::check;
use crate::plan::{Act, Broken, Op, Store, Topology};
use crate::world::truth::{fact, payload};

/// How long a read from outside may take: nothing else bounds a source that hangs.
const PATIENCE: Duration = Duration::from_secs(20);

impl Actor {
    /// Makes one step, and returns how it ended.
    pub(super) async fn act(&mut self, up: Arc<Up>, op: &Op) -> &'static str {
        let ms = Duration::from_millis;
        let system = self.system.clone();
        let world = &system.world;
        let result = match op.act {
            Act::Append { events, bytes, gaps } => self.append(&up, op.id, events, bytes, gaps).await,
            Act::AppendBefore { events, ms: deadline } => {
                self.append_before(&up, op.id, events, ms(deadline)).await
            }
            Act::Submit { .. } => self.submit(&up, op).await,
            Act::Slot { ms: held } => self.hold_slot(&up, ms(held)).await,
            Act::Clock { seconds } => {
                world.with(|state| state.clock_seconds = state.clock_seconds.saturating_add(seconds));
                Ok(())
            }
            Act::Cure { sink } => {
                world.with(|state| state.sinks[usize::from(sink)].cured = true);
                up.engine.resume(&name(sink))
            }
            Act::Open { from, outside } => self.open_follower(&up, from, outside).await,
            Act::Take { events, ms: timeout } => self.take(events, ms(timeout)).await,
            Act::LetGo => {
                self.held = None;
                Ok(())
            }
            Act::Watch => {
                super::hold::watch(&up);
                Ok(())
            }
            Act::AppendBlind { events } => self.append_blind(&up, op.id, events).await,
            Act::Snapshot => self.snapshot(&up, op.id).await,
            Act::Attach { sink } => {
                system.want(sink, true);
                system.attach(&up, sink).await
            }
            Act::Detach { sink } => self.detach(&up, sink).await,
            Act::Park { sink } => up.engine.park(&name(sink)),
            Act::Resume { sink } => up.engine.resume(&name(sink)),
            Act::ResumeAll => {
                let sinks = up.engine.status().secondaries;
                for sink in sinks {
                    drop(up.engine.resume(&sink.name));
                }
                Ok(())
            }
            Act::Prune { behind } => self.prune(&up, behind).await,
            Act::Delivered { ms: timeout } => self.delivered(&up, ms(timeout)).await,
            Act::Close { ms: timeout } => {
                drop(system.close(&up, ms(timeout)).await);
                Ok(())
            }
            Act::Reopen { close } => {
                system.reopen(up, close).await;
                return "ok";
            }
            Act::ReopenJournal => self.reopen_journal(&up).await,
            Act::Cling { ms: held } => {
                tokio::time::sleep(ms(held)).await;
                Ok(())
            }
            Act::Follow { events, ms: timeout } => self.follow(&up, events, ms(timeout)).await,
            Act::Read => self.read(&up).await,
            Act::Hydrate => self.hydrate(&up).await.map(drop),
            Act::Finished { ms: timeout } => {
                if let Engine::Relay(relay) = &up.engine {
                    let finished = tokio::time::timeout(ms(timeout), relay.finished()).await;
                    if finished.is_err() && up.is_closed() {
                        world.fail("bound", "`finished` waits for a relay that was closed");
                    }
                }
                Ok(())
            }
            Act::Status => {
                let json = serde_json::to_string(&up.engine.status());
                if let Err(cause) = json {
                    world.fail("status", format!("it cannot be written as JSON: {cause}"));
                }
                Ok(())
            }
            Act::Pause { .. } | Act::Files(_) => Ok(()),
            Act::Crash => {
                up.process.kill();
                Ok(())
            }
        };
        let outcome = outcome(&result);
        if let Err(error) = result {
            self.after_error(up, op, &error).await;
        }
        outcome
    }

    /// What a program does after an error.
    async fn after_error(&self, up: Arc<Up>, op: &Op, error: &Error) {
        self.system.world.note(|| format!("     op {}: {error}", op.id));
        // Refused for what its caller knew, not because another writer took over.
        let is_outdated = matches!(op.act, Act::AppendBlind { .. } | Act::Snapshot);
        // Another writer took over, or took this id.
        let reopens = up.is_fenced() || self.system.topology == Topology::FanOut;
        if is_outdated || error.kind() != ErrorKind::Fenced || !reopens {
            self.recover(up, error).await;
        } else {
            self.system.reopen(up, true).await;
        }
    }

    /// What a program does when its log or its journal has stopped: it opens it again.
    async fn recover(&self, up: Arc<Up>, error: &Error) {
        let status = up.engine.status();
        if let Some(stopped) = &status.stopped {
            check::stopped(&self.system.world, &up, stopped);
            self.system.reopen(up, true).await;
        } else if up.store.is_some() && is_stopped(error) {
            self.system.reopen(up, true).await; // a file log that stopped is opened again
        } else if self.system.topology == Topology::Journal && error.kind() == ErrorKind::Closed {
            let mut journal = up.journal.lock().await;
            let has_ended = |journal: &mut hydrant::Journal<Saved>| matches!(journal.try_reserve(), Err(error) if error.kind() == ErrorKind::Closed);
            drop(journal.take_if(has_ended));
        }
    }

    pub(super) async fn append(&self, up: &Up, op: u32, events: u8, bytes: u16, gaps: bool) -> Result<()> {
        let facts = facts(op, events);
        match self.system.topology {
            Topology::Relay => self.append_as_another(&facts, bytes, false).await,
            Topology::Journal => self.append_by_journal(up, &facts, bytes).await,
            Topology::FanOut => {
                let Engine::FanOut(log) = &up.engine else { return Ok(()) };
                let mut known = up.writer.lock().await;
                let head = if let Some(head) = known.take() { head } else { self.head(log).await? };
                let events = events_behind(head, &facts, bytes, gaps, false)?;
                self.append_batch(up, log, head, &events, None).await?;
                *known = Some(events.last().map(Event::id));
                Ok(())
            }
        }
    }

    /// Asks for the head, as a caller that chooses ids does.
    pub(super) async fn head(&self, log: &impl CommitPoint) -> Result<Option<EventId>> {
        let bounds = &self.system.bounds;
        let head = bounds.within(&self.system.world, "head", bounds.call, log.head()).await;
        Ok(head.unwrap_or_else(|| Err(crate::world::process::unknown()))?.id())
    }

    pub(super) async fn append_batch(
        &self,
        up: &Up,
        log: &hydrant::FanOut<Arc<dyn crate::world::AnyPrimary>>,
        after: Option<EventId>,
        events: &[Event],
        deadline: Option<Instant>,
    ) -> Result<()> {
        let last = events.last().map(Event::id);
        // A log that accepts first remembers the newest event that it acknowledged.
        let acknowledged =
            up.acknowledged_id.lock().unwrap_or_else(PoisonError::into_inner).filter(|it| Some(*it) <= last);
        let published = log.status().head.max(acknowledged);
        let epoch = self.epoch();
        let batch = Batch::new(after, events)?.with_deadline(deadline);
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let bound = left.map_or_else(|| self.append_bound(), |left| left + Duration::from_millis(2));
        let appended =
            self.system.bounds.within(&self.system.world, "append", bound, log.append(batch)).await;
        let appended = appended.unwrap_or_else(|| Err(crate::world::process::unknown()));
        check::is_new(&self.system.world, published, events[0].id(), &appended);
        let is_broken = self.system.world.is_broken(Broken::AppendsStayOpen);
        let appended = if is_broken { Err(crate::world::process::unknown()) } else { appended };
        check::refused(&self.system.world, &appended, events.iter().map(fact));
        if deadline.is_none() {
            check::resolved(&self.system.world, &appended, log.status().stopped.is_some());
        }
        appended?;
        let mut acknowledged = up.acknowledged_id.lock().unwrap_or_else(PoisonError::into_inner);
        *acknowledged = last.max(*acknowledged);
        drop(acknowledged);
        let facts: Vec<_> = events.iter().map(fact).collect();
        check::acknowledged(&self.system.world, facts.iter().copied());
        check::continues(&self.system.world, up, epoch, &facts);
        Ok(())
    }

    /// Counts how often the primary has failed over.
    pub(super) fn epoch(&self) -> u64 {
        self.system.world.lock().log(Store::Primary).epoch
    }

    pub(super) fn append_bound(&self) -> Duration {
        let bounds = &self.system.bounds;
        let waits = self.system.world.lock().config.sinks.iter().any(|sink| sink.lag_events.is_some());
        let one = if waits { bounds.append_with_back_pressure } else { bounds.append };
        if self.system.topology == Topology::Journal { 3 * one } else { one }
    }

    /// Another process writes to the log that the relay follows.
    async fn append_as_another(&self, facts: &[u64], bytes: u16, snapshot: bool) -> Result<()> {
        if self.system.world.lock().files.is_some() {
            return self.system.append_beside(facts, bytes, snapshot).await;
        }
        self.system.world.with(|state| {
            let head = state.log(Store::Primary).head().id();
            let events = events_behind(head, facts, bytes, false, snapshot)?;
            crate::world::commit(state, head, &events, true)
        })
    }

    async fn append_by_journal(&self, up: &Up, facts: &[u64], bytes: u16) -> Result<()> {
        let journal = self.system.journal(up).await?;
        let pad = "x".repeat(usize::from(bytes));
        let saved: Vec<_> = facts.iter().map(|&n| Saved { n, pad: pad.clone(), state: None }).collect();
        let bound = self.append_bound();
        let published = up.engine.status().head;
        let epoch = self.epoch();
        let append = journal.append_all(&saved);
        let appended = self.system.bounds.within(&self.system.world, "journal append", bound, append).await;
        let appended = appended.unwrap_or_else(|| Err(crate::world::process::unknown()));
        check::refused(&self.system.world, &appended, facts.iter().copied());
        check::is_the_only_writer(&self.system.world, up, &appended);
        let first = appended.as_ref().map_or(EventId::ZERO, |ids| *ids.start());
        check::is_new(&self.system.world, published, first, &appended);
        let ids = self.system.ids(appended?);
        check::acknowledged(&self.system.world, facts.iter().copied());
        check::continues(&self.system.world, up, epoch, facts);
        check::ids(&self.system.world, &ids, facts);
        Ok(())
    }

    async fn append_blind(&self, up: &Up, op: u32, events: u8) -> Result<()> {
        if self.system.topology != Topology::FanOut {
            return Ok(()); // a journal is the only writer of its log
        }
        let Engine::FanOut(log) = &up.engine else { return Ok(()) };
        let head = up.engine.status().head;
        let events = events_behind(head, &facts(op, events), 4, false, false)?;
        self.append_batch(up, log, head, &events, None).await
    }

    async fn snapshot(&mut self, up: &Up, op: u32) -> Result<()> {
        let n = facts(op, 1)[0];
        match (&up.engine, self.system.topology) {
            (Engine::FanOut(log), Topology::FanOut) => {
                let mut known = up.writer.lock().await;
                *known = None;
                let head = self.head(log).await?;
                let events = events_behind(head, &[n], 4, false, true)?;
                self.append_batch(up, log, head, &events, None).await
            }
            (Engine::FanOut(_), _) => {
                let (state, head) = self.hydrate(up).await?;
                let journal = self.system.journal(up).await?;
                let snapshot = Saved { n, pad: String::new(), state: Some(state) };
                let bound = self.append_bound();
                let append = journal.snapshot(head, &snapshot);
                let id = self.system.bounds.within(&self.system.world, "snapshot", bound, append).await;
                let id = id.unwrap_or_else(|| Err(crate::world::process::unknown()))?;
                check::acknowledged(&self.system.world, [n]);
                check::ids(&self.system.world, &(id..=id), &[n]);
                Ok(())
            }
            (Engine::Relay(_), _) => self.append_as_another(&[n], 4, true).await,
        }
    }

    async fn detach(&self, up: &Up, sink: u8) -> Result<()> {
        self.system.want(sink, false);
        self.system.world.with(|state| state.sinks[usize::from(sink)].left = true);
        let name = name(sink);
        // A call that opened the sink before may attach it after.
        let is_alone = up.busy.load(Ordering::SeqCst) == 0;
        let round = up.tokens.retire(sink);
        let busy = up.busy();
        let detach = up.engine.detach(&name);
        let detached =
            self.system.bounds.within(&self.system.world, "detach", self.system.bounds.roster, detach).await;
        drop(busy);
        if let Some(Ok(())) = detached.as_ref().filter(|_| is_alone) {
            check::no_handle_left(&self.system.world, up, sink, round);
        }
        detached.unwrap_or(Ok(()))
    }

    async fn prune(&self, up: &Up, behind: u64) -> Result<()> {
        let Engine::FanOut(log) = &up.engine else { return Ok(()) };
        let head = up.engine.status().head.map_or(0, EventId::get);
        let _busy = up.busy();
        let prune = log.prune(EventId::new(head.saturating_sub(behind)));
        // A prune takes as long as the store needs, and delays nothing else.
        tokio::time::timeout(PATIENCE, prune).await.unwrap_or(Ok(()))
    }

    async fn delivered(&self, up: &Up, timeout: Duration) -> Result<()> {
        let Some(head) = up.engine.status().head else { return Ok(()) };
        let bound = timeout + self.system.bounds.delivered;
        let delivered = async {
            if self.system.world.is_broken(Broken::DeliveredAtOnce) {
                return Ok(());
            }
            up.engine.delivered(head, timeout).await
        };
        let delivered = self.system.bounds.within(&self.system.world, "delivered", bound, delivered).await;
        if let Some(Ok(())) = delivered {
            check::delivered(&self.system.world, &up.engine.status(), head);
        }
        Ok(())
    }

    async fn reopen_journal(&self, up: &Up) -> Result<()> {
        if self.system.topology != Topology::Journal {
            return Ok(());
        }
        let journal = up.journal.lock().await.take();
        if let Some(journal) = journal {
            let closing = journal.close();
            let bound = self.append_bound();
            // Dropped here, the journal still commits its queue while another journal is opened.
            up.journals_closing.fetch_add(1, Ordering::SeqCst);
            drop(self.system.bounds.within(&self.system.world, "close journal", bound, closing).await);
            up.journals_closing.fetch_sub(1, Ordering::SeqCst);
        }
        self.system.journal(up).await.map(drop)
    }

    async fn follow(&mut self, up: &Up, events: u8, timeout: Duration) -> Result<()> {
        let Engine::FanOut(log) = &up.engine else { return Ok(()) };
        let mut follow = log.follow(self.seen.into());
        let mut is_known = false;
        let until = tokio::time::Instant::now() + timeout;
        for nth in 0..events {
            match tokio::time::timeout_at(until, follow.next()).await {
                Ok(Some(Ok(_))) if nth == 1 && self.system.world.is_broken(Broken::FollowSkips) => {}
                Ok(Some(Ok(event))) => {
                    // From an id alone, a new follower cannot know that its reader has seen another event there.
                    is_known |=
                        self.seen_fact.is_none_or(|seen| self.system.world.lock().is_in_history(seen));
                    self.see(&event, is_known);
                    is_known = true;
                }
                Ok(Some(Err(error))) => {
                    // The events that this reader has may be lost or pruned: it begins anew, as its operator would.
                    if error.retry() == hydrant::Retry::Never {
                        (self.seen, self.seen_fact) = (None, None);
                    }
                    return Err(error);
                }
                Ok(None) => {
                    self.system.world.fail("follow", "a follower ended without an error");
                    return Ok(());
                }
                Err(_) => return Ok(()),
            }
        }
        Ok(())
    }

    fn see(&mut self, event: &Event, is_known: bool) {
        check::seen(&self.system.world, is_known.then_some(self.seen_fact), event);
        (self.seen, self.seen_fact) = (Some(event.id()), Some(fact(event)));
    }

    async fn read(&self, up: &Up) -> Result<()> {
        let Engine::FanOut(log) = &up.engine else { return Ok(()) };
        let reading = all(log.read(ReadFrom::Snapshot));
        tokio::time::timeout(PATIENCE, reading).await.unwrap_or(Ok(vec![])).map(|mut events| {
            if events.len() > 2 && self.system.world.is_broken(Broken::ReadSkips) {
                events.remove(1);
            }
            check::read(&self.system.world, &events);
        })
    }

    async fn hydrate(&self, up: &Up) -> Result<(Folded, Option<EventId>)> {
        if self.system.topology != Topology::Journal {
            return Err(crate::world::process::denied());
        }
        let journal = self.system.journal(up).await?;
        let hydrate = journal.hydrate(Folded::default(), |state, saved: Saved| state.apply(&saved));
        let hydrated = tokio::time::timeout(PATIENCE, hydrate)
            .await
            .unwrap_or_else(|_| Err(crate::world::process::unknown()))?;
        let mut hydrated = hydrated;
        hydrated.state.events -= u64::from(self.system.world.is_broken(Broken::FoldForgets));
        check::hydrated(&self.system.world, hydrated.state, hydrated.head);
        Ok((hydrated.state, hydrated.head))
    }
}

/// How a step ended, for the table of coverage.
fn outcome(result: &Result<()>) -> &'static str {
    match result.as_ref().map_err(Error::retry) {
        Ok(()) => "ok",
        Err(hydrant::Retry::Safe) => "refused",
        Err(hydrant::Retry::AfterCheckpoint) => "unknown",
        Err(_) => "failed",
    }
}

async fn all(mut events: EventStream) -> Result<Vec<Event>> {
    let mut read = Vec::new();
    while let Some(event) = events.next().await {
        read.push(event?);
    }
    Ok(read)
}

/// The numbers of the events of one step.
pub fn facts(op: u32, events: u8) -> Vec<u64> {
    (0..u64::from(events)).map(|index| u64::from(op) * 100 + index + 1).collect()
}

/// Events right behind `head`, with holes between their ids where `gaps`.
pub(crate) fn events_behind(
    head: Option<EventId>,
    facts: &[u64],
    bytes: u16,
    gaps: bool,
    snapshot: bool,
) -> Result<Vec<Event>> {
    let mut id = head.map_or(0, |head| head.get() + 1);
    let mut events = Vec::with_capacity(facts.len());
    for &fact in facts {
        id += u64::from(gaps && fact % 4 == 0);
        let event = Event::builder(EventId::new(id)).payload_json(payload(fact, usize::from(bytes)));
        events.push(if snapshot { event.snapshot().build()? } else { event.build()? });
        id += 1;
    }
    Ok(events)
}

/// Whether a file log has to be opened again.
fn is_stopped(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Closed | ErrorKind::Fenced)
}
