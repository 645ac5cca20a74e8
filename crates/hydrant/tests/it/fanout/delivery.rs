//! Promises 2 and 7: every secondary gets everything, in order, and the status shows it.

use std::time::Duration;

use futures_util::StreamExt;
use hydrant::{
    EventSink, EventSourceExt, FanOut, FanOutOptions, MemoryStore, ReadFrom, SecondaryOptions,
    SecondaryState, StartAt,
};

use tokio::time::Instant;

use super::{SOON, status, until};
use crate::support::{Faulty, Mode, batch, event, events, id, unknown};

async fn open() -> FanOut<MemoryStore> {
    FanOut::open(MemoryStore::default(), FanOutOptions::default().with_ring(64, 1 << 20)).await.unwrap()
}

#[tokio::test]
async fn a_secondary_attached_late_backfills_and_goes_live() {
    let log = open().await;
    log.append(batch(&events(0..5_000))).await.unwrap();
    let sink = MemoryStore::default();
    log.attach("late", sink.clone(), SecondaryOptions::default()).await.unwrap();
    for at in 5_000..5_100 {
        log.append(batch(&[event(at)])).await.unwrap();
    }
    log.delivered(id(5_099), SOON).await.unwrap();
    assert_eq!(sink.collect(ReadFrom::Origin).await.unwrap(), events(0..5_100));
    assert_eq!(until(&log, "late", SecondaryState::Live).await.lag_events, 0);
}

