//! A pump: the task that carries one secondary along the log, from its own checkpoint, for ever.

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
use crate::store::CheckpointCell;
use crate::{Batch, Checkpoint, Error, ErrorKind, Event, EventId, EventSink, Result, Retry};

/// How often the roster is told of progress. It may lag behind: what it says is a lower bound.
const ROSTER_INTERVAL: Duration = Duration::from_secs(1);

pub(crate) struct Pump {
    hub: Arc<Hub>,
    secondary: Arc<Secondary>,
    sink: Arc<dyn EventSink>,
    options: SecondaryOptions,
    rng: fastrand::Rng,
    entry: RosterEntry,
    /// The newest event acknowledged, until the roster says that the sink holds it durably.
    unsaved: Option<Event>,
    /// For a sink without memory: how far this pump has brought it.
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

    /// Delivers until it is asked to end, or has everything of a log that was closed. Parks on what retrying cannot
    /// help.
    pub(crate) async fn run(mut self) {
        let mut wanted = self.secondary.wanted.subscribe();
        loop {
            let now = *wanted.borrow_and_update();
            match now {
                Wanted::Remove => return,
                Wanted::Leave => break,
                Wanted::Park => {
                    self.leave().await;
                    self.secondary.parked(None, self.hub.now());
                    let closed = self.hub.signal.until(|| self.hub.feed.is_closed());
                    tokio::select! {
                        biased;
                        _ = wanted.changed() => {} // the sender lives in `self.secondary`
                        () = closed => return,
                    }
                    // An operator resumes it: what was known of the roster may be out of date.
                    self.entry.forget();
                    continue;
                }
                Wanted::Run => {}
            }
            // A dropped delivery is an unknown outcome; the next one begins by asking the sink.
            let failed = tokio::select! {
                biased;
                _ = wanted.changed() => continue,
                Err(failed) = caught("the primary or the sink", || self.deliver()) => failed,
            };
            if self.hub.feed.is_closed() && self.secondary.has(self.hub.feed.head()) {
                break;
            }
            if failed.retry() == Retry::Never {
                self.park(failed);
            } else {
                self.retry_later(failed, &mut wanted).await;
            }
        }
        self.leave().await;
    }

    fn park(&self, failed: Error) {
        tracing::error!(error = %failed, "parked");
        // First parked, then shown: an operator who resumes it as soon as it shows must come after.
        self.secondary.wanted.send_if_modified(|wanted| {
            let parks = *wanted == Wanted::Run;
            if parks {
                *wanted = Wanted::Park;
            }
            parks
        });
        self.secondary.parked(Some(failed), self.hub.now());
    }

    /// Pauses before a retry, unless an operator wants something else meanwhile.
    async fn retry_later(&mut self, error: Error, wanted: &mut watch::Receiver<Wanted>) {
        let pause = backoff(&mut self.rng, self.attempt, self.options.backoff_min, self.options.backoff_max);
        let pause = pause.max(error.pause_min().unwrap_or_default());
        self.attempt = self.attempt.saturating_add(1);
        tracing::warn!(error = %error, ?pause, "retrying");
        self.secondary.retrying(error, self.hub.now());
        tokio::select! {
            biased;
            _ = wanted.changed() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }

    /// Continues after the sink's checkpoint, until something goes wrong.
    async fn deliver(&mut self) -> Result<Infallible> {
        self.secondary.starting();
        let begin = self.begin().await?;
        self.secondary.begins(id_of(begin.position.as_ref()), begin.floor);
        let mut follower = Follower::new(self.hub.feed.clone(), self.hub.source.clone(), begin.position);
        loop {
            let events = self.next(&mut follower).await?;
            let mut delivered = &events[..];
            if let Err(error) = self.append(follower.position(), delivered).await {
                // What is before the poison event is delivered; the next batch begins with it.
                delivered = before_poison(&error, &events).ok_or(error)?;
                self.append(follower.position(), delivered).await?;
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
        if let (Checkpoint::Unknown, Some(begin)) = (checkpoint, &self.remembered) {
            return Ok(begin.clone());
        }
        let head = self.hub.feed.head();
        // Not bounded in time: a source without an index may look long for its place, and would begin anew for ever.
        let begin =
            caught("reading the primary", || begin(&*self.hub.source, checkpoint, self.options.start, head));
        let begin = begin.await?;
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
            // Full, or old enough: either will do.
            drop(tokio::time::timeout(self.options.linger_max, filled).await);
        }
        Ok(events)
    }

    /// The next events; reports to the roster meanwhile, when the log is quiet, or slow to read.
    async fn wait(&mut self, follower: &mut Follower) -> Result<Vec<Event>> {
        // One future all along: a read that is dropped begins anew, and may take longer than an interval to begin.
        let mut chunk = pin!(follower.chunk(self.options.batch_events_max, self.options.batch_bytes_max));
        while self.unsaved.is_some() {
            let due = self.entry.touched_at() + ROSTER_INTERVAL;
            if let Ok(events) = tokio::time::timeout_at(due, &mut chunk).await {
                return events;
            }
            // Both at once: a source may work only while it is waited for, and reporting may take long.
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

    /// Reports to the roster how far the sink is; a sink that hangs is not waited for.
    async fn leave(&mut self) {
        let patience = self.options.call_timeout.min(ROSTER_INTERVAL);
        if let Err(error) = self.save(patience).await {
            tracing::warn!(error = %error, "the roster does not know the newest progress");
        }
    }

    /// Reports to the roster what the sink holds durably: it may have acknowledged more than that.
    ///
    /// # Errors
    /// `Fenced` if another process runs a secondary of this name over the same roster. Any other failure is logged,
    /// and tried again later.
    async fn save(&mut self, patience: Duration) -> Result<()> {
        let Some(event) = &self.unsaved else { return Ok(()) };
        let acknowledged = Checkpoint::at(event);
        self.entry.touch();
        let checkpoint = match guarded("the sink's checkpoint", patience, || self.sink.checkpoint()).await {
            Ok(Checkpoint::Unknown) => acknowledged,
            Ok(checkpoint) => checkpoint,
            Err(error) => {
                tracing::warn!(error = %error, "the roster does not know the newest progress");
                return Ok(());
            }
        };
        if self.entry.record(checkpoint).await? && checkpoint.id() >= acknowledged.id() {
            self.unsaved = None;
        }
        Ok(())
    }
}

/// The events before one that the sink can never take, if there are any.
fn before_poison<'a>(error: &Error, events: &'a [Event]) -> Option<&'a [Event]> {
    let named = error.event().filter(|_| error.kind() == ErrorKind::Invalid)?;
    let index = events.binary_search_by_key(&named, Event::id).ok()?;
    (index > 0).then(|| &events[..index])
}
