//! A pump: the task that delivers the log to one secondary, from its own checkpoint on.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, select};
use tokio::sync::watch;
use tracing::Instrument as _;

use super::follower::Follower;
use super::guard::{backoff, caught, guarded, guarded_until, later};
use super::hub::Hub;
use super::lineage::{Place, id_of};
use super::options::SecondaryOptions;
use super::progress::RosterEntry;
use super::secondary::{Secondary, Wanted};
use super::start::{Begin, begin};
use crate::mutants::mutant;
use crate::store::CheckpointCell;
use crate::{Batch, Checkpoint, Error, ErrorKind, Event, EventId, EventSink, Result, Retry};

/// How often progress is recorded in the roster, whose checkpoints are lower bounds.
const ROSTER_INTERVAL: Duration = Duration::from_secs(1);

pub(crate) struct Pump {
    hub: Arc<Hub>,
    secondary: Arc<Secondary>,
    sink: Arc<dyn EventSink>,
    options: SecondaryOptions,
    rng: fastrand::Rng,
    entry: RosterEntry,
    /// The newest event acknowledged, until the roster records that the sink holds it durably.
    unsaved: Option<Event>,
    /// For a sink without memory: where the next delivery begins.
    remembered: Option<Begin>,
    /// Failures since the last success.
    attempt: u32,
}

impl Pump {
    pub(crate) fn new(
        hub: Arc<Hub>,
        secondary: Arc<Secondary>,
        sink: Arc<dyn EventSink>,
        options: SecondaryOptions,
        cell: CheckpointCell,
    ) -> Self {
        let rng = hub.rng();
        let entry = RosterEntry::new(cell, options.call_timeout);
        Self { hub, secondary, sink, options, rng, entry, unsaved: None, remembered: None, attempt: 0 }
    }

    /// Runs until it is asked to end, or the secondary has everything of a log that was closed.
    ///
    /// A panic of the sink or the primary parks it, wherever it happens: also when a call is dropped.
    pub(crate) async fn run(mut self) {
        if mutant("panic-escapes") {
            return drop(self.serve().await);
        }
        while let Err(panicked) = caught("the primary or the sink", || self.serve()).await {
            self.park(panicked);
        }
    }

    /// Does what is wanted: delivers, or stays parked. Parks on what retrying cannot help.
    async fn serve(&mut self) -> Result<()> {
        let mut wanted = self.secondary.wanted.subscribe();
        loop {
            let now = *wanted.borrow_and_update();
            // What is wanted may change at any time. A dropped delivery is an unknown outcome; the next one begins by
            // asking the sink.
            match now {
                Wanted::Remove => return Ok(()),
                Wanted::Leave => {
                    tokio::select! {
                        biased;
                        _ = wanted.changed() => {}
                        () = self.leave() => return Ok(()),
                    }
                }
                Wanted::Park => {
                    self.secondary.parked();
                    tokio::select! {
                        biased;
                        _ = wanted.changed() => {} // the sender lives in `self.secondary`
                        () = self.stay_parked() => return Ok(()),
                    }
                    // After an operator's `resume`, what the roster has by then is right.
                    self.entry.forget();
                }
                Wanted::Run => {
                    let failed = tokio::select! {
                        biased;
                        _ = wanted.changed() => continue,
                        Err(failed) = self.deliver() => failed,
                    };
                    if self.hub.feed.is_closed() && self.secondary.has(self.hub.feed.head()) {
                        self.secondary.want(Wanted::Leave);
                    } else if failed.retry() == Retry::Never {
                        self.park(failed);
                    } else {
                        self.retry_later(failed, &mut wanted).await;
                    }
                }
            }
        }
    }

    /// Records the progress, and returns when the log is closed.
    async fn stay_parked(&mut self) {
        self.leave().await;
        self.hub.signal.until(|| self.hub.feed.is_closed()).await;
    }

    fn park(&self, failed: Error) {
        tracing::error!(error = %failed, "parked");
        self.secondary.park(failed, self.hub.now());
    }

    /// Pauses before a retry, until something else is wanted.
    async fn retry_later(&mut self, error: Error, wanted: &mut watch::Receiver<Wanted>) {
        let pause = backoff(&mut self.rng, self.attempt, self.options.backoff_min, self.options.backoff_max);
        let pause = pause.max(error.pause_min().unwrap_or_default());
        self.attempt = self.attempt.saturating_add(1);
        tracing::warn!(error = %error, ?pause, "retrying");
        self.secondary.retrying(error, self.hub.now());
        tokio::select! {
            biased;
            _ = wanted.changed() => {}
            () = tokio::time::sleep(pause), if !mutant("retry-without-pause") => {}
            () = tokio::task::yield_now(), if mutant("retry-without-pause") => {}
        }
    }

    /// Delivers from the sink's checkpoint on, until something fails.
    async fn deliver(&mut self) -> Result<Infallible> {
        self.secondary.starting();
        let begin = self.begin().await?;
        self.secondary.begins(id_of(begin.position.as_ref()), begin.floor);
        let mut follower = Follower::new(self.hub.feed.clone(), self.hub.source.clone(), begin.position);
        loop {
            let events = self.next(&mut follower).await?;
            let mut delivered = &events[..];
            while let Err(error) = self.append(follower.position(), delivered).await {
                if mutant("error-is-ok") {
                    break;
                }
                // The events before the poison event are delivered; the next batch begins with it.
                delivered = before_poison(&error, delivered).ok_or(error)?;
            }
            self.acknowledged(&mut follower, delivered);
            if self.entry.age() >= ROSTER_INTERVAL {
                self.save(self.options.call_timeout).await?;
            }
        }
    }

