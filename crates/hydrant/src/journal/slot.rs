//! Submitting without waiting: a slot is room that was reserved before.

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::ops::RangeInclusive;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use serde::Serialize;
use serde_json::value::RawValue;
use tokio::sync::oneshot;

use super::group::{Kind, Payloads};
use super::queue::Answer;
use super::room::{Reservation, Room};
use super::{Handle, ids, lost};
use crate::mutants::mutant;
use crate::{EventId, Result};

/// Room in a journal for one [`submit`](Slot::submit), given back when the slot is dropped.
///
/// [`Journal::reserve`](crate::Journal::reserve) and [`Journal::try_reserve`](crate::Journal::try_reserve) return it.
/// A slot keeps its journal open, as a handle does.
///
/// A slot takes one event and one byte of the bounds. Events that need more take it without waiting, and overdraw the
/// bounds if it is not there: later callers wait until it is paid back. So the memory in use stays below the bounds
/// and one submission for each slot. Hold a slot only for as long as it takes to decide: a slot that is kept may be
/// the room that an append of the same task waits for.
pub struct Slot<T> {
    handle: Arc<Handle>,
    room: Room,
    events: PhantomData<fn(T)>,
}

/// Events that have their ids and wait for their commit.
#[derive(Debug)]
pub struct Submitted {
    /// The first and the last id; they have no gap. Void until `durable` is `Ok`.
    pub ids: RangeInclusive<EventId>,
    /// The outcome.
    pub durable: Durable,
}

/// The outcome of a submission: `Ok` once all of its events are durable, as the store's `Ok` defines it.
///
/// # Errors
/// With [`Retry::Safe`](crate::Retry::Safe), nothing was written, the ids are void and are issued again. Any other
/// error means what it means for [`Journal::append`](crate::Journal::append).
///
/// # Cancel safety
/// Dropping it changes nothing for the events: they are committed or not, wholly.
#[derive(Debug)]
#[must_use = "the events are not durable, and their ids are void, until it is `Ok`"]
pub struct Durable(oneshot::Receiver<Answer>);

impl<T> Slot<T> {
    pub(super) fn new(handle: Arc<Handle>, room: Room) -> Self {
        Self { handle, room, events: PhantomData }
    }
}

impl<T: Serialize> Slot<T> {
    /// Assigns ids to events that stay together, and hands them over to be committed, without waiting.
    ///
    /// Each event is a value and its metadata, one line of JSON. Ids are assigned in the order of the calls, across
    /// all callers of the journal, and begin after the last id that was assigned, durable or not. So a caller can
    /// decide on a state that is ahead of the disk, and submit again before the first outcome is known.
    ///
    /// If a commit fails, every later submission fails with [`Retry::Safe`](crate::Retry::Safe) as well, because the
    /// caller may have decided on the events that failed; its ids are issued again.
    ///
    /// # Errors
    /// `Invalid` when there are no events, when one cannot be written as JSON, is larger than the store takes, or has
    /// a line break; `Closed` after [`close`](crate::Journal::close) or a stop. Such a refusal changes nothing for
    /// other callers, and no id is assigned.
    pub fn submit(mut self, events: &[(T, Option<Box<RawValue>>)]) -> Result<Submitted> {
        let queue = &self.handle.queue;
        let mut reservation = Reservation::of(&queue.bounds, std::mem::take(&mut self.room));
        let pairs = events
            .iter()
            .map(|(value, metadata)| (value, metadata.as_deref().map(|json| json.get().as_bytes())));
        let payloads = Payloads::encode(pairs)?;
        reservation.grow(events.len(), payloads.bytes());
        let (first, outcome) = queue.push(reservation, Kind::Submit, payloads)?;
        Ok(Submitted { ids: ids(first, events.len()), durable: Durable(outcome) })
    }
}

impl<T> Drop for Slot<T> {
    fn drop(&mut self) {
        if !mutant("slot-keeps-room") {
            self.handle.queue.bounds.release(self.room);
        }
    }
}

impl<T> fmt::Debug for Slot<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot").finish_non_exhaustive()
    }
}

impl Future for Durable {
    type Output = Result<()>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        let answer = Pin::new(&mut self.0).poll(context);
        answer.map(|answer| answer.unwrap_or_else(|_| Err(lost())).map(drop))
    }
}
