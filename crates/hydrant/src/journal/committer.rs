//! The committer: the one task that writes, and outlives the callers.

use std::sync::Arc;

use tokio::time::Instant;
use tracing::Instrument;

use super::group::{self, Request};
use super::queue::{self, Queue};
use super::room::Room;
use super::{JournalOptions, later, pause};
use crate::fanout::guard::{guarded, rng};
use crate::{Batch, CommitPoint, Error, ErrorKind, Event, EventId, Result, Retry};

pub(super) struct Committer {
    queue: Arc<Queue>,
    store: Arc<dyn CommitPoint>,
    options: JournalOptions,
    rng: fastrand::Rng,
    /// The last event that the store acknowledged. Nothing is written after an event of unknown outcome.
    head: Option<EventId>,
    /// How the journal ended. `None` if the task was dropped or panicked.
    ended: Option<Result<()>>,
}

/// Why a batch is not known to be durable.
enum Unwritten {
    /// Nothing of it was applied, so its ids are free.
    Refused(Error),
    /// Another writer, or an outcome that stays unknown: the journal stops.
    Stop(Error),
}

impl Committer {
    pub(super) fn new(queue: Arc<Queue>, store: Arc<dyn CommitPoint>, options: JournalOptions) -> Self {
        let rng = rng(options.seed);
        let head = queue.progress().head;
        Self { queue, store, options, rng, head, ended: None }
    }

    pub(super) async fn run(mut self) {
        let mut requests = Vec::new();
        while self.queue.take(&mut requests).await {
            let callers = requests.len();
            if let Err(error) = self.commit_all(&mut requests).await {
                tracing::error!(%error, "the journal has stopped");
                self.ended = Some(Err(error));
                return;
            }
            self.gather(callers).await;
        }
        self.ended = Some(Ok(()));
    }

    /// Lets the callers that were just answered append again before the next group is closed, as long as more of
    /// them come. Waking a task is the cost; a larger group is the gain. Alone, this is one yield.
    async fn gather(&self, callers: usize) {
        let mut waiting = 0;
        loop {
            tokio::task::yield_now().await;
            let now = self.queue.waiting();
            if now == waiting || now >= callers {
                return;
            }
            waiting = now;
        }
    }

