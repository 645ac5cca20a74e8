//! Compaction beside readers, writers and others of its kind, and cut short at every step.

use futures_util::future::join_all;
use futures_util::{StreamExt, TryStreamExt};
use hydrant::{Batch, ErrorKind, Event, EventId, EventSink, EventSource, EventSourceExt, ReadFrom};
use hydrant_conformance::drop_after;
use hydrant_s3::{CompactOptions, S3StoreOptions};

use crate::faulty::Place;
use crate::logs::{append, events, ids, must_hold, must_verify, objects, open, options, small_segments};

#[tokio::test]
async fn small_segments_become_few_and_the_log_stays_the_same() {
    let Some(place) = Place::find().await else { return };
    let (log, events) = small_segments(&place, 40).await;
    assert_eq!(objects(&place).await, (events.len(), 0));
    let done = log.compact(&CompactOptions::default()).await.unwrap();
    // 1.. and 10.., and 30.. but for the last; 20 is skipped.
    assert_eq!((done.segments, done.into), (events.len() as u64 - 1, 3));
    assert_eq!(objects(&place).await, (4, events.len() - 4));
    must_hold(&place, &events).await;
    assert_eq!(must_verify(&place).await, 0);
    // Nothing is left to do.
    let again = log.compact(&CompactOptions::default()).await.unwrap();
    assert_eq!((again.segments, again.tombstones), (0, 0));
    // The writer goes on, and what it writes is merged in its turn.
    let more = crate::logs::events(41..45);
    append(&log, events.last(), &more, 1).await;
    let done = log.compact(&CompactOptions::default()).await.unwrap();
    assert_eq!((done.segments, done.into), (4, 1));
    must_hold(&place, &[events, more].concat()).await;
    assert_eq!(must_verify(&place).await, 0);
    place.remove().await;
}

#[tokio::test]
async fn objects_grow_up_to_a_size() {
    let Some(place) = Place::find().await else { return };
    let (log, events) = small_segments(&place, 10).await;
    let bytes = 3 * (events[0].size() as u64 + 1);
    let done = log.compact(&CompactOptions::default().with_segment_bytes_max(bytes)).await.unwrap();
    assert_eq!((done.segments, done.into), (5, 2));
    must_hold(&place, &events).await;
    let error = log.compact(&CompactOptions::default().with_segment_bytes_max(0)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    place.remove().await;
}

#[tokio::test]
async fn a_compaction_killed_at_any_request_is_finished_by_the_next() {
    let Some(place) = Place::find().await else { return };
    for loses_answer in [false, true] {
        for nth in 1.. {
            let place = place.beside();
            let (_, events) = small_segments(&place, 11).await;
            let log = open(&place, options()).await;
            place.faults.die_at(nth, loses_answer);
            let compacted = log.compact(&CompactOptions::default()).await;
            place.faults.heal();
            must_hold(&place, &events).await;
            must_verify(&place).await;
            let log = open(&place, S3StoreOptions::default()).await;
            let more = crate::logs::events(11..13);
            append(&log, events.last(), &more, 1).await;
            log.compact(&CompactOptions::default()).await.unwrap();
            must_hold(&place, &[events, more].concat()).await;
            assert_eq!(must_verify(&place).await, 0, "request {nth}");
            place.remove().await;
            if compacted.is_ok() {
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_compaction_dropped_at_any_await_is_finished_by_the_next() {
    let Some(place) = Place::find().await else { return };
    for polls in 0.. {
        let place = place.beside();
        let (log, events) = small_segments(&place, 10).await;
        let compacted = drop_after(polls, log.compact(&CompactOptions::default())).await;
        must_hold(&place, &events).await;
        must_verify(&place).await;
        log.compact(&CompactOptions::default()).await.unwrap();
        must_hold(&place, &events).await;
        assert_eq!(must_verify(&place).await, 0, "after {polls} polls");
        place.remove().await;
        if let Some(compacted) = compacted {
            compacted.unwrap();
            break;
        }
    }
}

#[tokio::test]
async fn a_reader_in_the_middle_goes_on() {
    let Some(place) = Place::find().await else { return };
    let (log, events) = small_segments(&place, 40).await;
    for begun in 0..events.len() {
        let reader = open(&place, options().with_prefetch(1, 1)).await;
        let mut read = reader.read(ReadFrom::Origin);
        let mut seen = Vec::new();
        for _ in 0..begun {
            seen.push(read.next().await.unwrap().unwrap());
        }
        // More and more is merged under them.
        let bytes = (begun as u64 + 1) * (events[0].size() as u64 + 2);
        log.compact(&CompactOptions::default().with_segment_bytes_max(bytes)).await.unwrap();
        seen.extend(read.try_collect::<Vec<_>>().await.unwrap());
        assert_eq!(seen, events, "from {begun}");
    }
    place.remove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_readers_a_follower_and_compactors_at_once() {
    let Some(place) = Place::find().await else { return };
    let all = events(ids(120));
    let (first, rest) = all.split_at(20);
    let log = open(&place, S3StoreOptions::default()).await;
    append(&log, None, first, 1).await;
    let writer = async {
        append(&log, first.last(), rest, 1).await;
    };
    let compactors = (0..3).map(|nth| {
        let place = &place;
        async move {
            let log = open(place, S3StoreOptions::default().with_list_keys(5 + nth)).await;
            for _ in 0..6 {
                log.compact(&CompactOptions::default()).await.unwrap();
            }
        }
    });
    let readers = (0..2).map(|_| async {
        let reader = open(&place, options()).await;
        for _ in 0..10 {
            let read = reader.collect(ReadFrom::Origin).await.unwrap();
            assert!(read.len() >= first.len());
            assert_eq!(read, all[..read.len()]);
        }
    });
    let follower = async {
        let interval = std::time::Duration::from_millis(3);
        let follower = open(&place, options().with_poll_interval(interval)).await;
        let followed = follower.follow(ReadFrom::Origin).take(all.len()).try_collect::<Vec<_>>();
        assert_eq!(followed.await.unwrap(), all);
    };
    tokio::join!(writer, join_all(compactors), join_all(readers), follower);
    log.compact(&CompactOptions::default()).await.unwrap();
    must_hold(&place, &all).await;
    assert_eq!(must_verify(&place).await, 0);
    place.remove().await;
}

#[tokio::test]
async fn a_writer_with_an_old_view_meets_a_tombstone() {
    let Some(place) = Place::find().await else { return };
    let (log, mut all) = small_segments(&place, 8).await;
    // Three writers that believe the same end.
    let same = open(&place, S3StoreOptions::default()).await;
    let other = open(&place, S3StoreOptions::default()).await;
    let more = events([11, 12, 13]);
    append(&log, all.last(), &more, 1).await;
    log.compact(&CompactOptions::default()).await.unwrap();
    let after = all.last().map(Event::id);
    same.append(Batch::new(after, &more[..2]).unwrap()).await.unwrap();
    let foreign = [Event::new(EventId::new(11), "another").unwrap()];
    let error = other.append(Batch::new(after, &foreign).unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced);
    all.extend(more);
    must_hold(&place, &all).await;
    place.remove().await;
}
