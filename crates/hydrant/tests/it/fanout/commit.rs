//! Promise 1: the primary is the commit point; an unknown outcome is never guessed.

use std::time::Duration;

use futures_util::StreamExt;
use hydrant::{
    Batch, ErrorKind, Event, EventSink, EventSource, EventSourceExt, FanOut, FanOutOptions, MemoryStore,
    ReadFrom, Retry, SecondaryOptions,
};

use super::SOON;
use crate::support::{Faulty, Mode, batch, event, events, id, poll_once, safe, unknown};

#[tokio::test(start_paused = true)]
async fn nothing_is_delivered_that_the_primary_refused() {
    let primary = Faulty::new(Mode::Before(safe()));
    let log = FanOut::open(primary.clone(), FanOutOptions::default()).await.unwrap();
    let sink = MemoryStore::default();
    log.attach("sink", sink.clone(), SecondaryOptions::default()).await.unwrap();
    let mut live = log.follow(ReadFrom::Origin);
    let refused = log.append(batch(&events(0..3))).await.unwrap_err();
    assert_eq!(refused.retry(), Retry::Safe);
    tokio::time::sleep(SOON).await;
    assert!(sink.collect(ReadFrom::Origin).await.unwrap().is_empty());

    primary.set(Mode::Fine);
    let other = [Event::new(id(0), "another event under the same id").unwrap()];
    log.append(batch(&other)).await.unwrap();
    log.delivered(id(0), SOON).await.unwrap();
    assert_eq!(sink.collect(ReadFrom::Origin).await.unwrap(), other);
    assert_eq!(live.next().await.unwrap().unwrap(), other[0]);
}

#[tokio::test(start_paused = true)]
async fn after_a_lost_reply_the_caller_gets_ok_once_it_is_durable() {
    let primary = Faulty::new(Mode::After(unknown()));
    let log = FanOut::open(primary.clone(), FanOutOptions::default()).await.unwrap();
    let appending = tokio::spawn({
        let log = log.clone();
        async move { log.append(batch(&events(0..3))).await }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!appending.is_finished(), "it replied before the outcome was known");
    primary.set(Mode::Fine);
    appending.await.unwrap().unwrap();
    assert_eq!(log.collect(ReadFrom::Origin).await.unwrap(), events(0..3));
    assert!(primary.appends() > 1, "the same bytes went again");
}

#[tokio::test(start_paused = true)]
async fn a_write_that_stays_unknown_stops_the_log() {
    for mode in [Mode::Hang, Mode::After(unknown()), Mode::Before(unknown()), Mode::Panic] {
        let primary = Faulty::new(mode);
        let options = FanOutOptions::default().with_resolve_timeout(Duration::from_secs(60));
        let log = FanOut::open(primary.clone(), options).await.unwrap();
        let error = log.append(batch(&events(0..3))).await.unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Closed, Retry::AfterCheckpoint));
        assert!(error.to_string().contains("events 0 to 2"), "{error}");
        primary.set(Mode::Fine);
        let next = log.append(batch(&[event(0)])).await.unwrap_err();
        assert_eq!(next.kind(), ErrorKind::Closed, "nothing new under an id whose outcome is open");
        assert!(log.status().stopped.is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn a_dropped_append_is_whole_or_absent_and_then_delivered() {
    for polls in 0..12 {
        let primary = Faulty::new(Mode::Slow(Duration::from_millis(5)));
        let log = FanOut::open(primary, FanOutOptions::default()).await.unwrap();
        let sink = MemoryStore::default();
        log.attach("sink", sink.clone(), SecondaryOptions::default()).await.unwrap();
        let first = events(0..3);
        {
            let mut append = Box::pin(log.append(batch(&first)));
            for _ in 0..polls {
                if poll_once(&mut append).await.is_ready() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        // The next call begins when what the dropped one still does has ended.
        let held = log.checkpoint().await.unwrap().id();
        let next = if held.is_some() { events(3..5) } else { events(0..2) };
        log.append(Batch::new(held, &next).unwrap()).await.unwrap();
        log.delivered(next[1].id(), SOON).await.unwrap();
        let stored = log.collect(ReadFrom::Origin).await.unwrap();
        assert_eq!(stored.len(), if held.is_some() { 5 } else { 2 }, "after {polls} polls");
        assert_eq!(sink.collect(ReadFrom::Origin).await.unwrap(), stored, "after {polls} polls");
    }
}

#[tokio::test]
async fn a_wrong_append_fails_its_own_caller_only() {
    let log = FanOut::open(MemoryStore::default(), FanOutOptions::default()).await.unwrap();
    log.append(batch(&events(0..3))).await.unwrap();
    assert_eq!(log.append(batch(&events(5..6))).await.unwrap_err().kind(), ErrorKind::Gap);
    let other = [Event::new(id(2), "other").unwrap()];
    assert_eq!(log.append(batch(&other)).await.unwrap_err().kind(), ErrorKind::Fenced);
    log.append(batch(&events(1..3))).await.unwrap();
    log.append(batch(&events(3..4))).await.unwrap();
    assert_eq!(log.collect(ReadFrom::Origin).await.unwrap(), events(0..4));
}

#[tokio::test]
async fn a_fan_out_nests_as_a_secondary_of_another() {
    let leaf = MemoryStore::default();
    let inner = FanOut::open(MemoryStore::default(), FanOutOptions::default()).await.unwrap();
    inner.attach("leaf", leaf.clone(), SecondaryOptions::default()).await.unwrap();
    let outer = FanOut::open(MemoryStore::default(), FanOutOptions::default()).await.unwrap();
    outer.append(batch(&events(0..5))).await.unwrap();
    outer.attach("inner", inner.clone(), SecondaryOptions::default()).await.unwrap();
    outer.append(batch(&events(5..9))).await.unwrap();
    outer.delivered(id(8), SOON).await.unwrap();
    inner.delivered(id(8), SOON).await.unwrap();
    assert_eq!(leaf.collect(ReadFrom::Origin).await.unwrap(), events(0..9));
}

#[tokio::test]
async fn follow_yields_history_then_live_and_ends_with_an_error() {
    let log =
        FanOut::open(MemoryStore::default(), FanOutOptions::default().with_ring(2, 10_000)).await.unwrap();
    log.append(batch(&events(0..5))).await.unwrap();
    let mut live = log.follow(ReadFrom::After(id(1)));
    for expected in 2..5 {
        assert_eq!(live.next().await.unwrap().unwrap(), event(expected));
    }
    log.append(batch(&events(5..8))).await.unwrap();
    for expected in 5..8 {
        assert_eq!(live.next().await.unwrap().unwrap(), event(expected));
    }
    drop(log.close(SOON).await);
    assert_eq!(live.next().await.unwrap().unwrap_err().kind(), ErrorKind::Closed);
    assert!(live.next().await.is_none());
    assert_eq!(log.append(batch(&events(8..9))).await.unwrap_err().kind(), ErrorKind::Closed);
}
