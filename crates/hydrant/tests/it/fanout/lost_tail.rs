//! A primary that fails over to another copy of the log, under a running fan-out.

use std::time::Duration;

use hydrant::{
    Batch, CommitPoint, ErrorKind, Event, EventSink, EventSourceExt, FanOut, FanOutOptions, Journal,
    JournalOptions, MemoryStore, ReadFrom, SecondaryOptions, SecondaryState,
};

use super::rig::{Act, Server};
use super::{SOON, status, until};
use crate::support::{batch, event, events, id, safe, snapshot, unknown};

/// A log of ten events that its sink has.
async fn log_of_ten() -> (Server, FanOut<Server>, MemoryStore) {
    let primary = Server::default();
    let options = FanOutOptions::default().with_ring(4, 1 << 20).with_seed(1);
    let log = FanOut::open(primary.clone(), options).await.unwrap();
    let sink = MemoryStore::default();
    log.attach("sink", sink.clone(), SecondaryOptions::default()).await.unwrap();
    log.append(batch(&events(0..10))).await.unwrap();
    log.delivered(id(9), SOON).await.unwrap();
    (primary, log, sink)
}

/// The history of a copy that has other events from `from` on.
fn other_from(from: u64, to: u64) -> Vec<Event> {
    let other = |at| Event::new(id(at), &format!("other {at}")).unwrap();
    events(0..from).into_iter().chain((from..to).map(other)).collect()
}

/// The log has stopped as diverged, and the sink has the events that were acknowledged, and no others.
async fn assert_stopped(log: &FanOut<Server>, sink: &MemoryStore) {
    let stopped = log.status().stopped.expect("the log did not stop");
    assert_eq!(stopped.kind(), ErrorKind::Diverged, "{stopped}");
    let next = log.append(batch(&[event(10)])).await.unwrap_err();
    assert_eq!(next.kind(), ErrorKind::Diverged, "{next}");
    tokio::time::sleep(SOON).await;
    assert_eq!(log.status().head, Some(id(9)));
    assert_eq!(sink.collect(ReadFrom::Origin).await.unwrap(), events(0..10));
}

