//! One resolver: with a deadline an append is one attempt; without one the fan-out resolves.

use std::time::Duration;

use hydrant::{ErrorKind, EventSink, FanOut, FanOutOptions, Retry};
use tokio::time::Instant;

use super::SOON;
use super::rig::{Act, Server};
use crate::support::{Scripted, batch, event, events, safe, unknown};

async fn open(primary: &Server) -> FanOut<Server> {
    FanOut::open(primary.clone(), FanOutOptions::default().with_seed(1)).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn with_a_deadline_the_primary_is_called_once() {
    for act in [Act::Fail(unknown()), Act::Lose(unknown()), Act::Fail(safe()), Act::Panic, Act::Hang] {
        let primary = Server::default();
        let log = open(&primary).await;
        primary.append.set(act.clone());
        let begun = Instant::now();
        let first = events(0..3);
        let error = log.append(batch(&first).with_deadline(Some(begun + SOON))).await.unwrap_err();
        let limit = if matches!(act, Act::Hang) { SOON } else { Duration::ZERO };
        assert_eq!((primary.appends(), begun.elapsed()), (1, limit), "{act:?}: {error}");
        let is_safe = matches!(&act, Act::Fail(error) if error.retry() == Retry::Safe);
        assert_eq!(error.retry() == Retry::Safe, is_safe, "{act:?}: {error}");
        assert!(log.status().stopped.is_none(), "{act:?}: the caller resolves");
        // It may be in the log or not: the same bytes settle it.
        primary.append.set(Act::Fine);
        log.append(batch(&first)).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn the_deadline_is_passed_on_and_never_extended() {
    let sink = Scripted::default();
    let log = FanOut::open(Server::default(), FanOutOptions::default()).await.unwrap();
    let limit = Duration::from_secs(7);
    let options = hydrant::SecondaryOptions::default().with_call_timeout(limit);
    log.attach("sink", sink.clone(), options).await.unwrap();
    log.append(batch(&events(0..3))).await.unwrap();
    log.delivered(event(2).id(), SOON).await.unwrap();
    assert_eq!(sink.time_left(), [Some(limit)]);
}

/// The one that is written has an unknown outcome, those that wait for it were not begun.
#[tokio::test(start_paused = true)]
async fn appends_that_wait_behind_a_hung_one_are_safe() {
    let primary = Server::default();
    let log = open(&primary).await;
    primary.append.set(Act::Hang);
    let deadline = Instant::now() + SOON;
    let appending: Vec<_> = (0..100)
        .map(|at| {
            let log = log.clone();
            let append = async move {
                let next = [event(at)];
                log.append(batch(&next).with_deadline(Some(deadline))).await
            };
            tokio::spawn(append)
        })
        .collect();
    let mut advice = Vec::new();
    for append in appending {
        let error = append.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        advice.push(error.retry());
    }
    assert_eq!(Instant::now(), deadline);
    assert_eq!(advice[0], Retry::AfterCheckpoint);
    assert!(advice[1..].iter().all(|retry| *retry == Retry::Safe), "{advice:?}");
    assert_eq!(primary.appends(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_is_over_writes_nothing() {
    let primary = Server::default();
    let log = open(&primary).await;
    let next = events(0..1);
    let error = log.append(batch(&next).with_deadline(Some(Instant::now()))).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::Safe), "{error}");
    tokio::time::sleep(SOON).await;
    assert_eq!(primary.appends(), 0);
}

/// The comparison of the head, before an append that overlaps it, is part of the deadline.
#[tokio::test(start_paused = true)]
async fn a_hung_checkpoint_before_an_append_keeps_the_deadline() {
    let primary = Server::default();
    let log = open(&primary).await;
    log.append(batch(&events(0..3))).await.unwrap();
    primary.checkpoint.set(Act::Hang);
    let begun = Instant::now();
    let again = events(1..5);
    log.append(batch(&again).with_deadline(Some(begun + SOON))).await.unwrap_err();
    assert_eq!((begun.elapsed(), primary.appends()), (SOON, 1));
    primary.checkpoint.set(Act::Fine);
    tokio::time::sleep(SOON).await;
    assert_eq!(primary.appends(), 1, "sent after its deadline");
    log.append(batch(&again)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn without_a_deadline_the_outcome_is_resolved_in_time() {
    for act in [Act::Hang, Act::Fail(unknown()), Act::Panic] {
        let primary = Server::default();
        let limit = Duration::from_secs(60);
        let options = FanOutOptions::default().with_resolve_timeout(limit).with_seed(1);
        let log = FanOut::open(primary.clone(), options).await.unwrap();
        primary.append.set(act.clone());
        let begun = Instant::now();
        let error = log.append(batch(&events(0..3))).await.unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Closed, Retry::AfterCheckpoint), "{error}");
        assert!(begun.elapsed() <= limit, "{act:?} took {:?}", begun.elapsed());
        assert!(primary.appends() > 1, "{act:?}");
    }
}

/// An unknown outcome that no caller settles is looked for more and more rarely, and found.
#[tokio::test(start_paused = true)]
async fn an_open_outcome_is_looked_for_rarely() {
    let primary = Server::default();
    let log = open(&primary).await;
    primary.append.set(Act::Fail(unknown()));
    let first = events(0..3);
    let deadline = Some(Instant::now() + SOON);
    log.append(batch(&first).with_deadline(deadline)).await.unwrap_err();
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert!(primary.checkpoints() < 300, "{} calls in 100 s", primary.checkpoints());
    // The write was on its way all the time.
    primary.copy().append(batch(&first)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(log.status().head, Some(event(2).id()));
}
