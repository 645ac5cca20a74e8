//! Delivers the log to one sink, from the sink's own checkpoint on.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::TryFutureExt;
use futures_util::future::{Either, select};
use tokio::time::Instant;
use tracing::Instrument as _;

use super::follower::Follower;
use super::guard::{backoff, guarded, guarded_until, later};
use super::hub::Hub;
use super::lineage::Place;
use super::options::{SecondaryOptions, StartAt};
use super::patient::Patient;
use super::progress::{Outbox, ROSTER_INTERVAL, RosterEntry};
use super::secondary::Secondary;
use super::start::{Begin, begin, compare, end};
use crate::mutants::mutant;
use crate::{Batch, Checkpoint, Error, ErrorKind, Event, EventId, EventSink, Result, Retry};

/// How old the last look at a sink's checkpoint may be at an append. If it is older, the delivery compares the
/// checkpoint first, because the sink may be another copy by now.
const COMPARE_AFTER: Duration = Duration::from_secs(10);

pub(super) struct Delivery {
    hub: Arc<Hub>,
    secondary: Arc<Secondary>,
    sink: Arc<dyn EventSink>,
    source: Arc<Patient>,
    options: SecondaryOptions,
    rng: fastrand::Rng,
    outbox: Arc<Outbox>,
    /// The checkpoint that the roster has, or will have once the outbox is recorded.
    reported: Checkpoint,
    /// The newest event acknowledged, until the sink reports that it holds it durably.
    unsaved: Option<Event>,
    /// When the sink was last asked for its checkpoint.
    asked_at: Instant,
    /// For a sink without memory: where the next delivery begins.
    remembered: Option<Begin>,
    /// Whether the start option chose the position, and nothing was delivered since.
    is_untouched: bool,
    /// How many events a batch may have: fewer than the option after batches that were too slow.
    batch_events: usize,
    /// Failures since the last success.
    attempt: u32,
}

impl Delivery {
    pub(super) fn new(
        hub: Arc<Hub>,
        secondary: Arc<Secondary>,
        sink: Arc<dyn EventSink>,
        options: SecondaryOptions,
        entry: &RosterEntry,
    ) -> Self {
        // What is appended from now on is delivered, also if the sink replies only later.
        let starts_here = options.start == StartAt::Head && hub.settings.knows_head;
        let remembered =
            (starts_here && !mutant("head-of-the-reply")).then(|| Begin::at_head(hub.feed.head_place()));
        Self {
            source: Arc::new(hub.patient()),
            rng: hub.rng(),
            hub,
            secondary,
            sink,
            outbox: entry.outbox(),
            reported: entry.checkpoint(),
            unsaved: None,
            asked_at: Instant::now(),
            is_untouched: remembered.is_some(),
            remembered,
            batch_events: options.batch_events_max,
            attempt: 0,
            options,
        }
    }

    /// Delivers and retries, until the secondary has everything of a closed log, or a retry cannot help.
    pub(super) async fn run(&mut self) -> Error {
        loop {
            let Err(failed) = self.deliver().await;
            if self.is_complete() || failed.retry() == Retry::Never {
                return failed;
            }
            self.pause(failed).await;
        }
    }

    /// Returns whether the log was closed and the secondary has all of it.
    pub(super) fn is_complete(&self) -> bool {
        self.hub.feed.is_closed() && self.secondary.has(self.hub.feed.head())
    }

    /// Pauses before a retry.
    async fn pause(&mut self, error: Error) {
        let pause = backoff(&mut self.rng, self.attempt, self.options.backoff_min, self.options.backoff_max);
        let pause = pause.max(error.pause_min().unwrap_or_default());
        self.attempt = self.attempt.saturating_add(1);
        tracing::warn!(error = %error, ?pause, "retrying");
        self.secondary.retrying(error, self.hub.now());
        if mutant("retry-without-pause") {
            tokio::task::yield_now().await;
        } else {
            tokio::time::sleep(pause).await;
        }
    }

    /// Delivers from the sink's checkpoint on, until something fails.
    async fn deliver(&mut self) -> Result<Infallible> {
        self.secondary.starting();
        let begin = self.begin().await?;
        self.secondary.begins(begin.position.clone(), begin.floor);
        let mut follower = Follower::new(self.hub.feed.clone(), self.source.clone(), begin.position);
        loop {
            let next = self.next(&mut follower).await;
            let events = next.map_err(|error| self.or_start_anew(error))?;
            if self.asked_at.elapsed() >= COMPARE_AFTER {
                self.compare(follower.place()).await?;
            }
            let mut delivered = &events[..];
            while let Err(error) = self.append(follower.position(), delivered).await {
                if mutant("error-is-ok") {
                    break;
                }
                // The events before the poison event are delivered; the next batch begins with it.
                delivered = before_poison(&error, delivered).ok_or(error)?;
            }
            self.acknowledged(&mut follower, delivered);
            if self.asked_at.elapsed() >= ROSTER_INTERVAL {
                self.report(self.options.call_timeout).await?;
            }
        }
    }

