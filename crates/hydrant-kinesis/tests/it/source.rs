//! What the source makes of what stands in a stream.

use std::time::Duration;

use aws_sdk_kinesis::primitives::Blob;
use futures_util::StreamExt;
use hydrant::{ErrorKind, Event, EventId, EventSource, EventSourceExt, ReadFrom};
use hydrant_kinesis::{KinesisShards, KinesisSource, KinesisStart, Unnamed};

use crate::servers::Server;
use crate::stream::{Stream, events, hashes, lines, quick, snapshot, with_stream, with_stream_on};

#[expect(clippy::unnecessary_wraps, reason = "what a put stands behind")]
pub(crate) fn id(id: u64) -> Option<EventId> {
    Some(EventId::new(id))
}

pub(crate) fn after(at: u64) -> ReadFrom {
    ReadFrom::After(EventId::new(at))
}

pub(crate) fn ids(events: &[Event]) -> Vec<u64> {
    events.iter().map(|event| event.id().get()).collect()
}

/// Puts events one record each, from the first of the log on.
pub(crate) async fn put_each(stream: &Stream, log: &str, events: &[Event]) {
    let mut after = None;
    for event in events {
        stream.put(log, after, std::slice::from_ref(event)).await;
        after = Some(event.id());
    }
}

#[tokio::test]
async fn a_read_yields_the_log_from_where_it_is_asked() {
    with_stream(3, async |stream| {
        let log = events([1, 2, 5, 6, 9]);
        stream.put("log", None, &log[..2]).await;
        stream.put("other", None, &events([1, 2, 3])).await;
        stream.put("log", id(2), &log[2..]).await;
        let source = stream.source("log", quick()).await;
        assert_eq!(source.collect(ReadFrom::Origin).await.unwrap(), log);
        assert_eq!(source.collect(after(2)).await.unwrap(), log[2..]);
        assert_eq!(source.collect(after(4)).await.unwrap(), log[2..]);
        assert_eq!(source.collect(after(9)).await.unwrap(), []);
        assert_eq!(source.collect(after(99)).await.unwrap(), []);
        assert_eq!(source.checkpoint().await.unwrap().id(), id(9));
        let empty = stream.source("empty", quick()).await;
        assert_eq!(empty.collect(ReadFrom::Origin).await.unwrap(), []);
        assert_eq!(empty.collect(ReadFrom::Snapshot).await.unwrap(), []);
    })
    .await;
}

#[tokio::test]
async fn pages_that_are_full_or_empty_are_not_the_end() {
    with_stream(1, async |stream| {
        let log = events(0..40);
        for (at, event) in log.iter().enumerate() {
            let after = at.checked_sub(1).map(|before| log[before].id());
            stream.put("log", after, std::slice::from_ref(event)).await;
            stream.put("noise", None, &events([7])).await;
        }
        let source = stream.source("log", quick().with_page_records_max(3)).await;
        assert_eq!(source.collect(ReadFrom::Origin).await.unwrap(), log);
        // One record a page: every other page holds nothing of this log.
        let source = stream.source("log", quick().with_page_records_max(1)).await;
        assert_eq!(source.collect(after(20)).await.unwrap(), log[21..]);
    })
    .await;
}

/// Puts what is no event of any log, again and again until it is aborted.
fn noise(stream: &Stream, hash_key: Option<u128>) -> tokio::task::JoinHandle<()> {
    let noisy = stream.clone();
    tokio::spawn(async move {
        loop {
            noisy.put_lines("noise", hash_key, "no event at all").await;
        }
    })
}

#[tokio::test]
async fn a_read_ends_on_a_shard_that_others_never_leave_alone() {
    with_stream(1, async |stream| {
        let log = events(0..5);
        put_each(&stream, "log", &log).await;
        let noise = noise(&stream, None);
        let source = stream.source("log", quick().with_settle(Duration::from_millis(100))).await;
        assert_eq!(source.collect(ReadFrom::Origin).await.unwrap(), log);
        noise.abort();
    })
    .await;
}

