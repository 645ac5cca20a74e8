//! How much a pump sends at once, and how long it pauses.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use hydrant::{
    Batch, Checkpoint, Checkpointed, DeadLetter, Error, ErrorKind, EventSink, EventSourceExt, FanOut,
    FanOutOptions, MemoryCheckpoints, MemoryStore, ReadFrom, Result, SecondaryOptions, SecondaryState,
};
use tokio::time::Instant;

use super::rig::{Act, Server};
use super::{SOON, until};
use crate::support::{batch, event, events, id};

const HOUR: Duration = Duration::from_secs(3600);

/// A sink that needs a second for each event and takes only whole batches. It can be made to take none.
#[derive(Clone, Default)]
struct Slow {
    store: MemoryStore,
    refuses: bool,
    sizes: Arc<Mutex<Vec<usize>>>,
}

#[async_trait]
impl EventSink for Slow {
    async fn append(&self, batch: Batch<'_>) -> Result<()> {
        let events = batch.events().len();
        self.sizes.lock().unwrap().push(events);
        if self.refuses {
            tokio::time::sleep(Duration::from_secs(1)).await;
            return Err(Error::invalid("never").at(batch.first().id()));
        }
        tokio::time::sleep(Duration::from_secs(1) * u32::try_from(events).unwrap()).await;
        self.store.append(batch).await
    }

    async fn checkpoint(&self) -> Result<Checkpoint> {
        self.store.checkpoint().await
    }
}

async fn log_of(count: u64) -> FanOut<MemoryStore> {
    let log = FanOut::open(MemoryStore::default(), FanOutOptions::default().with_seed(1)).await.unwrap();
    log.append(batch(&events(0..count))).await.unwrap();
    log
}

#[tokio::test(start_paused = true)]
async fn a_batch_too_slow_for_its_time_out_gets_smaller() {
    let log = log_of(1_000).await;
    let sink = Slow::default();
    log.attach("sink", sink.clone(), SecondaryOptions::default()).await.unwrap();
    log.delivered(id(999), HOUR).await.unwrap();
    assert_eq!(sink.store.collect(ReadFrom::Origin).await.unwrap(), events(0..1_000));
    // The batches do not grow again to a size that is too slow.
    let sizes = sink.sizes.lock().unwrap().clone();
    let too_slow = sizes.iter().filter(|size| **size > 29).count();
    assert!(too_slow <= 8, "{too_slow} of {} batches were too large: {sizes:?}", sizes.len());
}

/// A sink that was down while batches got smaller gets large ones again.
#[tokio::test(start_paused = true)]
async fn batches_grow_again_once_the_sink_is_fast() {
    let log = log_of(10).await;
    let sink = Server::default();
    sink.append.set(Act::Hang);
    log.attach("sink", sink.clone(), SecondaryOptions::default()).await.unwrap();
    tokio::time::sleep(HOUR).await;
    sink.append.set(Act::Fine);
    log.delivered(id(9), Duration::from_secs(120)).await.unwrap();
    let appends = sink.appends();
    log.append(batch(&events(10..2_058))).await.unwrap();
    log.delivered(id(2_057), SOON).await.unwrap();
    assert!(sink.appends() - appends < 20, "{} batches", sink.appends() - appends);
}

#[tokio::test(start_paused = true)]
async fn many_dead_letters_in_one_batch_make_progress() {
    let log = log_of(200).await;
    let dead = MemoryStore::default();
    let sink = DeadLetter::new(Slow { refuses: true, ..Slow::default() }, dead.clone());
    let checkpoints = Arc::new(MemoryCheckpoints::default());
    let sink = Checkpointed::open(sink, checkpoints, "sink", "memory").await.unwrap();
    log.attach("sink", sink, SecondaryOptions::default()).await.unwrap();
    log.delivered(id(199), HOUR).await.unwrap();
    assert_eq!(dead.collect(ReadFrom::Origin).await.unwrap(), events(0..200));
}

/// Expired credentials ask for pauses of 30 s, however short the back-off is.
#[tokio::test(start_paused = true)]
async fn expired_credentials_are_retried_with_long_pauses() {
    let log = log_of(1).await;
    let sink = Server::default();
    sink.append.set(Act::Fail(Error::expired("the token expired")));
    let options =
        SecondaryOptions::default().with_backoff(Duration::from_millis(1), Duration::from_millis(10));
    log.attach("sink", sink.clone(), options).await.unwrap();
    let error = until(&log, "sink", SecondaryState::Retrying).await.last_error.unwrap();
    assert_eq!((error.kind(), sink.appends()), (ErrorKind::Denied, 1));
    let begun = Instant::now();
    for tries in 2..6 {
        while sink.appends() < tries {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let waited = begun.elapsed();
        let pauses = Duration::from_secs(30) * u32::try_from(tries - 1).unwrap();
        assert!(waited >= pauses && waited < pauses + Duration::from_secs(1), "{waited:?} for {tries} tries");
    }
    sink.append.set(Act::Fine);
    log.delivered(id(0), Duration::from_secs(31)).await.unwrap();
    assert_eq!(sink.copy().collect(ReadFrom::Origin).await.unwrap(), [event(0)]);
}
