//! A store on paper: right in every law, or broken in exactly one way.
//!
//! It keeps what is accepted apart from what is durable, so that a crash can be played, and yields at each
//! step of an append, so that it can be dropped there.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use hydrant::store::follow_by_reading;
use hydrant::{
    Batch, Checkpoint, CheckpointEntry, CheckpointStore, CommitPoint, Error, ErrorKind, Event, EventId,
    EventSink, EventSource, EventStream, Prune, ReadFrom, Result, Retry,
};
use tokio::sync::RwLock;
use tokio::task::yield_now;
use tokio::time::Instant;

use crate::bugs::{Bug, altered};

const READ_CHUNK_EVENTS: usize = 100;

/// What is on the paper, and what of it would outlive a crash.
#[derive(Clone, Debug, Default)]
pub(crate) struct Page {
    pub(crate) events: Vec<Event>,
    pub(crate) durable: usize,
    pub(crate) floor_after: Option<EventId>,
    pub(crate) damaged: Option<EventId>,
    /// Makes the next append fail: after it was applied (0), or before (1).
    pub(crate) fail_next: Option<usize>,
    /// How long each answer takes.
    pub(crate) delay: Duration,
    /// The checkpoint that the roster keeps.
    pub(crate) entry: Option<CheckpointEntry>,
    /// Set by a bug that moves it without events.
    pub(crate) claims: Option<Checkpoint>,
    pub(crate) locked: bool,
    /// Something is under way that a bug lets others notice.
    pub(crate) busy: bool,
    /// A segment is being pruned.
    pub(crate) pruning: bool,
}

#[derive(Debug)]
pub(crate) struct Shared {
    page: Mutex<Page>,
    /// One append at a time, across handles.
    turn: tokio::sync::Mutex<()>,
    /// Held by readers, where a bug makes them block the writer.
    readers: Arc<RwLock<()>>,
    pub(crate) bug: Bug,
    weak: bool,
    event_bytes_max: usize,
}

impl Shared {
    pub(crate) fn new(page: Page, bug: Bug, weak: bool, event_bytes_max: usize) -> Arc<Self> {
        let (turn, readers) = (tokio::sync::Mutex::default(), Arc::default());
        Arc::new(Self { page: Mutex::new(page), turn, readers, bug, weak, event_bytes_max })
    }

    pub(crate) fn page(&self) -> MutexGuard<'_, Page> {
        self.page.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn sync(&self) {
        let mut page = self.page();
        page.durable = page.events.len();
    }

    fn has(&self, bug: Bug) -> bool {
        self.bug == bug
    }

    fn swap(&self, expected: Option<&CheckpointEntry>, new: Option<&CheckpointEntry>) -> Result<()> {
        let mut page = self.page();
        if page.entry.as_ref() != expected && !self.has(Bug::SwapsWithoutComparing) {
            return Err(Error::fenced("another runner moved this checkpoint"));
        }
        page.entry = new.cloned();
        Ok(())
    }
}

/// A handle on a page.
#[derive(Clone, Debug)]
pub(crate) struct Paper {
    pub(crate) shared: Arc<Shared>,
    /// What this handle believes the head to be, where a bug makes it trust that.
    pub(crate) own_head: Arc<Mutex<Checkpoint>>,
    /// The connection broke, and a bug keeps it.
    pub(crate) broken: Arc<AtomicBool>,
}

impl Page {
    fn head(&self) -> Checkpoint {
        self.events.last().map_or(Checkpoint::Empty, Checkpoint::at)
    }

    fn behind(&self, after: Option<EventId>) -> usize {
        after.map_or(0, |after| self.events.partition_point(|event| event.id() <= after))
    }

