//! A primary that accepts first: unknown outcomes, lost tails, and checkpoints that fail.

use std::time::Duration;

use futures_util::StreamExt;
use hydrant::{
    Batch, CommitPoint, ErrorKind, Event, EventSink, EventSource, EventSourceExt, FanOut, FanOutOptions,
    MemoryStore, ReadFrom, Retry, SecondaryOptions, SecondaryState,
};

use super::rig::{Accepting, Act};
use super::{SOON, status};
use crate::support::{batch, event, events, id, safe, unknown};

async fn open(primary: &Accepting) -> (FanOut<Accepting>, MemoryStore) {
    let options = FanOutOptions::default().with_resolve_timeout(SOON).with_seed(1);
    let log = FanOut::open(primary.clone(), options).await.unwrap();
    let sink = MemoryStore::default();
    let lingers = SecondaryOptions::default().with_linger_max(Duration::from_millis(50));
    log.attach("sink", sink.clone(), lingers).await.unwrap();
    (log, sink)
}

/// The log stops, and what was written all the same reaches pumps and followers once it is durable.
#[tokio::test(start_paused = true)]
async fn an_open_outcome_that_became_durable_is_delivered() {
    let primary = Accepting::default();
    let (log, sink) = open(&primary).await;
    let mut live = log.follow(ReadFrom::Origin);
    log.append(batch(&events(0..3))).await.unwrap();
    primary.append.set(Act::Lose(unknown()));
    log.append(batch(&events(3..6))).await.unwrap_err();
    assert_eq!(log.status().head, None, "nothing is durable yet");
    primary.sync().await;
    tokio::time::sleep(SOON).await;
    assert_eq!(log.status().head, Some(id(5)));
    assert_eq!(sink.collect(ReadFrom::Origin).await.unwrap(), events(0..6));
    let now = status(&log, "sink");
    assert_eq!((now.state, now.lag_events), (SecondaryState::Live, 0));
    for at in 0..6 {
        assert_eq!(live.next().await.unwrap().unwrap(), event(at));
    }
    assert_eq!(live.next().await.unwrap().unwrap_err().kind(), ErrorKind::Closed);
    log.detach("sink").await.unwrap();
}

/// The primary has events of an unknown outcome, and cannot be read to compare them.
#[tokio::test(start_paused = true)]
async fn a_head_that_cannot_be_compared_is_looked_at_with_pauses() {
    let (primary, log, _) = with_durable_head().await;
    primary.read.set(Act::Fail(safe()));
    primary.append.set(Act::Lose(unknown()));
    log.append(batch(&events(3..6))).await.unwrap_err();
    primary.sync().await;
    tokio::time::sleep(SOON).await;
    let before = primary.checkpoints();
    tokio::time::sleep(Duration::from_secs(100)).await;
    let looks = primary.checkpoints() - before;
    assert!((50..=200).contains(&looks), "{looks} looks in 100 s");
}

/// The events that were accepted after them are lost: 3 to 8.
async fn with_lost_tail() -> (Accepting, FanOut<Accepting>, MemoryStore) {
    let (primary, log, sink) = with_durable_head().await;
    log.append(batch(&events(3..9))).await.unwrap();
    primary.lose_tail().await;
    (primary, log, sink)
}

#[tokio::test(start_paused = true)]
async fn a_lost_tail_that_was_only_accepted_is_sent_again() {
    for parts in [vec![9], vec![4, 9], vec![4, 6, 12]] {
        let (primary, log, sink) = with_lost_tail().await;
        // The caller does not know it yet: a gap, and no reason to stop.
        assert_eq!(log.append(batch(&events(9..10))).await.unwrap_err().kind(), ErrorKind::Gap);
        tokio::time::sleep(SOON).await;
        let mut from = 3;
        for to in parts {
            log.append(batch(&events(from..to))).await.unwrap();
            from = to;
        }
        primary.sync().await;
        log.delivered(id(from - 1), SOON).await.unwrap();
        assert_eq!(sink.collect(ReadFrom::Origin).await.unwrap(), events(0..from));
        assert!(log.close(SOON).await.is_empty());
    }
}

