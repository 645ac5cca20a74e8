//! The committer: the one task that writes to the primary. It outlives its callers, so that no dropped
//! append can come between a commit and its publication.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tracing::Instrument as _;

use super::guard::{backoff, guarded, guarded_until, later};
use super::hub::Hub;
use super::lineage::{self, Place};
use super::options::FanOutOptions;
use crate::{Batch, Checkpoint, Durability, Error, ErrorKind, Event, EventId, Primary, Result, Retry};

/// The pauses between attempts to learn the outcome of a write.
const BACKOFF_MIN: Duration = Duration::from_millis(10);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// The longest pause between two looks at how far the primary is durable, when looking fails.
const LOOK_PAUSE_MAX: Duration = Duration::from_secs(1);

pub(crate) enum Command {
    Append(Append),
    Checkpoint {
        reply: oneshot::Sender<Result<Checkpoint>>,
    },
    Head {
        reply: oneshot::Sender<Result<Checkpoint>>,
    },
    /// Publishes what is durable, waits for the rest to become so, and ends.
    Finish {
        reply: oneshot::Sender<()>,
    },
}

pub(crate) struct Append {
    pub(crate) after: Option<EventId>,
    pub(crate) events: Vec<Event>,
    pub(crate) deadline: Option<Instant>,
    pub(crate) claim: Claim,
    pub(crate) reply: oneshot::Sender<Result<()>>,
}

/// Whether an append was begun, or given up before: the first to take it decides.
#[derive(Clone, Default)]
pub(crate) struct Claim(Arc<AtomicBool>);

impl Claim {
    /// Returns whether this call is the first.
    pub(crate) fn take(&self) -> bool {
        !self.0.swap(true, Ordering::AcqRel)
    }
}

pub(crate) struct Committer<P> {
    primary: Arc<P>,
    hub: Arc<Hub>,
    options: FanOutOptions,
    rng: fastrand::Rng,
    /// The newest event that the primary may hold, if it is not published.
    unsettled: Option<EventId>,
    /// Looks at the primary's checkpoint that failed, one after the other.
    looks_failed: u32,
}

impl<P: Primary> Committer<P> {
    pub(crate) fn new(primary: Arc<P>, hub: Arc<Hub>, options: FanOutOptions, rng: fastrand::Rng) -> Self {
        Self { primary, hub, options, rng, unsettled: None, looks_failed: 0 }
    }

