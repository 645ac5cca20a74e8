//! The ring that all followers of one log share: every event with `base < id <= head`.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use super::lineage::{self, Place, id_of};
use super::marks::Marks;
use super::signal::{Changes, Signal};
use crate::mutants::mutant;
use crate::{Checkpoint, Error, Event, EventId, Result};

/// The newest events of a log, bounded in events and bytes, and its newest durable event.
///
/// Events are staged in order, evicted from the oldest on, and seen once `publish` says that they are durable.
/// Eviction may run ahead of publication: a follower below `base` reads the primary.
///
/// The ring holds one history. What contradicts it is `Diverged`, and nothing of it is seen.
pub(crate) struct Feed {
    ring: Mutex<Ring>,
    /// Wakes followers.
    moved: Signal,
    /// Wakes what waits for the log and its secondaries.
    signal: Signal,
    events_max: usize,
    bytes_max: usize,
}

struct Ring {
    /// The newest event that is not in the ring any more, or never was.
    base: Option<Place>,
    events: VecDeque<Event>,
    bytes: usize,
    /// The newest event that may be seen.
    head: Option<Place>,
    /// The error that the log stopped with.
    failed: Option<Error>,
    /// Why no more events will come, other than an error.
    ended: Option<&'static str>,
    is_closed: bool,
    marks: Marks,
}

/// What a follower sees from its position.
pub(crate) enum Look {
    /// The next events, at least one.
    Events(Vec<Event>),
    /// Nothing yet: wait for the head to move.
    AtHead,
    /// The ring no longer has the next event: read the primary.
    Below,
}

