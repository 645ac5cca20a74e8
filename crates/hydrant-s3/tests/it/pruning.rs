//! Pruning: the floor rises, whatever happens, and what is below it goes.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use hydrant::{Batch, ErrorKind, Event, EventId, EventSink, EventSource, EventSourceExt, Prune, ReadFrom};
use hydrant_conformance::drop_after;
use hydrant_s3::{CompactOptions, S3Store, S3StoreOptions};

use crate::faulty::Place;
use crate::logs::{
    append, events, findings_of, must_begin_objects, must_verify, objects, open, options, small_segments,
};

/// Everything from the first event on is there, and nothing before it.
async fn must_begin_with(place: &Place, oldest: u64, events: &[Event]) -> S3Store {
    let log = open(place, S3StoreOptions::default().with_list_keys(4)).await;
    let kept = events.partition_point(|event| event.id().get() < oldest);
    for from in [ReadFrom::Origin, ReadFrom::After(EventId::ZERO)] {
        let error = log.collect(from).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Pruned { oldest: EventId::new(oldest) }, "{error}");
    }
    for from in [ReadFrom::After(events[kept - 1].id()), ReadFrom::At(events[kept].id())] {
        assert_eq!(log.collect(from).await.unwrap(), events[kept..]);
    }
    let newest = events.iter().rposition(Event::is_snapshot).unwrap();
    assert_eq!(log.collect(ReadFrom::Snapshot).await.unwrap(), events[newest..]);
    log
}

#[tokio::test]
async fn what_ends_before_goes_and_never_the_newest_snapshot() {
    let Some(place) = Place::find().await else { return };
    let (log, events) = small_segments(&place, 45).await;
    // Nothing ends there.
    for before in [0, 1, 5, 9] {
        log.prune(EventId::new(before)).await.unwrap();
        assert_eq!(log.collect(ReadFrom::Origin).await.unwrap(), events);
    }
    // The event before 10 is 9; the one before 30 is 28. (20 is not there.)
    for (before, oldest) in
        [(10, 10), (12, 10), (28, 10), (29, 30), (31, 30), (39, 30), (41, 40), (99, 40), (5, 40)]
    {
        log.prune(EventId::new(before)).await.unwrap();
        must_begin_with(&place, oldest, &events).await;
        assert_eq!(must_verify(&place).await, 0, "{before}");
    }
    // What is behind the floor has bytes, and the floor itself.
    let kept = events.iter().filter(|event| event.id().get() >= 40).count();
    assert_eq!(objects(&place).await.0, kept + 1);
    // Below the floor nothing is appended, and the writer goes on.
    let error = log.append(Batch::new(None, &events[..1]).unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Pruned { oldest: EventId::new(40) });
    append(&log, events.last(), &crate::logs::events(50..53), 2).await;
    place.remove().await;
}

#[tokio::test]
async fn old_objects_go_at_once_and_tombstones_after_their_time() {
    let Some(place) = Place::find().await else { return };
    let (_, events) = small_segments(&place, 25).await;
    let options = || {
        options()
            .with_append_timeout(Duration::from_millis(1_500))
            .with_tombstones_kept(Duration::from_secs(10))
    };
    let log = open(&place, options()).await;
    log.compact(&CompactOptions::default().with_segment_bytes_max(150)).await.unwrap();
    log.prune(EventId::new(12)).await.unwrap();
    assert!(objects(&place).await.1 >= 6, "young objects leave tombstones");
    tokio::time::sleep(Duration::from_secs(12)).await;
    let found = findings_of(&place, options()).await;
    assert!(!found.is_empty() && found.iter().all(|finding| finding.is_leftover), "{found:?}");
    log.prune(EventId::new(12)).await.unwrap();
    assert_eq!(findings_of(&place, options()).await, []);
    let before = place.keys().await.len();
    append(&log, events.last(), &crate::logs::events(30..33), 1).await;
    // Old by now, except for those three.
    log.prune(EventId::new(99)).await.unwrap();
    let after = place.keys().await.len();
    assert!(after < before, "{before} {after}");
    must_begin_with(&place, 30, &[events, crate::logs::events(30..33)].concat()).await;
    place.remove().await;
}