    /// Serves one command after the other, until the log is closed or all handles are gone.
    pub(crate) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        loop {
            let command = tokio::select! {
                biased;
                command = commands.recv() => command,
                () = tokio::time::sleep(self.look_pause()), if self.unsettled.is_some() => {
                    self.look().await;
                    continue;
                }
            };
            // A caller that is gone does not want its reply: what was done stays done.
            match command {
                Some(Command::Append(append)) => {
                    if append.claim.take() {
                        let span = tracing::debug_span!("append", after = ?append.after, events = append.events.len());
                        let appended = self.append(&append).instrument(span).await;
                        append.reply.send(appended).ok();
                    }
                }
                Some(Command::Checkpoint { reply }) => {
                    reply.send(self.checkpoint().await).ok();
                }
                Some(Command::Head { reply }) => {
                    let timeout = self.options.call_timeout;
                    reply.send(guarded("the primary's head", timeout, || self.primary.head()).await).ok();
                }
                Some(Command::Finish { reply }) => {
                    self.finish().await;
                    reply.send(()).ok();
                    return;
                }
                None => return self.hub.abandon(),
            }
        }
    }

    async fn append(&mut self, append: &Append) -> Result<()> {
        self.hub.admits_appends()?;
        if append.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return Err(late());
        }
        let batch = Batch::new(append.after, &append.events)?;
        let last = batch.last();
        let published = self.hub.feed.head();
        // Sent again, or from a caller that knows another history. Does the primary still have ours?
        if batch.after() < published {
            self.checkpoint().await.map_err(Error::nothing_applied)?;
            self.hub.admits_appends()?;
        }
        let appended = match append.deadline {
            Some(deadline) => self.attempt(batch, deadline).await,
            None => self.resolved(batch).await,
        };
        match appended {
            Ok(()) => {}
            Err(error)
                if error.kind() == ErrorKind::Gap && published.is_some() && batch.after() <= published =>
            {
                let head = published.unwrap_or(EventId::ZERO);
                let lost = lineage::diverged(head, "the primary lost this event, which it had acknowledged");
                return Err(self.stop(lost.because(error)));
            }
            Err(error) => {
                if is_unknown(&error) {
                    self.unsettled = self.unsettled.max(Some(last.id()));
                }
                return Err(error);
            }
        }
        self.hub.feed.stage(batch.after(), batch.events()).map_err(|error| self.stop(error))?;
        if self.primary.durability() == Durability::Durable {
            // What else was open is at or below this event, or was never applied.
            self.unsettled = None;
            return self.publish(Place::Event(last.clone()));
        }
        self.unsettled = Some(last.id());
        self.look().await;
        Ok(())
    }

    /// Sends a batch once, to be answered before `deadline`.
    async fn attempt(&self, batch: Batch<'_>, deadline: Instant) -> Result<()> {
        let batch = batch.with_deadline(Some(deadline));
        guarded_until("the primary's append", deadline, || self.primary.append(batch)).await
    }

    /// Sends the same bytes under the same ids until the outcome is known, or stops the log.
    async fn resolved(&mut self, batch: Batch<'_>) -> Result<()> {
        let give_up = later(self.options.resolve_timeout);
        let mut was_unknown = false;
        for attempt in 0.. {
            let deadline = later(self.options.call_timeout);
            let Err(error) = self.attempt(batch, deadline).await else { return Ok(()) };
            was_unknown |= is_unknown(&error);
            if !was_unknown {
                return Err(error);
            }
            // A refusal of a later attempt says nothing about the first.
            let is_final = matches!(error.retry(), Retry::Never) && error.kind() != ErrorKind::Bug;
            let pause = backoff(&mut self.rng, attempt, BACKOFF_MIN, BACKOFF_MAX);
            if is_final || error.kind() == ErrorKind::Gap || Instant::now() + pause >= give_up {
                self.unsettled = Some(batch.last().id());
                return Err(self.stop(outcome_unknown(batch, error)));
            }
            tracing::warn!(%error, ?pause, first = %batch.first().id(), "sending a write of unknown outcome again");
            tokio::time::sleep(pause).await;
        }
        unreachable!("there is always another attempt until the time-out")
    }

    /// Stops the log for good.
    fn stop(&self, error: Error) -> Error {
        tracing::error!(%error, "the log stopped");
        self.hub.feed.stop(error.clone());
        error
    }

    fn publish(&self, head: Place) -> Result<()> {
        self.hub.feed.publish(head).map_err(|error| self.stop(error))
    }

    /// Asks the primary how far it is durable, and publishes that.
    async fn checkpoint(&mut self) -> Result<Checkpoint> {
        let timeout = self.options.call_timeout;
        let checkpoint = guarded("the primary's checkpoint", timeout, || self.primary.checkpoint()).await?;
        match Place::of(checkpoint) {
            Some(head) => {
                self.unsettled = self.unsettled.filter(|open| *open > head.id());
                // A log that lost events stops. The checkpoint is what the primary has all the same.
                drop(self.publish(head));
            }
            None => {
                if let Some(head) = self.hub.feed.head() {
                    self.stop(lineage::diverged(head, "the primary is empty, and had this event before"));
                }
            }
        }
        Ok(checkpoint)
    }

    /// Looks how far the primary is durable. A failure is logged once, until a look succeeds.
    async fn look(&mut self) {
        match self.checkpoint().await {
            Ok(_) if self.looks_failed > 0 => {
                tracing::info!(failed = self.looks_failed, "the primary reports its checkpoint again");
                self.looks_failed = 0;
            }
            Ok(_) => {}
            Err(error) => {
                if self.looks_failed == 0 {
                    tracing::warn!(%error, "the primary does not report its checkpoint: retrying");
                }
                self.looks_failed = self.looks_failed.saturating_add(1);
            }
        }
    }

    fn look_pause(&self) -> Duration {
        // A log that stopped has nobody who waits for it.
        if self.hub.feed.stopped().is_some() {
            return LOOK_PAUSE_MAX.max(self.options.sync_poll);
        }
        let factor = 1_u32.checked_shl(self.looks_failed).unwrap_or(u32::MAX);
        let pause = self.options.sync_poll.saturating_mul(factor);
        pause.min(LOOK_PAUSE_MAX.max(self.options.sync_poll))
    }

    /// Waits until everything that was acknowledged is durable, and published.
    async fn finish(&mut self) {
        let stopped = self.hub.feed.stopped().is_some();
        self.hub.feed.stop(Error::closed("the fan-out was closed; open it again to append"));
        // After an unknown outcome there may be nothing to wait for.
        while self.unsettled.is_some() {
            self.look().await;
            if stopped || self.primary.durability() == Durability::Durable {
                return;
            }
            if self.unsettled.is_some() {
                tokio::time::sleep(self.options.sync_poll.max(Duration::from_millis(1))).await;
            }
        }
    }
}

/// Whether the batch may have been applied. A gap is an answer: it was not.
fn is_unknown(error: &Error) -> bool {
    match error.kind() {
        ErrorKind::Gap => false,
        ErrorKind::Bug => true,
        _ => error.retry() == Retry::AfterCheckpoint,
    }
}

/// The deadline of a batch was over before it was sent.
pub(crate) fn late() -> Error {
    let message = "the deadline of this append was over before its turn came; nothing was written: try again";
    Error::new(ErrorKind::Unavailable, Retry::Safe, message)
}

fn outcome_unknown(batch: Batch<'_>, cause: Error) -> Error {
    let (first, last) = (batch.first().id(), batch.last().id());
    let message = format!(
        "whether events {first} to {last} are in the log could not be found out, so it takes no more: open the \
         fan-out again, which reads what is there"
    );
    Error::new(ErrorKind::Closed, Retry::AfterCheckpoint, message).at(first).because(cause)
}