impl Feed {
    pub(crate) fn new(head: Checkpoint, signal: Signal, events_max: usize, bytes_max: usize) -> Self {
        let head = Place::of(head);
        let mut marks = Marks::new();
        if let Some(head) = &head {
            marks.add(head.id());
        }
        let ring = Ring {
            base: head.clone(),
            events: VecDeque::new(),
            bytes: 0,
            head,
            failed: None,
            ended: None,
            is_closed: false,
            marks,
        };
        Self { ring: Mutex::new(ring), moved: Signal::default(), signal, events_max, bytes_max }
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the ring, and wakes followers and all else that waits.
    fn update<R>(&self, change: impl FnOnce(&mut Ring) -> R) -> R {
        let result = change(&mut self.lock());
        self.moved.wake();
        self.signal.wake();
        result
    }

    /// Starts the ring after `head`, without an event.
    pub(crate) fn restart(&self, head: Option<Place>) {
        self.update(|ring| {
            ring.clear(head.clone());
            if let Some(head) = &head {
                ring.marks.add(head.id());
            }
            ring.head = head;
        });
    }

    /// Adds the events that are newer than the ring's, which the log has right after `after`, and evicts the oldest.
    ///
    /// If events are missing between the ring and `after`, the ring starts anew: followers read the primary there.
    /// Events that were staged but never published may be replaced; the primary decides what happened.
    ///
    /// # Errors
    /// `Diverged` if a published event has another event in its place.
    pub(crate) fn stage(&self, after: Option<EventId>, events: &[Event]) -> Result<()> {
        // Wakes no task: nothing of this is seen before it is published.
        let mut guard = self.lock();
        let ring = &mut *guard;
        if ring.newest() < after {
            ring.clear(after.map(Place::Id));
        }
        let base = id_of(ring.base.as_ref());
        let (old, events) = events.split_at(events.partition_point(|event| Some(event.id()) <= base));
        if let (Some(base), Some(other)) = (&ring.base, old.last())
            && base.id() == other.id()
            && !base.is_same(&Place::Event(other.clone()))
        {
            return Err(lineage::replaced(base, other));
        }
        let from = after.max(base);
        let common = ring.common(from, events);
        let kept = ring.index_after(from) + common;
        if let Some(lost) = ring.events.get(kept)
            && let Some(other) = events.get(common)
        {
            if mutant("lost-tail") {
                return Ok(());
            }
            if Some(lost.id()) <= ring.head_id() {
                return Err(lineage::replaced(&Place::Event(lost.clone()), other));
            }
            ring.truncate(kept);
        }
        for event in &events[common..] {
            ring.bytes += event.size();
            ring.events.push_back(event.clone());
        }
        ring.evict(self.events_max, self.bytes_max);
        Ok(())
    }

    /// Lets everything up to `head` be seen. Only what is durable may be published.
    ///
    /// # Errors
    /// `Diverged` if the log ends before what was published, or has another event in its place.
    pub(crate) fn publish(&self, head: Place) -> Result<()> {
        let mut ring = self.lock();
        if let Some(published) = &ring.head {
            if head.is_same(published) {
                return Ok(());
            }
            if mutant("lost-tail") && head.id() <= published.id() {
                return Ok(());
            }
            if head.id() < published.id() {
                let what = format!("the log ends at event {}, and had this event before", head.id());
                return Err(lineage::diverged(published.id(), what));
            }
            if head.id() == published.id() {
                let what = "the log has another event in the place of this one, which was acknowledged";
                return Err(lineage::diverged(head.id(), what));
            }
        }
        if !ring.check_staged(&head)? && !mutant("publish-unstaged") {
            // An append whose outcome was unknown reached the log: followers read it there.
            ring.clear(Some(head.clone()));
        }
        ring.marks.add(head.id());
        ring.head = Some(head);
        drop(ring);
        self.moved.wake();
        if !mutant("publish-wakes-followers-only") {
            self.signal.wake();
        }
        Ok(())
    }

    /// The log takes no more events, because of this error. The first error stays.
    pub(crate) fn stop(&self, error: Error) {
        self.update(|ring| {
            ring.failed.get_or_insert(error);
        });
    }

    /// The log is complete.
    pub(crate) fn end(&self) {
        self.update(|ring| {
            ring.ended.get_or_insert("the end of the log was reached");
        });
    }

    /// Nothing more will come: followers end once they are at the head.
    pub(crate) fn close(&self) {
        self.update(|ring| {
            ring.is_closed = true;
            ring.ended.get_or_insert("the log was closed; open it again to continue");
        });
    }

    /// Why the log takes no more events.
    pub(crate) fn stopped(&self) -> Option<Error> {
        let ring = self.lock();
        ring.failed.clone().or_else(|| ring.ended.map(Error::closed))
    }

    /// The error that the log stopped with.
    pub(crate) fn failed(&self) -> Option<Error> {
        self.lock().failed.clone()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.lock().is_closed
    }

    /// Whether the ring reaches as far as `place`.
    ///
    /// # Errors
    /// `Diverged` if the ring has other events there.
    pub(crate) fn has_staged(&self, place: &Place) -> Result<bool> {
        self.lock().check_staged(place)
    }

    /// Whether the ring has the events after `position`, and can take more without evicting one of them.
    pub(crate) fn has_room_above(&self, position: Option<EventId>) -> bool {
        let ring = self.lock();
        let full = ring.events.len() >= self.events_max || ring.bytes >= self.bytes_max;
        let is_useful = id_of(ring.base.as_ref()) <= position;
        is_useful && (!full || ring.events.front().is_none_or(|oldest| Some(oldest.id()) <= position))
    }

    /// The newest event that may be seen.
    pub(crate) fn head_place(&self) -> Option<Place> {
        self.lock().head.clone()
    }

    pub(crate) fn head(&self) -> Option<EventId> {
        self.lock().head_id()
    }

    pub(crate) fn subscribe(&self) -> Changes {
        self.moved.subscribe()
    }

    /// The events after `position`: at most so many events and, but for the first, bytes.
    ///
    /// # Errors
    /// `Diverged` if the ring has another event at `position`.
    pub(crate) fn look(&self, position: Option<&Place>, events_max: usize, bytes_max: usize) -> Result<Look> {
        let ring = self.lock();
        let (at, head) = (id_of(position), ring.head_id());
        if at >= head {
            return Ok(Look::AtHead);
        }
        if at < id_of(ring.base.as_ref()) {
            return Ok(Look::Below);
        }
        if let Some(position) = position.filter(|_| !mutant("mixed-histories")) {
            ring.check_staged(position)?;
        }
        let mut bytes = 0;
        let fits = |event: &&Event| {
            bytes += event.size();
            (Some(event.id()) <= head || mutant("show-staged"))
                && (bytes <= bytes_max || bytes == event.size())
        };
        let events = ring.events.range(ring.index_after(at)..).take(events_max.max(1)).take_while(fits);
        Ok(Look::Events(events.cloned().collect()))
    }

    /// How many events a follower has not got yet, and since when the oldest of them is published.
    ///
    /// Exact within the ring. Below it ids are counted instead, an upper bound where they have gaps.
    pub(crate) fn lag(&self, position: Option<EventId>) -> (u64, Option<Instant>) {
        let ring = self.lock();
        let head = ring.head_id();
        if position >= head || mutant("lag-is-zero") {
            return (0, None);
        }
        (ring.count(position, head), Some(ring.marks.since(position)))
    }

    /// How many events a follower has not got yet of those that were acknowledged, durable or not.
    pub(crate) fn lag_to_newest(&self, position: Option<EventId>) -> u64 {
        let ring = self.lock();
        ring.count(position, ring.newest().max(ring.head_id()))
    }

    /// The newest event that was acknowledged, durable or not.
    pub(crate) fn newest(&self) -> Option<EventId> {
        let ring = self.lock();
        ring.newest().max(ring.head_id())
    }
}

impl Ring {
    fn head_id(&self) -> Option<EventId> {
        id_of(self.head.as_ref())
    }