    /// What of the batch is still to write.
    fn compare<'a>(&self, batch: &Batch<'a>, bug: Bug) -> Result<&'a [Event]> {
        let head = self.head();
        let held = batch.held_by(&head);
        match bug {
            Bug::ForgetsToDeduplicate if held.len() == batch.events().len() => return Ok(batch.events()),
            Bug::NeverFenced => return Ok(&batch.events()[held.len()..]),
            Bug::RefusesWhatIsHeld if !held.is_empty() => return Err(Error::fenced("held already")),
            Bug::AcceptsOutdatedSnapshots if batch.first().is_snapshot() && held.is_empty() => {
                return Ok(batch.events());
            }
            Bug::StartsNowhere if self.events.is_empty() && batch.after().is_some() => {
                return Err(Error::gap("holds nothing"));
            }
            _ => {}
        }
        let fresh = match batch.fresh_after(&head) {
            Err(error) if error.kind() == ErrorKind::Gap && bug == Bug::AcceptsHoles => batch.events(),
            Err(_) if bug == Bug::AcceptsSkipped && held.is_empty() => batch.events(),
            other => other?,
        };
        if !held.is_empty() && batch.after() < self.floor_after && bug != Bug::ForgetsTheFloor {
            if bug == Bug::CallsTheFloorFenced {
                return Err(Error::fenced("nothing to compare with"));
            }
            let oldest = self.events.first().map_or(EventId::ZERO, Event::id);
            return Err(Error::pruned(oldest));
        }
        let same = |event: &Event, stored: &Event| match bug {
            Bug::ComparesTheHeadOnly | Bug::ForgetsTheFloor => true,
            Bug::ComparesPayloadsOnly => event.id() == stored.id() && event.payload() == stored.payload(),
            _ => event == stored,
        };
        let stored = &self.events[self.behind(batch.after())..];
        if held.iter().zip(stored).any(|(event, stored)| !same(event, stored)) {
            return Err(Error::fenced("another event is held"));
        }
        Ok(fresh)
    }

    /// Where a read starts, as the event before it.
    fn start(&self, from: ReadFrom, bug: Bug) -> Result<Option<EventId>> {
        let after = match from {
            ReadFrom::Origin => None,
            ReadFrom::After(id) if bug == Bug::AfterIsInclusive => id.prev(),
            ReadFrom::After(id) if bug == Bug::RefusesUnknownPositions => {
                let known = self.events.iter().any(|event| event.id() == id);
                return if known { Ok(Some(id)) } else { Err(Error::invalid("no such event").at(id)) };
            }
            ReadFrom::After(id) => Some(id),
            ReadFrom::At(id) if bug == Bug::AtIsExclusive => Some(id),
            ReadFrom::At(id) => id.prev(),
            ReadFrom::Snapshot => {
                let oldest = bug == Bug::SnapshotIsTheOldest;
                let found = if oldest {
                    self.events.iter().position(Event::is_snapshot)
                } else {
                    self.events.iter().rposition(Event::is_snapshot)
                };
                match found {
                    Some(at) if at > 0 => Some(self.events[at - 1].id()),
                    _ => self.floor_after,
                }
            }
        };
        match self.events.first() {
            Some(oldest) if after < self.floor_after && bug != Bug::SilentBelowTheFloor => {
                Err(Error::pruned(oldest.id()))
            }
            _ => Ok(after),
        }
    }
}

#[async_trait]
impl EventSink for Paper {
    async fn append(&self, batch: Batch<'_>) -> Result<()> {
        let shared = &self.shared;
        self.connected()?;
        let too_large = batch.events().iter().find(|event| event.size() > shared.event_bytes_max);
        match too_large {
            Some(_) if shared.has(Bug::AcceptsTooLarge) => {}
            Some(_) if shared.has(Bug::InvalidNamesNothing) => return Err(Error::invalid("too large")),
            Some(event) if shared.has(Bug::HalfRefuses) => {
                let half = batch.events().iter().take_while(|other| other.id() < event.id());
                self.commit(&batch, &half.cloned().collect::<Vec<_>>());
                return Err(Error::invalid("too large").at(event.id()));
            }
            Some(event) => return Err(Error::invalid("too large").at(event.id())),
            None => {}
        }
        match batch.deadline() {
            Some(deadline) if deadline <= Instant::now() && shared.has(Bug::CallsADeadlineNever) => {
                return Err(Error::new(ErrorKind::Unavailable, Retry::Never, "the deadline passed"));
            }
            _ => {}
        }
        if shared.has(Bug::BlocksItsThread) {
            #[expect(clippy::disallowed_methods, reason = "the bug is to block the thread")]
            std::thread::sleep(Duration::from_millis(300));
        }
        if shared.has(Bug::LocksInItsTask) {
            return self.append_in_a_task(&batch).await;
        }
        let _readers = match shared.bug {
            Bug::ReadersBlockTheWriter => Some(shared.readers.write().await),
            _ => None,
        };
        let _turn = match shared.bug {
            Bug::WritesWithoutTurns => None,
            _ => Some(shared.turn.lock().await),
        };
        yield_now().await;
        self.answer(batch.deadline()).await?;
        if shared.page().busy && shared.has(Bug::StaysBusyWhenDropped) {
            return Err(Error::new(ErrorKind::Unavailable, Retry::Safe, "a checkpoint is being read"));
        }
        let fresh = match self.compare(&batch) {
            Err(error) if error.kind() == ErrorKind::Gap && shared.has(Bug::CheckpointHidesHoles) => {
                shared.page().claims = Some(Checkpoint::at(batch.last()));
                return Err(error);
            }
            other => other?,
        };
        if fresh.is_empty() {
            return Ok(());
        }
        let fails = if shared.has(Bug::MissesItsFault) { None } else { shared.page().fail_next.take() };
        if fails == Some(1) {
            return Err(self.jammed(&batch, fresh));
        }
        self.write(&batch, &altered(fresh, shared.bug)).await;
        match fails {
            Some(_) if shared.has(Bug::SafeAfterApplying) => {
                Err(Error::new(ErrorKind::Unavailable, Retry::Safe, "the paper jammed after the event"))
            }
            Some(_) => Err(Error::new(
                ErrorKind::Unavailable,
                Retry::AfterCheckpoint,
                "the paper jammed after the event",
            )),
            None => Ok(()),
        }
    }

