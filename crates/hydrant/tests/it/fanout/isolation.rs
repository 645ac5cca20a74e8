//! Promises 3 and 4: a bad secondary delays no other; transient errors are retried, permanent ones park.

use std::time::Duration;

use hydrant::{
    Error, ErrorKind, EventSink, EventSourceExt, FanOut, FanOutOptions, MemoryStore, ReadFrom, Retry,
    SecondaryOptions, SecondaryState,
};

use super::{SOON, status, until};
use crate::support::{Faulty, Mode, batch, event, events, id, safe, unknown};

#[tokio::test(start_paused = true)]
async fn bad_neighbours_delay_neither_the_primary_nor_the_others() {
    let log = FanOut::open(MemoryStore::default(), FanOutOptions::default()).await.unwrap();
    let denied = Error::new(ErrorKind::Denied, Retry::Never, "the credentials expired");
    let bad = [
        ("hangs", Mode::Hang),
        ("slow", Mode::Slow(Duration::from_secs(3600))),
        ("panics", Mode::Panic),
        ("down", Mode::Before(safe())),
        ("loses answers", Mode::After(unknown())),
        ("denied", Mode::Before(denied)),
    ];
    for (name, mode) in &bad {
        log.attach(name, Faulty::new(mode.clone()), SecondaryOptions::default()).await.unwrap();
    }
    let good = MemoryStore::default();
    log.attach("good", good.clone(), SecondaryOptions::default()).await.unwrap();

    let begin = tokio::time::Instant::now();
    for at in 0..1_000 {
        log.append(batch(&[event(at)])).await.unwrap();
    }
    while good.checkpoint().await.unwrap().id() != Some(id(999)) {
        tokio::task::yield_now().await;
    }
    // Paused time moves only when all tasks wait: none waited for a bad neighbour.
    assert_eq!(begin.elapsed(), Duration::ZERO);
    assert_eq!(good.collect(ReadFrom::Origin).await.unwrap(), events(0..1_000));
    for parked in ["panics", "denied"] {
        until(&log, parked, SecondaryState::Parked).await;
    }
    assert_eq!(status(&log, "denied").last_error.unwrap().kind(), ErrorKind::Denied);
    let panic = status(&log, "panics").last_error.unwrap();
    assert!(panic.to_string().contains("the sink is broken"), "{panic}");
}

#[tokio::test(start_paused = true)]
async fn what_may_be_retried_is_retried_until_it_works() {
    for mode in [Mode::Before(safe()), Mode::Before(unknown()), Mode::After(unknown()), Mode::Hang] {
        let log = FanOut::open(MemoryStore::default(), FanOutOptions::default().with_seed(7)).await.unwrap();
        let sink = Faulty::new(mode.clone());
        log.attach("sink", sink.clone(), SecondaryOptions::default()).await.unwrap();
        log.append(batch(&events(0..10))).await.unwrap();
        tokio::time::sleep(Duration::from_secs(24 * 3600)).await;
        let now = status(&log, "sink");
        assert_ne!(now.state, SecondaryState::Parked, "{mode:?} is retried forever");
        assert!(now.last_error_at.is_some());
        // The sink is asked after a lost reply.
        let applied = matches!(mode, Mode::After(_));
        assert_eq!(now.checkpoint.is_some(), applied, "{mode:?}");
        sink.set(Mode::Fine);
        log.append(batch(&events(10..20))).await.unwrap();
        log.delivered(id(19), Duration::from_secs(120)).await.unwrap();
        assert_eq!(sink.inner.collect(ReadFrom::Origin).await.unwrap(), events(0..20));
    }
}

#[tokio::test(start_paused = true)]
async fn a_parked_secondary_continues_after_resume() {
    let log = FanOut::open(MemoryStore::default(), FanOutOptions::default()).await.unwrap();
    let sink = Faulty::new(Mode::Panic);
    log.attach("sink", sink.clone(), SecondaryOptions::default()).await.unwrap();
    log.append(batch(&events(0..10))).await.unwrap();
    until(&log, "sink", SecondaryState::Parked).await;
    let calls = sink.appends();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(sink.appends(), calls, "parked is parked");
    sink.set(Mode::Fine);
    log.resume("sink").unwrap();
    log.delivered(id(9), SOON).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_lost_events_is_refilled() {
    let log = FanOut::open(MemoryStore::default(), FanOutOptions::default()).await.unwrap();
    log.append(batch(&events(0..10))).await.unwrap();
    // Filled in part by another writer: the next batch is a gap, or overlaps.
    let sink = Faulty::new(Mode::Fine);
    sink.append(batch(&events(0..4))).await.unwrap();
    log.attach("sink", sink.clone(), SecondaryOptions::default()).await.unwrap();
    log.delivered(id(9), SOON).await.unwrap();
    assert_eq!(sink.inner.collect(ReadFrom::Origin).await.unwrap(), events(0..10));
}

/// A thousand secondaries come and go: nothing of them is left.
#[tokio::test]
async fn attach_and_detach_leave_nothing_behind() {
    let log = FanOut::open(MemoryStore::default(), FanOutOptions::default()).await.unwrap();
    log.append(batch(&events(0..10))).await.unwrap();
    tokio::task::yield_now().await;
    let before = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    for round in 0..1_000 {
        let mode = if round % 2 == 0 { Mode::Fine } else { Mode::Hang };
        log.attach("guest", Faulty::new(mode), SecondaryOptions::default()).await.unwrap();
        if round % 3 == 0 {
            tokio::task::yield_now().await;
        }
        log.detach("guest").await.unwrap();
    }
    assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), before);
    assert!(log.status().secondaries.is_empty());
    drop(log.close(SOON).await);
    drop(log);
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
}

/// A resume as soon as the status shows that the secondary is parked is not lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resume_right_after_parking_is_not_lost() {
    let log = FanOut::open(MemoryStore::default(), FanOutOptions::default()).await.unwrap();
    let sink = Faulty::new(Mode::Fine);
    log.attach("sink", sink.clone(), SecondaryOptions::default()).await.unwrap();
    for at in 0..1_000 {
        sink.set(Mode::Before(Error::invalid("no")));
        log.append(batch(&events(at..at + 1))).await.unwrap();
        while status(&log, "sink").state != SecondaryState::Parked {
            std::hint::spin_loop();
        }
        sink.set(Mode::Fine);
        log.resume("sink").unwrap();
        log.delivered(id(at), SOON).await.unwrap();
    }
}
