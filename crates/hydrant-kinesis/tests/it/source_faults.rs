//! What a bad network, a server that dies and records that expire do to the source.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt;
use hydrant::{Error, ErrorKind, Event, EventId, EventSource, EventSourceExt, ReadFrom, Retry};
use hydrant_kinesis::{KinesisShards, KinesisSource, KinesisSourceOptions, KinesisStart};
use serde_json::Value;
use test_servers::native::Kinesalite;
use test_servers::proxy::{Action, Answer, Fault, Http, Tcp, operation};

use crate::servers::{Server, at, directory, make_stream};
use crate::stream::{Stream, events, hashes, lines, quick, with_stream, with_stream_on};

/// Where the server of a kind listens, for a proxy in front of it.
pub(crate) fn address(server: Server) -> SocketAddr {
    let endpoint = server.reach().unwrap().endpoint.expect("the proxy wants a server of ours");
    endpoint.split_once("://").unwrap().1.trim_end_matches('/').parse().unwrap()
}

pub(crate) async fn through_http(stream: &Stream) -> (Http, Stream) {
    let proxy = Http::start(address(Server::KinesisLocal)).await;
    let proxied = stream.through(&proxy.endpoint()).await;
    (proxy, proxied)
}

/// A log of some records on a server that a proxy can stand before.
pub(crate) async fn with_log(count: u64, test: impl AsyncFnOnce(Stream, Vec<Event>)) {
    with_stream_on(Server::KinesisLocal, 1, async |stream| {
        let log = events(0..count);
        for (at, event) in log.iter().enumerate() {
            let after = at.checked_sub(1).map(|before| log[before].id());
            stream.put("log", after, std::slice::from_ref(event)).await;
        }
        test(stream, log).await;
    })
    .await;
}

/// Hides the records before this one from `GetRecords`, as if they had expired.
pub(crate) fn keeping_from(kept: String) -> Action {
    let hide = move |status, body: Vec<u8>| {
        let mut answer: Value = serde_json::from_slice(&body).unwrap();
        if let Some(records) = answer["Records"].as_array_mut() {
            records.retain(|record| record["SequenceNumber"].as_str().unwrap() >= kept.as_str());
        }
        (status, serde_json::to_vec(&answer).unwrap())
    };
    Action::rewrite(|body| body, hide)
}

fn small_pages() -> KinesisSourceOptions {
    quick().with_page_records_max(2)
}

#[tokio::test]
async fn an_expired_iterator_is_renewed_behind_the_last_record() {
    with_log(12, async |stream, log| {
        let (proxy, proxied) = through_http(&stream).await;
        let source = proxied.source("log", small_pages()).await;
        let mut read = source.read(ReadFrom::Origin);
        for (at, event) in log.iter().enumerate() {
            if at % 3 == 0 {
                let expired = Action::Answer(Answer::kinesis(400, "ExpiredIteratorException"));
                proxy.next(1, |request| operation(request) == "GetRecords", expired);
            }
            assert_eq!(read.next().await.unwrap().unwrap(), *event);
        }
        assert!(read.next().await.is_none());
        let iterators = proxy.count(|request| operation(request) == "GetShardIterator");
        assert!(iterators > 1, "{iterators} iterators");
    })
    .await;
}

#[tokio::test]
async fn an_expired_iterator_at_the_latest_record_is_an_error() {
    with_log(1, async |stream, _| {
        let (proxy, proxied) = through_http(&stream).await;
        let source = proxied.source("log", quick().with_start(KinesisStart::Latest)).await;
        let mut follow = source.follow(ReadFrom::Origin);
        let asked = async {
            while proxy.count(|request| operation(request) == "GetRecords") < 2 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! { () = asked => {}, event = follow.next() => panic!("{event:?}") }
        let expired = Action::Answer(Answer::kinesis(400, "ExpiredIteratorException"));
        proxy.next(1, |request| operation(request) == "GetRecords", expired);
        let error = follow.next().await.unwrap().unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::Never), "{error}");
    })
    .await;
}

#[tokio::test]
async fn throttling_is_waited_out_and_is_an_error_when_it_lasts() {
    with_log(6, async |stream, log| {
        let (proxy, proxied) = through_http(&stream).await;
        let throttled = || Action::Answer(Answer::kinesis(400, "ProvisionedThroughputExceededException"));
        let asks =
            |request: &_| matches!(operation(request), "GetRecords" | "GetShardIterator" | "ListShards");
        let source = proxied.source("log", small_pages()).await;
        proxy.next(15, asks, throttled());
        assert_eq!(source.collect(ReadFrom::Origin).await.unwrap(), log);
        proxy.next(usize::MAX, |request| operation(request) == "GetRecords", throttled());
        let source = proxied.source("log", small_pages().with_throttled_max(Duration::ZERO)).await;
        let error = source.collect(ReadFrom::Origin).await.unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::Safe));
    })
    .await;
}

