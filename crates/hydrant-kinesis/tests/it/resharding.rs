//! Shards that split and merge while a log is written and read.

use std::time::Duration;

use futures_util::StreamExt;
use hydrant::{Checkpoint, Event, EventId, EventSink, EventSource, EventSourceExt, ReadFrom};
use hydrant_kinesis::{KinesisShards, KinesisSink, KinesisSourceOptions, KinesisStart};

use crate::servers::Server;
use crate::stream::{Stream, events, hashes, lines, quick, with_stream, with_stream_on};

/// Splits or merges a shard at random.
async fn reshard(stream: &Stream, rng: &mut fastrand::Rng) {
    let open = stream.open_shards().await;
    let at = rng.usize(..open.len());
    if open.len() < 2 || open.len() < 6 && rng.bool() {
        stream.split(&open[at]).await;
    } else {
        let left = at.min(open.len() - 2);
        stream.merge(&open[left], &open[left + 1]).await;
    }
}

/// Writes a log in records of some events, resharding between them, and now and then puts one twice.
async fn write(stream: &Stream, seed: u64, log: &[Event], spread: bool) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut written = 0;
    while written < log.len() {
        let end = (written + rng.usize(1..30)).min(log.len());
        let after = written.checked_sub(1).map(|before| log[before].id());
        let record = lines(after, &log[written..end]);
        let hash = spread.then(|| rng.u128(..));
        stream.put_lines("log", hash, &record).await;
        if rng.u32(..10) == 0 {
            stream.put_lines("log", hash, &record).await;
        }
        written = end;
        if rng.u32(..6) == 0 {
            reshard(stream, &mut rng).await;
        }
    }
}

async fn nothing_is_lost(seed: u64, count: u64, options: KinesisSourceOptions, spread: bool) {
    println!("seed {seed}");
    with_stream(2, async |stream| {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut next = 0;
        let ids = std::iter::from_fn(|| {
            next += rng.u64(1..4);
            Some(next)
        });
        let log = events(ids.take(usize::try_from(count).unwrap()));
        let source = stream.source("log", options).await;
        let mut follow = source.follow(ReadFrom::Origin);
        let followed = async {
            for event in &log {
                assert_eq!(follow.next().await.unwrap().unwrap(), *event, "followed, seed {seed}");
            }
        };
        tokio::join!(write(&stream, seed, &log, spread), followed);
        assert_eq!(source.collect(ReadFrom::Origin).await.unwrap(), log, "read, seed {seed}");
        let middle = log[log.len() / 2].id();
        let behind = source.collect(ReadFrom::After(middle)).await.unwrap();
        assert_eq!(behind, log[log.len() / 2 + 1..], "read behind {middle}, seed {seed}");
    })
    .await;
}

#[tokio::test]
async fn resharding_under_load_loses_and_reorders_nothing() {
    for seed in 0..3 {
        nothing_is_lost(seed, 2_000, quick(), false).await;
    }
}

#[tokio::test]
async fn resharding_a_spread_log_loses_and_reorders_nothing() {
    for seed in 10..12 {
        let options = quick().with_shards(KinesisShards::All).with_settle(Duration::from_millis(50));
        nothing_is_lost(seed, 600, options, true).await;
    }
}

#[tokio::test]
async fn resharding_under_a_subscription_loses_and_reorders_nothing() {
    for seed in 20..21 {
        nothing_is_lost(seed, 300, quick().with_enhanced_fan_out("reader"), false).await;
    }
}

/// Each event lies in a shard that is the child of the one before it, so that reading a child too early shows.
#[tokio::test]
async fn a_child_is_read_behind_both_of_its_parents() {
    with_stream(2, async |stream| {
        let log = events(0..6);
        let put = async |at: usize, hash: u128| {
            let after = at.checked_sub(1).map(|before| EventId::new(before as u64));
            stream.put_lines("log", Some(hash), &lines(after, &log[at..=at])).await;
        };
        let open = stream.open_shards().await;
        put(0, hashes(&open[0]).0).await;
        put(1, hashes(&open[1]).0).await;
        put(2, hashes(&open[0]).1).await;
        stream.merge(&open[0], &open[1]).await;
        put(3, 0).await;
        let merged = stream.open_shards().await;
        assert_eq!(merged.len(), 1);
        assert!(merged[0].adjacent_parent_shard_id().is_some());
        stream.split(&merged[0]).await;
        put(4, 0).await;
        put(5, u128::MAX).await;
        let source = stream.source("log", quick().with_shards(KinesisShards::All)).await;
        assert_eq!(source.collect(ReadFrom::Origin).await.unwrap(), log);
    })
    .await;
}

/// A server may name no end with a closed shard's last records, as kinesalite does: the tip of such a shard is not that
/// of the log.
#[tokio::test]
async fn a_read_continues_after_a_late_end_of_shard_on_kinesalite() {
    with_stream_on(Server::Kinesalite, 1, async |stream| {
        let log = events(0..52);
        stream.put("log", None, &log[..50]).await;
        stream.split(&stream.open_shards().await[0]).await;
        stream.put("log", Some(EventId::new(49)), &log[50..51]).await;
        stream.put("log", Some(EventId::new(50)), &log[51..]).await;
        for shards in [KinesisShards::OfLog, KinesisShards::All] {
            let source = stream.source("log", quick().with_shards(shards)).await;
            assert_eq!(source.collect(ReadFrom::Origin).await.unwrap(), log, "{shards:?}");
            let behind = source.collect(ReadFrom::After(EventId::new(40))).await.unwrap();
            assert_eq!(behind, log[41..], "{shards:?}");
        }
        let options = Server::Kinesalite.options();
        let sink = KinesisSink::open(stream.client.clone(), &stream.name, "log", options).await.unwrap();
        assert_eq!(sink.checkpoint().await.unwrap(), Checkpoint::at(&log[51]));
    })
    .await;
}

/// Puts an event, and waits for the next second: the servers count in seconds.
async fn put_and_wait(stream: &Stream, log: &[Event], at: usize) {
    let after = at.checked_sub(1).map(|before| log[before].id());
    stream.put("log", after, &log[at..=at]).await;
    tokio::time::sleep(Duration::from_millis(1_100)).await;
}

#[tokio::test]
async fn a_read_from_a_time_skips_older_events_in_each_shard() {
    with_stream(1, async |stream| {
        let log = events(0..3);
        put_and_wait(&stream, &log, 0).await;
        stream.split(&stream.open_shards().await[0]).await;
        put_and_wait(&stream, &log, 1).await;
        put_and_wait(&stream, &log, 2).await;
        let records = crate::raw::records(&stream.client, &stream.name).await;
        let start = KinesisStart::At(records.last().unwrap().arrived);
        let source = stream.source("log", quick().with_start(start)).await;
        assert_eq!(source.collect(ReadFrom::Origin).await.unwrap(), log[2..]);
    })
    .await;
}