/// The log has stopped as diverged. Opened again, it continues with what the primary has.
async fn assert_replaced(primary: &Accepting, log: FanOut<Accepting>, sink: &MemoryStore, case: &str) {
    let stopped = log.status().stopped.unwrap_or_else(|| panic!("the log did not stop: {case}"));
    assert_eq!(stopped.kind(), ErrorKind::Diverged, "{stopped}: {case}");
    let next = log.append(batch(&events(20..21))).await.unwrap_err();
    assert_eq!(next.kind(), ErrorKind::Diverged, "{next}: {case}");
    primary.sync().await;
    tokio::time::sleep(SOON).await;
    assert_eq!(sink.collect(ReadFrom::Origin).await.unwrap(), events(0..3), "{case}");
    drop(log.close(SOON).await);
    let log = FanOut::open(primary.clone(), FanOutOptions::default()).await.unwrap();
    log.attach("sink", sink.clone(), SecondaryOptions::default()).await.unwrap();
    let held = primary.collect(ReadFrom::Origin).await.unwrap();
    if let Some(last) = held.last() {
        log.delivered(last.id(), SOON).await.unwrap();
    }
    assert_eq!(sink.collect(ReadFrom::Origin).await.unwrap(), held, "{case}");
}

/// Whether the log knows that its primary lost them, or not.
#[tokio::test(start_paused = true)]
async fn an_append_in_the_place_of_accepted_events_stops_the_log() {
    let skips = [Event::new(id(7), "other").unwrap(), Event::new(id(20), "other").unwrap()];
    for (after, other) in
        [(2, &other_from(3, 4)[3..]), (2, &other_from(3, 12)[3..]), (2, &skips), (2, &skips[1..])]
    {
        for knows in [false, true] {
            let case = format!("{} events after {after}, known: {knows}", other.len());
            let (primary, log, sink) = with_lost_tail().await;
            if knows {
                assert_eq!(log.append(batch(&events(9..10))).await.unwrap_err().kind(), ErrorKind::Gap);
                tokio::time::sleep(SOON).await;
                assert!(log.status().stopped.is_none(), "lost, and not replaced: {case}");
            }
            let appended = log.append(Batch::new(Some(id(after)), other).unwrap()).await;
            assert_eq!(appended.unwrap_err().kind(), ErrorKind::Diverged, "{case}");
            let written = primary.head().await.unwrap().id() > Some(id(2));
            assert_eq!(written, !knows, "{case}");
            assert_replaced(&primary, log, &sink, &case).await;
        }
    }
}

/// A part of the lost events comes again, and then others.
#[tokio::test(start_paused = true)]
async fn other_events_after_a_part_sent_again_stop_the_log() {
    let (primary, log, sink) = with_lost_tail().await;
    log.append(batch(&events(3..5))).await.unwrap();
    let other = log.append(batch(&other_from(5, 6)[5..])).await.unwrap_err();
    assert_eq!((other.kind(), other.event()), (ErrorKind::Diverged, Some(id(5))), "{other}");
    let held = primary.head().await.unwrap();
    assert_eq!(held.id(), Some(id(5)), "it was not known to be lost");
    assert_eq!(log.status().stopped.unwrap().kind(), ErrorKind::Diverged);
    primary.sync().await;
    tokio::time::sleep(SOON).await;
    assert!(sink.collect(ReadFrom::Origin).await.unwrap().len() <= 5, "nothing of the other history");
}

/// Another writer has continued on the other copy: below, at and beyond the newest accepted event.
#[tokio::test(start_paused = true)]
async fn a_copy_with_others_in_the_place_of_accepted_ones_stops() {
    for to in [4, 9, 20] {
        for is_durable in [true, false] {
            let case = format!("up to {to}, durable: {is_durable}");
            let (primary, log, sink) = with_lost_tail().await;
            if is_durable {
                primary.restore(&other_from(3, to)).await;
            } else {
                append_others(&primary, to).await;
            }
            tokio::time::sleep(SOON).await;
            if !is_durable && to == 20 {
                // Nothing compares them before they are durable.
                primary.sync().await;
                tokio::time::sleep(SOON).await;
            }
            assert_replaced(&primary, log, &sink, &case).await;
        }
    }
}

async fn append_others(primary: &Accepting, to: u64) {
    let others = other_from(3, to);
    primary.append(Batch::new(Some(id(2)), &others[3..]).unwrap()).await.unwrap();
}