#[tokio::test]
async fn answers_that_are_lost_or_cut_off_lose_and_double_nothing() {
    with_log(20, async |stream, log| {
        let (proxy, proxied) = through_http(&stream).await;
        let source = proxied.source("log", small_pages()).await;
        let mut read = source.read(ReadFrom::Origin);
        for (at, event) in log.iter().enumerate() {
            let action = match at % 4 {
                0 => Action::LoseAnswer,
                1 => Action::CutAnswer(20),
                2 => Action::Cut,
                _ => Action::Answer(Answer::kinesis(500, "InternalFailure")),
            };
            proxy.next(1, |request| operation(request) == "GetRecords", action);
            assert_eq!(read.next().await.unwrap().unwrap(), *event);
        }
    })
    .await;
}

#[tokio::test]
async fn a_put_whose_answer_was_lost_is_read_once() {
    with_stream_on(Server::KinesisLocal, 1, async |stream| {
        let log = events(0..10);
        let (proxy, proxied) = through_http(&stream).await;
        for (at, event) in log.iter().enumerate() {
            proxy.next(1, |request| operation(request) == "PutRecord", Action::LoseAnswer);
            let after = at.checked_sub(1).map(|before| log[before].id());
            // The SDK sends it again.
            proxied.put("log", after, std::slice::from_ref(event)).await;
        }
        assert!(
            crate::raw::records(&stream.client, &stream.name).await.len() > log.len(),
            "nothing came twice"
        );
        let source = stream.source("log", quick()).await;
        assert_eq!(source.collect(ReadFrom::Origin).await.unwrap(), log);
    })
    .await;
}

#[tokio::test]
async fn refusals_of_the_service_are_classified_by_code() {
    with_log(2, async |stream, _| {
        let (proxy, proxied) = through_http(&stream).await;
        let source = proxied.source("log", quick()).await;
        for (call, status, code, kind, retry) in [
            ("GetRecords", 400, "AccessDeniedException", ErrorKind::Denied, Retry::Never),
            ("ListShards", 400, "ExpiredTokenException", ErrorKind::Denied, Retry::Safe),
            ("GetShardIterator", 400, "ResourceNotFoundException", ErrorKind::Unavailable, Retry::Safe),
            ("GetRecords", 503, "ServiceUnavailable", ErrorKind::Unavailable, Retry::Safe),
        ] {
            let asks = move |request: &_| operation(request) == call;
            proxy.next(usize::MAX, asks, Action::Answer(Answer::kinesis(status, code)));
            let error = source.collect(ReadFrom::Origin).await.unwrap_err();
            assert_eq!((error.kind(), error.retry()), (kind, retry), "{code}: {error}");
            assert!(error.to_string().contains(&stream.name), "{error}");
            proxy.heal();
        }
        assert_eq!(source.collect(ReadFrom::Origin).await.unwrap(), events(0..2));
    })
    .await;
}

#[tokio::test]
async fn records_that_expire_under_a_slow_reader_are_compacted() {
    with_log(12, async |stream, log| {
        let (proxy, proxied) = through_http(&stream).await;
        let source = proxied.source("log", small_pages()).await;
        let mut read = source.read(ReadFrom::Origin);
        for event in &log[..2] {
            assert_eq!(read.next().await.unwrap().unwrap(), *event);
        }
        // From here on the stream keeps nothing before event 6.
        let kept = crate::raw::records(&stream.client, &stream.name).await[6].number.clone();
        proxy.next(usize::MAX, |request| operation(request) == "GetRecords", keeping_from(kept));
        let error = read.next().await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Pruned { oldest: EventId::new(6) }, "{error}");
        assert!(read.next().await.is_none());
        assert_eq!(source.collect(ReadFrom::After(EventId::new(5))).await.unwrap(), log[6..]);
        let error = source.collect(ReadFrom::After(EventId::new(4))).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Pruned { oldest: EventId::new(6) }, "{error}");
    })
    .await;
}