    async fn checkpoint(&self) -> Result<Checkpoint> {
        let (bug, weak) = (self.shared.bug, self.shared.weak);
        self.connected()?;
        if bug == Bug::ReportsItsOwnHead {
            return Ok(*self.own_head.lock().unwrap_or_else(PoisonError::into_inner));
        }
        let _turn = match bug {
            Bug::LocksInItsTask => Some(self.shared.turn.lock().await),
            _ => None,
        };
        self.shared.page().busy = bug == Bug::StaysBusyWhenDropped;
        yield_now().await;
        let mut page = self.shared.page();
        page.busy = false;
        let durable = page.durable.min(page.events.len());
        let reported = if bug == Bug::CheckpointBeforeDurable { page.events.len() } else { durable };
        // Time passes: what was accepted is durable the next time.
        if weak && bug != Bug::CheckpointBeforeDurable {
            page.durable = page.events.len();
        }
        if let Some(claims) = page.claims {
            return Ok(claims);
        }
        let Some(last) = reported.checked_sub(1).map(|last| &page.events[last]) else {
            let zero = Checkpoint::At { id: EventId::ZERO, digest: [0; 16].into() };
            return Ok(if bug == Bug::NothingIsZero { zero } else { Checkpoint::Empty });
        };
        Ok(match bug {
            Bug::CheckpointOneTooHigh => {
                Checkpoint::At { id: EventId::new(last.id().get() + 1), digest: last.digest() }
            }
            Bug::DigestOfNothing => Checkpoint::At { id: last.id(), digest: [0; 16].into() },
            _ => Checkpoint::at(last),
        })
    }
}

impl Paper {
    /// Fails where a bug keeps a connection that broke, or stopped for good after an error that was retryable.
    fn connected(&self) -> Result<()> {
        match self.shared.bug {
            _ if !self.broken.load(Ordering::Relaxed) => Ok(()),
            Bug::StopsAfterAnError => Err(Error::closed("an append failed before")),
            _ => Err(Error::new(ErrorKind::Unavailable, Retry::Safe, "the connection is broken")),
        }
    }

