//! Writers: races, lost answers, PUTs that land late, and what a server refuses.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use hydrant::{
    Batch, Checkpoint, Clock, ErrorKind, Event, EventId, EventSink, EventSourceExt, FanOut, FanOutOptions,
    ReadFrom, Retry,
};
use hydrant_s3::{S3Store, S3StoreOptions};
use tokio::time::timeout;

use crate::faults::{Fault, Faults, Kind};
use crate::support::{Scratch, event, event_by, log, or_skip};

async fn append(store: &S3Store, after: Option<u64>, events: &[Event]) -> hydrant::Result<()> {
    store.append(Batch::new(after.map(EventId::new), events).unwrap()).await
}

/// A quick end for what is never answered.
fn impatient() -> S3StoreOptions {
    S3StoreOptions::default()
        .with_request_timeout(Duration::from_secs(2))
        .with_append_timeout(Duration::from_millis(1_500))
        .with_seed(7)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_fifty_writers_one_wins_each_round() {
    let scratch = or_skip!(Scratch::shared().await);
    let first = scratch.open(S3StoreOptions::default()).await;
    let client = scratch.place.client().await;
    let open = |_| {
        S3Store::open(client.clone(), &scratch.place.bucket, &scratch.place.prefix, S3StoreOptions::default())
    };
    let writers: Vec<_> = join_all((0..50).map(open)).await.into_iter().map(Result::unwrap).collect();
    let mut held = Vec::new();
    for round in 0..24 {
        let after = u64::checked_sub(round, 1);
        let rivals: Vec<_> = (0..writers.len()).map(|by| [event_by(&by.to_string(), round)]).collect();
        let appends = writers.iter().zip(&rivals).map(|(store, event)| append(store, after, event));
        let results = join_all(appends).await;
        let winners: Vec<_> = (0..writers.len()).filter(|&by| results[by].is_ok()).collect();
        assert_eq!(winners.len(), 1, "round {round}: {results:?}");
        for error in results.iter().filter_map(|result| result.as_ref().err()) {
            assert_eq!((error.kind(), error.retry()), (ErrorKind::Fenced, Retry::Never));
        }
        held.extend_from_slice(&rivals[winners[0]]);
    }
    assert_eq!(first.collect(ReadFrom::Origin).await.unwrap(), held);
    scratch.remove().await;
}

#[tokio::test]
async fn a_lost_answer_is_found_to_be_ones_own() {
    let scratch = or_skip!(Scratch::shared().await);
    let faults = Faults::new();
    let store = scratch.open_through(&faults, S3StoreOptions::default()).await;
    for (after, ids) in [(None, 0..3), (Some(2), 3..4), (Some(3), 4..9)] {
        faults.next(Kind::Put, Fault::LoseAnswer);
        append(&store, after, &log(ids)).await.unwrap();
    }
    assert_eq!(store.collect(ReadFrom::Origin).await.unwrap(), log(0..9));
    assert_eq!(scratch.names().await.len(), 3);
    scratch.remove().await;
}

/// The answer is lost, and another's segment, which begins with the very same events, took the key.
#[tokio::test]
async fn events_that_another_writer_appended_are_not_sent_again() {
    let scratch = or_skip!(Scratch::shared().await);
    let open = || scratch.open(S3StoreOptions::default());
    let (one, other) = (open().await, open().await);
    let events = log(0..9);
    append(&one, None, &events[..2]).await.unwrap();
    append(&other, Some(1), &events[2..4]).await.unwrap();
    append(&one, Some(1), &events[2..7]).await.unwrap();
    // All of it, and more.
    append(&other, Some(1), &events[2..6]).await.unwrap();
    append(&other, Some(1), &events[2..9]).await.unwrap();
    assert_eq!(one.collect(ReadFrom::Origin).await.unwrap(), events);
    let mut differs = events[2..9].to_vec();
    differs[3] = event_by("me", 5);
    assert_eq!(append(&one, Some(1), &differs).await.unwrap_err().kind(), ErrorKind::Fenced);
    scratch.remove().await;
}

#[tokio::test]
async fn conflicts_and_throttling_are_waited_out() {
    let scratch = or_skip!(Scratch::shared().await);
    let faults = Faults::new();
    let store = scratch.open_through(&faults, S3StoreOptions::default()).await;
    for (status, code) in [
        (409, "ConditionalRequestConflict"),
        (503, "SlowDown"),
        (503, "ServiceUnavailable"),
        (500, "InternalError"),
        (409, "OperationAborted"),
    ] {
        faults.next(Kind::Put, Fault::Answer(status, code));
    }
    faults.requests();
    append(&store, None, &log(0..3)).await.unwrap();
    assert_eq!(faults.count(Kind::Put), 6);
    scratch.remove().await;
}

/// The look before it takes longer than an append may: the PUT that settles has a time of its own.
#[tokio::test]
async fn what_is_open_is_settled_however_slow_the_look_before_it_was() {
    let scratch = or_skip!(Scratch::shared().await);
    let faults = Faults::new();
    append(&scratch.open(S3StoreOptions::default()).await, None, &log(0..2)).await.unwrap();
    let options = S3StoreOptions::default().with_append_timeout(Duration::from_secs(3)).with_seed(7);
    let store = scratch.open_through(&faults, options).await;
    faults.always(Kind::Put, Fault::Cut);
    let error = append(&store, Some(1), &log(2..4)).await.unwrap_err();
    assert_eq!(error.retry(), Retry::AfterCheckpoint, "{error}");
    faults.clear();
    faults.next(Kind::List, Fault::Hold);
    faults.requests();
    let late = async {
        while faults.count(Kind::List) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::time::sleep(Duration::from_secs(4)).await;
        faults.land();
    };
    let (checkpoint, ()) = tokio::join!(store.checkpoint(), late);
    assert_eq!(checkpoint.unwrap(), Checkpoint::at(&event(3)));
    scratch.remove().await;
}

#[tokio::test]
async fn what_does_not_end_in_time_says_whether_it_may_have_been_done() {
    let scratch = or_skip!(Scratch::shared().await);
    for (fault, kind, retry) in [
        (Fault::Answer(409, "ConditionalRequestConflict"), ErrorKind::Unavailable, Retry::Safe),
        (Fault::Answer(503, "SlowDown"), ErrorKind::Unavailable, Retry::Safe),
        (Fault::Answer(507, "InsufficientStorage"), ErrorKind::Full, Retry::Safe),
        (Fault::Answer(500, "InternalError"), ErrorKind::Unavailable, Retry::AfterCheckpoint),
        (Fault::Cut, ErrorKind::Unavailable, Retry::AfterCheckpoint),
    ] {
        let faults = Faults::new();
        let store = scratch.open_through(&faults, impatient()).await;
        faults.always(Kind::Put, fault.clone());
        let error = append(&store, None, &log(0..3)).await.unwrap_err();
        assert_eq!((error.kind(), error.retry()), (kind, retry), "{fault:?}: {error}");
        assert!(error.target().unwrap().ends_with("log/-origin"), "{error}");
    }
    assert_eq!(scratch.names().await, [""; 0]);
    scratch.remove().await;
}

#[tokio::test]
async fn a_refusal_says_why_and_whether_it_may_pass() {
    let scratch = or_skip!(Scratch::shared().await);
    let faults = Faults::new();
    let store = scratch.open_through(&faults, S3StoreOptions::default()).await;
    for (status, code, retry, word) in [
        (403, "AccessDenied", Retry::Never, "policy"),
        (401, "Unauthorized", Retry::Never, "credentials"),
        (403, "SignatureDoesNotMatch", Retry::Never, "secret"),
        (403, "InvalidAccessKeyId", Retry::Never, "access key"),
        (400, "ExpiredToken", Retry::Safe, "expired"),
        (403, "RequestTimeTooSkewed", Retry::Safe, "clock"),
    ] {
        faults.next(Kind::Put, Fault::Answer(status, code));
        let error = append(&store, None, &log(0..3)).await.unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Denied, retry), "{error}");
        assert!(error.message().contains(word) && error.message().contains(code), "{error}");
        assert_eq!(error.pause_min().is_some(), retry == Retry::Safe, "{error}");
        // A look is refused in the same way.
        faults.next(Kind::List, Fault::Answer(status, code));
        let error = store.checkpoint().await.unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Denied, retry), "{error}");
    }
    append(&store, None, &log(0..3)).await.unwrap();
    scratch.remove().await;
}