    /// Commits everything taken: neighbours as one group, each snapshot by itself. After a refusal, what was not
    /// sent yet goes back to the queue. An error stops the journal.
    async fn commit_all(&mut self, requests: &mut Vec<Request>) -> Result<()> {
        let mut rest = requests.drain(..).peekable();
        while let Some(first) = rest.next() {
            let alone = first.kind.is_snapshot();
            let mut group = Vec::with_capacity(if alone { 1 } else { 1 + rest.len() });
            group.push(first);
            while let Some(next) = rest.next_if(|next| !alone && !next.kind.is_snapshot()) {
                group.push(next);
            }
            match self.commit(&group).await {
                Ok(events) => self.acknowledge(group, &events),
                Err(Unwritten::Refused(error)) => {
                    let named = match error.kind() {
                        ErrorKind::Invalid => group::remove_named(&mut group, &error),
                        _ => None,
                    };
                    let (failed, error) = match named {
                        Some((request, error)) => (vec![request], error),
                        None => (std::mem::take(&mut group), error),
                    };
                    // First the ids, then the answers: a caller that submits again gets an id that holds.
                    let void = self.queue.move_up(group.into_iter().chain(rest));
                    self.refuse(failed, &error);
                    self.refuse(void, &superseded(&error));
                    return Ok(());
                }
                Err(Unwritten::Stop(error)) => {
                    self.refuse(group, &error);
                    self.refuse(rest, &queue::stopped(&error));
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    async fn commit(&mut self, group: &[Request]) -> Result<Vec<Event>, Unwritten> {
        debug_assert!(self.head.is_none_or(|head| head.next() == Some(group[0].first)), "ids have no gap");
        let events = group::encode(group, &self.options.clock.text()).map_err(Unwritten::Refused)?;
        let batch = Batch::new(self.head, &events).map_err(Unwritten::Refused)?;
        let (first, last) = (batch.first().id(), batch.last().id());
        let span = tracing::debug_span!("append", %first, %last, callers = group.len());
        self.persist(batch).instrument(span).await?;
        Ok(events)
    }

    fn acknowledge(&mut self, group: Vec<Request>, events: &[Event]) {
        let is_snapshot = group[0].kind.is_snapshot();
        self.head = events.last().map(Event::id);
        let head = self.head;
        self.queue.update(|progress| {
            progress.head = head;
            progress.events = if is_snapshot { 0 } else { progress.events + events.len() as u64 };
            if is_snapshot {
                progress.uncounted = None;
            }
        });
        let mut room = Room::default();
        for request in group {
            room.events += request.room.events;
            room.bytes += request.room.bytes;
            request.answer.send(Ok(request.first)).ok(); // a caller that no longer waits needs no answer
        }
        self.queue.bounds.release(room);
    }

    fn refuse(&self, requests: impl IntoIterator<Item = Request>, error: &Error) {
        for request in requests {
            request.answer.send(Err(error.clone())).ok();
            self.queue.bounds.release(request.room);
        }
    }

    /// Writes a batch, and returns once its outcome is known, or known to stay unknown.
    async fn persist(&mut self, batch: Batch<'_>) -> Result<(), Unwritten> {
        let Err(error) = self.attempt(batch).await else { return Ok(()) };
        match (error.kind(), error.retry()) {
            (ErrorKind::Fenced, _) => Err(Unwritten::Stop(error)),
            (_, Retry::Safe) => Err(Unwritten::Refused(error)),
            // The ids are free only if nothing of the batch is held.
            (ErrorKind::Invalid, _) if self.holds_nothing_new().await => Err(Unwritten::Refused(error)),
            // The store had stopped before.
            (ErrorKind::Closed | ErrorKind::Diverged, Retry::Never) if self.holds_nothing_new().await => {
                Err(Unwritten::Stop(unwritten(batch, error)))
            }
            _ => self.resolve(batch, error).await,
        }
    }

    /// Sends the same bytes under the same ids until their outcome is known. Only `Ok` settles it: the error of a
    /// later attempt says nothing about the first.
    async fn resolve(&mut self, batch: Batch<'_>, mut error: Error) -> Result<(), Unwritten> {
        let mut deadline = later(self.options.resolve_timeout);
        for attempt in 0.. {
            if is_final(&error) || Instant::now() >= deadline {
                break;
            }
            let pause = pause(&mut self.rng, attempt, &self.options);
            tracing::warn!(%error, ?pause, "a write has an unknown outcome: sending it again");
            tokio::time::sleep_until(deadline.min(later(pause))).await;
            match self.attempt(batch).await {
                Ok(()) => return Ok(()),
                Err(met) => error = met,
            }
            // The store replies, and takes nothing for now. Waiting for back-pressure never stops the journal, and
            // never keeps a closed one from ending.
            let is_back_pressure = error.kind() == ErrorKind::Unavailable && error.retry() == Retry::Safe;
            if is_back_pressure && self.queue.is_open() {
                deadline = later(self.options.resolve_timeout);
            }
        }
        Err(Unwritten::Stop(unknown(batch, &error)))
    }

    /// Returns whether the store's newest event, durable or not, is still the one before the batch.
    async fn holds_nothing_new(&self) -> bool {
        let limit = self.options.append_timeout;
        let head = guarded("the store's head", limit, || self.store.head()).await;
        head.is_ok_and(|head| head.id() <= self.head)
    }

    /// One attempt. The journal is the resolver of its batches, so each attempt has a deadline.
    async fn attempt(&self, batch: Batch<'_>) -> Result<()> {
        let limit = self.options.append_timeout;
        let batch = batch.with_deadline(Some(later(limit)));
        guarded("the store's append", limit, || self.store.append(batch)).await
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        let aborted = || {
            Err(Error::new(
                ErrorKind::Bug,
                Retry::AfterCheckpoint,
                "the task of the journal ended early: its runtime was shut down, or its clock panicked; open the store \
                 and a journal again",
            ))
        };
        self.queue.end(self.ended.take().unwrap_or_else(aborted).err());
    }
}

/// Returns whether a retry cannot help: an operator is needed, acknowledged events are missing, or the store has
/// stopped.
fn is_final(error: &Error) -> bool {
    error.retry() == Retry::Never || matches!(error.kind(), ErrorKind::Gap | ErrorKind::Closed)
}

fn unknown(batch: Batch<'_>, cause: &Error) -> Error {
    let (first, last) = (batch.first().id(), batch.last().id());
    let message = format!(
        "whether events {first} to {last} were written is not known, and the journal has stopped; open the \
         store and a journal again, and hydrate: the log shows it"
    );
    Error::new(cause.kind(), Retry::AfterCheckpoint, message).at(first).because(cause.clone())
}

fn unwritten(batch: Batch<'_>, cause: Error) -> Error {
    let (first, last) = (batch.first().id(), batch.last().id());
    let message = format!(
        "nothing of events {first} to {last} was written, and the journal has stopped; open the store and a journal \
         again, and hydrate"
    );
    Error::new(cause.kind(), Retry::Never, message).at(first).because(cause)
}

/// The answer to a caller that knows its ids, after the commit of events before them failed.
fn superseded(cause: &Error) -> Error {
    Error::unavailable("events before these were not saved, so nothing of this append was written and its ids are void; fold what \
         was saved, decide again and submit again",
    )
    .because(cause.clone())
}
