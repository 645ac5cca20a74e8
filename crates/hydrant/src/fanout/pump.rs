//! A pump: the task that carries one secondary along the log, from its own checkpoint, for ever.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, select};
use tokio::sync::watch;
use tokio::time::Instant;

use super::follower::Follower;
use super::guard::{backoff, caught, guarded};
use super::hub::Hub;
use super::options::SecondaryOptions;
use super::secondary::{Secondary, Wanted};
use super::start::{Begin, begin};
use super::status::SecondaryState;
use crate::{Batch, Checkpoint, CheckpointEntry, Error, ErrorKind, Event, EventSink, Result, Retry};

/// How often the roster is told of progress. It may lag behind: what it says is a lower bound.
const ROSTER_INTERVAL: Duration = Duration::from_secs(1);

pub(crate) struct Pump {
    pub(crate) hub: Arc<Hub>,
    pub(crate) secondary: Arc<Secondary>,
    pub(crate) sink: Arc<dyn EventSink>,
    pub(crate) options: SecondaryOptions,
    pub(crate) rng: fastrand::Rng,
    /// What the roster says of this secondary.
    pub(crate) entry: CheckpointEntry,
    pub(crate) entry_at: Instant,
    /// What a swap wanted the roster to say, as long as its outcome is open.
    pub(crate) pending: Option<CheckpointEntry>,
    /// The last event acknowledged, until the roster says that the sink holds it durably.
    pub(crate) unsaved: Option<Event>,
    /// For a sink without memory: how far this pump has brought it.
    pub(crate) remembered: Option<Begin>,
    /// Failures since the last success.
    pub(crate) attempt: u32,
}

impl Pump {
    /// Delivers until told to stop; parks on what retrying cannot help.
    pub(crate) async fn run(mut self, mut wanted: watch::Receiver<Wanted>) {
        loop {
            let now = *wanted.borrow_and_update();
            match now {
                Wanted::Stop => break,
                Wanted::Park => {
                    self.leave().await;
                    self.tell(|secondary| secondary.parked(None));
                    drop(wanted.changed().await); // the sender lives in `self.secondary`
                    continue;
                }
                Wanted::Run => {}
            }
            // A dropped delivery is an unknown outcome; the next one begins by asking the sink.
            let failed = tokio::select! {
                biased;
                _ = wanted.changed() => continue,
                Err(failed) = caught("the primary or the sink", self.deliver()) => failed,
            };
            if self.hub.feed.is_closed() {
                break; // by `close`, which stops this pump next and has told what it lacks
            }
            if failed.retry() == Retry::Never {
                tracing::error!(secondary = self.secondary.name, error = %failed, "parked");
                // First parked, then told: who resumes it as soon as it shows must come behind.
                self.secondary.wanted.send_if_modified(|wanted| {
                    let parks = *wanted == Wanted::Run;
                    if parks {
                        *wanted = Wanted::Park;
                    }
                    parks
                });
                self.tell(|secondary| secondary.parked(Some(failed)));
            } else {
                self.retry_later(failed, &mut wanted).await;
            }
        }
        self.leave().await;
    }

