//! The events that a listener holds for its readers: ordered, bounded, each with its predecessor.

use std::collections::BTreeMap;
use std::ops::Bound;

use hydrant::{Event, EventId};
use tokio::time::Instant;

/// Events by id. No gap is stored: a reader finds it between its own position and the predecessor of the next
/// event, so that eviction, loss and late arrival are all the same thing.
#[derive(Debug)]
pub(crate) struct Held {
    events: BTreeMap<EventId, Entry>,
    bytes: usize,
    evicted: Option<EventId>,
    events_max: usize,
    bytes_max: usize,
}

#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) event: Event,
    /// The event before it, as its datagram says or as the id suggests.
    pub(crate) after: Option<EventId>,
    /// Whether the datagram said so.
    pub(crate) named: bool,
    pub(crate) arrived: Instant,
}

/// What became of an event that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// It is held; so many old ones had to go.
    New { evicted: u64 },
    /// It was held already, or is older than everything that is.
    Duplicate,
    /// Another event is held under its id.
    Conflict,
}

impl Held {
    pub(crate) fn new(events_max: usize, bytes_max: usize) -> Self {
        Self { events: BTreeMap::new(), bytes: 0, evicted: None, events_max, bytes_max }
    }

    pub(crate) fn insert(&mut self, entry: Entry) -> Arrival {
        let id = entry.event.id();
        if let Some(held) = self.events.get(&id) {
            return if held.event == entry.event { Arrival::Duplicate } else { Arrival::Conflict };
        }
        if self.evicted.is_some_and(|evicted| id <= evicted) {
            return Arrival::Duplicate;
        }
        self.bytes += entry.event.size();
        self.events.insert(id, entry);
        let mut evicted = 0;
        // The newest is kept at any size. Otherwise a large event would never reach a reader.
        while self.events.len() > 1 && (self.events.len() > self.events_max || self.bytes > self.bytes_max) {
            let Some((id, oldest)) = self.events.pop_first() else { break };
            self.bytes -= oldest.event.size();
            self.evicted = Some(id);
            evicted += 1;
        }
        Arrival::New { evicted }
    }

    /// The first event behind `position`.
    pub(crate) fn next(&self, position: Option<EventId>) -> Option<&Entry> {
        self.behind(position).next().map(|(_, entry)| entry)
    }

    /// Returns whether at least `count` events are held behind `position`.
    pub(crate) fn has(&self, count: usize, position: Option<EventId>) -> bool {
        count == 0 || self.behind(position).nth(count - 1).is_some()
    }

    fn behind(&self, position: Option<EventId>) -> impl Iterator<Item = (&EventId, &Entry)> {
        let from = position.map_or(Bound::Unbounded, Bound::Excluded);
        self.events.range((from, Bound::Unbounded))
    }

    pub(crate) fn last_id(&self) -> Option<EventId> {
        self.events.last_key_value().map(|(id, _)| *id)
    }

    /// The newest event that was dropped to make room.
    pub(crate) fn evicted(&self) -> Option<EventId> {
        self.evicted
    }

    /// The position right before the newest snapshot held; the origin where there is none.
    pub(crate) fn before_snapshot(&self) -> Option<EventId> {
        self.events.values().rev().find(|entry| entry.event.is_snapshot())?.after
    }

    /// Returns whether another source, whose first event behind `position` is this one, has another history than the
    /// datagrams: it misses an event that is held or named, or has another event under that id.
    pub(crate) fn contradicts(&self, position: Option<EventId>, event: &Event) -> bool {
        self.next(position).is_some_and(|next| {
            let lacks_named = next.named && position < next.after && next.after < Some(event.id());
            let lacks_held = next.event.id() < event.id();
            lacks_named || lacks_held || (next.event.id() == event.id() && next.event != *event)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: u64, payload: &str) -> Entry {
        let event = Event::new(EventId::new(id), payload).unwrap();
        Entry { event, after: id.checked_sub(1).map(EventId::new), named: true, arrived: Instant::now() }
    }

    #[test]
    fn the_oldest_go_first_and_never_come_back() {
        let mut held = Held::new(2, usize::MAX);
        assert_eq!(held.insert(entry(5, "a")), Arrival::New { evicted: 0 });
        assert_eq!(held.insert(entry(4, "a")), Arrival::New { evicted: 0 });
        assert_eq!(held.insert(entry(4, "a")), Arrival::Duplicate);
        assert_eq!(held.insert(entry(4, "b")), Arrival::Conflict);
        assert_eq!(held.insert(entry(6, "a")), Arrival::New { evicted: 1 });
        assert_eq!(held.insert(entry(4, "a")), Arrival::Duplicate);
        assert_eq!(held.insert(entry(3, "a")), Arrival::Duplicate);
        assert_eq!((held.evicted(), held.last_id()), (Some(EventId::new(4)), Some(EventId::new(6))));
        assert!(held.has(2, None) && !held.has(3, None) && !held.has(2, Some(EventId::new(5))));
    }

    #[test]
    fn another_history_misses_or_changes_known_events() {
        let mut held = Held::new(9, usize::MAX);
        held.insert(Entry { after: Some(EventId::new(4)), ..entry(6, "a") });
        let contradicts = |position: u64, id: u64, payload: &str| {
            held.contradicts(Some(EventId::new(position)), &entry(id, payload).event)
        };
        assert!(!contradicts(1, 3, "x") && !contradicts(1, 4, "x") && !contradicts(4, 6, "a"));
        assert!(!contradicts(5, 6, "a"), "more than was sent is no contradiction");
        assert!(contradicts(4, 6, "b"), "another event under the id");
        assert!(contradicts(3, 5, "x"), "passes over 4, which is named");
        assert!(contradicts(4, 7, "x"), "passes over 6, which is held");
        assert!(!contradicts(6, 9, "x"));
    }

    #[test]
    fn one_event_larger_than_all_room_is_still_held() {
        let mut held = Held::new(10, 1);
        held.insert(entry(1, "large"));
        assert_eq!(held.insert(entry(2, "large")), Arrival::New { evicted: 1 });
        assert_eq!(held.next(None).unwrap().event.id(), EventId::new(2));
    }
}