#[tokio::test]
async fn a_read_of_all_shards_ends_while_others_write_to_them() {
    with_stream(2, async |stream| {
        let log = events(0..5);
        put_each(&stream, "log", &log).await;
        let busy: Vec<_> = stream.open_shards().await.iter().map(|shard| hashes(shard).0).collect();
        let noise: Vec<_> = busy.into_iter().map(|hash| noise(&stream, Some(hash))).collect();
        let options = quick().with_shards(KinesisShards::All).with_settle(Duration::from_millis(100));
        let source = stream.source("log", options).await;
        assert_eq!(source.collect(ReadFrom::Origin).await.unwrap(), log);
        // A hole is still reported.
        stream.put("log", id(6), &events([7])).await;
        let error = source.collect(after(0)).await.unwrap_err();
        assert_eq!((error.kind(), error.event()), (ErrorKind::Diverged, id(7)));
        noise.iter().for_each(tokio::task::JoinHandle::abort);
    })
    .await;
}

#[tokio::test]
async fn follow_goes_on_with_what_comes() {
    with_stream(2, async |stream| {
        let log = events(0..30);
        stream.put("log", None, &log[..10]).await;
        let source = stream.source("log", quick()).await;
        let mut follow = source.follow(after(4));
        for event in &log[5..10] {
            assert_eq!(follow.next().await.unwrap().unwrap(), *event);
        }
        stream.put("log", id(9), &log[10..20]).await;
        stream.put("log", id(19), &log[20..]).await;
        for event in &log[10..] {
            assert_eq!(follow.next().await.unwrap().unwrap(), *event);
        }
    })
    .await;
}

#[tokio::test]
async fn what_was_put_twice_is_read_once() {
    with_stream(1, async |stream| {
        let log = events(0..9);
        stream.put("log", None, &log[..3]).await;
        stream.put("log", None, &log[..3]).await;
        stream.put("log", id(2), &log[3..6]).await;
        stream.put("log", id(2), &log[3..9]).await; // held in part
        stream.put("log", None, &log[..1]).await; // arrives late
        stream.put("log", id(5), &log[6..]).await;
        let source = stream.source("log", quick()).await;
        assert_eq!(source.collect(ReadFrom::Origin).await.unwrap(), log);
        assert_eq!(source.collect(after(7)).await.unwrap(), log[8..]);
    })
    .await;
}

#[tokio::test]
async fn another_event_under_a_seen_id_names_both() {
    with_stream(1, async |stream| {
        let log = events(0..3);
        stream.put("log", None, &log).await;
        let other = Event::new(EventId::new(1), "written by another").unwrap();
        stream.put("log", id(0), &[other]).await;
        let source = stream.source("log", quick()).await;
        let read: Vec<_> = source.read(ReadFrom::Origin).collect().await;
        assert_eq!(read.len(), 4);
        let error = read[3].clone().unwrap_err();
        assert_eq!((error.kind(), error.event()), (ErrorKind::Diverged, id(1)));
        let text = error.to_string();
        assert_eq!(text.matches("shardId-").count(), 2, "{text}");
        assert!(text.contains(&log[1].digest().to_string()), "{text}");
    })
    .await;
}

#[tokio::test]
async fn an_event_that_was_passed_over_is_loud() {
    with_stream(1, async |stream| {
        let source = |log: &'static str| stream.source(log, quick());
        // A second writer that goes on from what it knew.
        stream.put("forked", None, &events([1, 2, 5])).await;
        stream.put("forked", id(2), &events([7])).await;
        // One that writes into a gap of the ids.
        stream.put("filled", None, &events([1, 2, 5])).await;
        stream.put("filled", id(2), &events([3])).await;
        for log in ["forked", "filled"] {
            let error = source(log).await.collect(ReadFrom::Origin).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Diverged, "{log}: {error}");
        }
        // One that lost an event, which nothing expired.
        stream.put("holed", None, &events([1, 2])).await;
        stream.put("holed", id(5), &events([6])).await;
        let read: Vec<_> = source("holed").await.read(ReadFrom::Origin).collect().await;
        assert_eq!(read.len(), 3);
        let error = read[2].clone().unwrap_err();
        assert_eq!((error.kind(), error.event()), (ErrorKind::Diverged, id(6)));
        assert!(error.to_string().contains("event 2"), "{error}");
    })
    .await;
}

