//! Two of compaction, prune and append: one whole between any two requests of the other.

use hydrant::{ErrorKind, Event, EventId, EventSourceExt, Prune, ReadFrom};
use hydrant_s3::{CompactOptions, S3Store, S3StoreOptions};

use crate::faulty::{Fault, Place};
use crate::logs::{
    append, events, must_begin_objects, must_hold, must_verify, objects, open, small_segments,
};

/// Two handles of one log, each with a client of its own.
async fn two(place: &Place, end: u64) -> (Place, S3Store, S3Store, Vec<Event>) {
    let held = place.beside();
    let (other, events) = small_segments(&held, end).await;
    let again = held.again().await;
    let log = open(&again, S3StoreOptions::default().with_list_keys(4)).await;
    (again, log, other, events)
}

async fn must_begin_with(log: &S3Store, oldest: u64, events: &[Event]) {
    let error = log.collect(ReadFrom::Origin).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Pruned { oldest: EventId::new(oldest) });
    let kept = events.partition_point(|event| event.id().get() < oldest);
    assert_eq!(log.collect(ReadFrom::After(events[kept - 1].id())).await.unwrap(), events[kept..]);
}

#[tokio::test]
async fn a_compaction_within_a_compaction() {
    let Some(place) = Place::find().await else { return };
    let small = CompactOptions::default().with_segment_bytes_max(150);
    for nth in 0.. {
        let (held, log, other, events) = two(&place, 13).await;
        let options = CompactOptions::default();
        let (one, two) = held.faults.while_held(nth, log.compact(&options), other.compact(&small)).await;
        one.unwrap();
        must_hold(&held, &events).await;
        must_verify(&held).await;
        log.compact(&options).await.unwrap();
        must_hold(&held, &events).await;
        assert_eq!(must_verify(&held).await, 0, "at request {nth}");
        held.remove().await;
        let Some(two) = two else { break };
        two.unwrap();
    }
}

#[tokio::test]
async fn a_prune_within_a_prune_never_lowers_the_floor() {
    let Some(place) = Place::find().await else { return };
    for nth in 0.. {
        let (held, log, other, events) = two(&place, 43).await;
        let (one, two) =
            held.faults.while_held(nth, log.prune(EventId::new(12)), other.prune(EventId::new(42))).await;
        one.unwrap();
        let oldest = if two.is_some() { 40 } else { 10 };
        must_begin_with(&other, oldest, &events).await;
        log.prune(EventId::new(12)).await.unwrap();
        must_begin_with(&other, oldest, &events).await;
        assert_eq!(must_verify(&held).await, 0, "at request {nth}");
        held.remove().await;
        let Some(two) = two else { break };
        two.unwrap();
    }
}

#[tokio::test]
async fn a_prune_within_a_compaction() {
    let Some(place) = Place::find().await else { return };
    for nth in 0.. {
        let (held, log, other, events) = two(&place, 33).await;
        let options = CompactOptions::default().with_segment_bytes_max(300);
        let prune = other.prune(EventId::new(31));
        let (one, two) = held.faults.while_held(nth, log.compact(&options), prune).await;
        one.unwrap();
        other.prune(EventId::new(31)).await.unwrap();
        log.compact(&options).await.unwrap();
        must_begin_with(&log, 30, &events).await;
        assert_eq!(must_verify(&held).await, 0, "at request {nth}");
        held.remove().await;
        let Some(two) = two else { break };
        two.unwrap();
    }
}

#[tokio::test]
async fn a_compaction_within_a_prune() {
    let Some(place) = Place::find().await else { return };
    for nth in 0.. {
        let (held, log, other, events) = two(&place, 23).await;
        let options = CompactOptions::default();
        let (one, two) =
            held.faults.while_held(nth, log.prune(EventId::new(99)), other.compact(&options)).await;
        one.unwrap();
        must_begin_with(&other, 10, &events).await;
        log.prune(EventId::new(99)).await.unwrap();
        log.compact(&options).await.unwrap();
        must_begin_with(&other, 10, &events).await;
        assert_eq!(must_verify(&held).await, 0, "at request {nth}");
        held.remove().await;
        let Some(two) = two else { break };
        two.unwrap();
    }
}

/// What it finds may be merged into another object before it is fetched.
#[tokio::test]
async fn a_compaction_within_a_read() {
    let Some(place) = Place::find().await else { return };
    let small = CompactOptions::default().with_segment_bytes_max(150);
    for from in 0..7 {
        for nth in 0.. {
            let (held, log, other, events) = two(&place, 13).await;
            other.compact(&small).await.unwrap();
            let from_id = ReadFrom::After(events[from].id());
            let options = CompactOptions::default();
            let (read, two) =
                held.faults.while_held(nth, log.collect(from_id), other.compact(&options)).await;
            assert_eq!(read.unwrap(), events[from + 1..], "behind {from}, at request {nth}");
            held.remove().await;
            let Some(two) = two else { break };
            two.unwrap();
        }
    }
}