#[tokio::test(start_paused = true)]
async fn a_gap_at_the_published_head_stops_the_log() {
    let (primary, log, sink) = log_of_ten().await;
    primary.fail_over(&events(0..7)).await;
    let error = log.append(batch(&[event(10)])).await.unwrap_err();
    assert_eq!((error.kind(), error.event()), (ErrorKind::Diverged, Some(id(9))), "{error}");
    assert_stopped(&log, &sink).await;
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_below_the_published_head_stops_the_log() {
    for lost in [events(0..7), vec![]] {
        let (primary, log, sink) = log_of_ten().await;
        primary.fail_over(&lost).await;
        let held = log.checkpoint().await.unwrap();
        assert_eq!(held, primary.copy().checkpoint().await.unwrap(), "what the primary has all the same");
        assert_stopped(&log, &sink).await;
    }
}

#[tokio::test(start_paused = true)]
async fn another_digest_at_the_published_head_stops_the_log() {
    let (primary, log, sink) = log_of_ten().await;
    primary.fail_over(&other_from(7, 10)).await;
    log.checkpoint().await.unwrap();
    assert_stopped(&log, &sink).await;
}

/// Another writer has continued on the other copy, beyond what was published.
#[tokio::test(start_paused = true)]
async fn a_longer_copy_with_other_events_stops_the_log() {
    let (primary, log, sink) = log_of_ten().await;
    let slow = Server::default();
    slow.append.set(Act::Fail(safe()));
    log.attach("slow", slow.clone(), SecondaryOptions::default()).await.unwrap();
    until(&log, "slow", SecondaryState::Retrying).await;
    primary.fail_over(&other_from(7, 20)).await;
    log.checkpoint().await.unwrap();
    assert_stopped(&log, &sink).await;
    slow.append.set(Act::Fine);
    until(&log, "slow", SecondaryState::Parked).await;
    assert!(slow.copy().collect(ReadFrom::Origin).await.unwrap().is_empty(), "nothing of the other history");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_published_after_the_log_diverged() {
    let (primary, log, sink) = log_of_ten().await;
    primary.fail_over(&other_from(7, 9)).await;
    log.checkpoint().await.unwrap();
    // The other copy grows beyond what was published.
    primary.fail_over(&other_from(7, 20)).await;
    log.checkpoint().await.unwrap();
    assert_stopped(&log, &sink).await;
}

#[tokio::test(start_paused = true)]
async fn an_append_that_overlaps_the_head_compares_it_first() {
    let (primary, log, sink) = log_of_ten().await;
    primary.fail_over(&events(0..7)).await;
    let appends = primary.appends();
    let error = log.append(batch(&other_from(7, 9)[7..])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Diverged, "{error}");
    assert_eq!(primary.appends(), appends, "nothing was written to the other copy");
    assert_stopped(&log, &sink).await;
}

/// A copy of the same length: after an append, its checkpoint would look the same.
#[tokio::test(start_paused = true)]
async fn after_a_failed_append_the_head_is_compared_first() {
    for error in [safe(), unknown()] {
        let (primary, log, sink) = log_of_ten().await;
        primary.append.set(Act::Fail(error.clone()));
        let deadline = Some(tokio::time::Instant::now() + SOON);
        let next = [event(10)];
        let failed = log.append(batch(&next).with_deadline(deadline)).await.unwrap_err();
        assert_eq!((failed.kind(), failed.retry()), (error.kind(), error.retry()), "{failed}");
        primary.fail_over(&other_from(7, 10)).await;
        primary.append.set(Act::Fine);
        let failed = log.append(batch(&next).with_deadline(deadline)).await.unwrap_err();
        assert_eq!(failed.kind(), ErrorKind::Diverged, "{failed}");
        assert_stopped(&log, &sink).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_failover_under_an_append_is_found_by_the_next_attempt() {
    let (primary, log, sink) = log_of_ten().await;
    primary.append.set(Act::Hang);
    let appending = tokio::spawn({
        let log = log.clone();
        async move { log.append(batch(&[event(10)])).await }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    primary.fail_over(&other_from(7, 10)).await;
    primary.append.set(Act::Fine);
    let error = appending.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed, "the first attempt is not settled: {error}");
    assert_stopped(&log, &sink).await;
}

#[tokio::test(start_paused = true)]
async fn a_journal_reopened_over_a_lost_tail_is_refused() {
    let (primary, log, sink) = log_of_ten().await;
    let open = || Journal::<String>::open(log.clone(), JournalOptions::default());
    let journal = open().await.unwrap();
    primary.fail_over(&events(0..7)).await;
    journal.append(&"second".to_owned()).await.unwrap_err();
    if let Ok(journal) = open().await {
        journal.append(&"third".to_owned()).await.unwrap_err();
    }
    assert_stopped(&log, &sink).await;
    assert_eq!(primary.copy().collect(ReadFrom::Origin).await.unwrap(), events(0..7));
}

#[tokio::test(start_paused = true)]
async fn after_a_restart_over_a_lost_tail_the_sinks_park() {
    let (primary, log, sink) = log_of_ten().await;
    drop(log.close(SOON).await);
    primary.fail_over(&events(0..7)).await;
    let log = FanOut::open(primary.clone(), FanOutOptions::default()).await.unwrap();
    log.attach("sink", sink.clone(), SecondaryOptions::default()).await.unwrap();
    let error = until(&log, "sink", SecondaryState::Parked).await.last_error.unwrap();
    assert_eq!(error.kind(), ErrorKind::Diverged);
    assert!(log.status().stale.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_mistaken_caller_does_not_stop_the_log() {
    let (primary, log, sink) = log_of_ten().await;
    let kind = |result: hydrant::Result<()>| result.unwrap_err().kind();
    let other = other_from(0, 20);
    let id_before = |at: usize| other[at].id().prev();
    assert_eq!(kind(log.append(Batch::new(id_before(14), &other[14..]).unwrap()).await), ErrorKind::Gap);
    for at in [0, 3, 9] {
        let overlapping = Batch::new(id_before(at), &other[at..12]).unwrap();
        assert_eq!(kind(log.append(overlapping).await), ErrorKind::Fenced, "from {at}");
        let below = Batch::new(id_before(at), &other[at..=at]).unwrap();
        assert_eq!(kind(log.append(below).await), ErrorKind::Fenced, "at {at}");
    }
    assert_eq!(log.status().stopped.map(|error| error.to_string()), None);
    log.append(batch(&events(10..12))).await.unwrap();
    log.delivered(id(11), SOON).await.unwrap();
    assert_eq!(sink.collect(ReadFrom::Origin).await.unwrap(), events(0..12));
    assert_eq!(primary.copy().collect(ReadFrom::Origin).await.unwrap(), events(0..12));
}

/// Some of them are below the ring, which holds four events.
#[tokio::test(start_paused = true)]
async fn a_held_batch_that_is_sent_again_is_ok() {
    let (_, log, sink) = log_of_ten().await;
    for (from, to) in [(0, 1), (2, 5), (4, 8), (7, 9), (9, 10), (0, 10), (5, 12)] {
        log.append(batch(&events(from..to))).await.unwrap();
        assert_eq!(log.status().stopped.map(|error| error.to_string()), None, "{from}..{to}");
    }
    log.append(batch(&events(12..13))).await.unwrap();
    log.delivered(id(12), SOON).await.unwrap();
    assert_eq!(sink.collect(ReadFrom::Origin).await.unwrap(), events(0..13));
}

/// A standby that replicates late. Pumps that read it meanwhile wait, and do not park.
#[tokio::test(start_paused = true)]
async fn a_standby_that_catches_up_delays_and_does_not_park() {
    let (primary, log, _) = log_of_ten().await;
    let (new, old) = (MemoryStore::default(), MemoryStore::default());
    old.append(batch(&events(0..9))).await.unwrap();
    let standby = primary.fail_over(&events(0..5)).await;
    log.attach("new", new.clone(), SecondaryOptions::default()).await.unwrap();
    log.attach("old", old.clone(), SecondaryOptions::default()).await.unwrap();
    for name in ["new", "old"] {
        let error = until(&log, name, SecondaryState::Retrying).await.last_error.unwrap();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    }
    standby.append(batch(&events(5..10))).await.unwrap();
    log.append(batch(&events(10..11))).await.unwrap();
    log.delivered(id(10), Duration::from_secs(60)).await.unwrap();
    for sink in [new, old] {
        assert_eq!(sink.collect(ReadFrom::Origin).await.unwrap(), events(0..11));
    }
    assert_eq!(status(&log, "old").last_error.map(|error| error.to_string()), None);
}

/// To a copy that is behind, and back, before anything was appended.
#[tokio::test(start_paused = true)]
async fn a_failover_and_back_between_appends_changes_nothing() {
    let (primary, log, sink) = log_of_ten().await;
    primary.fail_over(&events(0..5)).await;
    tokio::time::sleep(SOON).await;
    primary.fail_over(&events(0..10)).await;
    log.append(batch(&events(10..12))).await.unwrap();
    log.delivered(id(11), SOON).await.unwrap();
    assert_eq!(sink.collect(ReadFrom::Origin).await.unwrap(), events(0..12));
}

#[tokio::test(start_paused = true)]
async fn an_idle_log_finds_its_lost_tail() {
    for copy in [events(0..7), other_from(7, 10), vec![]] {
        let (primary, log, sink) = log_of_ten().await;
        primary.fail_over(&copy).await;
        tokio::time::sleep(Duration::from_secs(120)).await;
        assert_stopped(&log, &sink).await;
    }
}

/// A look at an idle log is rare, and ends once there is something to do.
#[tokio::test(start_paused = true)]
async fn a_look_at_an_idle_log_delays_no_append() {
    let (primary, log, _) = log_of_ten().await;
    let calls = primary.checkpoints();
    tokio::time::sleep(Duration::from_secs(3630)).await;
    let calls = primary.checkpoints() - calls;
    assert!((30..=61).contains(&calls), "{calls} looks in an hour");
    primary.checkpoint.set(Act::Hang);
    tokio::time::sleep(Duration::from_secs(40)).await;
    let begun = tokio::time::Instant::now();
    log.append(batch(&[event(10)])).await.unwrap();
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

/// A sink that fails over to a copy of the same length, with another event at its end, and breaks no call.
#[tokio::test(start_paused = true)]
async fn a_sink_replaced_by_a_copy_of_its_length_parks() {
    for idle in [Duration::ZERO, Duration::from_secs(3600)] {
        let log = FanOut::open(MemoryStore::default(), FanOutOptions::default().with_seed(1)).await.unwrap();
        let sink = Server::default();
        log.attach("sink", sink.clone(), SecondaryOptions::default()).await.unwrap();
        log.append(batch(&events(0..10))).await.unwrap();
        log.delivered(id(9), SOON).await.unwrap();
        tokio::time::sleep(idle).await;
        sink.fail_over(&other_from(7, 10)).await;
        if !idle.is_zero() {
            log.append(batch(&[event(10)])).await.unwrap();
        }
        let parked = tokio::time::timeout(SOON, until(&log, "sink", SecondaryState::Parked));
        let error = parked.await.expect("it is not found").last_error.unwrap();
        assert_eq!(error.kind(), ErrorKind::Diverged, "{error}");
        assert_eq!(sink.copy().collect(ReadFrom::Origin).await.unwrap(), other_from(7, 10));
    }
}

/// A copy of the same length: after an append, its checkpoint would look the same.
#[tokio::test(start_paused = true)]
async fn after_a_failed_look_the_head_is_compared_first() {
    for overlaps in [false, true] {
        let (primary, log, _) = log_of_ten().await;
        primary.checkpoint.set(Act::Fail(safe()));
        if overlaps {
            log.append(batch(&events(9..10))).await.unwrap_err();
        } else {
            log.checkpoint().await.unwrap_err();
        }
        primary.fail_over(&other_from(7, 10)).await;
        primary.checkpoint.set(Act::Fine);
        let failed = log.append(batch(&[event(10)])).await.expect_err("not compared");
        assert_eq!(failed.kind(), ErrorKind::Diverged, "{failed}");
        assert_eq!(primary.copy().collect(ReadFrom::Origin).await.unwrap(), other_from(7, 10));
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_failed_idle_look_the_head_is_compared_first() {
    let (primary, log, _) = log_of_ten().await;
    primary.checkpoint.set(Act::Fail(safe()));
    tokio::time::sleep(Duration::from_secs(61)).await;
    primary.fail_over(&other_from(7, 10)).await;
    primary.checkpoint.set(Act::Fine);
    let failed = log.append(batch(&[event(10)])).await.expect_err("not compared");
    assert_eq!(failed.kind(), ErrorKind::Diverged, "{failed}");
}

#[tokio::test(start_paused = true)]
async fn asking_for_the_head_does_not_delay_a_look() {
    let (primary, log, _) = log_of_ten().await;
    primary.fail_over(&other_from(7, 10)).await;
    for _ in 0..60 {
        log.head().await.unwrap();
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
    let stopped = log.status().stopped.expect("it is not found");
    assert_eq!(stopped.kind(), ErrorKind::Diverged);
}

/// The primary fails over between the comparison and the append. The batch is in the place of an event that was lost.
#[tokio::test(start_paused = true)]
async fn a_batch_that_takes_the_place_of_a_lost_event_stops_the_log() {
    for ring_bytes in [1, 1 << 20] {
        let primary = Server::holding(&events(0..10)).await;
        let options = FanOutOptions::default().with_ring(1_000, ring_bytes).with_seed(1);
        let log = FanOut::open(primary.clone(), options).await.unwrap();
        log.append(batch(&events(10..12))).await.unwrap();
        primary.append.set(Act::Slow(Duration::from_millis(100)));
        let other = [snapshot(10)];
        let late = Batch::new(Some(id(9)), &other).unwrap();
        let (appended, _) = tokio::join!(log.append(late), async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            primary.fail_over(&events(0..10)).await
        });
        assert_eq!(appended.unwrap_err().kind(), ErrorKind::Diverged, "{ring_bytes}");
        assert_eq!(log.status().stopped.unwrap().kind(), ErrorKind::Diverged);
    }
}