    /// The error of an append that was not applied.
    fn jammed(&self, batch: &Batch<'_>, fresh: &[Event]) -> Error {
        match self.shared.bug {
            Bug::KeepsADeadConnection | Bug::StopsAfterAnError => self.broken.store(true, Ordering::Relaxed),
            Bug::CommandLandsLate => {
                let (paper, after, fresh) = (self.clone(), batch.after(), fresh.to_vec());
                drop(tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(25)).await;
                    let batch = Batch::new(after, &fresh).expect("it was one before");
                    if paper.shared.page().compare(&batch, Bug::None).is_ok_and(|fresh| !fresh.is_empty()) {
                        paper.commit(&batch, &fresh);
                    }
                }));
            }
            _ => {}
        }
        Error::new(ErrorKind::Unavailable, Retry::AfterCheckpoint, "the paper jammed")
    }

    /// Waits for a slow answer, but not past the deadline.
    async fn answer(&self, deadline: Option<Instant>) -> Result<()> {
        let delay = self.shared.page().delay;
        let answered = tokio::time::sleep(delay);
        match deadline {
            Some(deadline) if !delay.is_zero() && !self.shared.has(Bug::IgnoresTheDeadline) => {
                let waited = tokio::time::timeout_at(deadline, answered).await;
                waited.map_err(|_| Error::new(ErrorKind::Unavailable, Retry::Safe, "the deadline passed"))
            }
            _ if delay.is_zero() => Ok(()),
            _ => {
                answered.await;
                Ok(())
            }
        }
    }

    /// Appends in a task that takes its turn itself: a call that is dropped may come after the next one.
    async fn append_in_a_task(&self, batch: &Batch<'_>) -> Result<()> {
        let (paper, after, events) = (self.clone(), batch.after(), batch.events().to_vec());
        let appending = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(25)).await;
            let _turn = paper.shared.turn.lock().await;
            let batch = Batch::new(after, &events)?;
            let fresh = paper.shared.page().compare(&batch, Bug::None)?;
            if !fresh.is_empty() {
                paper.commit(&batch, fresh);
            }
            Ok(())
        });
        appending.await.expect("appending does not panic")
    }

    fn compare<'a>(&self, batch: &Batch<'a>) -> Result<&'a [Event]> {
        if self.shared.bug == Bug::TrustsItsOwnHead {
            let own = *self.own_head.lock().unwrap_or_else(PoisonError::into_inner);
            return batch.fresh_after(&own);
        }
        let compared = self.shared.page().compare(batch, self.shared.bug);
        compared.map_err(|error| match (self.shared.bug, error.kind()) {
            (Bug::FencedIsSafe, ErrorKind::Fenced) => error.with_retry(Retry::Safe),
            (Bug::GapIsForEver, ErrorKind::Gap) => error.with_retry(Retry::Never),
            _ => error,
        })
    }

    /// Writes and syncs, with an await before each.
    async fn write(&self, batch: &Batch<'_>, fresh: &[Event]) {
        let shared = &self.shared;
        let half = fresh.len() / 2;
        match shared.bug {
            Bug::HalfBatchWhenDropped => {
                self.commit(batch, &fresh[..half]);
                yield_now().await;
                self.commit(batch, &fresh[half..]);
            }
            Bug::HalfBatchAfterACrash => {
                self.accept(batch, fresh);
                shared.page().durable += half;
                yield_now().await;
                shared.sync();
            }
            Bug::ShowsWhatIsInFlight => {
                self.accept(batch, fresh);
                yield_now().await;
                shared.sync();
            }
            Bug::ShowsHolesWhileWriting => {
                let before = shared.page().events.len();
                self.commit(batch, &fresh[half..]);
                tokio::time::sleep(Duration::from_millis(2)).await;
                shared.page().events.splice(before..before, fresh[..half].iter().cloned());
                shared.sync();
            }
            Bug::UnreadableWhileRotating if batch.first().is_snapshot() => {
                shared.page().busy = true;
                tokio::time::sleep(Duration::from_millis(2)).await;
                self.commit(batch, fresh);
                shared.page().busy = false;
            }
            Bug::LandsLate => {
                let (paper, after, fresh) = (self.clone(), batch.after(), fresh.to_vec());
                let landing = tokio::spawn(async move {
                    // Late enough that a busy machine looks before, soon enough that it looks again behind.
                    tokio::time::sleep(Duration::from_millis(25)).await;
                    let batch = Batch::new(after, &fresh).expect("it was one before");
                    paper.commit(&batch, &fresh);
                });
                landing.await.expect("landing does not panic");
            }
            Bug::AcknowledgesEarly => {
                yield_now().await;
                // Only the batch before is synced; this one is merely accepted.
                shared.sync();
                self.accept(batch, fresh);
            }
            _ => {
                yield_now().await;
                self.commit(batch, fresh);
            }
        }
    }

    fn accept(&self, batch: &Batch<'_>, fresh: &[Event]) {
        let mut page = self.shared.page();
        if page.events.is_empty() {
            page.floor_after = batch.after();
        }
        page.events.extend_from_slice(fresh);
        page.claims = None;
        *self.own_head.lock().unwrap_or_else(PoisonError::into_inner) = page.head();
    }

    fn commit(&self, batch: &Batch<'_>, fresh: &[Event]) {
        self.accept(batch, fresh);
        if !self.shared.weak {
            self.shared.sync();
        }
    }

    /// The next events behind `after`, up to `end`, as a reader may see them.
    fn chunk(&self, after: Option<EventId>, end: Option<EventId>) -> Result<Vec<Result<Event>>> {
        let bug = self.shared.bug;
        let mut page = self.shared.page();
        if page.busy && bug == Bug::UnreadableWhileRotating {
            return Err(Error::new(ErrorKind::Unavailable, Retry::Safe, "the page is being turned"));
        }
        if page.pruning && bug == Bug::PruneTearsReads {
            return Err(Error::corrupt("a segment is missing"));
        }
        let after = if bug == Bug::SkipsWhatIsPruned {
            after
        } else {
            page.start(after.into(), Bug::None).or_else(|error| {
                if bug == Bug::SilentBelowTheFloor { Ok(page.floor_after) } else { Err(error) }
            })?
        };
        let shown = if bug == Bug::ShowsWhatIsUnsynced || bug == Bug::ShowsWhatIsInFlight {
            page.events.len()
        } else {
            page.durable
        };
        let from = page.behind(after);
        let until = page.events.len().min(shown).max(from);
        let mut chunk = Vec::new();
        for event in page.events[from..until].iter().take(READ_CHUNK_EVENTS) {
            if end.is_some_and(|end| event.id() > end) {
                break;
            }
            let behind_a_seal = event.id().get() > 1 && event.id().get() % 9 == 1;
            if Some(event.id()) == page.damaged {
                let error = Error::corrupt("this line does not check").at(event.id());
                match bug {
                    Bug::SkipsWhatIsDamaged => {}
                    Bug::EndsAtDamage => return Ok(chunk),
                    Bug::DamageIsUnavailable => {
                        chunk.push(Err(Error::new(ErrorKind::Unavailable, Retry::Safe, "try again")));
                    }
                    _ => chunk.push(Err(error)),
                }
            } else if !(bug == Bug::SkipsBehindASeal && behind_a_seal) {
                chunk.push(Ok(event.clone()));
            }
        }
        if self.shared.weak && bug != Bug::ShowsWhatIsUnsynced {
            page.durable = page.events.len();
        }
        Ok(chunk)
    }

    /// Everything that is shown now, copied: what a careless reader keeps in memory.
    fn copy_all(&self) -> Vec<Result<Event>> {
        self.shared.page().events.iter().map(|event| Ok(event.detached())).collect()
    }
}

