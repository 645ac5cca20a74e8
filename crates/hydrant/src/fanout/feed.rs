//! The feed of one log: the ring that all followers share, and whether more will come.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use super::lineage::Place;
pub(crate) use super::ring::Look;
use super::ring::Ring;
use super::signal::{Changes, Signal};
use crate::{Checkpoint, Error, Event, EventId, Result};

/// The [`Ring`] of a log, shared: what changes it wakes what waits for it.
pub(crate) struct Feed {
    state: Mutex<State>,
    /// Wakes followers.
    moved: Signal,
    /// Wakes what waits for the log and its secondaries.
    signal: Signal,
}

struct State {
    ring: Ring,
    /// The error that the log stopped with.
    failed: Option<Error>,
    /// Why no more events will come, other than an error.
    ended: Option<&'static str>,
    is_closed: bool,
}

impl Feed {
    pub(crate) fn new(head: Checkpoint, signal: Signal, events_max: usize, bytes_max: usize) -> Self {
        let ring = Ring::new(Place::of(head), events_max, bytes_max);
        let state = State { ring, failed: None, ended: None, is_closed: false };
        Self { state: Mutex::new(state), moved: Signal::default(), signal }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, and wakes followers and all else that waits.
    fn update<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let result = change(&mut self.lock());
        self.moved.wake();
        self.signal.wake();
        result
    }

    /// Removes all events, and starts the ring anew after `head`.
    pub(crate) fn restart(&self, head: Option<Place>) {
        self.update(|state| state.ring.restart(head));
    }

    /// Adds events, which follow `after` in the log. Wakes no task: followers see them once they are published.
    ///
    /// # Errors
    /// `Diverged` if an event that was published or staged has another event in its place.
    pub(crate) fn stage(&self, after: Option<EventId>, events: &[Event]) -> Result<()> {
        self.lock().ring.stage(after, events)
    }

    /// Publishes everything up to `head`, which must be durable.
    ///
    /// # Errors
    /// `Diverged` if the log ends before what was published, or has another event in its place.
    pub(crate) fn publish(&self, head: Place) -> Result<()> {
        let has_moved = {
            let ring = &mut self.lock().ring;
            let before = ring.head_id();
            ring.publish(head)?;
            ring.head_id() != before
        };
        if has_moved {
            self.moved.wake();
            self.signal.wake();
        }
        Ok(())
    }

    /// Marks the accepted events that the primary lost. `newest` is its newest event, durable or not.
    ///
    /// # Errors
    /// `Diverged` if the primary has another event in the place of an accepted one.
    pub(crate) fn lose_after(&self, newest: Option<Place>) -> Result<()> {
        self.update(|state| state.ring.lose_after(newest))
    }

    /// Returns the error if a batch has another event in the place of one that the primary is known to have lost, or
    /// cannot be compared with it.
    pub(crate) fn replaces_lost(&self, after: Option<EventId>, events: &[Event]) -> Option<Error> {
        self.lock().ring.replaces_lost(after, events)
    }

    /// Returns whether the primary lost accepted events, as far as is known.
    pub(crate) fn has_lost(&self) -> bool {
        self.lock().ring.has_lost()
    }

    /// Stops the log because of this error: it takes no more events. The first error is kept.
    pub(crate) fn stop(&self, error: Error) {
        self.update(|state| {
            state.failed.get_or_insert(error);
        });
    }

    /// The log is complete.
    pub(crate) fn end(&self) {
        self.update(|state| {
            state.ended.get_or_insert("the end of the log was reached");
        });
    }

    /// Nothing more will come: followers end once they are at the head.
    pub(crate) fn close(&self) {
        self.update(|state| {
            state.is_closed = true;
            state.ended.get_or_insert("the log was closed; open it again to continue");
        });
    }

    /// Why the log takes no more events.
    pub(crate) fn stopped(&self) -> Option<Error> {
        let state = self.lock();
        state.failed.clone().or_else(|| state.ended.map(Error::closed))
    }

    /// The error that the log stopped with.
    pub(crate) fn failed(&self) -> Option<Error> {
        self.lock().failed.clone()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.lock().is_closed
    }

    /// Returns whether the ring has this event.
    pub(crate) fn has(&self, place: &Place) -> bool {
        self.lock().ring.has(place)
    }

    /// Returns whether the ring has the events after `position`, and can take more without evicting one of them.
    pub(crate) fn has_room_above(&self, position: Option<EventId>) -> bool {
        self.lock().ring.has_room_above(position)
    }

    /// The newest event that may be seen.
    pub(crate) fn head_place(&self) -> Option<Place> {
        self.lock().ring.head().cloned()
    }

    pub(crate) fn head(&self) -> Option<EventId> {
        self.lock().ring.head_id()
    }

    /// The newest event up to `id` whose digest is known, published or not.
    pub(crate) fn known_up_to(&self, id: EventId) -> Option<Place> {
        self.lock().ring.known_up_to(id)
    }

    /// The newest event that was acknowledged, durable or not, and that the primary has not lost.
    pub(crate) fn newest(&self) -> Option<EventId> {
        self.lock().ring.newest()
    }

    pub(crate) fn subscribe(&self) -> Changes {
        self.moved.subscribe()
    }

    /// Returns the events after `position`: at most `events_max` events and `bytes_max` bytes, but always the first.
    ///
    /// # Errors
    /// `Diverged` if the ring has another event at `position`.
    pub(crate) fn look(&self, position: Option<&Place>, events_max: usize, bytes_max: usize) -> Result<Look> {
        self.lock().ring.look(position, events_max, bytes_max)
    }

    /// Returns how many events a follower has not received, and when the oldest of them was published.
    pub(crate) fn lag(&self, position: Option<EventId>) -> (u64, Option<Instant>) {
        self.lock().ring.lag(position)
    }

    /// Returns how many acknowledged events, durable or not, a follower has not received.
    pub(crate) fn lag_to_newest(&self, position: Option<EventId>) -> u64 {
        let state = self.lock();
        state.ring.count(position, state.ring.newest())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_published_events_wake_followers() {
        let feed = Feed::new(Checkpoint::Empty, Signal::default(), 10, 10_000);
        let events: Vec<_> = (0..3).map(|id| Event::new(EventId::new(id), &id).unwrap()).collect();
        let mut moved = feed.subscribe();
        moved.mark_unchanged();
        feed.stage(None, &events).unwrap();
        assert!(!moved.has_changed());
        feed.publish(Place::Event(events[2].clone())).unwrap();
        assert!(moved.has_changed());
        moved.mark_unchanged();
        feed.publish(Place::Event(events[2].clone())).unwrap();
        assert!(!moved.has_changed(), "it is there already");
    }
}
