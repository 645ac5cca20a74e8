//! Options at their edges: nothing stalls, spins, overflows or loses an event.

use std::time::Duration;

use hydrant::{
    EventSink, EventSourceExt, FanOut, FanOutOptions, MemoryStore, ReadFrom, SecondaryOptions, SecondaryState,
};

use super::rig::{Accepting, Act, Server};
use super::{SOON, status, until};
use crate::support::{batch, event, events, id, safe};

#[tokio::test(start_paused = true)]
async fn batches_of_no_events_and_no_bytes_hold_one() {
    for (events_max, bytes_max) in [(0, 1 << 20), (100, 0), (0, 0), (usize::MAX, usize::MAX)] {
        let small = FanOutOptions::default().with_ring(10, 1 << 20);
        let log = FanOut::open(MemoryStore::default(), small).await.unwrap();
        let mut options = SecondaryOptions::default();
        (options.batch_events_max, options.batch_bytes_max) = (events_max, bytes_max);
        let sink = MemoryStore::default();
        log.attach("sink", sink.clone(), options).await.unwrap();
        log.append(batch(&events(0..50))).await.unwrap();
        log.delivered(id(49), SOON).await.unwrap();
        assert_eq!(sink.collect(ReadFrom::Origin).await.unwrap(), events(0..50));
        until(&log, "sink", SecondaryState::Live).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_ring_of_no_events_or_no_bytes_delivers_from_the_primary() {
    for (events_max, bytes_max) in [(0, 1 << 20), (16, 0), (0, 0)] {
        let options = FanOutOptions::default().with_ring(events_max, bytes_max);
        let log = FanOut::open(MemoryStore::default(), options).await.unwrap();
        let sink = MemoryStore::default();
        log.attach("sink", sink.clone(), SecondaryOptions::default()).await.unwrap();
        for at in 0..20 {
            log.append(batch(&[event(at)])).await.unwrap();
        }
        log.delivered(id(19), SOON).await.unwrap();
        assert_eq!(sink.collect(ReadFrom::Origin).await.unwrap(), events(0..20));
    }
}

#[tokio::test(start_paused = true)]
async fn time_outs_without_end_do_not_overflow() {
    let primary = Accepting::default();
    let mut options = FanOutOptions::default().with_resolve_timeout(Duration::MAX);
    (options.call_timeout, options.sync_poll) = (Duration::MAX, Duration::MAX);
    let log = FanOut::open(primary.clone(), options).await.unwrap();
    let mut options = SecondaryOptions::default().with_backoff(Duration::MAX, Duration::MAX);
    (options.call_timeout, options.linger_max) = (Duration::MAX, Duration::MAX);
    let sink = MemoryStore::default();
    log.attach("sink", sink.clone(), options.with_batch(3, 1 << 20)).await.unwrap();
    log.append(batch(&events(0..3))).await.unwrap();
    primary.sync().await;
    log.checkpoint().await.unwrap();
    log.delivered(id(2), Duration::MAX).await.unwrap();
    assert_eq!(status(&log, "sink").state, SecondaryState::Live);
    assert!(log.close(Duration::MAX).await.is_empty());
}

/// Paused time only moves while everything waits: a loop without a pause would never let it.
#[tokio::test(start_paused = true)]
async fn pauses_of_no_time_do_not_spin() {
    let primary = Accepting::default();
    let log =
        FanOut::open(primary.clone(), FanOutOptions::default().with_sync_poll(Duration::ZERO)).await.unwrap();
    let sink = Server::default();
    sink.append.set(Act::Fail(safe()));
    let options = SecondaryOptions::default().with_backoff(Duration::ZERO, Duration::ZERO);
    log.attach("sink", sink.clone(), options).await.unwrap();
    log.append(batch(&events(0..3))).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    primary.sync().await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(sink.appends() <= 500, "{} calls in 500 ms", sink.appends());
    assert_eq!(status(&log, "sink").state, SecondaryState::Retrying);
    sink.append.set(Act::Fine);
    log.delivered(id(2), SOON).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_empty_name_is_refused() {
    let log = FanOut::open(MemoryStore::default(), FanOutOptions::default()).await.unwrap();
    let error = log.attach("", MemoryStore::default(), SecondaryOptions::default()).await.unwrap_err();
    assert_eq!(error.kind(), hydrant::ErrorKind::Invalid);
    assert!(log.status().secondaries.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_pause_of_zero_between_looks_does_not_spin() {
    let primary = Server::default();
    let options = FanOutOptions::default().with_idle_poll(Duration::ZERO).with_seed(1);
    let _log = FanOut::open(primary.clone(), options).await.unwrap();
    let calls = primary.checkpoints();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(primary.checkpoints() - calls <= 1001, "{}", primary.checkpoints() - calls);
}