/// Where a read stands: `None` behind its last item.
type Position = Option<Result<Option<EventId>>>;

impl EventSource for Paper {
    fn read(&self, from: ReadFrom) -> EventStream {
        let bug = self.shared.bug;
        if bug == Bug::ReadsAllIntoMemory {
            return stream::iter(self.copy_all()).boxed();
        }
        let (start, end) = {
            let page = self.shared.page();
            (page.start(from, bug), page.events.last().map(Event::id))
        };
        // A log that is empty when a read begins has nothing for it.
        let end = end.or(Some(EventId::ZERO)).filter(|_| bug != Bug::NeverEndsARead);
        let empty = self.shared.page().events.is_empty();
        let guard = (bug == Bug::ReadersBlockTheWriter)
            .then(|| Arc::clone(&self.shared.readers).try_read_owned().ok())
            .flatten();
        let paper = self.clone();
        let position: Position = (!empty || start.is_err()).then_some(start);
        let chunks = stream::unfold(position, move |position| {
            let _ = &guard;
            std::future::ready(paper.next_chunk(position, end))
        });
        let events = chunks.flat_map(stream::iter);
        match bug {
            Bug::ReadsOnePage => events.take(1_000).boxed(),
            Bug::LosesWhenGivenUp => crate::bugs::forgetful(events.boxed()),
            _ => events.boxed(),
        }
    }

    fn follow(&self, from: ReadFrom) -> EventStream {
        let shared = Arc::clone(&self.shared);
        let tick = move || {
            let shared = Arc::clone(&shared);
            async move {
                tokio::time::sleep(Duration::from_millis(1)).await;
                if shared.bug != Bug::ShowsWhatIsUnsynced {
                    shared.sync();
                }
            }
        };
        let source = SameLog { paper: self.clone(), last: Arc::default() };
        let last = Arc::clone(&source.last);
        let note = move |event: &Result<Event>| {
            let event = event.as_ref().ok().cloned();
            *last.lock().unwrap_or_else(PoisonError::into_inner) = event;
        };
        let follow = follow_by_reading(Arc::new(source), from, tick).inspect(note).boxed();
        crate::bugs::follow(self, follow, from)
    }
}

/// Reads on only while the event that a follower returned last is still there.
struct SameLog {
    paper: Paper,
    last: Arc<Mutex<Option<Event>>>,
}

