//! Finding the end and the beginning, and telling what is missing from what is not there yet.

use std::time::Duration;

use futures_util::StreamExt;
use hydrant::{
    Batch, Checkpoint, ErrorKind, Event, EventId, EventSink, EventSource, EventSourceExt, ReadFrom,
};
use hydrant_s3::{Encoding, S3StoreOptions};

use crate::faults::{Faults, Kind};
use crate::support::{Scratch, append_all, event, event_by, log, or_skip, snapshot};

/// Pages so small that a thousand objects are what a hundred thousand are to S3.
fn small_pages() -> S3StoreOptions {
    S3StoreOptions::default().with_list_keys(10).with_encoding(Encoding::Plain)
}

#[tokio::test]
async fn the_head_is_found_in_few_requests_among_many_objects() {
    let scratch = or_skip!(Scratch::shared().await);
    let store = scratch.open(small_pages()).await;
    let mut costs = Vec::new();
    let mut held = 0;
    for count in [1, 10, 100, 1_000] {
        append_all(&store, &log(held..count), 1).await;
        held = count;
        let faults = Faults::new();
        let opened = scratch.open_through(&faults, small_pages()).await;
        let requests = faults.requests();
        costs.push(requests.len());
        assert_eq!(opened.checkpoint().await.unwrap(), Checkpoint::at(&event(count - 1)));
        assert_eq!(faults.requests().len(), 1, "a checkpoint of a log that was seen before is one request");
    }
    // The probe, one or more pages, and the head itself.
    assert_eq!(costs[..2], [3, 3]);
    // A listing of everything would have been 100 pages.
    assert!(costs[2] <= 12 && costs[3] <= 18, "{costs:?}");

    // Any event is found as quickly, also in the middle of an object, and read in as few requests.
    for after in [0, 1, 500, 998] {
        let faults = Faults::new();
        let opened = scratch.open_through(&faults, small_pages().with_prefetch(1, 1)).await;
        faults.requests();
        let mut read = opened.read(ReadFrom::After(EventId::new(after)));
        assert_eq!(read.next().await.unwrap().unwrap(), event(after + 1));
        let count = faults.requests().len();
        assert!(count <= 5, "{count} requests for one event behind {after}");
    }
    scratch.remove().await;
}

#[tokio::test]
async fn heads_and_events_are_found_between_wide_gaps() {
    let scratch = or_skip!(Scratch::shared().await);
    let store = scratch.open(small_pages()).await;
    let mut ids: Vec<u64> = (0..40).collect();
    ids.extend((0..40).map(|n| 1_000_000 + n * 7));
    ids.extend((0..40).map(|n| (1 << 63) + n * 1_000_003));
    ids.extend((u64::MAX - 25)..=u64::MAX);
    let events: Vec<_> = ids.iter().map(|&id| event(id)).collect();
    append_all(&store, &events, 3).await;
    let opened = scratch.open(small_pages()).await;
    assert_eq!(opened.checkpoint().await.unwrap(), Checkpoint::at(&events[events.len() - 1]));
    assert_eq!(opened.collect(ReadFrom::Origin).await.unwrap(), events);
    for at in (0..events.len()).step_by(7) {
        // Ids that are there, and ids in the gap behind them.
        for after in [events[at].id(), EventId::new(events[at].id().get().saturating_add(1))] {
            let behind = events.partition_point(|event| event.id() <= after);
            let read = opened.collect(ReadFrom::After(after)).await.unwrap();
            assert_eq!(read, events[behind..], "after {after}");
        }
    }
    scratch.remove().await;
}

#[tokio::test]
async fn the_smallest_pages_separate_the_first_two_objects() {
    let scratch = or_skip!(Scratch::shared().await);
    let options = || S3StoreOptions::default().with_list_keys(1);
    for count in 1..4 {
        let scratch = Scratch::at(scratch.place.clone()).await;
        append_all(&scratch.open(options()).await, &log(0..count), 1).await;
        let store = scratch.open(options()).await;
        assert_eq!(store.checkpoint().await.unwrap().id(), Some(EventId::new(count - 1)));
        assert_eq!(store.collect(ReadFrom::Origin).await.unwrap(), log(0..count));
        scratch.remove().await;
    }
}

