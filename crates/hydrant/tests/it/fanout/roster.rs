//! Promise 5: the roster is durable, and nothing is pruned that one of its secondaries still needs.

use std::time::Duration;

use hydrant::{
    Checkpoint, EventSink, EventSourceExt, FanOut, FanOutOptions, MemoryStore, Primary, Prune, ReadFrom,
    SecondaryOptions, SecondaryState,
};

use super::{SOON, status, until};
use crate::support::{Faulty, Mode, append_log, batch, event, events, id, safe, snapshot};

/// Ten segments of ten events each, opened by a snapshot.
async fn fill(log: &impl EventSink) {
    for segment in 0..10 {
        let mut piece = vec![snapshot(segment * 10)];
        piece.extend(events(segment * 10 + 1..segment * 10 + 10));
        log.append(batch(&piece)).await.unwrap();
    }
}

async fn oldest(log: &MemoryStore) -> u64 {
    match log.collect(ReadFrom::Origin).await {
        Ok(events) => events[0].id().get(),
        Err(error) => match error.kind() {
            hydrant::ErrorKind::Pruned { oldest } => oldest.get(),
            _ => panic!("{error}"),
        },
    }
}

#[tokio::test(start_paused = true)]
async fn prune_keeps_what_a_secondary_needs_also_after_a_restart() {
    let primary = MemoryStore::default();
    let log = FanOut::open(primary.clone(), FanOutOptions::default()).await.unwrap();
    fill(&log).await;
    let sink = Faulty::new(Mode::Fine);
    append_log(&sink, &primary.collect(ReadFrom::Origin).await.unwrap()[..35]).await;
    sink.set(Mode::Before(safe()));
    log.attach("sink", sink.clone(), SecondaryOptions::default()).await.unwrap();
    until(&log, "sink", SecondaryState::Retrying).await;
    log.prune(id(99)).await.unwrap();
    assert_eq!(oldest(&primary).await, 30);
    drop(log.close(Duration::ZERO).await);
    drop(log);

    // After a restart, before it is attached again.
    let log = FanOut::open(primary.clone(), FanOutOptions::default()).await.unwrap();
    let known = status(&log, "sink");
    assert_eq!(
        (known.state, known.checkpoint, known.lag_events),
        (SecondaryState::Detached, Some(id(34)), 65)
    );
    log.prune(id(99)).await.unwrap();
    assert_eq!(oldest(&primary).await, 30);

    sink.set(Mode::Fine);
    log.attach("sink", sink.clone(), SecondaryOptions::default()).await.unwrap();
    log.delivered(id(99), SOON).await.unwrap();
    assert_eq!(sink.inner.collect(ReadFrom::Origin).await.unwrap().len(), 100);
    log.prune(id(99)).await.unwrap();
    assert_eq!(oldest(&primary).await, 90);
}

#[tokio::test(start_paused = true)]
async fn a_sink_never_reached_needs_everything_until_detached() {
    let primary = MemoryStore::default();
    let log = FanOut::open(primary.clone(), FanOutOptions::default()).await.unwrap();
    fill(&log).await;
    log.attach("down", Faulty::new(Mode::Hang), SecondaryOptions::default()).await.unwrap();
    log.prune(id(99)).await.unwrap();
    assert_eq!(oldest(&primary).await, 0);
    log.detach("down").await.unwrap();
    log.prune(id(99)).await.unwrap();
    assert_eq!(oldest(&primary).await, 90);
}

#[tokio::test(start_paused = true)]
async fn past_retain_bytes_max_a_laggard_parks_as_pruned() {
    let primary = MemoryStore::default();
    let options = FanOutOptions::default().with_retain_bytes_max(500).with_ring(4, 10_000);
    let log = FanOut::open(primary.clone(), options).await.unwrap();
    fill(&log).await;
    let sink = Faulty::new(Mode::Before(safe()));
    log.attach("laggard", sink.clone(), SecondaryOptions::default()).await.unwrap();
    until(&log, "laggard", SecondaryState::Retrying).await;
    log.prune(id(99)).await.unwrap();
    assert_eq!(oldest(&primary).await, 90);
    let error = until(&log, "laggard", SecondaryState::Parked).await.last_error.unwrap();
    assert_eq!(error.kind(), hydrant::ErrorKind::Pruned { oldest: id(90) });
}