/// Nothing new is written under an id whose fate is open: the next call settles it first.
#[tokio::test]
async fn the_next_call_settles_a_put_that_landed_late() {
    let scratch = or_skip!(Scratch::shared().await);
    for next in ["checkpoint", "the same", "another"] {
        let faults = Faults::new();
        let scratch = Scratch::at(scratch.place.clone()).await;
        let store = scratch.open_through(&faults, impatient()).await;
        append(&store, None, &log(0..3)).await.unwrap();
        faults.always(Kind::Put, Fault::LandLater);
        let error = append(&store, Some(2), &[event_by("first", 3)]).await.unwrap_err();
        assert_eq!(error.retry(), Retry::AfterCheckpoint);
        faults.clear();
        match next {
            "checkpoint" => assert_eq!(store.checkpoint().await.unwrap().id(), Some(EventId::new(3))),
            "the same" => append(&store, Some(2), &[event_by("first", 3)]).await.unwrap(),
            _ => {
                let another = [event_by("second", 3)];
                let error = append(&store, Some(2), &another).await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
            }
        }
        append(&store, Some(3), &[event(4)]).await.unwrap();
        // Now they land, all of them: none wins.
        faults.land();
        settle(&faults).await;
        let expected = [&log(0..3)[..], &[event_by("first", 3), event(4)]].concat();
        assert_eq!(store.collect(ReadFrom::Origin).await.unwrap(), expected, "{next}");
        scratch.remove().await;
    }
}

