//! The committer: the one task that writes, and outlives the callers.

use std::sync::Arc;

use tokio::time::Instant;

use super::JournalOptions;
use super::group::{self, Kind, Request, Room};
use super::queue::{self, Queue};
use crate::fanout::guard::{backoff, guarded, rng};
use crate::{Batch, Error, ErrorKind, Event, EventId, Result, Retry, Store};

pub(super) struct Committer {
    queue: Arc<Queue>,
    store: Arc<dyn Store>,
    options: JournalOptions,
    rng: fastrand::Rng,
    /// The last durable event. Nothing is written behind it whose fate is open.
    head: Option<EventId>,
    /// How it ended; a task that was torn down or panicked never says.
    ended: Option<Result<()>>,
}

/// Why a batch is not known to be durable.
enum Unwritten {
    /// Nothing of it was applied, so its ids are free.
    Refused(Error),
    /// Another writer, or a fate that cannot be known: the journal stops.
    Stop(Error),
}

impl Committer {
    pub(super) fn new(queue: Arc<Queue>, store: Arc<dyn Store>, options: JournalOptions) -> Self {
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

    /// Lets those who were just answered append again before the next group is closed, as long as more of
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

    /// Commits everything taken: neighbours as one group, each snapshot by itself.
    async fn commit_all(&mut self, requests: &mut Vec<Request>) -> Result<()> {
        let mut rest = requests.drain(..).peekable();
        while let Some(first) = rest.next() {
            let alone = first.kind != Kind::Events;
            let mut group = vec![first];
            if !alone {
                while let Some(next) = rest.next_if(|next| next.kind == Kind::Events) {
                    group.push(next);
                }
            }
            if let Err(error) = self.commit(group).await {
                let refusal = queue::stopped(&error);
                self.refuse(rest.collect(), &refusal);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Commits a group, and answers each of its callers. An error stops the journal.
    async fn commit(&mut self, mut group: Vec<Request>) -> Result<()> {
        if let Kind::Snapshot { of } = group[0].kind
            && of != self.head
        {
            let error = outdated(of, self.head);
            self.refuse(group, &error);
            return Ok(());
        }
        let time = self.options.clock.text();
        while !group.is_empty() {
            let unwritten = match group::encode(&group, self.head, &time) {
                Ok(events) => match self.persist(&events).await {
                    Ok(()) => {
                        self.acknowledge(group, &events);
                        return Ok(());
                    }
                    Err(unwritten) => unwritten,
                },
                Err(error) => Unwritten::Refused(error),
            };
            match unwritten {
                Unwritten::Refused(error) if error.kind() == ErrorKind::Invalid => {
                    let Some((request, error)) = group::remove_named(&mut group, self.head, &error) else {
                        self.refuse(group, &error);
                        return Ok(());
                    };
                    self.refuse(vec![request], &error);
                }
                Unwritten::Refused(error) => {
                    self.refuse(group, &error);
                    return Ok(());
                }
                Unwritten::Stop(error) => {
                    self.refuse(group, &error);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn acknowledge(&mut self, group: Vec<Request>, events: &[Event]) {
        let is_snapshot = group[0].kind != Kind::Events;
        self.head = events.last().map(Event::id);
        let head = self.head;
        self.queue.update(|progress| {
            progress.head = head;
            progress.events = if is_snapshot { 0 } else { progress.events + events.len() as u64 };
            if is_snapshot {
                progress.uncounted = None;
            }
        });
        let mut first = 0;
        let mut room = Room::default();
        for request in group {
            room.events += request.room.events;
            room.bytes += request.room.bytes;
            let id = events[first].id();
            first += request.payloads.count();
            drop(request.answer.send(Ok(id))); // who no longer waits is not told
        }
        self.queue.release(room);
    }

    fn refuse(&self, group: Vec<Request>, error: &Error) {
        for request in group {
            drop(request.answer.send(Err(error.clone())));
            self.queue.release(request.room);
        }
    }

    /// Writes a batch, and does not come back before its fate is known, or known to be unknown.
    async fn persist(&mut self, events: &[Event]) -> Result<(), Unwritten> {
        let batch = Batch::new(self.head, events).map_err(Unwritten::Refused)?;
        let Err(error) = self.attempt(batch).await else { return Ok(()) };
        match (error.kind(), error.retry()) {
            (ErrorKind::Fenced, _) => Err(Unwritten::Stop(error)),
            (_, Retry::Safe) => Err(Unwritten::Refused(error)),
            // The ids are free only if nothing of the batch is held.
            (ErrorKind::Invalid, _) if self.holds_nothing_new().await => Err(Unwritten::Refused(error)),
            _ => self.resolve(batch, error).await,
        }
    }

    /// Sends the same bytes under the same ids until their fate is known. Only Ok says that: what a later
    /// attempt met says nothing about the first.
    async fn resolve(&mut self, batch: Batch<'_>, mut error: Error) -> Result<(), Unwritten> {
        let deadline = Instant::now() + self.options.resolve_timeout;
        let (min, max) = (self.options.backoff_min, self.options.backoff_max);
        for attempt in 0.. {
            if is_final(&error) || Instant::now() >= deadline {
                break;
            }
            let pause = backoff(&mut self.rng, attempt, min, max);
            tracing::warn!(%error, ?pause, "a write of unknown outcome is sent again");
            tokio::time::sleep_until(deadline.min(Instant::now() + pause)).await;
            match self.attempt(batch).await {
                Ok(()) => return Ok(()),
                Err(met) => error = met,
            }
        }
        Err(Unwritten::Stop(unknown(batch, &error)))
    }

    async fn holds_nothing_new(&self) -> bool {
        let limit = self.options.append_timeout;
        let checkpoint = guarded("the store's checkpoint", limit, || self.store.checkpoint()).await;
        checkpoint.is_ok_and(|checkpoint| checkpoint.id() <= self.head)
    }

    async fn attempt(&self, batch: Batch<'_>) -> Result<()> {
        guarded("the store's append", self.options.append_timeout, || self.store.append(batch)).await
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        let aborted = || {
            Err(Error::new(
                ErrorKind::Bug,
                Retry::AfterCheckpoint,
                "the task of the journal ended under it, with its runtime; open the store and a journal again",
            ))
        };
        self.queue.end(self.ended.take().unwrap_or_else(aborted).err());
    }
}

/// Whether sending again cannot help: a person has to look, acknowledged events are missing, or the store
/// itself has stopped.
fn is_final(error: &Error) -> bool {
    error.retry() == Retry::Never || matches!(error.kind(), ErrorKind::Gap | ErrorKind::Closed)
}

fn unknown(batch: Batch<'_>, cause: &Error) -> Error {
    let (first, last) = (batch.first().id(), batch.last().id());
    let message = format!(
        "whether events {first} to {last} were written is not known, and the journal has stopped; open the \
         store and a journal again, and hydrate: the log tells"
    );
    Error::new(cause.kind(), Retry::AfterCheckpoint, message).at(first).because(cause.clone())
}

fn outdated(of: Option<EventId>, head: Option<EventId>) -> Error {
    let name =
        |id: Option<EventId>| id.map_or_else(|| "the empty log".to_owned(), |id| format!("event {id}"));
    let message = format!(
        "the snapshot is of the state at {}, but the log is at {}; nothing was written: fold what is behind \
         it and rotate again",
        name(of),
        name(head)
    );
    Error::fenced(message)
}