#[tokio::test]
async fn a_hole_anywhere_is_an_error_and_never_a_quiet_end() {
    let scratch = or_skip!(Scratch::shared().await);
    let store = scratch.open(small_pages()).await;
    append_all(&store, &log(0..60), 2).await;
    // The objects begin behind 1, 3, 5 ...
    for (gone, from) in [(None, 0), (Some(1), 2), (Some(29), 30), (Some(55), 56)] {
        let (body, metadata) = scratch.get(gone).await;
        scratch.delete(gone).await;
        for store in [store.clone(), scratch.open(small_pages()).await] {
            for mut read in [store.read(ReadFrom::Origin), store.follow(ReadFrom::Origin)] {
                let mut seen = 0;
                let error = loop {
                    match read.next().await.unwrap() {
                        Ok(event) => assert_eq!(event.id().get(), seen),
                        Err(error) => break error,
                    }
                    seen += 1;
                };
                assert_eq!((seen, error.kind()), (from, ErrorKind::Corrupt), "{error}");
                assert!(error.message().contains("chain is broken"), "{error}");
                assert!(error.target().unwrap().ends_with(&scratch.key(gone)), "{error}");
                assert!(read.next().await.is_none());
            }
        }
        scratch.put(gone, body, metadata).await;
    }
    assert_eq!(store.collect(ReadFrom::Origin).await.unwrap(), log(0..60));
    scratch.remove().await;
}

/// A look at the next key alone does not distinguish a hole from the end, so a view that is old is listed anew.
#[tokio::test]
async fn a_follower_reports_a_hole_behind_its_last_event() {
    let scratch = or_skip!(Scratch::shared().await);
    let poll = Duration::from_millis(5);
    let options = small_pages().with_poll_interval(poll).with_view_age_max(Duration::from_millis(50));
    let store = scratch.open(options).await;
    append_all(&store, &log(0..2), 2).await;
    let mut follow = store.follow(ReadFrom::Origin);
    for id in 0..2 {
        assert_eq!(follow.next().await.unwrap().unwrap(), event(id));
    }
    // Two objects come elsewhere, and the first of them goes before anybody saw it.
    let beside = Scratch::at(scratch.place.clone()).await;
    append_all(&beside.open(small_pages()).await, &log(0..6), 2).await;
    let (body, metadata) = beside.get(Some(3)).await;
    beside.remove().await;
    scratch.put(Some(3), body, metadata).await;
    let error = follow.next().await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.target().unwrap().ends_with(&scratch.key(Some(1))), "{error}");
    scratch.remove().await;
}

#[tokio::test]
async fn objects_within_another_object_are_skipped() {
    let scratch = or_skip!(Scratch::shared().await);
    let store = scratch.open(small_pages()).await;
    for (from, to) in [(0, 10), (10, 20), (20, 30), (30, 31)] {
        append_all(&store, &log(from..to), 10).await;
    }
    // As a crash in the middle of compaction leaves it: 10..30 stand behind 9, and 20..30 behind 19 once more.
    let merged = Scratch::at(scratch.place.clone()).await;
    let helper = merged.open(small_pages()).await;
    append_all(&helper, &log(0..10), 10).await;
    append_all(&helper, &log(10..30), 20).await;
    let (body, metadata) = merged.get(Some(9)).await;
    merged.remove().await;
    scratch.put(Some(9), body, metadata).await;
    for tombstone in [false, true] {
        if tombstone {
            let metadata = [("hydrant", "moved 1"), ("into", "9")];
            scratch
                .put(Some(19), vec![], metadata.map(|(name, value)| (name.into(), value.into())).into())
                .await;
        }
        let opened = scratch.open(small_pages()).await;
        assert_eq!(opened.checkpoint().await.unwrap().id(), Some(EventId::new(30)));
        assert_eq!(opened.collect(ReadFrom::Origin).await.unwrap(), log(0..31));
        for after in 0..31 {
            let read = opened.collect(ReadFrom::After(EventId::new(after))).await.unwrap();
            assert_eq!(read, log(after + 1..31), "after {after}");
        }
    }
    scratch.remove().await;
}

/// What was merged under a reader is read where it went.
#[tokio::test]
async fn a_read_goes_on_where_an_object_was_merged_under_it() {
    let scratch = or_skip!(Scratch::shared().await);
    let options = small_pages().with_prefetch(1, 1);
    let store = scratch.open(options.clone()).await;
    append_all(&store, &log(0..10), 2).await;
    let merged = Scratch::at(scratch.place.clone()).await;
    let helper = merged.open(options).await;
    append_all(&helper, &log(0..2), 2).await;
    append_all(&helper, &log(2..8), 6).await;
    let (body, metadata) = merged.get(Some(1)).await;
    merged.remove().await;
    let mut read = store.read(ReadFrom::Origin);
    for id in 0..4 {
        assert_eq!(read.next().await.unwrap().unwrap(), event(id));
    }
    scratch.put(Some(1), body, metadata).await;
    for moved in [3, 5] {
        let metadata = [("hydrant", "moved 1"), ("into", "1")];
        scratch
            .put(Some(moved), vec![], metadata.map(|(name, value)| (name.into(), value.into())).into())
            .await;
    }
    let rest: Vec<_> = read.map(Result::unwrap).collect().await;
    assert_eq!(rest, log(4..10));
    scratch.remove().await;
}

