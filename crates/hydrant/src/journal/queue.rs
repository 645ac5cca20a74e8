//! Between the callers and the committer: ids in call order, what waits for its commit, and the end.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot, watch};

use super::JournalOptions;
use super::group::{Kind, Payloads, Request};
use super::room::{Bounds, NoRoom, Reservation, SLOT};
use crate::mutants::mutant;
use crate::{Error, EventId, Result};

/// The answer to a request: the id of its first event once all of its events are durable.
pub(super) type Answer = Result<EventId>;

/// Shared by the handles of a journal and its committer.
#[derive(Debug)]
pub(super) struct Queue {
    inner: Mutex<Inner>,
    /// Wakes the committer: the queue is no longer empty, or the journal was closed.
    work: Notify,
    pub(super) bounds: Bounds,
    event_bytes_max: usize,
    ended: watch::Sender<bool>,
}

#[derive(Debug)]
struct Inner {
    requests: Vec<Request>,
    state: State,
    /// The last id that was assigned, durable or not.
    assigned: Option<EventId>,
    progress: Progress,
}

#[derive(Debug)]
enum State {
    Open,
    /// What is in the queue is still committed; nothing more is taken.
    Closing,
    /// The committer has ended, with the error that stopped it.
    Ended(Option<Error>),
}

/// How far the log is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Progress {
    /// The last event that the store acknowledged.
    pub(super) head: Option<EventId>,
    /// Events after the newest snapshot, or since the journal was opened.
    pub(super) events: u64,
    /// The head when the journal was opened, until a snapshot was written or the events before it counted.
    pub(super) uncounted: Option<EventId>,
}

impl Queue {
    pub(super) fn new(head: Option<EventId>, event_bytes_max: usize, options: &JournalOptions) -> Self {
        let progress = Progress { head, events: 0, uncounted: head };
        let inner = Inner { requests: Vec::new(), state: State::Open, assigned: head, progress };
        Self {
            inner: Mutex::new(inner),
            work: Notify::new(),
            bounds: Bounds::new(options),
            event_bytes_max,
            ended: watch::Sender::new(false),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for room, and encodes. A caller that waits for bytes holds no encoded payload.
    pub(super) async fn admit(
        &self,
        events: usize,
        encode: impl Fn() -> Result<Payloads>,
    ) -> Result<(Payloads, Reservation<'_>)> {
        let mut reservation = self.bounds.take_events(events).await.map_err(|none| self.no_room(none))?;
        let payloads = encode()?;
        let bytes = payloads.bytes();
        match reservation.try_add_bytes(bytes) {
            Ok(()) => Ok((payloads, reservation)),
            Err(NoRoom::Closed) => Err(self.refusal()),
            Err(NoRoom::Now) => {
                drop(payloads);
                reservation.add_bytes(bytes).await.map_err(|none| self.no_room(none))?;
                Ok((encode()?, reservation))
            }
        }
    }

    /// Waits for the room of a slot.
    pub(super) async fn reserve(&self) -> Result<Reservation<'_>> {
        let mut reservation =
            self.bounds.take_events(SLOT.events).await.map_err(|none| self.no_room(none))?;
        reservation.add_bytes(SLOT.bytes).await.map_err(|none| self.no_room(none))?;
        Ok(reservation)
    }

    /// Takes the room of a slot if it is there.
    pub(super) fn try_reserve(&self) -> Result<Reservation<'_>> {
        let mut reservation = self.bounds.try_take_events(SLOT.events).map_err(|none| self.no_room(none))?;
        reservation.try_add_bytes(SLOT.bytes).map_err(|none| self.no_room(none))?;
        Ok(reservation)
    }

