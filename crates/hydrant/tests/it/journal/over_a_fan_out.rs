//! A journal over a fan-out.

use std::time::Duration;

use futures_util::StreamExt;
use hydrant::{
    ErrorKind, EventId, EventSink, FanOut, FanOutOptions, Journal, MemoryStore, ReadFrom, Retry,
    SecondaryOptions,
};

use super::{append_each, log, options};
use crate::support::{Faulty, Mode, batch, events, unknown};

#[tokio::test(start_paused = true)]
async fn appends_reach_followers_and_secondaries() {
    let fan_out = FanOut::open(MemoryStore::default(), FanOutOptions::default()).await.unwrap();
    let secondary = MemoryStore::default();
    fan_out.attach("copy", secondary.clone(), SecondaryOptions::default()).await.unwrap();
    let journal: Journal<String> = Journal::open(fan_out.clone(), options()).await.unwrap();
    let mut follow = journal.follow(ReadFrom::Origin);
    let texts: Vec<String> = (0..100).map(|n| n.to_string()).collect();
    for text in &texts {
        journal.append(text).await.unwrap();
    }
    for text in &texts {
        assert_eq!(follow.next().await.unwrap().unwrap().value, *text);
    }
    fan_out.delivered(EventId::new(99), Duration::from_secs(60)).await.unwrap();
    assert_eq!(log(&secondary).await, log(&fan_out).await);
    journal.close().await.unwrap();
}

/// A slow follower falls out of the ring and reads the primary; the writer does not wait for it.
#[tokio::test(start_paused = true)]
async fn a_slow_follower_is_bounded_and_misses_nothing() {
    let options_of_log = FanOutOptions::default().with_ring(4, 1 << 20);
    let fan_out = FanOut::open(MemoryStore::default(), options_of_log).await.unwrap();
    let journal: Journal<String> = Journal::open(fan_out, options()).await.unwrap();
    let mut follow = journal.follow(ReadFrom::Origin);
    for n in 0..50 {
        for m in 0..10 {
            journal.append(&format!("{n}-{m}")).await.unwrap();
        }
        let saved = follow.next().await.unwrap().unwrap();
        assert_eq!((saved.id(), saved.value), (EventId::new(n), format!("{}-{}", n / 10, n % 10)));
    }
    for n in 50..500 {
        assert_eq!(follow.next().await.unwrap().unwrap().id(), EventId::new(n));
    }
}

/// The journal is the resolver: the fan-out below calls its primary once for each attempt, and never stops by itself.
#[tokio::test(start_paused = true)]
async fn an_unknown_outcome_stops_the_journal_alone() {
    let primary = Faulty::new(Mode::Before(unknown()));
    let fan_out = FanOut::open(primary, FanOutOptions::default()).await.unwrap();
    let journal: Journal<String> = Journal::open(fan_out.clone(), options()).await.unwrap();
    let error = append_each(&journal, &["a"]).await.remove(0).unwrap_err();
    assert_eq!(error.retry(), Retry::AfterCheckpoint, "{error}");
    assert_eq!(append_each(&journal, &["b"]).await.remove(0).unwrap_err().kind(), ErrorKind::Closed);
    assert!(fan_out.status().stopped.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_journal_outlasts_a_primary_that_is_stale() {
    let log = FanOut::open(MemoryStore::default(), FanOutOptions::default().with_stop_if_stale(true))
        .await
        .unwrap();
    let sink = MemoryStore::default();
    sink.append(batch(&events(0..10))).await.unwrap();
    log.attach("sink", sink, SecondaryOptions::default()).await.unwrap();
    while log.status().stale.is_none() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let journal: Journal<String> = Journal::open(log.clone(), options()).await.unwrap();
    let error = journal.append(&"a".to_owned()).await.unwrap_err();
    assert!(error.to_string().contains("written"), "{error}");
    assert!(!error.to_string().contains("not known"), "{error}");
    log.detach("sink").await.unwrap();
    journal.append(&"a".to_owned()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn over_a_closed_log_nothing_was_written() {
    let log = FanOut::open(MemoryStore::default(), FanOutOptions::default()).await.unwrap();
    let journal: Journal<String> = Journal::open(log.clone(), options()).await.unwrap();
    drop(log.close(Duration::from_secs(5)).await);
    let error = journal.append(&"a".to_owned()).await.unwrap_err();
    assert!(!error.to_string().contains("not known"), "{error}");
}