#[tokio::test]
async fn a_prune_within_a_read() {
    let Some(place) = Place::find().await else { return };
    for from in [0, 2, 9] {
        for nth in 0.. {
            let (held, log, other, events) = two(&place, 33).await;
            other.compact(&CompactOptions::default().with_segment_bytes_max(300)).await.unwrap();
            let from_id = ReadFrom::After(events[from].id());
            let (read, two) =
                held.faults.while_held(nth, log.collect(from_id), other.prune(EventId::new(31))).await;
            match read {
                Ok(read) => assert_eq!(read, events[from + 1..], "behind {from}, at request {nth}"),
                Err(error) => assert_eq!(
                    error.kind(),
                    ErrorKind::Pruned { oldest: EventId::new(30) },
                    "behind {from}, at request {nth}: {error}"
                ),
            }
            held.remove().await;
            let Some(two) = two else { break };
            two.unwrap();
        }
    }
}

/// Of two compactions one merged the end of what the other did with what comes behind it, before the other had buried it.
#[tokio::test]
async fn what_two_compactions_merged_across_each_other_is_whole() {
    let Some(place) = Place::find().await else { return };
    let (log, events) = small_segments(&place, 40).await;
    let events_at = |range: std::ops::Range<usize>| &events[range];
    // In logs of their own, what the two made: the first five events, and the fifth with the sixth.
    let (one, other) = (place.beside(), place.beside());
    append(&open(&one, S3StoreOptions::default()).await, None, events_at(0..5), 5).await;
    let beside = open(&other, S3StoreOptions::default()).await;
    append(&beside, None, events_at(0..4), 4).await;
    append(&beside, Some(&events[3]), events_at(4..6), 2).await;
    let key = |at: usize| format!("log/{:020}", events[at].id().get());
    for (from, key) in [(&one, "log/-origin".to_owned()), (&other, key(3))] {
        let source = format!("{}/{}/{key}", place.bucket, from.prefix);
        let copy = place.client.copy_object().bucket(&place.bucket).key(format!("{}/{key}", place.prefix));
        copy.copy_source(source).send().await.unwrap();
    }
    let put = place.client.put_object().bucket(&place.bucket).key(format!("{}/{}", place.prefix, key(4)));
    let put = put.metadata("hydrant", "moved 1").metadata("into", events[3].id().to_string());
    put.send().await.unwrap();
    must_hold(&place, &events).await;
    must_verify(&place).await;
    log.compact(&CompactOptions::default()).await.unwrap();
    must_hold(&place, &events).await;
    assert_eq!(must_verify(&place).await, 0);
    for place in [place, one, other] {
        place.remove().await;
    }
}

#[tokio::test]
async fn a_prune_below_the_floor_looks_at_nothing_that_was_freed() {
    let Some(place) = Place::find().await else { return };
    let (log, events) = small_segments(&place, 43).await;
    log.compact(&CompactOptions::default()).await.unwrap();
    log.prune(EventId::new(42)).await.unwrap();
    // As a later prune leaves it: the tombstones are younger than what they point to.
    let freed =
        place.keys().await.into_iter().find(|key| key.ends_with("/log/00000000000000000009")).unwrap();
    place.client.delete_object().bucket(&place.bucket).key(freed).send().await.unwrap();
    for before in [0, 5, 13, 24, 40, 41] {
        log.prune(EventId::new(before)).await.unwrap();
    }
    must_begin_with(&log, 40, &events).await;
    place.remove().await;
}

#[tokio::test]
async fn compaction_beside_appends_keeps_snapshots_first() {
    let Some(place) = Place::find().await else { return };
    let all = events(1..45);
    for nth in 0.. {
        let held = place.beside();
        let again = held.again().await;
        let log = open(&again, S3StoreOptions::default()).await;
        append(&log, None, &all[..3], 1).await;
        let compactor = open(&held, S3StoreOptions::default().with_list_keys(4)).await;
        let options = CompactOptions::default();
        let appends = append(&log, Some(&all[2]), &all[3..], 4);
        let ((), compacted) = again.faults.while_held(nth, appends, compactor.compact(&options)).await;
        must_hold(&held, &all).await;
        must_begin_objects(&held, &all).await;
        compactor.compact(&options).await.unwrap();
        must_hold(&held, &all).await;
        must_begin_objects(&held, &all).await;
        assert_eq!(must_verify(&held).await, 0, "at request {nth}");
        again.remove().await;
        let Some(compacted) = compacted else { break };
        compacted.unwrap();
    }
}

#[tokio::test]
async fn a_lost_answer_of_compaction_or_prune_is_found_out() {
    let Some(place) = Place::find().await else { return };
    for nth in 0.. {
        let place = place.beside();
        let (log, events) = small_segments(&place, 24).await;
        let mut puts = 0;
        let mut lose = move |request: &aws_smithy_runtime_api::client::orchestrator::HttpRequest| {
            let is_put = request.method() == "PUT" && request.uri().contains("/log/");
            let is_it = is_put && puts == nth;
            puts += u64::from(is_put);
            if is_it { Fault::LoseAnswer } else { Fault::None }
        };
        place.faults.plan(move |_, request| lose(request));
        let compacted = log.compact(&CompactOptions::default()).await.unwrap();
        // All of it, as if nothing had happened.
        assert_eq!((compacted.segments, compacted.into), (events.len() as u64 - 1, 2), "PUT {nth}");
        assert_eq!(objects(&place).await, (3, events.len() - 3));
        log.prune(EventId::new(99)).await.unwrap();
        must_begin_with(&log, 10, &events).await;
        place.remove().await;
        if nth > events.len() as u64 + 8 {
            break;
        }
    }
}