    /// Pauses before a retry, unless a person wants something else meanwhile.
    async fn retry_later(&mut self, error: Error, wanted: &mut watch::Receiver<Wanted>) {
        let pause = backoff(&mut self.rng, self.attempt, self.options.backoff_min, self.options.backoff_max);
        self.attempt = self.attempt.saturating_add(1);
        tracing::warn!(secondary = self.secondary.name, error = %error, ?pause, "retrying");
        self.tell(|secondary| secondary.retrying(error));
        tokio::select! {
            biased;
            _ = wanted.changed() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }

    fn tell(&self, change: impl FnOnce(&Secondary)) {
        change(&self.secondary);
        self.hub.changed.send_replace(());
    }

    /// Goes on from where the sink stands, until something goes wrong.
    async fn deliver(&mut self) -> Result<Infallible> {
        self.tell(|secondary| secondary.set_state(SecondaryState::Starting));
        let begin = self.begin().await?;
        self.tell(|secondary| secondary.stands(begin.position, begin.floor));
        let mut follower = Follower::new(self.hub.feed.clone(), self.hub.source.clone(), begin.position);
        loop {
            let events = self.next(&mut follower).await?;
            let batch = Batch::new(follower.position(), &events)?;
            self.append(batch).await?;
            let last = batch.last().id();
            follower.advance(last);
            if let Some(begin) = &mut self.remembered {
                begin.position = Some(last);
            }
            self.attempt = 0;
            self.unsaved = Some(batch.last().clone());
            self.tell(|secondary| secondary.advanced(last, events.len()));
            if self.entry_at.elapsed() >= ROSTER_INTERVAL {
                self.save(self.options.call_timeout).await?;
            }
        }
    }

    /// Where the sink stands, once it is known to share the primary's history.
    async fn begin(&mut self) -> Result<Begin> {
        let timeout = self.options.call_timeout;
        let checkpoint = guarded("the sink's checkpoint", timeout, self.sink.checkpoint()).await?;
        if let (Checkpoint::Unknown, Some(begin)) = (checkpoint, self.remembered) {
            return Ok(begin);
        }
        let head = self.hub.feed.head();
        // Not bounded in time: a source that has no index may look long for its place, and would begin anew for ever.
        let begin = begin(&*self.hub.source, checkpoint, self.options.start, head);
        let begin = caught("reading the primary", begin).await?;
        self.remembered = (checkpoint == Checkpoint::Unknown).then_some(begin);
        let is_news = self.unsaved.is_none() || checkpoint.id() < self.entry.checkpoint.id();
        if checkpoint != Checkpoint::Unknown && self.entry.checkpoint != checkpoint && is_news {
            self.swap(checkpoint).await?;
        }
        Ok(begin)
    }

    /// The next batch's events; lingers for it to fill.
    async fn next(&mut self, follower: &mut Follower) -> Result<Vec<Event>> {
        let (events_max, bytes_max) = (self.options.batch_events_max, self.options.batch_bytes_max);
        if self.hub.feed.is_head(follower.position()) {
            self.shows(SecondaryState::Live);
        }
        let mut events = self.wait(follower).await?;
        self.shows(if follower.is_live() { SecondaryState::Live } else { SecondaryState::CatchingUp });
        if !self.options.linger_max.is_zero() {
            let filled = follower.fill(&mut events, events_max, bytes_max);
            // Full, or old enough: either will do.
            drop(tokio::time::timeout(self.options.linger_max, filled).await);
        }
        Ok(events)
    }

    fn shows(&self, state: SecondaryState) {
        if self.secondary.state() != state {
            self.tell(|secondary| secondary.set_state(state));
        }
    }

    /// The next events; tells the roster meanwhile, when the log is quiet, or slow to read.
    async fn wait(&mut self, follower: &mut Follower) -> Result<Vec<Event>> {
        // One future all along: a read that is dropped begins anew, and may take longer than an interval to begin.
        let mut chunk = pin!(follower.chunk(self.options.batch_events_max, self.options.batch_bytes_max));
        while self.unsaved.is_some() {
            let due = self.entry_at + ROSTER_INTERVAL;
            if let Ok(events) = tokio::time::timeout_at(due, &mut chunk).await {
                return events;
            }
            // Both at once: a source may work only while it is waited for, and telling may take long.
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
    async fn append(&self, batch: Batch<'_>) -> Result<()> {
        let appended = guarded("the sink's append", self.options.call_timeout, self.sink.append(batch)).await;
        appended.map_err(|error| match error.event() {
            Some(_) => error,
            None => error.at(batch.first().id()),
        })
    }

    /// Tells the roster how far the sink is; a sink that hangs is not waited for.
    async fn leave(&mut self) {
        let patience = self.options.call_timeout.min(ROSTER_INTERVAL);
        if let Err(error) = self.save(patience).await {
            tracing::warn!(secondary = self.secondary.name, error = %error, "the roster was not told");
        }
    }

    /// Tells the roster what the sink holds durably: it may have acknowledged more than that.
    ///
    /// # Errors
    /// `Fenced` when another process runs a secondary of this name over the same roster. Any other failure
    /// is told, and it is tried again later.
    async fn save(&mut self, patience: Duration) -> Result<()> {
        let Some(event) = &self.unsaved else { return Ok(()) };
        let acknowledged = Checkpoint::at(event);
        self.entry_at = Instant::now();
        let checkpoint = match guarded("the sink's checkpoint", patience, self.sink.checkpoint()).await {
            Ok(Checkpoint::Unknown) => acknowledged,
            Ok(checkpoint) => checkpoint,
            Err(error) => {
                tracing::warn!(secondary = self.secondary.name, error = %error, "the roster was not told");
                return Ok(());
            }
        };
        if self.entry.checkpoint != checkpoint {
            self.swap(checkpoint).await?;
        }
        if self.entry.checkpoint == checkpoint && checkpoint.id() >= acknowledged.id() {
            self.unsaved = None;
        }
        Ok(())
    }

    async fn swap(&mut self, checkpoint: Checkpoint) -> Result<()> {
        self.entry_at = Instant::now();
        let told = match self.settle().await {
            Ok(()) => self.move_entry(checkpoint).await,
            Err(error) => Err(error),
        };
        match told {
            Err(error) if error.kind() == ErrorKind::Fenced => Err(error),
            Err(error) => {
                tracing::warn!(secondary = self.secondary.name, error = %error, "the roster was not told");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// Finds out what became of a swap that was given up, or whose outcome is unknown: it may have arrived
    /// all the same, and then the next one must expect it.
    async fn settle(&mut self) -> Result<()> {
        let Some(pending) = &self.pending else { return Ok(()) };
        let load = self.hub.roster.load(&self.entry.name);
        let loaded = guarded("the roster", self.options.call_timeout, load).await?;
        if loaded.as_ref() == Some(pending) {
            self.entry = pending.clone();
        }
        self.pending = None;
        Ok(())
    }

    async fn move_entry(&mut self, checkpoint: Checkpoint) -> Result<()> {
        let new = CheckpointEntry { checkpoint, ..self.entry.clone() };
        self.pending = Some(new.clone());
        let swap = self.hub.roster.swap(&self.entry.name, Some(&self.entry), Some(&new));
        let swapped = guarded("the roster", self.options.call_timeout, swap).await;
        match &swapped {
            Ok(()) => (self.entry, self.pending) = (new, None),
            Err(error) if error.kind() == ErrorKind::Fenced => self.pending = None,
            Err(_) => {}
        }
        swapped
    }
}