    fn newest(&self) -> Option<EventId> {
        self.events.back().map(Event::id).max(id_of(self.base.as_ref()))
    }

    /// How many events are after `position`, up to `end`.
    fn count(&self, position: Option<EventId>, end: Option<EventId>) -> u64 {
        if position >= end {
            return 0;
        }
        let below = match (id_of(self.base.as_ref()).min(end), position) {
            (Some(base), Some(position)) => base.get().saturating_sub(position.get()),
            (Some(base), None) => base.get().saturating_add(1),
            (None, _) => 0,
        };
        below + self.index_after(end).saturating_sub(self.index_after(position)) as u64
    }

    /// The index of the first event after `id`.
    fn index_after(&self, id: Option<EventId>) -> usize {
        self.events.partition_point(|event| Some(event.id()) <= id)
    }

    /// How many of `events`, which stand after `from`, the ring has already.
    fn common(&self, from: Option<EventId>, events: &[Event]) -> usize {
        let held = self.events.range(self.index_after(from)..);
        held.zip(events).take_while(|(held, event)| held == event).count()
    }

    fn clear(&mut self, base: Option<Place>) {
        self.events.clear();
        (self.base, self.bytes) = (base, 0);
    }

    fn truncate(&mut self, len: usize) {
        self.bytes -= self.events.range(len..).map(Event::size).sum::<usize>();
        self.events.truncate(len);
    }

    fn evict(&mut self, events_max: usize, bytes_max: usize) {
        let events_max = if mutant("ring-unbounded") { usize::MAX } else { events_max };
        let bytes_max = if mutant("ring-unbounded") { usize::MAX } else { bytes_max };
        while self.events.len() > events_max || self.bytes > bytes_max {
            let Some(evicted) = self.events.pop_front() else { break };
            self.bytes -= evicted.size();
            self.base = Some(Place::Event(evicted));
        }
    }