#[tokio::test]
async fn dead_at_any_request_it_leaves_the_old_floor_or_the_new_one() {
    let Some(place) = Place::find().await else { return };
    for loses_answer in [false, true] {
        for nth in 1.. {
            let place = place.beside();
            let (log, events) = small_segments(&place, 33).await;
            log.compact(&CompactOptions::default().with_segment_bytes_max(200)).await.unwrap();
            log.prune(EventId::new(12)).await.unwrap();
            let log = open(&place, options()).await;
            place.faults.die_at(nth, loses_answer);
            let pruned = log.prune(EventId::new(31)).await;
            place.faults.heal();
            let error = log.collect(ReadFrom::Origin).await.unwrap_err();
            let ErrorKind::Pruned { oldest } = error.kind() else { panic!("{error}") };
            let log = must_begin_with(&place, oldest.get(), &events).await;
            must_verify(&place).await;
            log.prune(EventId::new(31)).await.unwrap();
            let log = must_begin_with(&place, 30, &events).await;
            assert_eq!(must_verify(&place).await, 0, "request {nth}");
            append(&log, events.last(), &crate::logs::events(33..35), 1).await;
            place.remove().await;
            if pruned.is_ok() {
                break;
            }
        }
    }
}

#[tokio::test]
async fn dropped_at_any_await_it_leaves_the_old_floor_or_the_new_one() {
    let Some(place) = Place::find().await else { return };
    for polls in 0.. {
        let place = place.beside();
        let (log, events) = small_segments(&place, 12).await;
        let pruned = drop_after(polls, log.prune(EventId::new(99))).await;
        must_verify(&place).await;
        match log.collect(ReadFrom::Origin).await {
            Ok(read) => assert_eq!(read, events),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Pruned { oldest: EventId::new(10) }),
        }
        log.prune(EventId::new(99)).await.unwrap();
        must_begin_with(&place, 10, &events).await;
        assert_eq!(must_verify(&place).await, 0, "after {polls} polls");
        place.remove().await;
        if let Some(pruned) = pruned {
            pruned.unwrap();
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_prunes_and_compactions_keep_the_highest_floor() {
    let Some(place) = Place::find().await else { return };
    let (log, mut all) = small_segments(&place, 75).await;
    let prunes = [12, 42, 32, 62].map(|before| {
        let place = &place;
        async move {
            let log = open(place, S3StoreOptions::default().with_list_keys(7)).await;
            log.prune(EventId::new(before)).await.unwrap();
        }
    });
    let compactions = (0..2).map(|_| {
        let place = &place;
        async move {
            let log = open(place, S3StoreOptions::default()).await;
            for _ in 0..3 {
                log.compact(&CompactOptions::default()).await.unwrap();
            }
        }
    });
    let more = events(75..80);
    tokio::join!(join_all(prunes), join_all(compactions), append(&log, all.last(), &more, 1));
    all.extend(more);
    must_begin_with(&place, 60, &all).await;
    must_verify(&place).await;
    log.prune(EventId::new(62)).await.unwrap();
    log.compact(&CompactOptions::default()).await.unwrap();
    must_begin_with(&place, 60, &all).await;
    assert_eq!(must_verify(&place).await, 0);
    place.remove().await;
}

#[tokio::test]
async fn a_reader_that_the_floor_overtakes_gets_pruned() {
    let Some(place) = Place::find().await else { return };
    let (log, _) = small_segments(&place, 25).await;
    let reader = open(&place, options().with_prefetch(1, 1)).await;
    let mut read = reader.read(ReadFrom::Origin);
    read.next().await.unwrap().unwrap();
    log.prune(EventId::new(99)).await.unwrap();
    let mut last = None;
    while let Some(next) = read.next().await {
        last = Some(next);
    }
    let error = last.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Pruned { oldest: EventId::new(10) }, "{error}");
    place.remove().await;
}

/// Whatever compaction merged, the floor is a snapshot event that begins an object, and reads begin there.
#[tokio::test]
async fn prune_and_read_agree_after_any_compaction() {
    let Some(place) = Place::find().await else { return };
    let all = events(1..36);
    for (bytes, before) in [1, 150, 400, 1 << 20].into_iter().flat_map(|bytes| [(bytes, 25), (bytes, 99)]) {
        let place = place.beside();
        let log = open(&place, S3StoreOptions::default()).await;
        append(&log, None, &all, 3).await;
        log.compact(&CompactOptions::default().with_segment_bytes_max(bytes)).await.unwrap();
        must_begin_objects(&place, &all).await;
        log.prune(EventId::new(before)).await.unwrap();
        must_begin_with(&place, if before == 25 { 20 } else { 30 }, &all).await;
        assert_eq!(must_verify(&place).await, 0);
        place.remove().await;
    }
}