impl EventSource for SameLog {
    fn read(&self, from: ReadFrom) -> EventStream {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(last) = last.filter(|_| self.paper.shared.bug != Bug::FollowsAnotherLog) else {
            return self.paper.read(from);
        };
        let page = self.paper.shared.page();
        let is_there = page.events.contains(&last) || Some(last.id()) <= page.floor_after;
        drop(page);
        if is_there { self.paper.read(from) } else { stream::iter([Err(diverged(&last))]).boxed() }
    }

    fn follow(&self, from: ReadFrom) -> EventStream {
        self.paper.follow(from)
    }
}

fn diverged(last: &Event) -> Error {
    Error::new(ErrorKind::Diverged, Retry::Never, "the event that was returned last is gone").at(last.id())
}

#[async_trait]
impl CommitPoint for Paper {
    async fn head(&self) -> Result<Checkpoint> {
        if self.shared.has(Bug::HeadIsTheCheckpoint) {
            return self.checkpoint().await;
        }
        Ok(self.shared.page().head())
    }

    fn event_bytes_max(&self) -> usize {
        self.shared.event_bytes_max - usize::from(self.shared.has(Bug::MisstatesItsLimit))
    }
}

/// The roster of a store on paper.
pub(crate) struct Roster(pub(crate) Arc<Shared>);

#[async_trait]
impl CheckpointStore for Roster {
    async fn load(&self, name: &str) -> Result<Option<CheckpointEntry>> {
        Ok(self.0.page().entry.clone().filter(|entry| entry.name == name))
    }

    async fn list(&self) -> Result<Vec<CheckpointEntry>> {
        Ok(self.0.page().entry.iter().cloned().collect())
    }

    async fn swap(
        &self,
        _name: &str,
        expected: Option<&CheckpointEntry>,
        new: Option<&CheckpointEntry>,
    ) -> Result<()> {
        yield_now().await;
        if self.0.has(Bug::SwapsLandLate) {
            let (shared, expected, new) = (Arc::clone(&self.0), expected.cloned(), new.cloned());
            let landing = tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(25)).await;
                shared.swap(expected.as_ref(), new.as_ref())
            });
            return landing.await.expect("landing does not panic");
        }
        self.0.swap(expected, new)
    }
}

impl Paper {
    fn next_chunk(&self, position: Position, end: Option<EventId>) -> Option<(Vec<Result<Event>>, Position)> {
        let chunk = position?.and_then(|after| self.chunk(after, end));
        let chunk = match chunk {
            Ok(chunk) if chunk.is_empty() => return None,
            Ok(chunk) => chunk,
            Err(error) => {
                let floor = Ok(self.shared.page().floor_after);
                let goes_on = self.shared.bug == Bug::GoesOnBehindAnError;
                return Some((vec![Err(error)], goes_on.then_some(floor)));
            }
        };
        match chunk.iter().position(Result::is_err) {
            Some(at) if self.shared.bug != Bug::GoesOnBehindAnError => {
                Some((chunk.into_iter().take(at + 1).collect(), None))
            }
            _ => {
                let last = chunk.iter().rev().find_map(|event| event.as_ref().ok()).map(Event::id);
                let position = last.map(|last| Ok(Some(last)));
                Some((chunk, position))
            }
        }
    }
}

#[async_trait]
impl Prune for Paper {
    async fn prune(&self, before: EventId) -> Result<()> {
        let ends_before = |page: &Page, at: usize| {
            page.events[at].is_snapshot() && at > 0 && page.events[at - 1].id() < before
        };
        let kept = {
            let mut page = self.shared.page();
            // Sealed segments are durable.
            page.durable = page.events.len();
            let kept = (0..page.events.len()).rev().find(|&at| ends_before(&page, at));
            page.pruning = true;
            if let (Some(kept), Bug::HalfPrunesWhenDropped) = (kept, self.shared.bug) {
                page.events.drain(..kept);
                page.durable -= kept;
            }
            kept
        };
        if self.shared.has(Bug::PruneTearsReads) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        yield_now().await;
        let mut page = self.shared.page();
        page.pruning = false;
        let Some(mut kept) = kept else { return Ok(()) };
        if self.shared.bug == Bug::PrunesTheNewest {
            kept = page.events.len() - 1;
        }
        if self.shared.bug != Bug::HalfPrunesWhenDropped {
            page.floor_after = Some(page.events[kept - 1].id());
            page.events.drain(..kept);
            page.durable -= kept;
        }
        Ok(())
    }
}