#[tokio::test]
async fn bytes_that_do_not_decode_are_reported_with_their_place() {
    with_stream(1, async |stream| {
        stream.put("log", None, &events([1])).await;
        stream.put_lines("log", None, "this is no event").await;
        let source = stream.source("log", quick()).await;
        let error = source.collect(ReadFrom::Origin).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains("shardId-"), "{error}");
        assert!(error.to_string().contains("sequence number"), "{error}");
    })
    .await;
}

#[tokio::test]
async fn events_that_have_expired_are_compacted() {
    with_stream(1, async |stream| {
        // What the stream keeps begins behind event 5, as if the records before had expired.
        stream.put("log", id(5), &events([7, 8])).await;
        let source = stream.source("log", quick()).await;
        let pruned = ErrorKind::Pruned { oldest: EventId::new(7) };
        for from in [ReadFrom::Origin, after(0), after(4)] {
            let read: Vec<_> = source.read(from).collect().await;
            assert_eq!(read.len(), 1, "{from:?}");
            assert_eq!(read[0].clone().unwrap_err().kind(), pruned, "{from:?}");
        }
        for from in [after(5), after(6)] {
            assert_eq!(source.collect(from).await.unwrap(), events([7, 8]), "{from:?}");
        }
        assert_eq!(source.collect(after(7)).await.unwrap(), events([8]));
        for (at, read) in [(6, &events([7, 8])[..]), (7, &events([7, 8])), (8, &events([8])), (9, &[])] {
            assert_eq!(source.collect(ReadFrom::At(EventId::new(at))).await.unwrap(), read, "at {at}");
        }
        // Without a snapshot, state cannot be built from half a log.
        assert_eq!(source.collect(ReadFrom::Snapshot).await.unwrap_err().kind(), pruned);
        stream.put("log", id(8), &[snapshot(9)]).await;
        assert_eq!(ids(&source.collect(ReadFrom::Snapshot).await.unwrap()), [9]);
        stream.put("opened", id(5), &[snapshot(6)]).await;
        let source = stream.source("opened", quick()).await;
        assert_eq!(ids(&source.collect(ReadFrom::Snapshot).await.unwrap()), [6]);
    })
    .await;
}

#[tokio::test]
async fn a_snapshot_read_begins_at_the_newest_one() {
    with_stream(1, async |stream| {
        stream.put("log", None, &events([1, 2])).await;
        stream.put("log", id(2), &[events([3]), vec![snapshot(4)], events([5])].concat()).await;
        let source = stream.source("log", quick()).await;
        assert_eq!(ids(&source.collect(ReadFrom::Snapshot).await.unwrap()), [4, 5]);
        stream.put("log", id(5), &[vec![snapshot(8)], events([9])].concat()).await;
        assert_eq!(ids(&source.collect(ReadFrom::Snapshot).await.unwrap()), [8, 9]);
        let mut follow = source.follow(ReadFrom::Snapshot);
        for wanted in [8, 9] {
            assert_eq!(follow.next().await.unwrap().unwrap().id().get(), wanted);
        }
        stream.put("log", id(9), &events([10])).await;
        assert_eq!(follow.next().await.unwrap().unwrap().id().get(), 10);
    })
    .await;
}

#[tokio::test]
async fn latest_begins_with_what_is_put_from_now_on() {
    with_stream(2, async |stream| {
        let log = events(0..6);
        stream.put("log", None, &log[..2]).await;
        let source = stream.source("log", quick().with_start(KinesisStart::Latest)).await;
        assert_eq!(source.collect(ReadFrom::Origin).await.unwrap(), []);
        let mut follow = source.follow(ReadFrom::Origin);
        let mut exact = source.follow(after(0));
        // The position is taken with the first question, so keep asking while the events come.
        let mut put = Box::pin(async {
            for at in 2..6 {
                tokio::time::sleep(Duration::from_millis(150)).await;
                stream.put("log", id(at as u64 - 1), &log[at..=at]).await;
            }
            std::future::pending::<()>().await;
        });
        let first = tokio::select! { first = follow.next() => first, () = &mut put => None };
        let first = first.unwrap().unwrap();
        assert!(first.id() >= EventId::new(2));
        let missed = tokio::select! { missed = exact.next() => missed, () = &mut put => None };
        let error = missed.unwrap().unwrap_err();
        assert!(
            matches!(error.kind(), ErrorKind::Pruned { .. }),
            "the events that were skipped are an error: {error}"
        );
    })
    .await;
}