/// A refusal of what is sent again says nothing of what was sent before.
#[tokio::test]
async fn a_refused_retry_does_not_settle_an_unknown_put() {
    let scratch = or_skip!(Scratch::shared().await);
    for answer in [Fault::Answer(403, "AccessDenied"), Fault::Answer(503, "SlowDown")] {
        let scratch = Scratch::at(scratch.place.clone()).await;
        let faults = Faults::new();
        let store = scratch.open_through(&faults, impatient()).await;
        append(&store, None, &log(0..3)).await.unwrap();
        faults.always(Kind::Put, Fault::LandLater);
        append(&store, Some(2), &log(3..4)).await.unwrap_err();
        faults.always(Kind::Put, answer);
        let error = store.checkpoint().await.unwrap_err();
        assert_ne!(error.retry(), Retry::Safe, "{error}");
        faults.clear();
        assert_eq!(store.checkpoint().await.unwrap().id(), Some(EventId::new(3)));
        faults.land();
        settle(&faults).await;
        assert_eq!(store.collect(ReadFrom::Origin).await.unwrap(), log(0..4));
        scratch.remove().await;
    }
}

#[tokio::test]
async fn a_fan_out_resolves_a_refusal_after_a_lost_answer() {
    let scratch = or_skip!(Scratch::shared().await);
    let faults = Faults::new();
    let store = scratch.open_through(&faults, S3StoreOptions::default()).await;
    let refuse = |faults: &Faults| {
        faults.next(Kind::Put, Fault::LoseAnswer);
        faults.next(Kind::Put, Fault::Answer(403, "AccessDenied"));
    };
    refuse(&faults);
    let error = append(&store, None, &log(0..3)).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Denied, Retry::AfterCheckpoint), "{error}");
    assert_eq!(store.checkpoint().await.unwrap().id(), Some(EventId::new(2)));

    let fan_out = FanOut::open(store, FanOutOptions::default()).await.unwrap();
    refuse(&faults);
    fan_out.append(Batch::new(Some(EventId::new(2)), &log(3..4)).unwrap()).await.unwrap();
    fan_out.append(Batch::new(Some(EventId::new(3)), &log(4..5)).unwrap()).await.unwrap();
    assert_eq!(fan_out.collect(ReadFrom::Origin).await.unwrap(), log(0..5));
    scratch.remove().await;
}

/// Of a batch that is too large as a whole no event is at fault, and of a bucket that is gone none is.
#[tokio::test]
async fn only_an_event_above_the_limit_is_named_as_invalid() {
    let scratch = or_skip!(Scratch::shared().await);
    let faults = Faults::new();
    let store = scratch.open_through(&faults, impatient()).await;
    let too_large = Fault::Answer(400, "EntityTooLarge");
    for (fault, events, named) in [
        (too_large.clone(), 0..1, true),
        (too_large, 0..2, false),
        (Fault::Answer(404, "NoSuchBucket"), 0..1, false),
        (Fault::Answer(301, "PermanentRedirect"), 0..1, false),
        (Fault::Answer(400, "InvalidArgument"), 0..1, false),
    ] {
        faults.always(Kind::Put, fault.clone());
        let error = append(&store, None, &log(events)).await.unwrap_err();
        let is_poison = error.kind() == ErrorKind::Invalid && error.event().is_some();
        assert_eq!(is_poison, named, "{fault:?}: {error}");
    }
    scratch.remove().await;
}