/// A failover and back: what was taken for lost is there again, and another event in its place is refused.
#[tokio::test(start_paused = true)]
async fn accepted_events_that_are_back_are_delivered() {
    let (primary, log, sink) = with_lost_tail().await;
    assert_eq!(log.append(batch(&events(9..10))).await.unwrap_err().kind(), ErrorKind::Gap);
    tokio::time::sleep(SOON).await;
    primary.append(batch(&events(3..9))).await.unwrap();
    let mistaken = log.append(batch(&other_from(3, 4)[3..])).await.unwrap_err();
    assert_eq!(mistaken.kind(), ErrorKind::Fenced, "{mistaken}");
    primary.sync().await;
    log.delivered(id(8), SOON).await.unwrap();
    assert_eq!(sink.collect(ReadFrom::Origin).await.unwrap(), events(0..9));
    assert!(log.status().stopped.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_lost_durable_tail_stops_a_log_that_accepts_first() {
    let other: Vec<_> = (5..20).map(|at| Event::new(id(at), "other").unwrap()).collect();
    let shorter = events(0..5);
    let other = [events(0..5), other].concat();
    for (restored, appends) in [(&shorter, true), (&shorter, false), (&other, true), (&other, false)] {
        let primary = Accepting::default();
        let (log, sink) = open(&primary).await;
        log.append(batch(&events(0..9))).await.unwrap();
        primary.sync().await;
        log.delivered(id(8), SOON).await.unwrap();
        primary.restore(restored).await;
        if appends {
            log.append(batch(&events(9..10))).await.unwrap_err();
        }
        log.checkpoint().await.unwrap();
        assert_eq!(log.status().stopped.unwrap().kind(), ErrorKind::Diverged);
        tokio::time::sleep(SOON).await;
        assert_eq!(sink.collect(ReadFrom::Origin).await.unwrap(), events(0..9));
    }
}

/// What the primary had accepted before it was opened is published as soon as it is durable, without an append.
#[tokio::test(start_paused = true)]
async fn what_was_accepted_before_opening_is_published() {
    let primary = Accepting::default();
    primary.append(batch(&events(0..5))).await.unwrap();
    let (log, sink) = open(&primary).await;
    tokio::time::sleep(SOON).await;
    primary.sync().await;
    log.delivered(id(4), SOON).await.unwrap();
    assert_eq!(sink.collect(ReadFrom::Origin).await.unwrap(), events(0..5));
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_that_fails_delays_no_append() {
    for act in [Act::Fail(safe()), Act::Panic] {
        let primary = Accepting::default();
        let (log, sink) = open(&primary).await;
        primary.checkpoint.set(act);
        let begun = tokio::time::Instant::now();
        for at in 0..100 {
            log.append(batch(&[event(at)])).await.unwrap();
        }
        assert_eq!(begun.elapsed(), Duration::ZERO);
        let calls = primary.checkpoints();
        tokio::time::sleep(Duration::from_secs(100)).await;
        assert!(primary.checkpoints() - calls < 300, "{} calls in 100 s", primary.checkpoints() - calls);
        primary.checkpoint.set(Act::Fine);
        primary.sync().await;
        log.delivered(id(99), SOON).await.unwrap();
        assert_eq!(sink.collect(ReadFrom::Origin).await.unwrap(), events(0..100));
    }
}

/// An old batch that is sent again does not hide that newer events are not durable yet.
#[tokio::test(start_paused = true)]
async fn a_held_batch_sent_again_keeps_the_rest_in_view() {
    let primary = Accepting::default();
    let (log, sink) = open(&primary).await;
    log.append(batch(&events(0..3))).await.unwrap();
    primary.sync().await;
    log.delivered(id(2), SOON).await.unwrap();
    log.append(batch(&events(3..9))).await.unwrap();
    log.append(batch(&events(1..2))).await.unwrap();
    primary.sync().await;
    log.delivered(id(8), SOON).await.unwrap();
    assert_eq!(sink.collect(ReadFrom::Origin).await.unwrap(), events(0..9));
}

/// A log of three durable events, with six more that are accepted, and a ring of two.
async fn with_accepted_tail(primary: &Accepting) -> (FanOut<Accepting>, MemoryStore) {
    let options = FanOutOptions::default().with_ring(2, 1 << 20).with_seed(1);
    let log = FanOut::open(primary.clone(), options).await.unwrap();
    let sink = MemoryStore::default();
    log.attach("sink", sink.clone(), SecondaryOptions::default()).await.unwrap();
    log.append(batch(&events(0..3))).await.unwrap();
    primary.sync().await;
    log.delivered(id(2), SOON).await.unwrap();
    log.append(batch(&events(3..9))).await.unwrap();
    (log, sink)
}

#[tokio::test(start_paused = true)]
async fn close_does_not_report_accepted_events_that_are_lost() {
    for kept in [events(0..3), events(0..5)] {
        let primary = Accepting::default();
        let (log, sink) = with_accepted_tail(&primary).await;
        primary.restore(&kept).await;
        let begun = tokio::time::Instant::now();
        let laggards = log.close(SOON).await;
        assert!(laggards.is_empty(), "{laggards}");
        assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
        assert_eq!(sink.collect(ReadFrom::Origin).await.unwrap(), kept);
    }
}

/// The ring has the events 7 and 8, and knows 6. Only from there on they can be compared.
#[tokio::test(start_paused = true)]
async fn accepted_events_beyond_the_ring_are_compared_at_its_base() {
    let other = |ids: std::ops::Range<u64>| -> Vec<_> {
        ids.map(|at| Event::new(id(at), &format!("other {at}")).unwrap()).collect()
    };
    // What is appended instead ends before, at and after the ring's base, and after its end.
    for end in [4, 5, 6, 7, 8, 9, 12] {
        for syncs in [false, true] {
            let primary = Accepting::default();
            let (log, sink) = with_accepted_tail(&primary).await;
            primary.lose_tail().await;
            let (mut held, mut refused) = (events(0..3), None);
            for ids in [3..end, end..end + 2] {
                let others = other(ids);
                match log.append(batch(&others)).await {
                    Ok(()) if syncs => {
                        primary.sync().await;
                        log.delivered(others.last().unwrap().id(), SOON).await.unwrap();
                        held.extend(others);
                    }
                    Ok(()) => held.extend(others),
                    Err(error) => {
                        refused = Some(error);
                        break;
                    }
                }
            }
            let reaches_base = end + 1 >= 6;
            assert_eq!(
                refused.map(|error| error.kind()),
                reaches_base.then_some(ErrorKind::Diverged),
                "{end}"
            );
            primary.sync().await;
            tokio::time::sleep(SOON).await;
            assert_eq!(log.status().stopped.is_some(), reaches_base, "{end}");
            let received = sink.collect(ReadFrom::Origin).await.unwrap();
            if reaches_base {
                assert!(held.starts_with(&received), "nothing after the event that was replaced: {end}");
            } else {
                assert_eq!(received, held, "{end}");
            }
        }
    }
}

/// The same bytes again, up to the ring's base or beyond it, are waited for like all accepted events.
#[tokio::test(start_paused = true)]
async fn lost_events_sent_again_are_delivered_once_durable() {
    for end in 7..12 {
        let primary = Accepting::default();
        let (log, sink) = with_accepted_tail(&primary).await;
        primary.lose_tail().await;
        tokio::time::sleep(SOON).await;
        log.append(batch(&events(3..end))).await.unwrap();
        primary.sync().await;
        log.delivered(id(end - 1), SOON).await.unwrap();
        assert_eq!(sink.collect(ReadFrom::Origin).await.unwrap(), events(0..end));
    }
}

/// A log of three durable events that its sink has.
async fn with_durable_head() -> (Accepting, FanOut<Accepting>, MemoryStore) {
    let primary = Accepting::default();
    let (log, sink) = open(&primary).await;
    log.append(batch(&events(0..3))).await.unwrap();
    primary.sync().await;
    log.delivered(id(2), SOON).await.unwrap();
    (primary, log, sink)
}

/// The history of a copy that has other events from `from` on.
fn other_from(from: u64, to: u64) -> Vec<Event> {
    let other = |at| Event::new(id(at), &format!("other {at}")).unwrap();
    events(0..from).into_iter().chain((from..to).map(other)).collect()
}

#[tokio::test(start_paused = true)]
async fn nothing_is_appended_to_a_copy_that_cannot_be_compared() {
    let (primary, log, sink) = with_durable_head().await;
    log.append(batch(&events(3..6))).await.unwrap();
    let deadline = Some(tokio::time::Instant::now() + 10 * SOON);
    primary.append.set(Act::Fail(safe()));
    let next = [event(6)];
    log.append(batch(&next).with_deadline(deadline)).await.unwrap_err();
    primary.append.set(Act::Fine);
    primary.read.set(Act::Fail(safe()));
    primary.restore(&other_from(2, 6)).await;
    let error = log.append(batch(&next).with_deadline(deadline)).await.expect_err("not compared");
    assert_eq!(error.retry(), Retry::Safe, "{error}");
    primary.read.set(Act::Fine);
    let error = log.append(batch(&next).with_deadline(deadline)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Diverged, "{error}");
    primary.sync().await;
    tokio::time::sleep(SOON).await;
    assert_eq!(sink.collect(ReadFrom::Origin).await.unwrap(), events(0..3));
}

#[tokio::test(start_paused = true)]
async fn an_accepted_event_replaced_by_an_open_outcome_stops() {
    let (primary, log, sink) = with_durable_head().await;
    log.append(batch(&events(3..4))).await.unwrap();
    primary.lose_tail().await;
    let deadline = Some(tokio::time::Instant::now() + SOON);
    primary.append.set(Act::Lose(unknown()));
    let other = other_from(3, 4);
    log.append(batch(&other[3..]).with_deadline(deadline)).await.unwrap_err();
    primary.append.set(Act::Fine);
    let next = log.append(batch(&events(4..5)).with_deadline(deadline)).await.unwrap_err();
    assert_eq!(next.kind(), ErrorKind::Diverged, "{next}");
    assert_replaced(&primary, log, &sink, "an open outcome").await;
}