#[tokio::test]
async fn a_read_from_a_time_says_what_it_passed_over() {
    with_stream(1, async |stream| {
        let log = events(0..4);
        stream.put("log", None, &log[..2]).await;
        tokio::time::sleep(Duration::from_millis(1500)).await; // the servers count in seconds
        stream.put("log", id(1), &log[2..]).await;
        let shard = stream.open_shards().await[0].shard_id().to_owned();
        let ask = stream.client.get_shard_iterator().stream_name(&stream.name).shard_id(shard);
        let iterator = ask.shard_iterator_type("TRIM_HORIZON".into()).send().await.unwrap().shard_iterator;
        let records = stream.client.get_records().set_shard_iterator(iterator).send().await.unwrap().records;
        let arrived = records[1].approximate_arrival_timestamp.unwrap();
        let start = KinesisStart::At(arrived.try_into().unwrap());
        let source = stream.source("log", quick().with_start(start)).await;
        assert_eq!(source.collect(ReadFrom::Origin).await.unwrap(), log[2..]);
        assert_eq!(source.collect(after(1)).await.unwrap(), log[2..]);
        let error = source.collect(after(0)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Pruned { oldest: EventId::new(2) });
    })
    .await;
}

#[tokio::test]
async fn the_options_decide_about_unnamed_predecessors() {
    with_stream(1, async |stream| {
        for event in [0, 1, 4] {
            let line = String::from_utf8(events([event])[0].to_vec()).unwrap();
            stream.put_lines("log", None, &line).await;
        }
        let read = async |unnamed| {
            let source = stream.source("log", quick().with_unnamed(unnamed)).await;
            source.read(ReadFrom::Origin).collect::<Vec<_>>().await
        };
        let contiguous = read(Unnamed::Contiguous).await;
        assert_eq!(contiguous.len(), 3);
        assert_eq!(contiguous[2].clone().unwrap_err().event(), id(4));
        let ascending: Result<Vec<_>, _> = read(Unnamed::Ascending).await.into_iter().collect();
        assert_eq!(ascending.unwrap(), events([0, 1, 4]));
        let refused = read(Unnamed::Refuse).await;
        assert_eq!(refused[0].clone().unwrap_err().kind(), ErrorKind::Corrupt);
        // Without the first, the log of a contiguous producer has lost something; without names, who knows.
        let line = String::from_utf8(events([3])[0].to_vec()).unwrap();
        stream.put_lines("late", None, &line).await;
        let source = stream.source("late", quick()).await;
        let error = source.collect(ReadFrom::Origin).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Pruned { oldest: EventId::new(3) });
    })
    .await;
}

#[tokio::test]
async fn a_log_that_is_spread_over_shards_is_put_in_order() {
    with_stream(4, async |stream| {
        let log = events((0..60).map(|n| n * 3));
        let mut rng = fastrand::Rng::with_seed(7);
        let mut after = None;
        for event in &log {
            let line = lines(after, std::slice::from_ref(event));
            stream.put_lines("log", Some(rng.u128(..)), &line).await;
            after = Some(event.id());
        }
        let options = quick().with_shards(KinesisShards::All).with_page_records_max(2);
        let source = stream.source("log", options.clone()).await;
        assert_eq!(source.collect(ReadFrom::Origin).await.unwrap(), log);
        assert_eq!(source.collect(ReadFrom::After(log[30].id())).await.unwrap(), log[31..]);
        // A loss is a loss, wherever it lies.
        stream.put_lines("log", Some(1), &lines(id(1_000), &events([1_001]))).await;
        let error = source.collect(ReadFrom::Origin).await.unwrap_err();
        assert_eq!((error.kind(), error.event()), (ErrorKind::Diverged, id(1_001)));
    })
    .await;
}