    fn acknowledged(&mut self, follower: &mut Follower, events: &[Event]) {
        let Some(last) = events.last() else { return };
        follower.advance(last.clone());
        if let Some(begin) = &mut self.remembered {
            begin.position = Some(Place::Event(last.clone()));
        }
        self.source.progressed();
        self.is_untouched = false;
        self.attempt = 0;
        self.unsaved = Some(last.clone());
        self.secondary.advanced(last, events.len());
    }

    /// Returns where to continue, after checking that the sink shares the primary's history.
    async fn begin(&mut self) -> Result<Begin> {
        let head = self.hub.feed.head();
        let is_new = self.remembered.is_none() && self.secondary.reached().is_none();
        if is_new && self.options.start == StartAt::Head && !mutant("head-of-the-reply") {
            self.remembered = Some(Begin::at_head(end(&*self.source, head).await?));
            self.is_untouched = true;
        }
        let checkpoint = self.ask(self.options.call_timeout).await?;
        if let (Checkpoint::Unknown, Some(begin)) = (checkpoint, self.remembered.clone())
            && !mutant("remembers-nothing")
        {
            let compared = compare(&*self.source, begin.position.as_ref(), self.reported, head).await;
            let compared = compared.inspect_err(|error| self.secondary.compared(error));
            return compared.map(|()| begin).map_err(|error| self.or_start_anew(error));
        }
        let begun = begin(&*self.source, checkpoint, self.reported, self.options.start, head).await;
        let begin = begun.inspect_err(|error| self.secondary.compared(error))?;
        self.is_untouched = checkpoint.id().is_none();
        self.remembered = (checkpoint == Checkpoint::Unknown).then(|| begin.clone());
        let is_news = self.unsaved.is_none() || checkpoint.id() < self.reported.id();
        if checkpoint != Checkpoint::Unknown && is_news {
            self.put(checkpoint);
        }
        Ok(begin)
    }

    /// Makes `Pruned` retryable while nothing was delivered, if the secondary starts where the log begins.
    ///
    /// A log that was empty may begin at a snapshot, and a prune may remove a start before the first delivery. With
    /// `OldestSnapshot`, the next attempt looks for that snapshot again. With `Head` over an empty log, it begins at the
    /// oldest event.
    fn or_start_anew(&mut self, error: Error) -> Error {
        let ErrorKind::Pruned { oldest } = error.kind() else { return error };
        if !self.is_untouched {
            return error;
        }
        self.remembered = match (self.options.start, &self.remembered) {
            (StartAt::OldestSnapshot, _) => None,
            (StartAt::Head, Some(Begin { position: None, .. })) => {
                Some(Begin { position: oldest.prev().map(Place::Id), floor: Some(oldest) })
            }
            _ => return error,
        };
        error.with_retry(Retry::Safe)
    }

    /// Returns the events of the next batch. Lingers until the batch is full.
    async fn next(&mut self, follower: &mut Follower) -> Result<Vec<Event>> {
        let (events_max, bytes_max) = (self.batch_events, self.options.batch_bytes_max);
        if self.secondary.has(self.hub.feed.head()) {
            self.secondary.at_head();
        }
        let mut events = self.wait(follower).await?;
        if !self.options.linger_max.is_zero() {
            // A lag of more events than this holds back appends, so no further event would arrive.
            let lag_max = self.options.lag_events_max.filter(|_| !mutant("linger-through-back-pressure"));
            let enough = lag_max.map_or(usize::MAX, |lag| usize::try_from(lag).unwrap_or(usize::MAX));
            let filled = follower.fill(&mut events, events_max.min(enough.saturating_add(1)), bytes_max);
            drop(tokio::time::timeout(self.options.linger_max, filled).await);
        }
        Ok(events)
    }