#[tokio::test(start_paused = true)]
async fn batches_keep_their_limits_and_linger_fills_them() {
    let log = open().await;
    let sink = Faulty::new(Mode::Fine);
    let options = SecondaryOptions::default().with_batch(10, 1 << 20).with_linger_max(Duration::from_secs(1));
    log.attach("sink", sink.clone(), options).await.unwrap();
    for at in 0..30 {
        log.append(batch(&[event(at)])).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    log.delivered(id(29), SOON).await.unwrap();
    assert_eq!(sink.appends(), 3);
}

/// By count, by bytes, by age: the first of them sends it.
#[tokio::test(start_paused = true)]
async fn a_batch_is_sent_when_it_is_full_and_when_it_is_old_enough() {
    let linger = Duration::from_secs(60);
    let three = events(0..3).iter().map(hydrant::Event::size).sum::<usize>();
    for (events_max, bytes_max, appended, sends) in
        [(3, 1 << 20, 3, true), (100, three, 3, true), (100, three + 1, 4, true), (100, 1 << 20, 4, false)]
    {
        let log = open().await;
        let sink = Faulty::new(Mode::Fine);
        let options = SecondaryOptions::default().with_batch(events_max, bytes_max).with_linger_max(linger);
        log.attach("sink", sink.clone(), options).await.unwrap();
        let begun = Instant::now();
        for at in 0..appended {
            log.append(batch(&[event(at)])).await.unwrap();
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert_eq!(sink.appends(), u64::from(sends), "{events_max} events, {bytes_max} bytes");
        log.delivered(id(appended - 1), linger * 2).await.unwrap();
        assert!(begun.elapsed() < linger + Duration::from_secs(5), "{:?}", begun.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn delivered_names_the_laggards_when_the_deadline_is_over() {
    let log = open().await;
    let hung = Faulty::new(Mode::Hang);
    log.attach("good", MemoryStore::default(), SecondaryOptions::default()).await.unwrap();
    log.attach("hung", hung.clone(), SecondaryOptions::default()).await.unwrap();
    log.append(batch(&events(0..7))).await.unwrap();
    let laggards = log.delivered(id(6), SOON).await.unwrap_err();
    assert_eq!(laggards.len(), 1);
    assert_eq!(laggards[0].to_string(), "hung (catching up) misses 7 events from the beginning");

    let laggards = log.close(SOON).await;
    assert_eq!((laggards.len(), laggards[0].name.as_str(), laggards[0].lag_events), (1, "hung", 7));
}

#[tokio::test(start_paused = true)]
async fn lag_is_seen_in_events_and_in_time_while_a_sink_hangs() {
    let log = open().await;
    log.attach("hung", Faulty::new(Mode::Hang), SecondaryOptions::default()).await.unwrap();
    log.append(batch(&events(0..100))).await.unwrap();
    tokio::time::sleep(Duration::from_secs(20)).await;
    let now = status(&log, "hung");
    assert_eq!((now.lag_events, now.checkpoint), (100, None));
    assert!(now.lag >= Duration::from_secs(19), "{:?}", now.lag);
}

#[tokio::test(start_paused = true)]
async fn park_stops_one_and_resume_continues_from_its_checkpoint() {
    let log = open().await;
    let (one, other) = (MemoryStore::default(), MemoryStore::default());
    log.attach("one", one.clone(), SecondaryOptions::default()).await.unwrap();
    log.attach("other", other.clone(), SecondaryOptions::default()).await.unwrap();
    log.append(batch(&events(0..5))).await.unwrap();
    log.delivered(id(4), SOON).await.unwrap();
    log.park("one").unwrap();
    until(&log, "one", SecondaryState::Parked).await;
    log.append(batch(&events(5..300))).await.unwrap();
    assert_eq!(log.delivered(id(299), SOON).await.unwrap_err()[0].name, "one");
    assert_eq!(other.collect(ReadFrom::Origin).await.unwrap().len(), 300);
    assert_eq!(one.collect(ReadFrom::Origin).await.unwrap().len(), 5);
    log.resume("one").unwrap();
    log.delivered(id(299), SOON).await.unwrap();
    assert_eq!(one.collect(ReadFrom::Origin).await.unwrap(), events(0..300));
    assert!(log.park("unknown").unwrap_err().to_string().contains("one, other"));
}

#[tokio::test(start_paused = true)]
async fn back_pressure_is_an_option() {
    let log = open().await;
    let slow = Faulty::new(Mode::Hang);
    let options = SecondaryOptions::default().with_lag_events_max(10);
    log.attach("slow", slow.clone(), options).await.unwrap();
    log.append(batch(&events(0..11))).await.unwrap();
    let (next, more) = (events(11..12), events(11..12));
    let waits = tokio::time::timeout(SOON, log.append(batch(&next))).await;
    assert!(waits.is_err(), "an append continued past `lag_events_max`");
    log.park("slow").unwrap();
    log.append(batch(&more)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_sink_without_memory_needs_an_explicit_start() {
    /// A sink that only counts.
    struct Forgets(Faulty);
    #[async_trait::async_trait]
    impl EventSink for Forgets {
        async fn append(&self, batch: hydrant::Batch<'_>) -> hydrant::Result<()> {
            self.0.append(batch).await
        }
        async fn checkpoint(&self) -> hydrant::Result<hydrant::Checkpoint> {
            Ok(hydrant::Checkpoint::Unknown)
        }
    }
    let log = open().await;
    log.append(batch(&events(0..5))).await.unwrap();
    let refused = Forgets(Faulty::new(Mode::Fine));
    log.attach("refused", refused, SecondaryOptions::default()).await.unwrap();
    let error = until(&log, "refused", SecondaryState::Parked).await.last_error.unwrap();
    assert!(error.to_string().contains("Checkpointed"), "{error}");

    let target = Faulty::new(Mode::Fine);
    let options = SecondaryOptions::default().with_start(StartAt::Origin);
    log.attach("sink", Forgets(target.clone()), options).await.unwrap();
    log.detach("refused").await.unwrap();
    log.delivered(id(4), SOON).await.unwrap();
    target.set(Mode::Before(unknown()));
    log.append(batch(&events(5..8))).await.unwrap();
    until(&log, "sink", SecondaryState::Retrying).await;
    target.set(Mode::Fine);
    log.delivered(id(7), Duration::from_secs(90)).await.unwrap();
    assert_eq!(target.inner.collect(ReadFrom::Origin).await.unwrap(), events(0..8));
}

#[tokio::test]
async fn the_watch_shows_each_change() {
    let log = open().await;
    let mut changes = Box::pin(log.watch());
    assert_eq!(changes.next().await.unwrap().secondaries.len(), 0);
    log.attach("one", MemoryStore::default(), SecondaryOptions::default()).await.unwrap();
    assert_eq!(changes.next().await.unwrap().secondaries.len(), 1);
}