#[tokio::test(start_paused = true)]
async fn progress_is_recorded_also_when_the_log_is_quiet() {
    let primary = MemoryStore::default();
    let log = FanOut::open(primary.clone(), FanOutOptions::default()).await.unwrap();
    log.attach("sink", MemoryStore::default(), SecondaryOptions::default()).await.unwrap();
    let entry = primary.roster().load("sink").await.unwrap().unwrap();
    assert_eq!(entry.checkpoint, Checkpoint::Empty, "entered before `attach` returned");
    log.append(batch(&[event(0)])).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let entry = primary.roster().load("sink").await.unwrap().unwrap();
    assert_eq!(entry.checkpoint, Checkpoint::at(&event(0)));
}

#[tokio::test]
async fn a_name_belongs_to_one_target_until_it_is_detached() {
    let log = FanOut::open(MemoryStore::default(), FanOutOptions::default()).await.unwrap();
    let attach = |target: &'static str| {
        log.attach("archive", MemoryStore::default(), SecondaryOptions::default().with_target(target))
    };
    attach("file:a").await.unwrap();
    assert!(attach("file:a").await.unwrap_err().to_string().contains("attached already"));
    log.detach("archive").await.unwrap();
    attach("file:b").await.unwrap();
    drop(log.close(SOON).await);
    let log = FanOut::open(log.primary().clone(), FanOutOptions::default()).await.unwrap();
    let options = SecondaryOptions::default().with_target("file:c");
    let error = log.attach("archive", MemoryStore::default(), options).await.unwrap_err();
    assert!(error.to_string().contains("file:b"), "{error}");
    log.detach("archive").await.unwrap();
    assert!(log.detach("archive").await.is_err());
}

/// The event that the sink ends with was pruned: only the roster still knows its digest.
#[tokio::test(start_paused = true)]
async fn a_pruned_checkpoint_is_compared_with_the_roster() {
    for is_other in [false, true] {
        let primary = MemoryStore::default();
        let log = FanOut::open(primary.clone(), FanOutOptions::default()).await.unwrap();
        let mut sink = MemoryStore::default();
        log.attach("sink", sink.clone(), SecondaryOptions::default()).await.unwrap();
        log.append(batch(&[vec![snapshot(0)], events(1..10)].concat())).await.unwrap();
        log.delivered(id(9), SOON).await.unwrap();
        drop(log.close(SOON).await);

        let options = FanOutOptions::default().with_retain_bytes_max(10).with_ring(1, 10_000);
        let log = FanOut::open(primary.clone(), options).await.unwrap();
        log.append(batch(&[vec![snapshot(10)], events(11..20)].concat())).await.unwrap();
        log.prune(id(10)).await.unwrap();
        assert_eq!(oldest(&primary).await, 10);
        if is_other {
            let other = hydrant::Event::new(id(9), "other").unwrap();
            sink = MemoryStore::default();
            append_log(&sink, &[vec![snapshot(0)], events(1..9), vec![other]].concat()).await;
        }
        log.attach("sink", sink.clone(), SecondaryOptions::default()).await.unwrap();
        if is_other {
            let error = until(&log, "sink", SecondaryState::Parked).await.last_error.unwrap();
            assert_eq!(error.kind(), hydrant::ErrorKind::Diverged, "{error}");
            assert_eq!(sink.checkpoint().await.unwrap().id(), Some(id(9)), "nothing was written");
        } else {
            log.delivered(id(19), SOON).await.unwrap();
        }
    }
}
