use super::*;
use crate::ErrorKind;

fn ring(head: Option<Place>, events_max: usize) -> Ring {
    Ring::new(head, events_max, 10_000)
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
    let mut ring = ring(None, 10);
    ring.stage(None, &events([0, 2, 4])).unwrap();
    assert!(ids(ring.look(None, 9, 9999)).is_empty());
    ring.publish(at(2)).unwrap();
    assert_eq!(ids(ring.look(None, 9, 9999)), [0, 2]);
    ring.publish(at(4)).unwrap();
    assert_eq!(ids(ring.look(Some(&at(0)), 9, 9999)), [2, 4]);
    assert_eq!(ids(ring.look(Some(&Place::Id(EventId::new(1))), 1, 9999)), [2]);
    assert_eq!(ids(ring.look(Some(&at(0)), 9, 1)), [2], "one event may exceed the bytes");
}

#[test]
fn eviction_raises_the_base_and_lag_stays_true() {
    let mut ring = ring(None, 3);
    ring.stage(None, &events(0..5)).unwrap();
    ring.publish(at(4)).unwrap();
    assert!(is_below(ring.look(None, 9, 9999)));
    assert!(is_below(ring.look(Some(&at(0)), 9, 9999)));
    assert_eq!(ids(ring.look(Some(&at(1)), 9, 9999)), [2, 3, 4]);
    assert_eq!(ring.lag(None).0, 5);
    assert_eq!(ring.lag(Some(EventId::new(0))).0, 4);
    assert_eq!(ring.lag(Some(EventId::new(3))).0, 1);
    assert_eq!(ring.lag(Some(EventId::new(4))), (0, None));
}

#[test]
fn events_staged_twice_change_nothing() {
    let mut ring = ring(Some(at(3)), 10);
    ring.stage(Some(EventId::new(1)), &events(2..6)).unwrap();
    ring.stage(Some(EventId::new(3)), &events(4..6)).unwrap();
    ring.publish(at(5)).unwrap();
    assert_eq!(ids(ring.look(Some(&at(3)), 9, 9999)), [4, 5]);
}

#[test]
fn a_ring_with_a_hole_starts_anew() {
    let mut ring = ring(Some(at(3)), 10);
    ring.stage(Some(EventId::new(3)), &events(4..6)).unwrap();
    ring.stage(Some(EventId::new(8)), &events(9..11)).unwrap();
    ring.publish(at(10)).unwrap();
    assert!(is_below(ring.look(Some(&at(5)), 9, 9999)));
    assert_eq!(ids(ring.look(Some(&at(8)), 9, 9999)), [9, 10]);
}

/// The log has event 11, which never was in the ring, in the place of 12.
#[test]
fn a_predecessor_in_the_place_of_a_staged_event_diverges() {
    let mut ring = ring(Some(at(9)), 10);
    ring.stage(Some(EventId::new(9)), &[event(10), event(12)]).unwrap();
    assert!(diverges(ring.stage(Some(EventId::new(11)), &events(13..15))));
    ring.stage(Some(EventId::new(12)), &events(13..15)).unwrap();
    ring.publish(at(14)).unwrap();
    assert_eq!(ids(ring.look(Some(&at(10)), 9, 9999)), [12, 13, 14]);
}

#[test]
fn a_head_that_was_never_staged_is_read_from_the_primary() {
    let mut ring = ring(None, 10);
    ring.stage(None, &events(0..3)).unwrap();
    ring.publish(at(5)).unwrap();
    assert!(is_below(ring.look(Some(&at(2)), 9, 9999)));
    assert_eq!(ring.head_id(), Some(EventId::new(5)));
}

#[test]
fn a_published_event_is_never_replaced() {
    let mut ring = ring(None, 10);
    ring.stage(None, &events(0..6)).unwrap();
    ring.publish(at(3)).unwrap();
    assert!(diverges(ring.stage(Some(EventId::new(2)), &[other(3), other(4)])));
    assert!(diverges(ring.stage(Some(EventId::new(1)), &[event(2), event(4)])), "the log lost event 3");
    assert!(diverges(ring.publish(at(2))), "the log lost its tail");
    assert!(diverges(ring.publish(Place::Event(other(3)))));
    assert!(diverges(ring.look(Some(&Place::Event(other(2))), 9, 9999).map(drop)));
}

#[test]
fn a_staged_event_is_never_replaced() {
    for is_known in [false, true] {
        let mut ring = ring(None, 10);
        ring.stage(None, &events(0..6)).unwrap();
        ring.publish(at(3)).unwrap();
        if is_known {
            ring.lose_after(Some(at(3))).unwrap();
        }
        assert_eq!(ring.replaces_lost(Some(EventId::new(3)), &[other(4)]).is_some(), is_known);
        for others in [&[other(4)][..], &[event(4), other(5)], &[event(5)], &[other(9)]] {
            assert!(diverges(ring.stage(Some(EventId::new(3)), others)));
        }
        assert!(diverges(ring.publish(Place::Event(other(4)))));
        assert!(diverges(ring.lose_after(Some(Place::Event(other(5))))));
        ring.stage(Some(EventId::new(3)), &events(4..8)).unwrap();
        ring.publish(at(7)).unwrap();
        assert_eq!(ids(ring.look(Some(&at(3)), 9, 9999)), [4, 5, 6, 7]);
        assert!(!ring.has_lost());
    }
}