#[tokio::test]
async fn an_object_that_is_not_what_it_says_is_corrupt_by_name() {
    let scratch = or_skip!(Scratch::shared().await);
    let store = scratch.open(small_pages()).await;
    append_all(&store, &log(0..8), 2).await;
    let (body, metadata) = scratch.get(Some(3)).await;
    let (other_body, other_metadata) = scratch.get(Some(1)).await;
    let changed = |name: &str, value: &str| {
        let mut metadata = metadata.clone();
        metadata.insert(name.to_owned(), value.to_owned());
        metadata
    };
    let mut flipped = body.clone();
    flipped[5] ^= 1;
    for (what, body, metadata) in [
        ("a flipped bit", flipped, metadata.clone()),
        ("half of it", body[..body.len() / 2].to_vec(), metadata.clone()),
        ("a checksum", body.clone(), changed("crc32c", "00000000")),
        ("no metadata", body.clone(), [].into()),
        ("another object", other_body, other_metadata),
        ("an encoding", body.clone(), changed("encoding", "zstd")),
    ] {
        scratch.put(Some(3), body, metadata).await;
        for from in [ReadFrom::Origin, ReadFrom::After(EventId::new(3))] {
            let read: Vec<_> = store.read(from).collect().await;
            let (error, before) = read.split_last().unwrap();
            let error = error.as_ref().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}: {error}");
            assert!(error.target().unwrap().ends_with(&scratch.key(Some(3))), "{what}: {error}");
            let from = if from == ReadFrom::Origin { 0 } else { 4 };
            let before: Vec<_> = before.iter().map(|event| event.clone().unwrap()).collect();
            assert_eq!(before, log(from..4), "{what}");
        }
    }
    scratch.put(Some(3), body.clone(), changed("hydrant", "segment 2")).await;
    let error = store.collect(ReadFrom::Origin).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "a newer version is refused: {error}");
    scratch.remove().await;
}

#[tokio::test]
async fn names_that_are_not_ours_are_left_alone() {
    let scratch = or_skip!(Scratch::shared().await);
    let store = scratch.open(small_pages()).await;
    for name in
        ["log/README", "log/0123", "log/zzz", "log/00000000000000000001x", "logs", "other/log/-origin"]
    {
        let key = format!("{}/{name}", scratch.place.prefix);
        let put = scratch.client.put_object().bucket(&scratch.place.bucket).key(key);
        put.body(b"?".to_vec().into()).send().await.unwrap();
    }
    assert_eq!(store.checkpoint().await.unwrap(), Checkpoint::Empty);
    append_all(&store, &log(0..40), 1).await;
    for keys in [1, 2, 10, 1_000] {
        let opened = scratch.open(small_pages().with_list_keys(keys)).await;
        assert_eq!(opened.collect(ReadFrom::Origin).await.unwrap(), log(0..40));
    }
    scratch.remove().await;
}

#[tokio::test]
async fn the_newest_snapshot_is_read_in_few_requests() {
    let scratch = or_skip!(Scratch::shared().await);
    let store = scratch.open(small_pages()).await;
    let events: Vec<Event> =
        (0..300).map(|id| if id % 50 == 49 { snapshot(id) } else { event_by("x", id) }).collect();
    append_all(&store, &events, 1).await;
    let faults = Faults::new();
    let opened = scratch.open_through(&faults, S3StoreOptions::default()).await;
    faults.requests();
    assert_eq!(opened.collect(ReadFrom::Snapshot).await.unwrap(), events[299..]);
    let requests = faults.requests();
    assert!(requests.len() <= 5, "{requests:?}");
    let gets = requests.iter().filter(|(kind, _)| *kind == Kind::Get).count();
    assert_eq!(gets, 1, "nothing but the snapshot and what is behind it");
    scratch.remove().await;
}

/// A log that begins with a snapshot of a longer log has its floor there.
#[tokio::test]
async fn a_log_that_began_with_a_snapshot_is_read_from_there() {
    let scratch = or_skip!(Scratch::shared().await);
    let store = scratch.open(small_pages()).await;
    let events = [snapshot(100), event(101), event(107)];
    let batch = Batch::new(Some(EventId::new(90)), &events).unwrap();
    store.append(batch).await.unwrap();
    append_all(&store, &log(108..110), 1).await;
    let error = store.collect(ReadFrom::Origin).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Pruned { oldest: EventId::new(100) });
    for (after, first) in [(90, 100), (95, 100), (100, 101), (101, 107), (108, 109)] {
        let read = store.collect(ReadFrom::After(EventId::new(after))).await.unwrap();
        assert_eq!(read[0].id().get(), first, "after {after}");
    }
    scratch.remove().await;
}
