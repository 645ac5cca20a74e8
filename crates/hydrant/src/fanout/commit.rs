//! The committer: the one task that writes to the primary. It outlives its callers, so that a dropped append never
//! separates a commit from its publication.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tracing::Instrument as _;

use super::guard::{backoff, guarded, guarded_until, later};
use super::hub::Hub;
use super::lineage::{self, Place};
use super::looks::{self, Looks};
use super::options::FanOutOptions;
use crate::mutants::mutant;
use crate::{Batch, Checkpoint, Durability, Error, ErrorKind, Event, EventId, Primary, Result, Retry};

/// The bounds of the pauses between attempts to learn the outcome of a write.
const BACKOFF_MIN: Duration = Duration::from_millis(10);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

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

/// Decides whether an append is begun or given up: the side that takes the claim first wins.
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
    durability: Durability,
    rng: fastrand::Rng,
    /// An append failed: the primary may be another copy of the log, and gets no append before it is compared.
    in_doubt: bool,
    /// A look failed, or could not be compared. The next append compares first, but a checkpoint that fails does not
    /// stop it.
    look_in_doubt: bool,
    /// The newest event that the primary has acknowledged, if it is not published.
    accepted: Option<EventId>,
    /// The newest event of a write with an unknown outcome, if it is not published.
    unknown: Option<EventId>,
    looks: Looks,
}

impl<P: Primary> Committer<P> {
    /// `accepted` is the newest event that the primary has acknowledged.
    pub(crate) fn new(
        primary: Arc<P>,
        hub: Arc<Hub>,
        options: FanOutOptions,
        durability: Durability,
        accepted: Option<EventId>,
    ) -> Self {
        Self {
            rng: hub.rng(),
            accepted: accepted.filter(|accepted| Some(*accepted) > hub.feed.head()),
            unknown: None,
            looks: Looks::new(&options),
            primary,
            hub,
            options,
            durability,
            in_doubt: false,
            look_in_doubt: false,
        }
    }

