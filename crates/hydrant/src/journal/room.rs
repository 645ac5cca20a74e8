//! The bounds of what waits for its commit, and the room that callers take from them.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Semaphore, TryAcquireError};

use super::JournalOptions;

/// How much of the bounds is taken.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Room {
    pub(super) events: usize,
    pub(super) bytes: usize,
}

/// What a slot takes: the smallest amount of each bound. What its events need beyond it is overdrawn.
pub(super) const SLOT: Room = Room { events: 1, bytes: 1 };

/// The bounds in events and in bytes.
#[derive(Debug)]
pub(super) struct Bounds {
    events: Bound,
    bytes: Bound,
}

/// No room now, or none ever again because the journal was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoRoom {
    Now,
    Closed,
}

impl Bounds {
    pub(super) fn new(options: &JournalOptions) -> Self {
        let (events, bytes) = (options.in_flight_events_max, options.in_flight_bytes_max);
        Self { events: Bound::new(events), bytes: Bound::new(bytes) }
    }

    /// Waits for room for events; callers are served in the order of their calls.
    pub(super) async fn take_events(&self, events: usize) -> Result<Reservation<'_>, NoRoom> {
        match self.try_take_events(events) {
            Err(NoRoom::Now) => {}
            done => return done,
        }
        let events = self.events.take(events).await?;
        Ok(Reservation { bounds: self, room: Room { events, bytes: 0 } })
    }

    pub(super) fn try_take_events(&self, events: usize) -> Result<Reservation<'_>, NoRoom> {
        let events = self.events.try_take(events)?;
        Ok(Reservation { bounds: self, room: Room { events, bytes: 0 } })
    }

    /// Gives room back.
    pub(super) fn release(&self, room: Room) {
        self.events.release(room.events);
        self.bytes.release(room.bytes);
    }

    /// Refuses every caller that waits for room, and every later one.
    pub(super) fn close(&self) {
        self.events.semaphore.close();
        self.bytes.semaphore.close();
    }
}

/// Room that was taken. Dropped, it is given back.
#[derive(Debug)]
pub(super) struct Reservation<'a> {
    bounds: &'a Bounds,
    room: Room,
}

impl<'a> Reservation<'a> {
    /// Takes back the ownership of room that [`keep`](Reservation::keep) returned.
    pub(super) fn of(bounds: &'a Bounds, room: Room) -> Self {
        Self { bounds, room }
    }

    pub(super) async fn add_bytes(&mut self, bytes: usize) -> Result<(), NoRoom> {
        self.room.bytes += self.bounds.bytes.take(bytes).await?;
        Ok(())
    }

    pub(super) fn try_add_bytes(&mut self, bytes: usize) -> Result<(), NoRoom> {
        self.room.bytes += self.bounds.bytes.try_take(bytes)?;
        Ok(())
    }

    /// Grows to this many events and bytes without waiting; what is not there is overdrawn.
    pub(super) fn grow(&mut self, events: usize, bytes: usize) {
        self.room.events += self.bounds.events.overdraw(events, self.room.events);
        self.room.bytes += self.bounds.bytes.overdraw(bytes, self.room.bytes);
    }

    /// Returns the room, which the caller now has to release.
    pub(super) fn keep(mut self) -> Room {
        std::mem::take(&mut self.room)
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.bounds.release(self.room);
    }
}

/// A bound that callers take room from. An amount that is larger than all of it takes all of it, and so goes alone.
#[derive(Debug)]
struct Bound {
    semaphore: Semaphore,
    max: u32,
    /// What was taken beyond the bound; paid with the next room that is given back.
    debt: AtomicUsize,
}

impl Bound {
    fn new(max: usize) -> Self {
        let max = u32::try_from(max.clamp(1, Semaphore::MAX_PERMITS)).unwrap_or(u32::MAX);
        Self { semaphore: Semaphore::new(max as usize), max, debt: AtomicUsize::new(0) }
    }

    fn clamp(&self, amount: usize) -> u32 {
        u32::try_from(amount).unwrap_or(u32::MAX).min(self.max)
    }

    async fn take(&self, amount: usize) -> Result<usize, NoRoom> {
        let amount = self.clamp(amount);
        let permits = self.semaphore.acquire_many(amount).await.map_err(|_| NoRoom::Closed)?;
        permits.forget();
        Ok(amount as usize)
    }

    fn try_take(&self, amount: usize) -> Result<usize, NoRoom> {
        let amount = self.clamp(amount);
        match self.semaphore.try_acquire_many(amount) {
            Ok(permits) => {
                permits.forget();
                Ok(amount as usize)
            }
            Err(TryAcquireError::NoPermits) => Err(NoRoom::Now),
            Err(TryAcquireError::Closed) => Err(NoRoom::Closed),
        }
    }

    /// Takes what `amount` needs beyond `held`, and returns it.
    fn overdraw(&self, amount: usize, held: usize) -> usize {
        let missing = (self.clamp(amount) as usize).saturating_sub(held);
        let taken = self.semaphore.forget_permits(missing);
        self.debt.fetch_add(missing - taken, Ordering::Relaxed);
        missing
    }

    fn release(&self, amount: usize) {
        let mut rest = amount;
        if self.debt.load(Ordering::Relaxed) > 0 {
            let pay = |debt: usize| Some(debt - debt.min(amount));
            let debt = self.debt.fetch_update(Ordering::Relaxed, Ordering::Relaxed, pay).unwrap_or(0);
            rest -= debt.min(amount);
        }
        if rest > 0 {
            self.semaphore.add_permits(rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overdrawn_room_is_paid_back_before_the_next_caller() {
        let bound = Bound::new(10);
        assert_eq!(bound.try_take(8), Ok(8));
        assert_eq!(bound.overdraw(7, 1), 6, "two were there, four are a debt");
        assert_eq!(bound.try_take(1), Err(NoRoom::Now));
        bound.release(3);
        assert_eq!(bound.try_take(1), Err(NoRoom::Now), "all of it pays the debt");
        bound.release(6);
        assert_eq!(bound.try_take(6), Err(NoRoom::Now));
        assert_eq!(bound.try_take(5), Ok(5));
    }

    #[test]
    fn all_room_comes_back_and_no_more() {
        let mut rng = fastrand::Rng::with_seed(7);
        let bound = Bound::new(10);
        let mut held = Vec::new();
        for _ in 0..10_000 {
            match rng.u8(..3) {
                0 => held.extend(bound.try_take(rng.usize(..15))),
                1 => held.push(bound.overdraw(rng.usize(..15), 0)),
                _ if held.is_empty() => {}
                _ => bound.release(held.swap_remove(rng.usize(..held.len()))),
            }
            let taken: usize = held.iter().sum();
            assert_eq!(bound.semaphore.available_permits(), 10_usize.saturating_sub(taken));
        }
    }

    #[test]
    fn bounds_at_their_edges_hold() {
        for max in [0, 1, usize::MAX] {
            let bound = Bound::new(max);
            let taken = bound.try_take(usize::MAX).unwrap();
            assert!(taken >= 1);
            assert_eq!(bound.try_take(1), Err(NoRoom::Now));
            bound.release(taken);
            assert_eq!(bound.try_take(1), Ok(1));
        }
    }
}
