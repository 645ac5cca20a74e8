//! A primary that accepts first: unknown outcomes, lost tails, and checkpoints that fail.

use std::time::Duration;

use futures_util::StreamExt;
use hydrant::{
    ErrorKind, Event, EventSink, EventSource, EventSourceExt, FanOut, FanOutOptions, MemoryStore, ReadFrom,
    Retry, SecondaryOptions, SecondaryState,
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

#[tokio::test(start_paused = true)]
async fn a_tail_that_was_only_accepted_may_be_lost() {
    let primary = Accepting::default();
    let (log, sink) = open(&primary).await;
    log.append(batch(&events(0..3))).await.unwrap();
    primary.sync().await;
    log.append(batch(&events(3..9))).await.unwrap();
    log.delivered(id(2), SOON).await.unwrap();
    primary.lose_tail().await;
    // The caller does not know it yet: a gap, and no reason to stop.
    assert_eq!(log.append(batch(&events(9..10))).await.unwrap_err().kind(), ErrorKind::Gap);
    assert!(log.status().stopped.is_none());
    let other = [Event::new(id(3), "instead").unwrap(), event(4)];
    log.append(batch(&other)).await.unwrap();
    primary.sync().await;
    log.delivered(id(4), SOON).await.unwrap();
    let expected = [events(0..3), other.to_vec()].concat();
    assert_eq!(sink.collect(ReadFrom::Origin).await.unwrap(), expected);
    assert!(log.close(SOON).await.is_empty());
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

#[tokio::test(start_paused = true)]
async fn accepted_events_lost_beyond_the_ring_are_replaced() {
    let other = |ids: std::ops::Range<u64>| -> Vec<_> {
        ids.map(|at| Event::new(id(at), &format!("other {at}")).unwrap()).collect()
    };
    // What is appended instead ends before, at and after the ring's base, and after its end.
    for end in [4, 5, 6, 7, 8, 9, 12] {
        for syncs in [false, true] {
            let primary = Accepting::default();
            let (log, sink) = with_accepted_tail(&primary).await;
            primary.lose_tail().await;
            let other = other(3..end + 2);
            let at = usize::try_from(end - 3).unwrap();
            log.append(batch(&other[..at])).await.unwrap();
            if syncs {
                primary.sync().await;
                log.delivered(id(end - 1), SOON).await.unwrap();
            }
            log.append(batch(&other[at..])).await.unwrap();
            primary.sync().await;
            log.delivered(id(end + 1), SOON).await.unwrap_or_else(|late| panic!("{late}: {end}"));
            assert_eq!(log.status().stopped.map(|error| error.to_string()), None, "up to {end}");
            let laggards = log.close(SOON).await;
            assert!(laggards.is_empty(), "{laggards}: {end}");
            let expected = [events(0..3), other].concat();
            assert_eq!(sink.collect(ReadFrom::Origin).await.unwrap(), expected, "up to {end}");
        }
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
async fn an_accepted_event_replaced_by_an_open_outcome_is_not_seen() {
    let (primary, log, sink) = with_durable_head().await;
    log.append(batch(&events(3..4))).await.unwrap();
    primary.lose_tail().await;
    let deadline = Some(tokio::time::Instant::now() + SOON);
    primary.append.set(Act::Lose(unknown()));
    let other = other_from(3, 4);
    log.append(batch(&other[3..]).with_deadline(deadline)).await.unwrap_err();
    primary.append.set(Act::Fine);
    log.append(batch(&events(4..5)).with_deadline(deadline)).await.unwrap();
    primary.sync().await;
    log.delivered(id(4), SOON).await.unwrap();
    let held = primary.collect(ReadFrom::Origin).await.unwrap();
    assert_eq!(sink.collect(ReadFrom::Origin).await.unwrap(), held);
}