    fn acknowledged(&mut self, follower: &mut Follower, events: &[Event]) {
        let Some(last) = events.last() else { return };
        follower.advance(last.clone());
        if let Some(begin) = &mut self.remembered {
            begin.position = Some(Place::Event(last.clone()));
        }
        self.attempt = 0;
        self.unsaved = Some(last.clone());
        self.secondary.advanced(last.id(), events.len());
    }

    /// Where to continue, once the sink is known to share the primary's history.
    async fn begin(&mut self) -> Result<Begin> {
        let timeout = self.options.call_timeout;
        let checkpoint = guarded("the sink's checkpoint", timeout, || self.sink.checkpoint()).await?;
        if let (Checkpoint::Unknown, Some(begin)) = (checkpoint, &self.remembered)
            && !mutant("remembers-nothing")
        {
            return Ok(begin.clone());
        }
        let head = self.hub.feed.head();
        // Not bounded in time: a source without an index may search for minutes, and would never get to the place.
        let begin = begin(&*self.hub.source, checkpoint, self.options.start, head).await?;
        self.remembered = (checkpoint == Checkpoint::Unknown).then(|| begin.clone());
        let is_news = self.unsaved.is_none() || checkpoint.id() < self.entry.checkpoint().id();
        if checkpoint != Checkpoint::Unknown && is_news {
            self.entry.record(checkpoint).await?;
        }
        Ok(begin)
    }

    /// The next batch's events; lingers for it to fill.
    async fn next(&mut self, follower: &mut Follower) -> Result<Vec<Event>> {
        let (events_max, bytes_max) = (self.options.batch_events_max, self.options.batch_bytes_max);
        if self.secondary.has(self.hub.feed.head()) {
            self.secondary.at_head();
        }
        let mut events = self.wait(follower).await?;
        if !self.options.linger_max.is_zero() {
            let filled = follower.fill(&mut events, events_max, bytes_max);
            drop(tokio::time::timeout(self.options.linger_max, filled).await);
        }
        Ok(events)
    }

    /// The next events. Records the progress meanwhile, when the log is quiet, or slow to read.
    async fn wait(&mut self, follower: &mut Follower) -> Result<Vec<Event>> {
        // Kept across the intervals: a read that is dropped begins anew, and may take longer than that to begin.
        let mut chunk = pin!(follower.chunk(self.options.batch_events_max, self.options.batch_bytes_max));
        while self.unsaved.is_some() {
            let due = self.entry.touched_at() + ROSTER_INTERVAL;
            if let Ok(events) = tokio::time::timeout_at(due, &mut chunk).await {
                return events;
            }
            // Both at once: a source may work only while it is polled, and recording may take long.
            match select(pin!(self.save(self.options.call_timeout)), &mut chunk).await {
                Either::Left((saved, _)) => saved?,
                Either::Right((events, saving)) => {
                    saving.await?;
                    return events;
                }
            }
        }
        chunk.await
    }

    /// Appends once. An error that names no event is at the first of the batch.
    async fn append(&self, after: Option<EventId>, events: &[Event]) -> Result<()> {
        let deadline = later(self.options.call_timeout);
        let batch = Batch::new(after, events)?.with_deadline(Some(deadline));
        let span = tracing::debug_span!("deliver", first = %batch.first().id(), events = events.len());
        let append = guarded_until("the sink's append", deadline, || self.sink.append(batch));
        append.instrument(span).await.map_err(|error| match error.event() {
            Some(_) => error,
            None => error.at(batch.first().id()),
        })
    }

    /// Records the progress in the roster; does not wait for a sink that hangs.
    async fn leave(&mut self) {
        let patience = self.options.call_timeout.min(ROSTER_INTERVAL);
        if let Err(error) = self.save(patience).await {
            tracing::warn!(error = %error, "the newest progress is not in the roster yet");
        }
    }

    /// Records in the roster what the sink holds durably, which may be less than it acknowledged.
    ///
    /// # Errors
    /// `Fenced` if another process runs a secondary of this name over the same roster. Any other failure is logged,
    /// and retried later.
    async fn save(&mut self, patience: Duration) -> Result<()> {
        let Some(event) = &self.unsaved else { return Ok(()) };
        let acknowledged = Checkpoint::at(event);
        self.entry.touch();
        let checkpoint = match guarded("the sink's checkpoint", patience, || self.sink.checkpoint()).await {
            Ok(_) if mutant("entry-ahead") => acknowledged,
            Ok(Checkpoint::Unknown) => acknowledged,
            Ok(checkpoint) => checkpoint,
            Err(error) => {
                tracing::warn!(error = %error, "the newest progress is not in the roster yet");
                return Ok(());
            }
        };
        if self.entry.record(checkpoint).await? && checkpoint.id() >= acknowledged.id() {
            self.unsaved = None;
        }
        Ok(())
    }
}

/// The events before the one that the sink can never take, if there are any.
fn before_poison<'a>(error: &Error, events: &'a [Event]) -> Option<&'a [Event]> {
    let is_poison = error.kind() == ErrorKind::Invalid && !mutant("poison-holds-prefix");
    let named = error.event().filter(|_| is_poison)?;
    let index = events.binary_search_by_key(&named, Event::id).ok()?;
    (index > 0).then(|| &events[..index])
}