/// Up to 3 is published, up to 6 evicted, up to 8 accepted.
fn evicted_beyond_the_head() -> Ring {
    let mut ring = ring(None, 2);
    ring.stage(None, &events(0..4)).unwrap();
    ring.publish(at(3)).unwrap();
    ring.stage(Some(EventId::new(3)), &events(4..9)).unwrap();
    ring
}

/// Below the base there is nothing to compare with.
#[test]
fn evicted_events_are_compared_at_the_base() {
    for end in 4..12 {
        let mut ring = evicted_beyond_the_head();
        let others: Vec<_> = (4..=end).map(other).collect();
        let staged = ring.stage(Some(EventId::new(3)), &others);
        assert_eq!(diverges(staged), end >= 6, "{end}");
        if end < 6 {
            ring.lose_after(Some(Place::Event(other(end)))).unwrap();
            assert_eq!(ring.newest(), Some(EventId::new(end)));
            ring.publish(Place::Event(other(end))).unwrap();
            assert!(diverges(ring.stage(Some(EventId::new(end)), &[other(end + 1), other(end + 2)])));
        }
    }
}

/// Once the loss is known, what cannot be compared is not sent.
#[test]
fn nothing_is_sent_in_place_of_lost_events_that_were_evicted() {
    for end in 4..9 {
        let mut ring = evicted_beyond_the_head();
        let others: Vec<_> = (4..=end).map(other).collect();
        assert!(ring.replaces_lost(Some(EventId::new(3)), &others).is_none(), "no loss is known");
        ring.lose_after(Some(at(3))).unwrap();
        assert!(ring.replaces_lost(Some(EventId::new(3)), &others).is_some(), "{end}");
    }
    let mut ring = evicted_beyond_the_head();
    ring.lose_after(Some(at(3))).unwrap();
    assert!(ring.replaces_lost(Some(EventId::new(3)), &events(4..9)).is_none(), "the same bytes again");
}

/// The batch ends at the event that was evicted last, so the ring takes none of its events.
#[test]
fn lost_events_count_again_up_to_the_base() {
    for end in 6..9 {
        let mut ring = evicted_beyond_the_head();
        ring.lose_after(Some(at(3))).unwrap();
        ring.stage(Some(EventId::new(3)), &events(4..=end)).unwrap();
        assert_eq!(ring.newest(), Some(EventId::new(end)));
    }
}

/// The log skips the event that was evicted last.
#[test]
fn an_evicted_event_that_was_skipped_is_lost() {
    let mut ring = evicted_beyond_the_head();
    assert!(diverges(ring.stage(Some(EventId::new(3)), &[other(4), other(7)])));
}

#[test]
fn only_what_was_accepted_is_lost() {
    for (newest, left) in [(None, 3), (Some(1), 3), (Some(3), 3), (Some(5), 5), (Some(6), 6), (Some(8), 8)] {
        let mut ring = evicted_beyond_the_head();
        ring.lose_after(newest.map(at)).unwrap();
        assert_eq!(ring.newest(), Some(EventId::new(left)), "{newest:?}");
        assert_eq!(ring.head_id(), Some(EventId::new(3)));
    }
    let mut ring = evicted_beyond_the_head();
    ring.lose_after(Some(at(20))).unwrap();
    assert_eq!(ring.newest(), Some(EventId::new(8)), "what is unknown is published once it is durable");
    assert!(diverges(ring.lose_after(Some(Place::Event(other(8))))), "another history");
    ring.lose_after(Some(at(5))).unwrap();
    ring.lose_after(Some(at(7))).unwrap();
    assert_eq!(ring.newest(), Some(EventId::new(7)), "a failover back");
}

/// The batch reaches over the published head although the base is beyond it.
#[test]
fn a_published_event_below_the_base_is_not_replaced() {
    let mut ring = evicted_beyond_the_head();
    assert!(diverges(ring.stage(Some(EventId::new(1)), &[event(2), other(3), other(4)])));
    assert!(diverges(ring.stage(Some(EventId::new(1)), &[event(2), other(4)])), "it skips event 3");
    ring.stage(Some(EventId::new(1)), &[event(2), event(3), other(4)]).unwrap();
}

#[test]
fn a_head_that_contradicts_accepted_events_diverges() {
    let mut ring = ring(None, 10);
    ring.stage(None, &events(0..6)).unwrap();
    ring.publish(at(3)).unwrap();
    assert!(diverges(ring.publish(Place::Event(other(5)))));
    assert_eq!(ring.head_id(), Some(EventId::new(3)));
}

#[test]
fn the_newest_known_event_is_found() {
    let ring = evicted_beyond_the_head();
    for (id, known) in [(3, Some(3)), (5, Some(3)), (6, Some(6)), (7, Some(7)), (20, Some(8)), (1, None)] {
        let found = ring.known_up_to(EventId::new(id)).map(|place| place.id().get());
        assert_eq!(found, known, "up to {id}");
    }
}