    /// Waits for the next events. Reports the progress while the log is quiet or slow to read.
    async fn wait(&mut self, follower: &mut Follower) -> Result<Vec<Event>> {
        // The read is kept across the intervals: a dropped read begins anew, and may need more than one interval.
        let (secondary, events_max, bytes_max) =
            (self.secondary.clone(), self.batch_events, self.options.batch_bytes_max);
        let chunk = follower.chunk(events_max, bytes_max).inspect_err(|error| secondary.compared(error));
        let mut chunk = pin!(chunk);
        while self.unsaved.is_some() {
            let due = self.asked_at + ROSTER_INTERVAL;
            if let Ok(events) = tokio::time::timeout_at(due, &mut chunk).await {
                return events;
            }
            // Polls both: some sources work only while they are polled, and the sink may be slow.
            match select(pin!(self.report(self.options.call_timeout)), &mut chunk).await {
                Either::Left((reported, _)) => reported?,
                Either::Right((events, reporting)) => {
                    reporting.await?;
                    return events;
                }
            }
        }
        chunk.await
    }

    /// Appends once. If the error names no event, it gets the first event of the batch.
    async fn append(&mut self, after: Option<EventId>, events: &[Event]) -> Result<()> {
        let begun = Instant::now();
        let deadline = later(self.options.call_timeout);
        let batch = Batch::new(after, events)?.with_deadline(Some(deadline));
        let span = tracing::debug_span!("deliver", first = %batch.first().id(), events = events.len());
        let append = guarded_until("the sink's append", deadline, || self.sink.append(batch));
        let appended = append.instrument(span).await;
        self.adapt(begun.elapsed(), events.len(), appended.as_ref().err());
        appended.map_err(|error| match error.event() {
            Some(_) => error,
            None => error.at(batch.first().id()),
        })
    }

    /// Chooses the size of the next batches, so that one fits into the time-out. Otherwise a sink that keeps its
    /// checkpoint once a batch would make no progress.
    fn adapt(&mut self, took: Duration, events: usize, failed: Option<&Error>) {
        let timeout = self.options.call_timeout;
        let is_too_slow = took >= timeout / 2;
        match failed {
            Some(error) if is_too_slow && error.retry() == Retry::AfterCheckpoint => {
                self.batch_events = (events / 2).max(1);
            }
            None if took <= timeout / 4 && events >= self.batch_events => {
                self.batch_events = self.batch_events.saturating_mul(2).min(self.options.batch_events_max);
            }
            _ => {}
        }
    }

    async fn ask(&mut self, patience: Duration) -> Result<Checkpoint> {
        self.asked_at = Instant::now();
        guarded("the sink's checkpoint", patience, || self.sink.checkpoint()).await
    }

    /// Checks that the sink still ends with the event of `place`, if it reports one of that id.
    async fn compare(&mut self, place: Option<&Place>) -> Result<()> {
        let checkpoint = self.ask(self.options.call_timeout).await?;
        place.map_or(Ok(()), |place| differs(place, checkpoint))
    }

    /// Asks the sink what it holds durably, which may be less than it acknowledged, and lets the roster record it.
    ///
    /// # Errors
    /// `Diverged` if the sink has another event in the place of the one that it acknowledged last. Any other failure is
    /// logged, and the sink is asked again later.
    pub(super) async fn report(&mut self, patience: Duration) -> Result<()> {
        let Some(event) = self.unsaved.clone() else { return Ok(()) };
        let acknowledged = Checkpoint::at(&event);
        let checkpoint = match self.ask(patience).await {
            Ok(_) if mutant("entry-ahead") => acknowledged,
            Ok(Checkpoint::Unknown) => acknowledged,
            Ok(checkpoint) => checkpoint,
            Err(error) => {
                tracing::warn!(error = %error, "the sink does not report its checkpoint");
                return Ok(());
            }
        };
        differs(&Place::Event(event), checkpoint)?;
        self.put(checkpoint);
        if checkpoint.id() >= acknowledged.id() {
            self.unsaved = None;
        }
        Ok(())
    }

    fn put(&mut self, checkpoint: Checkpoint) {
        self.reported = checkpoint;
        self.outbox.put(checkpoint);
    }
}

/// Fails if the sink has another event in the place of one that it acknowledged.
fn differs(place: &Place, checkpoint: Checkpoint) -> Result<()> {
    if Place::of(checkpoint).is_none_or(|held| held.id() != place.id() || held.is_same(place)) {
        return Ok(());
    }
    let message = "the sink has another event in the place of this one, which it had acknowledged, as after a failover to \
                   another copy; bring back the copy that has it, or rebuild the sink";
    Err(Error::diverged(message).at(place.id()))
}

/// Returns the events before the poison event that `error` names, if there are any.
fn before_poison<'a>(error: &Error, events: &'a [Event]) -> Option<&'a [Event]> {
    let is_poison = error.kind() == ErrorKind::Invalid && !mutant("poison-holds-prefix");
    let named = error.event().filter(|_| is_poison)?;
    let index = events.binary_search_by_key(&named, Event::id).ok()?;
    (index > 0).then(|| &events[..index])
}