#[tokio::test]
async fn a_log_with_an_explicit_hash_key_is_read_where_it_lies() {
    with_stream(4, async |stream| {
        let log = events(0..5);
        for hash in [0, u128::MAX] {
            stream.put_lines(&format!("log {hash}"), Some(hash), &lines(None, &log)).await;
            let options = quick().with_shards(KinesisShards::OfHashKey(hash));
            let source = stream.source(&format!("log {hash}"), options).await;
            assert_eq!(source.collect(ReadFrom::Origin).await.unwrap(), log);
        }
    })
    .await;
}

/// A field of a protobuf message that holds bytes, shorter than 128.
fn field(tag: u8, bytes: &[u8]) -> Vec<u8> {
    assert!(bytes.len() < 128);
    [&[tag << 3 | 2, u8::try_from(bytes.len()).unwrap()], bytes].concat()
}

/// What the Producer Library makes of two logs' events in one record: an event of `first`, then one of `log`.
fn aggregated(first: &Event, second: &Event) -> Vec<u8> {
    let sub_record =
        |key: u8, event: &Event| field(3, &[vec![1 << 3, key], field(3, &event.to_vec())].concat());
    let message =
        [field(1, b"first"), field(1, b"log"), sub_record(0, first), sub_record(1, second)].concat();
    let digest: [u8; 16] = <md5::Md5 as md5::Digest>::digest(&message).into();
    [&[0xF3, 0x89, 0x9A, 0xC2], message.as_slice(), &digest].concat()
}

#[tokio::test]
async fn records_that_the_producer_library_aggregated_are_taken_apart() {
    with_stream(2, async |stream| {
        let log = events(0..3);
        for event in &log {
            let record = Blob::new(aggregated(&events([event.id().get() + 7])[0], event));
            let put = stream.client.put_record().stream_name(&stream.name).partition_key("a").data(record);
            put.explicit_hash_key("12345").send().await.unwrap();
        }
        let options = quick().with_shards(KinesisShards::OfHashKey(12_345));
        let source = stream.source("log", options.clone()).await;
        assert_eq!(source.collect(ReadFrom::Origin).await.unwrap(), log);
        let source = stream.source("log", options.with_shards(KinesisShards::All)).await;
        assert_eq!(source.collect(after(0)).await.unwrap(), log[1..]);
    })
    .await;
}

#[tokio::test]
async fn a_server_that_does_not_measure_is_read_to_the_end_too() {
    with_stream_on(Server::Kinesalite, 2, async |stream| {
        let log = events(0..50);
        put_each(&stream, "log", &log).await;
        for page in [1, 7, 50, 51] {
            let source = stream.source("log", quick().with_page_records_max(page)).await;
            assert_eq!(source.collect(ReadFrom::Origin).await.unwrap(), log, "pages of {page}");
            assert_eq!(source.collect(after(48)).await.unwrap(), log[49..], "pages of {page}");
        }
        let open = stream.open_shards().await;
        stream.split(&open[0]).await;
        stream.split(&open[1]).await;
        let source = stream.source("log", quick()).await;
        let mut follow = source.follow(after(40));
        stream.put("log", id(49), &events([50])).await;
        for wanted in 41..=50 {
            assert_eq!(follow.next().await.unwrap().unwrap().id().get(), wanted);
        }
    })
    .await;
}

#[tokio::test]
async fn options_that_make_no_sense_are_refused_by_name() {
    with_stream(1, async |stream| {
        for (options, word) in [
            (quick().with_page_records_max(0), "page_records_max"),
            (quick().with_page_records_max(10_001), "page_records_max"),
            (quick().with_poll_interval(Duration::ZERO), "poll_interval"),
            (quick().with_call_timeout(Duration::ZERO), "call_timeout"),
            (quick().with_compared_events_max(1), "compared_events_max"),
            (quick().with_enhanced_fan_out(""), "enhanced_fan_out"),
        ] {
            let open = KinesisSource::open(stream.client.clone(), &stream.name, "log", options);
            let error = open.await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(error.message().contains(word), "{error}");
        }
    })
    .await;
}

#[tokio::test]
async fn open_reports_a_missing_stream() {
    with_stream(1, async |stream| {
        let missing = test_servers::namespace();
        let open = KinesisSource::open(stream.client.clone(), &missing, "log", quick());
        let error = open.await.unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, hydrant::Retry::Safe));
        assert!(error.to_string().contains(&missing) && error.to_string().contains("create it"), "{error}");
    })
    .await;
}
