//! Each fault does what its name says, under paused time, one seed replays a run, and a fault that is not met fails.

use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use hydrant::{
    Batch, ErrorKind, Event, EventId, EventSink, EventSource, EventSourceExt, MemoryStore, Prune, ReadFrom,
    Retry,
};
use hydrant_conformance::Generator;
use hydrant_conformance::faults::{Fault, Faults, Faulty};
use tokio::time::{Instant, timeout};

fn faulty() -> (Faulty<MemoryStore>, Faults, Vec<Event>) {
    let faults = Faults::new(1);
    (Faulty::new(MemoryStore::default(), faults.clone()), faults, Generator::new(1).log(4))
}

fn batch(events: &[Event]) -> Batch<'_> {
    Batch::new(None, events).expect("ids grow")
}

#[tokio::test(start_paused = true)]
async fn an_error_before_applied_nothing_and_one_after_applied_all() {
    let (sink, faults, events) = faulty();
    faults.next(Fault::ErrorBefore);
    let error = sink.append(batch(&events)).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::Safe));
    assert_eq!(sink.inner().collect(ReadFrom::Origin).await.unwrap(), []);
    faults.next(Fault::ErrorAfter);
    let error = sink.append(batch(&events)).await.unwrap_err();
    assert_eq!(error.retry(), Retry::AfterCheckpoint);
    assert_eq!(sink.inner().collect(ReadFrom::Origin).await.unwrap(), events);
    sink.append(batch(&events)).await.unwrap();
    assert_eq!((faults.injected(), faults.calls()), (2, 3));
}

#[tokio::test(start_paused = true)]
async fn half_a_batch_is_its_first_half() {
    let (sink, faults, events) = faulty();
    faults.next(Fault::PartialBatch);
    assert_eq!(sink.append(batch(&events)).await.unwrap_err().retry(), Retry::AfterCheckpoint);
    assert_eq!(sink.inner().collect(ReadFrom::Origin).await.unwrap(), events[..2]);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_hangs_continues_once_faults_are_cleared() {
    let (sink, faults, events) = faulty();
    faults.always(Fault::Hang);
    assert!(timeout(Duration::from_secs(3_600), sink.append(batch(&events))).await.is_err());
    assert!(timeout(Duration::from_secs(3_600), sink.read(ReadFrom::Origin).next()).await.is_err());
    let (appended, ()) = tokio::join!(sink.append(batch(&events)), async { faults.clear() });
    appended.unwrap();
}

#[tokio::test(start_paused = true)]
async fn slow_takes_so_long_and_panics_panic() {
    let (sink, faults, events) = faulty();
    let begun = Instant::now();
    faults.next(Fault::Slow(Duration::from_secs(5)));
    sink.append(batch(&events)).await.unwrap();
    assert_eq!(begun.elapsed(), Duration::from_secs(5));
    faults.next(Fault::Panic);
    let panicked = std::panic::AssertUnwindSafe(sink.checkpoint()).catch_unwind().await;
    assert!(panicked.is_err());
    faults.next(Fault::ErrorAfter);
    assert!(sink.prune(EventId::new(1)).await.is_err());
    faults.next(Fault::ErrorAfter);
    let read: Vec<_> = sink.follow(ReadFrom::Origin).collect().await;
    assert!(read.len() == 2 && read[0].is_ok() && read[1].is_err());
}

#[tokio::test(start_paused = true)]
async fn flaky_by_the_same_seed_is_flaky_in_the_same_way() {
    let run = |seed| async move {
        let faults = Faults::new(seed);
        faults.flaky(0.5, &[Fault::ErrorBefore, Fault::Slow(Duration::from_millis(1)), Fault::ErrorAfter]);
        let sink = Faulty::new(Faulty::new(MemoryStore::default(), faults.clone()), Faults::new(0));
        let mut answers = Vec::new();
        for _ in 0..64 {
            answers.push(sink.checkpoint().await.map_err(|error| error.retry()).is_ok());
        }
        (answers, faults.injected())
    };
    let first = run(7).await;
    assert_eq!(first, run(7).await);
    assert_ne!(first, run(8).await);
    assert!((1..64).contains(&first.1));
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "queued, and met by no call: [Panic]")]
async fn a_fault_that_meets_no_call_fails_the_test() {
    let (sink, faults, events) = faulty();
    faults.next(Fault::Slow(Duration::from_millis(1)));
    faults.next(Fault::Panic);
    sink.append(batch(&events)).await.unwrap();
    assert_eq!(faults.unfired(), [Fault::Panic]);
}