#[tokio::test]
async fn a_shard_that_expires_under_a_slow_reader_is_pruned() {
    with_log(12, async |stream, log| {
        let parent = stream.open_shards().await[0].clone();
        stream.split(&parent).await;
        stream.put("log", Some(EventId::new(11)), &events([12])).await;
        let (proxy, proxied) = through_http(&stream).await;
        let source = proxied.source("log", small_pages()).await;
        let mut read = source.read(ReadFrom::Origin);
        assert_eq!(read.next().await.unwrap().unwrap(), log[0]);
        // The iterator is too old, its shard is gone; the child, which is asked for in between, is there.
        let gone = std::sync::atomic::AtomicUsize::new(0);
        let of_parent = move |request: &_| {
            operation(request) == "GetShardIterator"
                && gone.fetch_add(1, std::sync::atomic::Ordering::Relaxed).is_multiple_of(2)
        };
        let answer = |code| Action::Answer(Answer::kinesis(400, code));
        proxy.next(1, |request| operation(request) == "GetRecords", answer("ExpiredIteratorException"));
        proxy.next(usize::MAX, of_parent, answer("ResourceNotFoundException"));
        let hide = move |status, body: Vec<u8>| {
            let mut answer: Value = serde_json::from_slice(&body).unwrap();
            answer["Shards"].as_array_mut().unwrap().retain(|shard| shard["ShardId"] != parent.shard_id());
            (status, serde_json::to_vec(&answer).unwrap())
        };
        let hidden = Action::rewrite(|body| body, hide);
        proxy.next(usize::MAX, |request| operation(request) == "ListShards", hidden);
        assert_eq!(read.next().await.unwrap().unwrap(), log[1]);
        let error = read.next().await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Pruned { oldest: EventId::new(12) }, "{error}");
    })
    .await;
}

#[tokio::test]
async fn a_stream_that_is_deleted_ends_its_followers() {
    with_log(2, async |stream, log| {
        let source = stream.source("log", quick()).await;
        let mut follow = source.follow(ReadFrom::Origin);
        for event in &log {
            assert_eq!(follow.next().await.unwrap().unwrap(), *event);
        }
        stream.client.delete_stream().stream_name(&stream.name).send().await.unwrap();
        let error = follow.next().await.unwrap().unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::Safe), "{error}");
        assert!(follow.next().await.is_none());
    })
    .await;
}

#[tokio::test]
async fn a_dropped_follower_leaves_no_call_and_no_subscription() {
    with_log(2, async |stream, log| {
        let tcp = Tcp::start(address(Server::KinesisLocal)).await;
        let endpoint = format!("http://{}", tcp.address());
        for options in [quick(), quick().with_enhanced_fan_out("reader")] {
            let proxied = stream.through(&endpoint).await;
            let source = proxied.source("log", options).await;
            let mut follow = source.follow(ReadFrom::Origin);
            for event in &log {
                assert_eq!(follow.next().await.unwrap().unwrap(), *event);
            }
            drop(follow);
            drop((source, proxied));
            // The client's own connections end with it; a subscription that lived on would keep one.
            while tcp.open() > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let asked = tcp.exchanges();
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert_eq!(tcp.exchanges(), asked);
        }
    })
    .await;
}

#[tokio::test]
async fn a_black_hole_ends_a_call_in_time() {
    with_log(2, async |stream, log| {
        let tcp = Tcp::start(address(Server::KinesisLocal)).await;
        let proxied = stream.through(&format!("http://{}", tcp.address())).await;
        let source = proxied.source("log", quick().with_call_timeout(Duration::from_millis(300))).await;
        tcp.always(Fault::BlackHole).await;
        let error = source.collect(ReadFrom::Origin).await.unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::Safe), "{error}");
        tcp.heal().await;
        let source = proxied.source("log", quick()).await;
        assert_eq!(source.collect(ReadFrom::Origin).await.unwrap(), log);
    })
    .await;
}

