//! Between the callers and the committer: what waits for its commit, the bounds, and the end.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, Semaphore, SemaphorePermit, TryAcquireError, watch};

use super::JournalOptions;
use super::group::{Payloads, Request, Room};
use crate::{Error, EventId, Result};

/// Shared by the handles of a journal and its committer.
#[derive(Debug)]
pub(super) struct Queue {
    inner: Mutex<Inner>,
    /// Something stands in the queue, or the journal was closed.
    work: Notify,
    events: Bound,
    bytes: Bound,
    ended: watch::Sender<bool>,
}

#[derive(Debug)]
struct Inner {
    requests: Vec<Request>,
    state: State,
    progress: Progress,
}

#[derive(Debug)]
enum State {
    Open,
    /// What is in the queue is still committed; nothing more is taken.
    Closing,
    /// The committer has gone, with the error that stopped it.
    Ended(Option<Error>),
}

/// How far the log is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Progress {
    /// The last durable event.
    pub(super) head: Option<EventId>,
    /// Events behind the newest snapshot, or since the journal was opened.
    pub(super) events: u64,
    /// The head when the journal was opened, until a snapshot was written or the events before it counted.
    pub(super) uncounted: Option<EventId>,
}

impl Queue {
    pub(super) fn new(head: Option<EventId>, options: &JournalOptions) -> Self {
        let progress = Progress { head, events: 0, uncounted: head };
        Self {
            inner: Mutex::new(Inner { requests: Vec::new(), state: State::Open, progress }),
            work: Notify::new(),
            events: Bound::new(options.in_flight_events_max),
            bytes: Bound::new(options.in_flight_bytes_max),
            ended: watch::Sender::new(false),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for room, and encodes. Whoever waits for bytes keeps only their number, so that a crowd that
    /// waits needs no memory.
    pub(super) async fn reserve(
        &self,
        events: usize,
        metadata_bytes: usize,
        encode: impl Fn() -> Result<Payloads>,
    ) -> Result<(Payloads, Reservation<'_>)> {
        let taken = match self.events.try_take(events) {
            Err(TryAcquireError::NoPermits) => self.events.take(events).await,
            permit => permit.ok(),
        };
        let taken = taken.ok_or_else(|| self.refusal())?;
        let payloads = encode()?;
        let bytes = payloads.bytes() + events * metadata_bytes;
        let (payloads, bytes) = match self.bytes.try_take(bytes) {
            Ok(permit) => (payloads, permit),
            Err(TryAcquireError::Closed) => return Err(self.refusal()),
            Err(TryAcquireError::NoPermits) => {
                drop(payloads);
                let permit = self.bytes.take(bytes).await.ok_or_else(|| self.refusal())?;
                (encode()?, permit)
            }
        };
        Ok((payloads, Reservation { events: taken, bytes }))
    }

    /// From here on the committer owns the request: it is committed or not, whoever still waits for it.
    pub(super) fn hand_over(&self, reservation: Reservation<'_>, request: Request) -> Result<()> {
        let mut inner = self.lock();
        if !matches!(inner.state, State::Open) {
            drop(inner);
            return Err(self.refusal());
        }
        let was_empty = inner.requests.is_empty();
        inner.requests.push(request);
        drop(inner);
        reservation.keep();
        if was_empty {
            self.work.notify_one();
        }
        Ok(())
    }

    /// Everything that waits, swapped for the empty `requests`. `false`: there is nothing, and never will be.
    pub(super) async fn take(&self, requests: &mut Vec<Request>) -> bool {
        debug_assert!(requests.is_empty(), "what was taken is committed first");
        loop {
            {
                let mut inner = self.lock();
                if !inner.requests.is_empty() {
                    std::mem::swap(&mut inner.requests, requests);
                    return true;
                }
                if !matches!(inner.state, State::Open) {
                    return false;
                }
            }
            self.work.notified().await;
        }
    }

    /// How many requests wait.
    pub(super) fn waiting(&self) -> usize {
        self.lock().requests.len()
    }

    /// Gives room back.
    pub(super) fn release(&self, room: Room) {
        self.events.semaphore.add_permits(room.events);
        self.bytes.semaphore.add_permits(room.bytes);
    }

    pub(super) fn progress(&self) -> Progress {
        self.lock().progress
    }

    pub(super) fn update(&self, update: impl FnOnce(&mut Progress)) {
        update(&mut self.lock().progress);
    }

    /// Takes nothing more; the committer ends when the queue is empty.
    pub(super) fn close(&self) {
        let mut inner = self.lock();
        if matches!(inner.state, State::Open) {
            inner.state = State::Closing;
            drop(inner);
            self.work.notify_one();
        }
    }

    /// The committer has gone: whoever waits is told.
    pub(super) fn end(&self, error: Option<Error>) {
        let requests = {
            let mut inner = self.lock();
            inner.state = State::Ended(error);
            std::mem::take(&mut inner.requests)
        };
        for request in requests {
            drop(request.answer.send(Err(self.refusal())));
        }
        self.events.semaphore.close();
        self.bytes.semaphore.close();
        self.ended.send_replace(true);
    }

    /// Waits until the committer has gone.
    pub(super) async fn ended(&self) -> Result<()> {
        // The sender lives in `self`.
        drop(self.ended.subscribe().wait_for(|ended| *ended).await);
        match &self.lock().state {
            State::Ended(Some(error)) => Err(error.clone()),
            _ => Ok(()),
        }
    }

    /// Why nothing more is taken.
    fn refusal(&self) -> Error {
        match &self.lock().state {
            State::Ended(Some(cause)) => stopped(cause),
            _ => Error::closed("the journal was closed, nothing of this append was written"),
        }
    }
}

/// The answer to what is asked of a journal that `cause` has stopped.
pub(super) fn stopped(cause: &Error) -> Error {
    Error::closed(
        "the journal has stopped, nothing of this append was written; open the store and a journal again, \
         and hydrate",
    )
    .because(cause.clone())
}

/// A bound that callers take room from. What is larger than all of it takes all of it, and so goes alone.
#[derive(Debug)]
struct Bound {
    semaphore: Semaphore,
    max: u32,
}

impl Bound {
    fn new(max: usize) -> Self {
        let max = u32::try_from(max).unwrap_or(u32::MAX).max(1);
        Self { semaphore: Semaphore::new(max as usize), max }
    }

    fn clamp(&self, amount: usize) -> u32 {
        u32::try_from(amount).unwrap_or(u32::MAX).min(self.max)
    }

    async fn take(&self, amount: usize) -> Option<SemaphorePermit<'_>> {
        self.semaphore.acquire_many(self.clamp(amount)).await.ok()
    }

    fn try_take(&self, amount: usize) -> Result<SemaphorePermit<'_>, TryAcquireError> {
        self.semaphore.try_acquire_many(self.clamp(amount))
    }
}

/// Room that was taken; dropped, it is given back.
#[derive(Debug)]
pub(super) struct Reservation<'a> {
    events: SemaphorePermit<'a>,
    bytes: SemaphorePermit<'a>,
}

impl Reservation<'_> {
    pub(super) fn room(&self) -> Room {
        Room { events: self.events.num_permits(), bytes: self.bytes.num_permits() }
    }

    /// The room now belongs to the request.
    fn keep(self) {
        self.events.forget();
        self.bytes.forget();
    }
}
