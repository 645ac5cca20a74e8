//! Law 14: sink and primary must share one history before the first append.

use hydrant::{
    Event, EventSink, EventSourceExt, FanOut, FanOutOptions, MemoryStore, Prune, ReadFrom, SecondaryOptions,
    SecondaryState, StartAt,
};

use super::{SOON, until};
use crate::support::{batch, event, events, id, snapshot};

async fn log_of(ids: std::ops::Range<u64>) -> FanOut<MemoryStore> {
    // A ring of one event: what is older comes from the primary.
    let options = FanOutOptions::default().with_ring(1, 10_000);
    let log = FanOut::open(MemoryStore::default(), options).await.unwrap();
    log.append(batch(&events(ids))).await.unwrap();
    log
}

#[tokio::test]
async fn a_sink_of_another_history_is_parked_and_not_written_to() {
    let other = Event::new(id(4), "another history").unwrap();
    let restored = events(0..20);
    let mut diverged = events(0..4);
    diverged.push(other);
    for (held, says) in [(restored, "beyond the primary's head"), (diverged, "event 4 has the digest")] {
        let log = log_of(0..10).await;
        let sink = MemoryStore::default();
        sink.append(batch(&held)).await.unwrap();
        log.attach("sink", sink.clone(), SecondaryOptions::default()).await.unwrap();
        let error = until(&log, "sink", SecondaryState::Parked).await.last_error.unwrap();
        assert_eq!(error.kind(), hydrant::ErrorKind::Diverged);
        assert!(error.to_string().contains(says), "{error}");
        assert_eq!(sink.collect(ReadFrom::Origin).await.unwrap(), held, "nothing was written");
    }
}

#[tokio::test]
async fn an_id_that_the_primary_skipped_is_another_history() {
    let log = FanOut::open(MemoryStore::default(), FanOutOptions::default()).await.unwrap();
    let gapped = [event(0), event(5), event(9)];
    log.append(hydrant::Batch::new(None, &gapped).unwrap()).await.unwrap();
    let sink = MemoryStore::default();
    sink.append(batch(&events(0..4))).await.unwrap();
    log.attach("sink", sink, SecondaryOptions::default()).await.unwrap();
    let error = until(&log, "sink", SecondaryState::Parked).await.last_error.unwrap();
    assert!(error.to_string().contains("its next is event 5"), "{error}");
}

/// Events 0 and 1, a snapshot 2, event 3; pruned before the snapshot.
async fn pruned() -> FanOut<MemoryStore> {
    let log = log_of(0..2).await;
    log.append(batch(&[snapshot(2), event(3)])).await.unwrap();
    log.prune(id(2)).await.unwrap();
    log
}

#[tokio::test]
async fn a_pruned_log_starts_at_its_oldest_snapshot_or_parks() {
    let log = pruned().await;
    log.attach("strict", MemoryStore::default(), SecondaryOptions::default()).await.unwrap();
    let error = until(&log, "strict", SecondaryState::Parked).await.last_error.unwrap();
    assert_eq!(error.kind(), hydrant::ErrorKind::Pruned { oldest: id(2) });

    let sink = MemoryStore::default();
    let options = SecondaryOptions::default().with_start(StartAt::OldestSnapshot);
    log.attach("lenient", sink.clone(), options).await.unwrap();
    log.detach("strict").await.unwrap();
    log.append(batch(&events(4..6))).await.unwrap();
    log.delivered(id(5), SOON).await.unwrap();
    assert_eq!(until(&log, "lenient", SecondaryState::Live).await.floor, Some(id(2)));
    let held = sink.collect(ReadFrom::Snapshot).await.unwrap();
    assert_eq!(held, [snapshot(2), event(3), event(4), event(5)]);
}

#[tokio::test]
async fn a_secondary_right_below_the_floor_continues() {
    let log = pruned().await;
    let sink = MemoryStore::default();
    sink.append(batch(&events(0..2))).await.unwrap();
    log.attach("sink", sink.clone(), SecondaryOptions::default()).await.unwrap();
    log.delivered(id(3), SOON).await.unwrap();
    assert_eq!(sink.collect(ReadFrom::Origin).await.unwrap().len(), 4);
}

#[tokio::test(start_paused = true)]
async fn an_empty_log_that_begins_at_a_snapshot_is_followed() {
    let log = FanOut::open(MemoryStore::default(), FanOutOptions::default()).await.unwrap();
    let (sink, strict) = (MemoryStore::default(), MemoryStore::default());
    let options = SecondaryOptions::default().with_start(StartAt::OldestSnapshot);
    log.attach("lenient", sink.clone(), options).await.unwrap();
    log.attach("strict", strict, SecondaryOptions::default()).await.unwrap();
    until(&log, "lenient", SecondaryState::Live).await;
    until(&log, "strict", SecondaryState::Live).await;
    // As a nested log whose outer one was pruned.
    let first = [snapshot(7), event(8)];
    log.append(hydrant::Batch::new(Some(id(6)), &first).unwrap()).await.unwrap();
    tokio::time::timeout(SOON, async {
        while sink.checkpoint().await.unwrap().id() != Some(id(8)) {
            tokio::time::sleep(SOON / 100).await;
        }
    })
    .await
    .expect("it does not begin");
    let live = until(&log, "lenient", SecondaryState::Live).await;
    assert_eq!((live.checkpoint, live.floor), (Some(id(8)), Some(id(7))));
    assert_eq!(sink.collect(ReadFrom::Snapshot).await.unwrap(), first);
    let error = until(&log, "strict", SecondaryState::Parked).await.last_error.unwrap();
    assert_eq!(error.kind(), hydrant::ErrorKind::Pruned { oldest: id(7) });
}