/// Follows a log like a pump does: from where it stands, again and again.
async fn follow_on(source: &KinesisSource, log: &[Event]) -> Vec<Error> {
    let mut errors = Vec::new();
    let mut got: Vec<Event> = Vec::new();
    while got.len() < log.len() {
        let mut follow = source.follow(got.last().map(Event::id).into());
        while let Some(next) = follow.next().await {
            match next {
                Ok(event) => {
                    assert_eq!(event, log[got.len()]);
                    got.push(event);
                    if got.len() == log.len() {
                        return errors;
                    }
                }
                Err(error) => errors.push(error),
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    errors
}

#[tokio::test]
async fn a_server_killed_under_a_follower_loses_nothing_acknowledged() {
    let mut server = match Kinesalite::start(&directory("kinesalite-killed")) {
        Ok(server) => server,
        Err(reason) => return println!("skipped: {reason}"),
    };
    let client = hydrant_kinesis::connect(&at(&server.endpoint())).await.unwrap();
    let stream = Stream { name: test_servers::namespace(), client };
    make_stream(&stream.client, &stream.name, 2).await;
    let log = events(0..120);
    let source = stream.source("log", quick()).await;
    let writing = async {
        for (at, chunk) in log.chunks(10).enumerate() {
            let after = at.checked_sub(1).map(|before| log[before * 10 + 9].id());
            stream.put("log", after, chunk).await;
            if at % 4 == 2 {
                server.kill();
                tokio::time::sleep(Duration::from_millis(300)).await;
                server.restart();
            }
        }
    };
    let ((), errors) = tokio::join!(writing, follow_on(&source, &log));
    for error in &errors {
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::Safe), "{error}");
    }
    assert_eq!(source.collect(ReadFrom::Origin).await.unwrap(), log);
}

/// Notes which shards a reader begins, and which of them showed their end.
fn note_shards(proxy: &Http) -> Arc<Mutex<Vec<String>>> {
    let noted = Arc::new(Mutex::new(Vec::new()));
    let (begun, ended) = (noted.clone(), noted.clone());
    let begin = Action::rewrite(
        move |body| {
            let ask: Value = serde_json::from_slice(&body).unwrap();
            begun.lock().unwrap().push(ask["ShardId"].as_str().unwrap().to_owned());
            body
        },
        |status, body| (status, body),
    );
    let end = Action::rewrite(
        |body| body,
        move |status, body| {
            let answer: Value = serde_json::from_slice(&body).unwrap();
            if answer["NextShardIterator"].is_null() {
                ended.lock().unwrap().push("end".to_owned());
            }
            (status, body)
        },
    );
    proxy.next(usize::MAX, |request| operation(request) == "GetShardIterator", begin);
    proxy.next(usize::MAX, |request| operation(request) == "GetRecords", end);
    noted
}

#[tokio::test]
async fn a_merged_shard_begins_once_after_both_parents() {
    with_stream_on(Server::KinesisLocal, 2, async |stream| {
        let log = events(0..20);
        let open = stream.open_shards().await;
        for (at, event) in log[..19].iter().enumerate() {
            let after = at.checked_sub(1).map(|before| log[before].id());
            let hash = hashes(&open[at % 2]).0;
            stream.put_lines("log", Some(hash), &lines(after, std::slice::from_ref(event))).await;
        }
        stream.merge(&open[0], &open[1]).await;
        stream.put("log", Some(EventId::new(18)), &log[19..]).await;
        let child = stream.open_shards().await[0].shard_id().to_owned();
        let (proxy, proxied) = through_http(&stream).await;
        let noted = note_shards(&proxy);
        let source = proxied.source("log", small_pages().with_shards(KinesisShards::All)).await;
        assert_eq!(source.collect(ReadFrom::Origin).await.unwrap(), log);
        let noted = noted.lock().unwrap();
        let begun = noted.iter().position(|what| *what == child).unwrap();
        assert_eq!(noted[..begun].iter().filter(|what| *what == "end").count(), 2, "{noted:?}");
        assert_eq!(noted.iter().filter(|what| **what == child).count(), 1, "{noted:?}");
    })
    .await;
}

#[tokio::test]
async fn a_follower_of_many_shards_is_cancel_safe() {
    with_stream(3, async |stream| {
        let log = events(0..30);
        let mut rng = fastrand::Rng::with_seed(3);
        for (at, event) in log.iter().enumerate() {
            let after = at.checked_sub(1).map(|before| log[before].id());
            stream.put_lines("log", Some(rng.u128(..)), &lines(after, std::slice::from_ref(event))).await;
        }
        let source = stream.source("log", small_pages().with_shards(KinesisShards::All)).await;
        let mut got: Vec<Event> = Vec::new();
        for patience in 0.. {
            if got.len() == log.len() {
                break;
            }
            let mut follow = source.follow(got.last().map(Event::id).into());
            // More and more, for a machine that is busy.
            let patience = Duration::from_millis(rng.u64(20..200) + patience * 10);
            let _ = tokio::time::timeout(patience, async {
                while let Some(event) = follow.next().await {
                    got.push(event.unwrap());
                }
            })
            .await;
        }
        assert_eq!(got, log);
    })
    .await;
}
