//! Saved positions: where a read begins that continues after an event.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use hydrant::{
    Batch, CheckpointStore, ErrorKind, Event, EventId, EventSink, EventSource, EventSourceExt,
    MemoryCheckpoints, ReadFrom,
};
use hydrant_kinesis::{KinesisShards, KinesisSink, KinesisSinkOptions, Oversize};
use test_servers::proxy::operation;

use crate::servers::Server;
use crate::source::{after, id, ids, put_each};
use crate::source_faults::{keeping_from, through_http};
use crate::stream::{events, hashes, lines, quick, snapshot, with_stream, with_stream_on};

#[tokio::test]
async fn a_read_begins_at_the_newest_saved_position() {
    with_stream(2, async |stream| {
        let log = events(0..50);
        put_each(&stream, "log", &log).await;
        let kept = Arc::new(MemoryCheckpoints::default());
        let options = quick().with_positions(kept.clone(), "reader").with_position_interval_events(10);
        let source = stream.source("log", options).await;
        assert_eq!(source.collect(ReadFrom::Origin).await.unwrap(), log);
        let saved = kept.list().await.unwrap();
        let mut at: Vec<_> = saved.iter().map(|entry| entry.checkpoint.id().unwrap().get()).collect();
        at.sort_unstable();
        assert_eq!(at, [9, 19, 29, 39, 49]);
        // The position is used: what lies before it is not looked at any more.
        for from in 0..50 {
            let wanted = &log[from + 1..];
            assert_eq!(source.collect(after(from as u64)).await.unwrap(), wanted, "after {from}");
        }
        stream.put("log", id(49), &events([50])).await;
        let mut follow = source.follow(after(49));
        assert_eq!(follow.next().await.unwrap().unwrap().id().get(), 50);
    })
    .await;
}

#[tokio::test]
async fn saved_positions_thin_out_with_age_and_belong_to_one_log() {
    with_stream(1, async |stream| {
        let log = events(0..400);
        for (at, chunk) in log.chunks(2).enumerate() {
            stream.put("log", (at > 0).then(|| log[at * 2 - 1].id()), chunk).await;
        }
        let kept = Arc::new(MemoryCheckpoints::default());
        let options = quick().with_positions(kept.clone(), "reader").with_position_interval_events(4);
        let source = stream.source("log", options.clone()).await;
        assert_eq!(source.collect(ReadFrom::Origin).await.unwrap(), log);
        let at: Vec<_> =
            kept.list().await.unwrap().iter().filter_map(|entry| entry.checkpoint.id()).collect();
        assert_eq!(at.len(), 8);
        assert!(at.iter().any(|id| id.get() > 390), "{at:?}");
        assert!(at.iter().any(|id| id.get() < 250), "{at:?}");
        for from in [0, 7, 150, 321, 398] {
            let wanted = &log[from + 1..];
            assert_eq!(
                source.collect(ReadFrom::After(log[from].id())).await.unwrap(),
                wanted,
                "after {from}"
            );
        }
        // Under the same name, another log does not begin at this one's positions.
        stream.put("other", None, &events(0..3)).await;
        let other = stream.source("other", options).await;
        assert_eq!(other.collect(after(1)).await.unwrap(), events([2]));
    })
    .await;
}

#[tokio::test]
async fn a_saved_position_finds_the_snapshot_without_older_events() {
    with_stream(1, async |stream| {
        let kept = Arc::new(MemoryCheckpoints::default());
        let options = quick().with_positions(kept.clone(), "reader");
        stream.put("log", None, &events([1, 2])).await;
        stream.put_lines("log", None, &lines(id(2), &[snapshot(3)])).await;
        stream.put("log", id(3), &events([4])).await;
        let source = stream.source("log", options).await;
        assert_eq!(ids(&source.collect(ReadFrom::Snapshot).await.unwrap()), [3, 4]);
        let saved = kept.load("reader.snapshot").await.unwrap().unwrap();
        assert_eq!(saved.checkpoint.id(), id(2));
        assert_eq!(ids(&source.collect(ReadFrom::Snapshot).await.unwrap()), [3, 4]);
        stream.put("log", id(4), &[snapshot(5)]).await;
        assert_eq!(ids(&source.collect(ReadFrom::Snapshot).await.unwrap()), [5]);
    })
    .await;
}

#[tokio::test]
async fn a_position_is_never_inside_an_event_in_chunks() {
    with_stream(1, async |stream| {
        let large = |id: u64| Event::new(EventId::new(id), &"large ".repeat(2_000)).unwrap();
        let log = [events([0]), vec![large(1)], events([2]), vec![large(3), large(4)], events([5])].concat();
        let chunks = KinesisSinkOptions::default()
            .with_oversize(Oversize::Chunk)
            .with_record_bytes_max(4 << 10)
            .with_settle(Duration::ZERO);
        let sink = KinesisSink::open(stream.client.clone(), &stream.name, "log", chunks).await.unwrap();
        let mut before = None;
        for event in &log {
            sink.append(Batch::new(before, std::slice::from_ref(event)).unwrap()).await.unwrap();
            before = Some(event.id());
        }
        let kept = Arc::new(MemoryCheckpoints::default());
        let options = quick().with_positions(kept, "reader").with_position_interval_events(1);
        let source = stream.source("log", options.with_page_records_max(1)).await;
        assert_eq!(source.collect(ReadFrom::Origin).await.unwrap(), log);
        for (at, event) in log.iter().enumerate() {
            assert_eq!(
                source.collect(ReadFrom::After(event.id())).await.unwrap(),
                log[at + 1..],
                "after {at}"
            );
        }
        let small = stream.source("log", quick().with_event_bytes_max(1 << 10)).await;
        let error = small.collect(ReadFrom::Origin).await.unwrap_err();
        assert_eq!(error.event(), id(1), "{error}");
    })
    .await;
}