/// The process that sent it is gone, another one writes: the delayed PUT finds its key taken.
#[tokio::test]
async fn a_late_put_of_a_dead_process_replaces_nothing() {
    let scratch = or_skip!(Scratch::shared().await);
    let faults = Faults::new();
    let gone = scratch.open_through(&faults, impatient()).await;
    append(&gone, None, &log(0..3)).await.unwrap();
    faults.always(Kind::Put, Fault::LandLater);
    append(&gone, Some(2), &[event_by("gone", 3), event_by("gone", 4)]).await.unwrap_err();
    drop(gone);
    let store = scratch.open(S3StoreOptions::default()).await;
    append(&store, Some(2), &log(3..4)).await.unwrap();
    append(&store, Some(3), &log(4..6)).await.unwrap();
    faults.land();
    settle(&faults).await;
    assert_eq!(store.collect(ReadFrom::Origin).await.unwrap(), log(0..6));
    assert_eq!(
        scratch.open(S3StoreOptions::default()).await.checkpoint().await.unwrap().id(),
        Some(EventId::new(5))
    );
    scratch.remove().await;
}

/// Gives what was let go the time to land: it is refused, so there is nothing to wait for.
async fn settle(faults: &Faults) {
    tokio::time::sleep(Duration::from_millis(200)).await;
    faults.requests();
}

#[tokio::test]
async fn a_dropped_append_ends_before_the_next_call() {
    let scratch = or_skip!(Scratch::shared().await);
    let faults = Faults::new();
    let store = scratch.open_through(&faults, S3StoreOptions::default()).await;
    append(&store, None, &log(0..2)).await.unwrap();
    faults.next(Kind::Put, Fault::Hold);
    let events = log(2..5);
    let dropped = timeout(Duration::from_millis(50), append(&store, Some(1), &events)).await;
    assert!(dropped.is_err());
    let next = tokio::spawn({
        let store = store.clone();
        async move { store.checkpoint().await }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!next.is_finished(), "the next call did not wait for the write that is under way");
    faults.land();
    assert_eq!(next.await.unwrap().unwrap(), Checkpoint::at(&event(4)));
    scratch.remove().await;
}

/// A view that is too old is made anew before a PUT; where the answer itself came too late, behind it.
#[tokio::test]
async fn a_writer_that_was_idle_looks_again_before_it_writes() {
    let scratch = or_skip!(Scratch::shared().await);
    let seconds = Arc::new(AtomicU64::new(1_000_000));
    let now = seconds.clone();
    let clock =
        Clock::from_fn(move || SystemTime::UNIX_EPOCH + Duration::from_secs(now.load(Ordering::Relaxed)));
    let faults = Faults::new();
    let store = scratch.open_through(&faults, S3StoreOptions::default().with_clock(clock)).await;
    append(&store, None, &log(0..2)).await.unwrap();
    faults.requests();
    append(&store, Some(1), &log(2..3)).await.unwrap();
    let looked = |faults: &Faults| faults.requests().iter().filter(|(kind, _)| *kind == Kind::List).count();
    assert_eq!(looked(&faults), 0, "a view of a moment ago is believed");
    seconds.fetch_add(61, Ordering::Relaxed);
    append(&store, Some(2), &log(3..4)).await.unwrap();
    assert_eq!(looked(&faults), 1, "an old view is made anew");
    // The machine sleeps while the PUT is under way.
    faults.next(Kind::Put, Fault::Hold);
    let append = tokio::spawn({
        let store = store.clone();
        async move { append(&store, Some(3), &log(4..5)).await }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    seconds.fetch_add(3_600, Ordering::Relaxed);
    faults.land();
    append.await.unwrap().unwrap();
    assert!(looked(&faults) > 0, "an answer that came too late is not believed: look, and read");
    assert_eq!(store.collect(ReadFrom::Origin).await.unwrap(), log(0..5));
    scratch.remove().await;
}

#[tokio::test]
async fn without_create_an_empty_prefix_is_no_log() {
    let scratch = or_skip!(Scratch::shared().await);
    let options = S3StoreOptions::default().with_create(false);
    let error = scratch.try_open(&Faults::new(), options.clone()).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::Safe), "{error}");
    append(&scratch.open(S3StoreOptions::default()).await, None, &log(0..2)).await.unwrap();
    assert_eq!(scratch.open(options).await.collect(ReadFrom::Origin).await.unwrap(), log(0..2));
    scratch.remove().await;
}