    /// Whether the ring reaches as far as `place`.
    ///
    /// # Errors
    /// `Diverged` if the ring has other events there.
    fn check_staged(&self, place: &Place) -> Result<bool> {
        let id = Some(place.id());
        if id > self.newest() {
            return Ok(false);
        }
        let base = self.base.as_ref().filter(|base| Some(base.id()) >= id);
        let ours = match base {
            Some(base) if Some(base.id()) > id => return Ok(true), // evicted: the primary knows
            Some(base) => base.clone(),
            None => match self.index_after(id).checked_sub(1).map(|index| &self.events[index]) {
                Some(event) if event.id() == place.id() => Place::Event(event.clone()),
                // A start between two events, named by an operator.
                _ if place.digest().is_none() => return Ok(true),
                _ => {
                    let what = "the log continued without this event";
                    return Err(lineage::diverged(place.id(), what));
                }
            },
        };
        if ours.is_same(place) {
            return Ok(true);
        }
        Err(lineage::diverged(place.id(), "the log has another event in the place of this one"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    fn feed(head: Checkpoint, events_max: usize) -> Feed {
        Feed::new(head, Signal::default(), events_max, 10_000)
    }

    fn event(id: u64) -> Event {
        Event::new(EventId::new(id), &id).unwrap()
    }

    fn other(id: u64) -> Event {
        Event::new(EventId::new(id), &"other").unwrap()
    }

    fn events(ids: impl IntoIterator<Item = u64>) -> Vec<Event> {
        ids.into_iter().map(event).collect()
    }

    fn at(id: u64) -> Place {
        Place::Event(event(id))
    }

    fn ids(look: Result<Look>) -> Vec<u64> {
        match look.unwrap() {
            Look::Events(events) => events.iter().map(|event| event.id().get()).collect(),
            Look::AtHead => vec![],
            Look::Below => panic!("below the ring"),
        }
    }

    fn is_below(look: Result<Look>) -> bool {
        matches!(look.unwrap(), Look::Below)
    }

    fn diverges<T>(result: Result<T>) -> bool {
        result.is_err_and(|error| error.kind() == ErrorKind::Diverged)
    }

    #[test]
    fn nothing_is_seen_before_it_is_published() {
        let feed = feed(Checkpoint::Empty, 10);
        feed.stage(None, &events([0, 2, 4])).unwrap();
        assert!(ids(feed.look(None, 9, 9999)).is_empty());
        feed.publish(at(2)).unwrap();
        assert_eq!(ids(feed.look(None, 9, 9999)), [0, 2]);
        feed.publish(at(4)).unwrap();
        assert_eq!(ids(feed.look(Some(&at(0)), 9, 9999)), [2, 4]);
        assert_eq!(ids(feed.look(Some(&Place::Id(EventId::new(1))), 1, 9999)), [2]);
        assert_eq!(ids(feed.look(Some(&at(0)), 9, 1)), [2], "one event may exceed the bytes");
    }

    #[test]
    fn only_published_events_wake_followers() {
        let feed = feed(Checkpoint::Empty, 10);
        let mut moved = feed.subscribe();
        moved.mark_unchanged();
        feed.stage(None, &events(0..3)).unwrap();
        assert!(!moved.has_changed());
        feed.publish(at(2)).unwrap();
        assert!(moved.has_changed());
    }

    #[test]
    fn eviction_raises_the_base_and_lag_stays_true() {
        let feed = feed(Checkpoint::Empty, 3);
        feed.stage(None, &events(0..5)).unwrap();
        feed.publish(at(4)).unwrap();
        assert!(is_below(feed.look(None, 9, 9999)));
        assert!(is_below(feed.look(Some(&at(0)), 9, 9999)));
        assert_eq!(ids(feed.look(Some(&at(1)), 9, 9999)), [2, 3, 4]);
        assert_eq!(feed.lag(None).0, 5);
        assert_eq!(feed.lag(Some(EventId::new(0))).0, 4);
        assert_eq!(feed.lag(Some(EventId::new(3))).0, 1);
        assert_eq!(feed.lag(Some(EventId::new(4))), (0, None));
    }

    #[test]
    fn events_staged_twice_change_nothing() {
        let feed = feed(Checkpoint::at(&event(3)), 10);
        feed.stage(Some(EventId::new(1)), &events(2..6)).unwrap();
        feed.stage(Some(EventId::new(3)), &events(4..6)).unwrap();
        feed.publish(at(5)).unwrap();
        assert_eq!(ids(feed.look(Some(&at(3)), 9, 9999)), [4, 5]);
    }

    #[test]
    fn a_ring_with_a_hole_starts_anew() {
        let feed = feed(Checkpoint::at(&event(3)), 10);
        feed.stage(Some(EventId::new(3)), &events(4..6)).unwrap();
        feed.stage(Some(EventId::new(8)), &events(9..11)).unwrap();
        feed.publish(at(10)).unwrap();
        assert!(is_below(feed.look(Some(&at(5)), 9, 9999)));
        assert_eq!(ids(feed.look(Some(&at(8)), 9, 9999)), [9, 10]);
    }

    #[test]
    fn a_head_that_was_never_staged_is_read_from_the_primary() {
        let feed = feed(Checkpoint::Empty, 10);
        feed.stage(None, &events(0..3)).unwrap();
        feed.publish(at(5)).unwrap();
        assert!(is_below(feed.look(Some(&at(2)), 9, 9999)));
        assert_eq!(feed.head(), Some(EventId::new(5)));
    }

    #[test]
    fn a_published_event_is_never_replaced() {
        let feed = feed(Checkpoint::Empty, 10);
        feed.stage(None, &events(0..6)).unwrap();
        feed.publish(at(3)).unwrap();
        assert!(diverges(feed.stage(Some(EventId::new(2)), &[other(3), other(4)])));
        assert!(diverges(feed.stage(Some(EventId::new(1)), &[event(2), event(4)])), "the log lost event 3");
        assert!(diverges(feed.publish(at(2))), "the log lost its tail");
        assert!(diverges(feed.publish(Place::Event(other(3)))));
        assert!(diverges(feed.publish(Place::Event(other(5)))));
        assert!(diverges(feed.look(Some(&Place::Event(other(2))), 9, 9999).map(drop)));
    }

    #[test]
    fn a_staged_event_that_was_lost_is_replaced() {
        let feed = feed(Checkpoint::Empty, 10);
        feed.stage(None, &events(0..6)).unwrap();
        feed.publish(at(3)).unwrap();
        feed.stage(Some(EventId::new(3)), &[other(4)]).unwrap();
        feed.publish(Place::Event(other(4))).unwrap();
        assert_eq!(ids(feed.look(Some(&at(3)), 9, 9999)), [4]);
        assert!(diverges(feed.look(Some(&at(5)), 9, 9999).map(drop)) || feed.head() == Some(EventId::new(4)));
    }
}