#[tokio::test]
async fn a_position_waits_for_unfinished_chunks_of_other_shards() {
    with_stream(2, async |stream| {
        let large =
            Event::builder(EventId::new(5)).payload_json(format!("{:?}", "x".repeat(9_000))).snapshot();
        let log = [events(0..5), vec![large.build().unwrap()]].concat();
        let chunks = KinesisSinkOptions::default()
            .with_oversize(Oversize::Chunk)
            .with_record_bytes_max(4 << 10)
            .with_settle(Duration::ZERO);
        let sink = KinesisSink::open(stream.client.clone(), &stream.name, "log", chunks).await.unwrap();
        sink.append(Batch::new(id(4), &log[5..]).unwrap()).await.unwrap();
        let records = crate::raw::records(&stream.client, &stream.name).await;
        assert_eq!(records.len(), 3);
        // The others go to the other shard, where they are found while the chunks are read.
        let open = stream.open_shards().await;
        let other = open.iter().find(|shard| shard.shard_id() != records[0].shard).unwrap();
        for (at, event) in log[..5].iter().enumerate() {
            let after = at.checked_sub(1).map(|before| log[before].id());
            let line = lines(after, std::slice::from_ref(event));
            stream.put_lines("log", Some(hashes(other).0), &line).await;
        }
        let kept = Arc::new(MemoryCheckpoints::default());
        let options = quick().with_positions(kept, "reader").with_position_interval_events(1);
        let options = options.with_shards(KinesisShards::All).with_page_records_max(1);
        let source = stream.source("log", options).await;
        assert_eq!(source.collect(ReadFrom::Origin).await.unwrap(), log);
        for at in 0..6 {
            let behind = source.collect(ReadFrom::After(log[at].id())).await.unwrap();
            assert_eq!(behind, log[at + 1..], "after {at}");
        }
    })
    .await;
}

#[tokio::test]
async fn events_missing_after_a_position_expired_or_never_existed() {
    with_stream_on(Server::KinesisLocal, 1, async |stream| {
        let log = events(0..3);
        put_each(&stream, "log", &log).await;
        let kept = Arc::new(MemoryCheckpoints::default());
        let options = quick().with_positions(kept, "reader").with_position_interval_events(1);
        let source = stream.source("log", options.clone()).await;
        assert_eq!(source.collect(ReadFrom::Origin).await.unwrap(), log);
        stream.put("log", id(5), &events([6])).await;
        let error = source.collect(after(2)).await.unwrap_err();
        assert_eq!((error.kind(), error.event()), (ErrorKind::Diverged, id(6)), "{error}");
        // As if the stream kept nothing of what came before.
        let kept = crate::raw::records(&stream.client, &stream.name).await[3].number.clone();
        let (proxy, proxied) = through_http(&stream).await;
        proxy.next(usize::MAX, |request| operation(request) == "GetRecords", keeping_from(kept));
        let error = proxied.source("log", options).await.collect(after(2)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Pruned { oldest: EventId::new(6) }, "{error}");
    })
    .await;
}

#[tokio::test]
async fn what_is_missing_up_to_where_a_read_begins_is_not_asked_for() {
    with_stream(1, async |stream| {
        put_each(&stream, "log", &events(0..3)).await;
        let kept = Arc::new(MemoryCheckpoints::default());
        let options = quick().with_positions(kept, "reader").with_position_interval_events(1);
        let saved = stream.source("log", options).await;
        assert_eq!(saved.collect(ReadFrom::Origin).await.unwrap(), events(0..3));
        let unsaved = stream.source("log", quick()).await;
        // Events 3 to 5 are not there; the caller may have them from another copy.
        stream.put("log", id(5), &events([7, 8])).await;
        // One of those comes after all: put again, by a writer whose answer was lost.
        stream.put("log", id(4), &events([5])).await;
        stream.put("log", id(8), &events([9])).await;
        for source in [saved, unsaved] {
            for lacking in [ReadFrom::Origin, after(2), after(4)] {
                let error = source.collect(lacking).await.unwrap_err();
                assert_eq!((error.kind(), error.event()), (ErrorKind::Diverged, id(7)), "{error}");
            }
            for from in 5..10 {
                let wanted = events((from + 1..10).filter(|id| *id != 6));
                assert_eq!(source.collect(after(from)).await.unwrap(), wanted, "after {from}");
            }
            let mut follow = source.follow(after(5));
            assert_eq!(follow.next().await.unwrap().unwrap().id().get(), 7);
        }
    })
    .await;
}