    /// Serves one command after the other, until the log is closed or all handles are gone.
    pub(crate) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        loop {
            let command = tokio::select! {
                biased;
                // Looks come first: they are rare, and a full queue must not keep events from being published.
                () = tokio::time::sleep_until(self.looks.next()), if self.is_unsettled() => {
                    self.look().await;
                    continue;
                }
                command = commands.recv() => command,
                // A command that comes meanwhile does not wait for this look.
                looked = self.idle_look(), if !self.is_unsettled() && self.hub.feed.stopped().is_none() => {
                    drop(self.take(looked.clone(), later(self.options.call_timeout)).await);
                    self.looks.log(looked.err().as_ref());
                    continue;
                }
            };
            let Some(command) = command else { return };
            // If the caller is gone, its reply is dropped; what was done is not undone.
            match command {
                Command::Append(append) => self.serve(append).await,
                Command::Checkpoint { reply } => {
                    let deadline = later(self.options.call_timeout);
                    reply.send(self.checkpoint(deadline).await).ok();
                }
                Command::Head { reply } => {
                    let timeout = self.options.call_timeout;
                    let head = guarded("the primary's head", timeout, || self.primary.head()).await;
                    self.look_in_doubt |= head.is_err();
                    reply.send(head).ok();
                }
                Command::Finish { reply } => {
                    self.finish().await;
                    reply.send(()).ok();
                    return;
                }
            }
        }
    }

    async fn serve(&mut self, append: Append) {
        let is_late = append.deadline.is_some_and(|deadline| deadline <= Instant::now());
        if is_late && !mutant("no-claim") {
            append.reply.send(Err(late())).ok();
        } else if append.claim.take() || mutant("no-claim") {
            let span = tracing::debug_span!("append", after = ?append.after, events = append.events.len());
            let appended = self.append(&append).instrument(span).await;
            append.reply.send(appended).ok();
        }
    }

    async fn append(&mut self, append: &Append) -> Result<()> {
        self.hub.admits_appends()?;
        let batch = Batch::new(append.after, &append.events)?;
        let appended = match append.deadline {
            Some(deadline) => self.attempt(batch, deadline).await,
            None => self.resolved(batch).await,
        };
        match appended {
            Ok(()) => self.accepted(batch),
            Err(error) => {
                if is_unknown(&error) {
                    self.unknown = self.unknown.max(Some(batch.last().id()));
                    self.looks.soon();
                }
                Err(error)
            }
        }
    }

    /// Sends a batch once, to be answered before `deadline`.
    async fn attempt(&mut self, batch: Batch<'_>, deadline: Instant) -> Result<()> {
        let published = self.hub.feed.head();
        if mutant("no-doubt") {
            (self.in_doubt, self.look_in_doubt) = (false, false);
        }
        let replaces_lost = || self.hub.feed.replaces_lost(batch.after(), batch.events());
        // The caller may know another history, or send again what is held.
        let must_compare = self.in_doubt || batch.after() < published || replaces_lost().is_some();
        if must_compare || self.look_in_doubt {
            self.compare(must_compare, deadline).await?;
        }
        if let Some(lost) = self.hub.feed.replaces_lost(batch.after(), batch.events()) {
            return Err(self.stop(lost));
        }
        let batch = batch.with_deadline(Some(deadline));
        let sent = guarded_until("the primary's append", deadline, || self.primary.append(batch)).await;
        self.in_doubt = sent.is_err();
        self.looks.asked();
        if sent.is_ok() && batch.after() < published && !mutant("lost-in-between") {
            return self.compare_again(deadline).await;
        }
        sent.map_err(|error| match published {
            Some(published)
                if error.kind() == ErrorKind::Gap
                    && batch.after() <= Some(published)
                    && !mutant("lost-tail") =>
            {
                let what = "the primary lost this event, which it had acknowledged";
                self.stop(lineage::diverged(published, what).because(error))
            }
            _ => error,
        })
    }

    /// Checks that the primary still has our history.
    ///
    /// # Errors
    /// `Diverged` if it does not: the log has stopped. A `Safe` error if the primary must be compared, and cannot be yet.
    async fn compare(&mut self, must_compare: bool, deadline: Instant) -> Result<()> {
        // If the comparison may fail, half of the time stays for the append.
        let left = deadline.saturating_duration_since(Instant::now());
        let patience = if must_compare { deadline } else { later((left / 2).min(looks::PAUSE_MAX)) };
        let asked = self.ask(patience).await;
        let mut compared = self.take(asked, patience).await;
        if compared.is_ok() && (self.accepted.is_some() || self.hub.feed.has_lost()) {
            // Accepted events may be lost, and other events may be in their place.
            compared = self.lose_what_is_lost(patience).await;
        }
        if let Some(lost) = self.hub.feed.failed().filter(|error| error.kind() == ErrorKind::Diverged) {
            return Err(lost);
        }
        match compared {
            Err(error) if must_compare => Err(error.nothing_applied()),
            _ => Ok(()),
        }
    }

    /// Checks once more that the primary has our history, after it took a batch that begins below the published head: it may
    /// have lost that head in between, and taken the batch in its place.
    ///
    /// # Errors
    /// `Diverged` if it did: the log has stopped. If the primary cannot be compared, the outcome is unknown.
    async fn compare_again(&mut self, deadline: Instant) -> Result<()> {
        let asked = self.ask(deadline).await;
        let compared = self.take(asked, deadline).await;
        self.in_doubt = compared.is_err();
        compared.map_err(|error| match error.retry() {
            Retry::Safe => error.with_retry(Retry::AfterCheckpoint),
            _ => error,
        })
    }

    /// Sends the same bytes under the same ids until the outcome is known, or stops the log.
    async fn resolved(&mut self, batch: Batch<'_>) -> Result<()> {
        let give_up = later(self.options.resolve_timeout);
        let mut was_unknown = false;
        for attempt in 0.. {
            let deadline = later(self.options.call_timeout).min(give_up);
            let Err(error) = self.attempt(batch, deadline).await else { return Ok(()) };
            was_unknown = is_unknown(&error) || was_unknown && !mutant("refusal-settles");
            if !was_unknown {
                return Err(error);
            }
            // A refusal of a later attempt does not settle the first.
            let is_final = matches!(error.retry(), Retry::Never) && error.kind() != ErrorKind::Bug;
            let pause = backoff(&mut self.rng, attempt, BACKOFF_MIN, BACKOFF_MAX);
            if is_final || error.kind() == ErrorKind::Gap || later(pause) >= give_up {
                return Err(self.stop(outcome_unknown(batch, error)));
            }
            tracing::warn!(%error, ?pause, first = %batch.first().id(), "sending a write of unknown outcome again");
            tokio::time::sleep(pause).await;
        }
        unreachable!("there is always another attempt until the time-out")
    }

    /// Stages a batch that the primary took. Publishes it if the primary's `Ok` means durable.
    fn accepted(&mut self, batch: Batch<'_>) -> Result<()> {
        let feed = &self.hub.feed;
        let last = batch.last();
        if Some(last.id()) > feed.newest() {
            // Every other open event is at or below this one, or was never applied.
            self.unknown = None;
        }
        feed.stage(batch.after(), batch.events()).map_err(|error| self.stop(error))?;
        if self.durability == Durability::Accepted && !mutant("publish-accepted") {
            self.accepted = feed.newest().max(self.accepted).filter(|newest| Some(*newest) > feed.head());
            self.looks.soon();
        } else if Some(last.id()) > feed.head() {
            feed.publish(Place::Event(last.clone())).map_err(|error| self.stop(error))?;
        }
        Ok(())
    }

    /// Returns whether the primary may hold events that are not published.
    fn is_unsettled(&self) -> bool {
        self.accepted.is_some() || self.unknown.is_some()
    }

    /// Stops the log for good.
    fn stop(&self, error: Error) -> Error {
        tracing::error!(%error, "the log stopped");
        self.hub.feed.stop(error.clone());
        error
    }

    /// Asks the primary how far it is durable, publishes that, and returns the primary's reply. If the log lost events,
    /// it stops.
    async fn checkpoint(&mut self, deadline: Instant) -> Result<Checkpoint> {
        let asked = self.ask(deadline).await;
        drop(self.take(asked.clone(), deadline).await);
        asked
    }

    async fn ask(&self, deadline: Instant) -> Result<Checkpoint> {
        guarded_until("the primary's checkpoint", deadline, || self.primary.checkpoint()).await
    }

    /// Waits until the primary was not asked for `idle_poll`, then asks it. So an idle log finds a lost tail.
    ///
    /// # Cancel safety
    /// Reads only.
    async fn idle_look(&self) -> Result<Checkpoint> {
        tokio::time::sleep_until(self.looks.next_idle()).await;
        self.ask(later(self.options.call_timeout)).await
    }

    /// Publishes how far the primary is durable.
    ///
    /// # Errors
    /// `Diverged` if the log lost events: it has stopped. Any other: the primary could not be compared.
    async fn take(&mut self, asked: Result<Checkpoint>, deadline: Instant) -> Result<()> {
        self.looks.asked();
        let published = match &asked {
            Ok(checkpoint) => self.publish(Place::of(*checkpoint), deadline).await,
            Err(error) => Err(error.clone()),
        };
        self.look_in_doubt = published.is_err();
        match (&asked, &published) {
            (Ok(checkpoint), Ok(())) => self.settled(checkpoint.id()),
            (Ok(_), Err(error)) if error.kind() == ErrorKind::Diverged => drop(self.stop(error.clone())),
            // The checkpoint cannot be compared yet. The next look compares it.
            (Ok(checkpoint), Err(error)) if checkpoint.id() > self.unknown => {
                tracing::warn!(%error, "the primary's newest events cannot be published yet");
                self.unknown = checkpoint.id();
                self.looks.soon();
            }
            // If it is known already, the looks get rarer.
            _ => {}
        }
        published
    }

    /// Records that everything up to `id` is published.
    fn settled(&mut self, id: Option<EventId>) {
        self.accepted = self.accepted.filter(|open| Some(*open) > id);
        self.unknown = self.unknown.filter(|open| Some(*open) > id);
    }

    /// Finds the accepted events that the primary does not have any more, so that no call waits for them.
    ///
    /// # Errors
    /// `Diverged` if the primary has another event in the place of one of them: the log has stopped. Any error of the
    /// primary.
    async fn lose_what_is_lost(&mut self, deadline: Instant) -> Result<()> {
        let asked = guarded_until("the primary's head", deadline, || self.primary.head());
        let newest = Place::of(asked.await?);
        let id = lineage::id_of(newest.as_ref());
        if id < self.accepted {
            tracing::warn!(accepted = ?self.accepted, newest = ?id, "the primary lost events that it had accepted");
            self.accepted = id;
        }
        let feed = &self.hub.feed;
        feed.lose_after(newest).map_err(|error| self.stop(error))?;
        // A failover back brings back what was lost.
        self.accepted = self.accepted.max(feed.newest()).filter(|accepted| Some(*accepted) > feed.head());
        Ok(())
    }

    /// Publishes the primary's head, after checking that it continues the history that was published before.
    async fn publish(&self, head: Option<Place>, deadline: Instant) -> Result<()> {
        let feed = &self.hub.feed;
        let published = feed.head_place().filter(|_| !mutant("lost-tail"));
        let Some(head) = head else {
            let lost = published.map(|lost| {
                lineage::diverged(lost.id(), "the primary is empty, and had acknowledged this event")
            });
            return lost.map_or(Ok(()), Err);
        };
        // The primary must also have the events that it accepted since then.
        let is_newer = published.is_none_or(|published| published.id() < head.id());
        if is_newer
            && !feed.has(&head)
            && let Some(known) = feed.known_up_to(head.id())
            && !mutant("unstaged-head-unchecked")
            && !mutant("lost-tail")
        {
            let check = || lineage::check(&*self.hub.source, &known);
            guarded_until("reading the primary", deadline, check).await?;
        }
        feed.publish(head)
    }

    /// Publishes how far the primary is durable, marks the events that it lost, and schedules the next look.
    async fn look(&mut self) {
        let before = self.hub.feed.head();
        let deadline = later(self.options.call_timeout);
        let mut looked = self.checkpoint(deadline).await.map(drop);
        if looked.is_ok() && self.accepted.is_some() && self.hub.feed.head() == before {
            looked = self.lose_what_is_lost(deadline).await;
        }
        self.looks.log(looked.err().as_ref());
        self.looks.looked(self.hub.feed.head() != before);
    }

    /// Waits until everything that was acknowledged is durable, and published.
    async fn finish(&mut self) {
        while self.is_unsettled() && !mutant("close-without-sync") {
            self.look().await;
            // After an unknown outcome there may be nothing to wait for.
            if self.accepted.is_none() || self.hub.feed.stopped().is_some() {
                return;
            }
            tokio::time::sleep_until(self.looks.next()).await;
        }
    }
}

/// Returns whether the batch may have been applied. After a `Gap`, it was not.
fn is_unknown(error: &Error) -> bool {
    match error.kind() {
        _ if mutant("unknown-is-refused") => false,
        ErrorKind::Gap => false,
        ErrorKind::Bug => true,
        _ => error.retry() == Retry::AfterCheckpoint,
    }
}

/// Returns the error for a batch whose deadline was over before it was sent.
pub(crate) fn late() -> Error {
    let message = "the deadline of this append was over before its turn came; nothing was written: try again";
    Error::unavailable(message)
}

fn outcome_unknown(batch: Batch<'_>, cause: Error) -> Error {
    let (first, last) = (batch.first().id(), batch.last().id());
    let message = format!(
        "whether events {first} to {last} are in the log is not known, so it takes no more: open the fan-out again, which \
         reads what is there"
    );
    Error::new(ErrorKind::Closed, Retry::AfterCheckpoint, message).at(first).because(cause)
}
