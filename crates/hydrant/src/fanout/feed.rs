//! The ring that all followers of one log share: every event with `base < id <= head`.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::{Event, EventId};

/// The newest events of a log, bounded in events and bytes.
///
/// Events are staged in order, evicted from the oldest on, and seen only once `publish` says that they are
/// durable. Eviction may run ahead of publication; who then stands below `base` reads the primary.
pub(crate) struct Feed {
    ring: Mutex<Ring>,
    head: watch::Sender<Option<EventId>>,
    closed: AtomicBool,
    events_max: usize,
    bytes_max: usize,
}

struct Ring {
    /// The newest event that is not in the ring any more, or never was.
    base: Option<EventId>,
    events: VecDeque<Event>,
    bytes: usize,
    marks: Marks,
}

/// What a follower sees from where it stands.
pub(crate) enum Look {
    /// The next events, at least one.
    Events(Vec<Event>),
    /// Nothing yet: wait for the head to move.
    AtHead,
    /// The ring no longer has what comes next: read the primary.
    Below,
}

impl Feed {
    pub(crate) fn new(head: Option<EventId>, events_max: usize, bytes_max: usize) -> Self {
        let ring = Ring { base: head, events: VecDeque::new(), bytes: 0, marks: Marks::new() };
        let closed = AtomicBool::new(false);
        Self { ring: Mutex::new(ring), head: watch::Sender::new(head), closed, events_max, bytes_max }
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the ring behind `head`, without an event.
    pub(crate) fn restart(&self, head: Option<EventId>) {
        let mut ring = self.lock();
        ring.events.clear();
        (ring.base, ring.bytes) = (head, 0);
        self.head.send_replace(head);
    }

    /// Adds what lies above the newest event, and evicts the oldest. The events stand right behind `after`:
    /// where the ring ends before it, what lies between is not known here, and the primary must tell.
    pub(crate) fn stage(&self, after: Option<EventId>, events: &[Event]) {
        let mut ring = self.lock();
        let mut newest = ring.events.back().map(Event::id).max(ring.base);
        if newest < after {
            ring.events.clear();
            (ring.base, ring.bytes) = (after, 0);
            newest = after;
        }
        for event in &events[events.partition_point(|event| Some(event.id()) <= newest)..] {
            ring.bytes += event.size();
            ring.events.push_back(event.clone());
        }
        while ring.events.len() > self.events_max || ring.bytes > self.bytes_max {
            let Some(evicted) = ring.events.pop_front() else { break };
            ring.bytes -= evicted.size();
            ring.base = Some(evicted.id());
        }
    }

    /// Lets everything up to `head` be seen. Only what is durable may be published.
    pub(crate) fn publish(&self, head: EventId) {
        self.head.send_if_modified(|published| {
            let moves = *published < Some(head);
            if moves {
                *published = Some(head);
                self.lock().marks.add(head);
            }
            moves
        });
    }

    /// Nothing more will come: wakes all followers, which end when they have got to the head.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.head.send_modify(|_| {});
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Whether the ring can take more without evicting an event above `position`.
    pub(crate) fn has_room_above(&self, position: Option<EventId>) -> bool {
        let ring = self.lock();
        let full = ring.events.len() >= self.events_max || ring.bytes >= self.bytes_max;
        !full || ring.events.front().is_none_or(|oldest| Some(oldest.id()) <= position)
    }

    pub(crate) fn head(&self) -> Option<EventId> {
        *self.head.borrow()
    }

    /// Whether nothing is published behind `position`.
    pub(crate) fn is_head(&self, position: Option<EventId>) -> bool {
        position >= self.head()
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Option<EventId>> {
        self.head.subscribe()
    }

    /// What comes next behind `position`: at most so many events and, but for the first, bytes.
    pub(crate) fn look(&self, position: Option<EventId>, events_max: usize, bytes_max: usize) -> Look {
        let head = self.head();
        if position >= head {
            return Look::AtHead;
        }
        let ring = self.lock();
        if position < ring.base {
            return Look::Below;
        }
        let from = ring.events.partition_point(|event| Some(event.id()) <= position);
        let mut bytes = 0;
        let fits = |event: &&Event| {
            bytes += event.size();
            Some(event.id()) <= head && (bytes <= bytes_max || bytes == event.size())
        };
        Look::Events(ring.events.range(from..).take(events_max).take_while(fits).cloned().collect())
    }

    /// How many events a follower lacks, and since when it lacks the oldest of them.
    ///
    /// Exact within the ring; below it, ids are counted instead, an upper bound where they have gaps.
    pub(crate) fn lag(&self, position: Option<EventId>) -> (u64, Option<Instant>) {
        let head = self.head();
        if position >= head {
            return (0, None);
        }
        let ring = self.lock();
        let below = match (ring.base, position) {
            (Some(base), Some(position)) => base.get().saturating_sub(position.get()),
            (Some(base), None) => base.get().saturating_add(1),
            (None, _) => 0,
        };
        let upto = |id: Option<EventId>| ring.events.partition_point(|event| Some(event.id()) <= id);
        let inside = upto(head).saturating_sub(upto(position)) as u64;
        (below + inside, Some(ring.marks.since(position)))
    }
}

/// When which event was published: a coarse, bounded history.
struct Marks {
    opened: Instant,
    history: VecDeque<(EventId, Instant)>,
    step: Duration,
}

impl Marks {
    const MAX: usize = 512;

    fn new() -> Self {
        Self { opened: Instant::now(), history: VecDeque::new(), step: Duration::from_millis(1) }
    }

    fn add(&mut self, head: EventId) {
        let now = Instant::now();
        if self.history.back().is_some_and(|(_, last)| now.duration_since(*last) < self.step) {
            return;
        }
        self.history.push_back((head, now));
        if self.history.len() > Self::MAX {
            // Keep every second one: an older past is known more coarsely.
            let mut keep = false;
            self.history.retain(|_| {
                keep = !keep;
                keep
            });
            self.step *= 2;
        }
    }

    /// When the oldest event behind `position` was published, to within a step.
    fn since(&self, position: Option<EventId>) -> Instant {
        let later = self.history.partition_point(|(id, _)| Some(*id) <= position);
        let first = self.history.get(later).or_else(|| self.history.back());
        first.map_or(self.opened, |(_, instant)| *instant)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(ids: impl IntoIterator<Item = u64>) -> Vec<Event> {
        ids.into_iter().map(|id| Event::new(EventId::new(id), &id).unwrap()).collect()
    }

    #[expect(clippy::unnecessary_wraps, reason = "reads as a position")]
    fn at(id: u64) -> Option<EventId> {
        Some(EventId::new(id))
    }

    fn ids(look: Look) -> Vec<u64> {
        match look {
            Look::Events(events) => events.iter().map(|event| event.id().get()).collect(),
            Look::AtHead => vec![],
            Look::Below => panic!("below the ring"),
        }
    }

    #[test]
    fn nothing_is_seen_before_it_is_published() {
        let feed = Feed::new(None, 10, 10_000);
        feed.stage(None, &events([0, 2, 4]));
        assert!(matches!(feed.look(None, 9, 9999), Look::AtHead));
        feed.publish(EventId::new(2));
        assert_eq!(ids(feed.look(None, 9, 9999)), [0, 2]);
        feed.publish(EventId::new(4));
        assert_eq!(ids(feed.look(at(0), 9, 9999)), [2, 4]);
        assert_eq!(ids(feed.look(at(1), 1, 9999)), [2]);
        assert_eq!(ids(feed.look(at(0), 9, 1)), [2], "one event may exceed the bytes");
    }

    #[test]
    fn eviction_raises_the_base_and_lag_stays_true() {
        let feed = Feed::new(None, 3, 10_000);
        feed.stage(None, &events(0..5));
        feed.publish(EventId::new(4));
        assert!(matches!(feed.look(None, 9, 9999), Look::Below));
        assert!(matches!(feed.look(at(0), 9, 9999), Look::Below));
        assert_eq!(ids(feed.look(at(1), 9, 9999)), [2, 3, 4]);
        assert_eq!(feed.lag(None).0, 5);
        assert_eq!(feed.lag(at(0)).0, 4);
        assert_eq!(feed.lag(at(3)).0, 1);
        assert_eq!(feed.lag(at(4)), (0, None));
    }

    #[test]
    fn what_is_staged_again_changes_nothing() {
        let feed = Feed::new(at(3), 10, 10_000);
        feed.stage(at(1), &events(2..6));
        feed.stage(at(3), &events(4..6));
        feed.publish(EventId::new(5));
        assert_eq!(ids(feed.look(at(3), 9, 9999)), [4, 5]);
    }

    #[test]
    fn what_the_ring_was_not_told_of_is_no_part_of_it() {
        let feed = Feed::new(at(3), 10, 10_000);
        feed.stage(at(3), &events(4..6));
        feed.stage(at(8), &events(9..11));
        feed.publish(EventId::new(10));
        assert!(matches!(feed.look(at(5), 9, 9999), Look::Below));
        assert_eq!(ids(feed.look(at(8), 9, 9999)), [9, 10]);
    }
}
