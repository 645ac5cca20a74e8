//! Back-pressure: an append that waits for a laggard always ends.

use std::time::Duration;

use hydrant::{ErrorKind, EventSink, FanOut, FanOutOptions, MemoryStore, Result, Retry, SecondaryOptions};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::SOON;
use super::rig::{Act, Server};
use crate::support::{batch, events, id, safe};

const LONG: Duration = Duration::from_secs(60);

/// A log with a sink that hangs, and an append that waits for it.
async fn held_back(options: FanOutOptions) -> (Server, FanOut<Server>, Server, JoinHandle<Result<()>>) {
    let primary = Server::default();
    let log = FanOut::open(primary.clone(), options).await.unwrap();
    let sink = Server::default();
    sink.append.set(Act::Hang);
    let secondary = SecondaryOptions::default().with_lag_events_max(1).with_call_timeout(Duration::MAX);
    log.attach("slow", sink.clone(), secondary).await.unwrap();
    log.append(batch(&events(0..2))).await.unwrap();
    let waiting = tokio::spawn({
        let log = log.clone();
        async move { log.append(batch(&events(2..3))).await }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!waiting.is_finished(), "it did not wait");
    (primary, log, sink, waiting)
}

/// Outwaits every time-out of the tests.
fn patient() -> FanOutOptions {
    FanOutOptions::default().with_resolve_timeout(Duration::MAX)
}

async fn ended(waiting: JoinHandle<Result<()>>) -> Result<()> {
    tokio::time::timeout(Duration::from_secs(1), waiting).await.expect("the append hangs").unwrap()
}

#[tokio::test(start_paused = true)]
async fn linger_ends_when_it_holds_back_appends() {
    for lag_max in [0, 1, 7] {
        let log = FanOut::open(Server::default(), patient()).await.unwrap();
        let secondary = SecondaryOptions::default()
            .with_lag_events_max(lag_max)
            .with_linger_max(Duration::from_secs(3600));
        log.attach("lingers", Server::default(), secondary).await.unwrap();
        let begin = Instant::now();
        for index in 0..50 {
            log.append(batch(&events(index..index + 1))).await.unwrap();
        }
        assert!(begin.elapsed() < SOON, "{:?} with lag_events_max {lag_max}", begin.elapsed());
        drop(log.close(SOON).await);
    }
}

#[tokio::test(start_paused = true)]
async fn closing_ends_an_append_that_is_held_back() {
    let (_, log, _, waiting) = held_back(patient()).await;
    drop(log.close(SOON).await);
    assert_eq!(ended(waiting).await.unwrap_err().kind(), ErrorKind::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_detach_that_is_dropped_lets_appends_continue() {
    for polls in 0..4 {
        let (primary, log, _, waiting) = held_back(patient()).await;
        primary.roster.load.set(Act::Slow(Duration::from_millis(10)));
        {
            let mut detaching = Box::pin(log.detach("slow"));
            for _ in 0..=polls {
                drop(crate::support::poll_once(&mut detaching).await);
            }
        }
        ended(waiting).await.unwrap();
        tokio::time::sleep(SOON).await;
        assert!(log.status().secondaries.is_empty(), "after {polls} polls");
    }
}

#[tokio::test(start_paused = true)]
async fn a_detach_that_fails_lets_appends_continue() {
    for act in [Act::Fail(safe()), Act::Panic] {
        let (primary, log, _, waiting) = held_back(patient()).await;
        primary.roster.load.set(act);
        log.detach("slow").await.unwrap_err();
        ended(waiting).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn parking_the_laggard_lets_appends_continue() {
    let (primary, log, sink, waiting) = held_back(patient()).await;
    // Neither the sink nor the roster replies.
    sink.checkpoint.set(Act::Hang);
    primary.roster.swap.set(Act::Hang);
    log.park("slow").unwrap();
    ended(waiting).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_laggard_that_catches_up_lets_appends_continue() {
    let (_, log, sink, waiting) = held_back(patient()).await;
    sink.append.set(Act::Fine);
    log.park("slow").unwrap();
    log.resume("slow").unwrap();
    ended(waiting).await.unwrap();
    log.delivered(id(2), SOON).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_log_that_stops_ends_an_append_that_is_held_back() {
    let (primary, log, _, waiting) = held_back(patient()).await;
    primary.fail_over(&events(0..1)).await;
    log.checkpoint().await.unwrap();
    assert_eq!(ended(waiting).await.unwrap_err().kind(), ErrorKind::Diverged);
}

#[tokio::test(start_paused = true)]
async fn back_pressure_past_the_deadline_is_safe() {
    let (primary, log, _, waiting) = held_back(patient()).await;
    let begun = Instant::now();
    let next = events(2..3);
    let error = log.append(batch(&next).with_deadline(Some(begun + SOON))).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::Safe), "{error}");
    assert!(error.to_string().contains("`slow`"), "{error}");
    assert_eq!((begun.elapsed(), primary.appends()), (SOON, 1));
    waiting.abort();
}

#[tokio::test(start_paused = true)]
async fn without_a_deadline_back_pressure_ends_at_resolve_timeout() {
    let begun = Instant::now();
    let (primary, _log, _, waiting) = held_back(FanOutOptions::default().with_resolve_timeout(LONG)).await;
    let error = waiting.await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::Safe), "{error}");
    assert_eq!((begun.elapsed(), primary.appends()), (LONG, 1));
}

#[tokio::test(start_paused = true)]
async fn with_no_lag_allowed_each_append_waits_for_the_last() {
    let log = FanOut::open(MemoryStore::default(), FanOutOptions::default()).await.unwrap();
    let sink = Server::default();
    sink.append.set(Act::Slow(Duration::from_secs(1)));
    log.attach("slow", sink.clone(), SecondaryOptions::default().with_lag_events_max(0)).await.unwrap();
    for at in 0..5 {
        log.append(batch(&events(at..at + 1))).await.unwrap();
        assert_eq!(sink.copy().checkpoint().await.unwrap().id(), id(at).prev());
    }
}

#[tokio::test(start_paused = true)]
async fn an_append_that_is_dropped_while_held_back_writes_nothing() {
    let (primary, log, _, waiting) = held_back(patient()).await;
    waiting.abort();
    log.park("slow").unwrap();
    tokio::time::sleep(SOON).await;
    assert_eq!(primary.appends(), 1);
}