    /// Assigns the next ids and hands the request over: from here on the committer owns it, and it is committed or
    /// not, whether its caller still waits or not.
    ///
    /// # Errors
    /// `Closed`; `Invalid` for an event that is too large or when the ids are used up; `Fenced` for a snapshot of
    /// another state than the newest. A refusal changes nothing for other callers.
    pub(super) fn push(
        &self,
        reservation: Reservation<'_>,
        kind: Kind,
        payloads: Payloads,
    ) -> Result<(EventId, oneshot::Receiver<Answer>)> {
        let (answer, outcome) = oneshot::channel();
        let mut inner = self.lock();
        if !matches!(inner.state, State::Open) {
            drop(inner);
            return Err(self.refusal());
        }
        if !mutant("stale-snapshot")
            && let Kind::Snapshot { of } = kind
            && of != inner.assigned
        {
            return Err(outdated(of, inner.assigned));
        }
        let first = first_after(inner.assigned).ok_or_else(used_up)?;
        let last = payloads.last_id(first).ok_or_else(used_up)?;
        payloads.check_size(first, kind, self.event_bytes_max)?;
        inner.assigned = Some(last);
        let was_empty = inner.requests.is_empty();
        inner.requests.push(Request { first, payloads, kind, room: reservation.keep(), answer });
        drop(inner);
        if was_empty {
            self.work.notify_one();
        }
        Ok((first, outcome))
    }

    /// Moves all queued requests into `requests`, which must be empty. `false`: there is nothing, and never will be.
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

    /// Issues the ids of a failed commit again. `pending`, which was taken but is neither committed nor refused, goes
    /// back to the front of the queue, and all that waits moves up behind the head.
    ///
    /// Returns the requests whose callers know their ids already, and whose ids would change.
    #[must_use]
    pub(super) fn move_up(&self, pending: impl Iterator<Item = Request>) -> Vec<Request> {
        let mut inner = self.lock();
        let later = std::mem::take(&mut inner.requests);
        let mut assigned = inner.progress.head;
        let mut void = Vec::new();
        for mut request in pending.chain(later) {
            match first_after(assigned) {
                Some(first) if first == request.first || request.kind.may_move() => {
                    request.first = first;
                    assigned = request.payloads.last_id(first);
                    inner.requests.push(request);
                }
                _ => void.push(request),
            }
        }
        inner.assigned = assigned;
        void
    }

    /// Returns whether more may come: no handle has closed the journal.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.lock().state, State::Open)
    }

    /// How many requests wait.
    pub(super) fn waiting(&self) -> usize {
        self.lock().requests.len()
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
            self.bounds.close();
            self.work.notify_one();
        }
    }

    /// Answers every caller that waits: the committer has ended.
    pub(super) fn end(&self, error: Option<Error>) {
        let requests = {
            let mut inner = self.lock();
            inner.state = State::Ended(error);
            std::mem::take(&mut inner.requests)
        };
        self.bounds.close();
        if mutant("stop-without-answers") {
            return std::mem::forget(requests);
        }
        for request in requests {
            request.answer.send(Err(self.refusal())).ok();
        }
        self.ended.send_replace(true);
    }

    /// Waits until the committer has ended.
    pub(super) async fn ended(&self) -> Result<()> {
        // The sender lives in `self`.
        drop(self.ended.subscribe().wait_for(|ended| *ended).await);
        match &self.lock().state {
            State::Ended(Some(error)) => Err(error.clone()),
            _ => Ok(()),
        }
    }

    fn no_room(&self, none: NoRoom) -> Error {
        match none {
            NoRoom::Closed => self.refusal(),
            NoRoom::Now => Error::unavailable(
                "the journal has no room: `in_flight_events_max` or `in_flight_bytes_max` is reached; wait for room \
                 with `reserve`, or try again later",
            ),
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

/// The id that follows `last`; `None` when the ids are used up.
fn first_after(last: Option<EventId>) -> Option<EventId> {
    last.map_or(Some(EventId::ZERO), EventId::next)
}

fn used_up() -> Error {
    Error::invalid(
        "the ids that a log can hold are used up, nothing of this append was written; begin another log",
    )
}

/// The answer to a caller of a journal that `cause` has stopped.
pub(super) fn stopped(cause: &Error) -> Error {
    Error::closed(
        "the journal has stopped, nothing of this append was written; open the store and a journal again, \
         and hydrate",
    )
    .because(cause.clone())
}

fn outdated(of: Option<EventId>, assigned: Option<EventId>) -> Error {
    let name =
        |id: Option<EventId>| id.map_or_else(|| "the empty log".to_owned(), |id| format!("event {id}"));
    let message = format!(
        "the snapshot is of the state at {}, but the log is at {}; nothing was written: fold the events after it \
         and take the snapshot again",
        name(of),
        name(assigned)
    );
    Error::fenced(message)
}
