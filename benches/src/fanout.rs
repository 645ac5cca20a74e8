//! The fan-out: what it costs, what a sink that hangs costs the others, and how soon a live sink receives an
//! acknowledged event.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hydrant::{
    Batch, Checkpoint, Event, EventId, EventSink, FanOut, FanOutOptions, MemoryStore, SecondaryOptions,
    StartAt,
};
use hydrant_benches::figure::{Bound, Figure, Series, print};
use hydrant_benches::stamps::{Stamped, Stamps};
use hydrant_benches::{Result, fresh, micros, percentile, remove, workload};
use hydrant_file::{FileStore, FileStoreOptions};
use tokio::time::Instant;

const SINKS: usize = 8;
const EVENTS: u64 = 262_144;
const ROUNDS: usize = 9;
const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) async fn run() -> Result<Vec<Figure>> {
    let figures = vec![cost().await?, isolation().await?, hand_over().await?];
    Ok(figures)
}

/// Measures the time from the first append until all sinks hold all events.
async fn cost() -> Result<Figure> {
    let events: Arc<[Event]> = workload::events(0, EVENTS)?.into();
    let mut by_64 = Series::new("8 sinks, 64 events an append");
    let mut none = Series::new("no sink, 64 events an append");
    let mut primary = Series::new("the primary alone, 64 events an append");
    let mut by_1 = Series::new("8 sinks, one event an append");
    for _ in 0..ROUNDS {
        by_64.push(each(EVENTS, through(&events, 64, SINKS, false).await?));
        none.push(each(EVENTS, through(&events, 64, 0, false).await?));
        primary.push(each(EVENTS, alone(&events, 64).await?));
        let some: Arc<[Event]> = events[..65_536].into();
        by_1.push(each(65_536, through(&some, 1, SINKS, false).await?));
    }
    let figure = Figure::new("FanOut, 8 memory sinks", "µs an event", vec![by_64, none, primary, by_1])
        .wants_median(Bound::AtMost(2.0))
        .note("From the first append until every sink holds every event; the primary is in memory too.");
    print(&figure);
    Ok(figure)
}

#[expect(clippy::cast_precision_loss, reason = "an average")]
fn each(events: u64, took: Duration) -> f64 {
    micros(took) / events as f64
}

/// Appends through a fan-out, and waits for its sinks.
async fn through(events: &Arc<[Event]>, batch: usize, sinks: usize, with_hung: bool) -> Result<Duration> {
    let log = FanOut::open(MemoryStore::default(), FanOutOptions::default()).await?;
    let held: Vec<_> = (0..sinks).map(|_| MemoryStore::default()).collect();
    for (at, sink) in held.iter().enumerate() {
        log.attach(&format!("sink {at}"), sink.clone(), SecondaryOptions::default()).await?;
    }
    if with_hung {
        log.attach("hung", Hung, SecondaryOptions::default()).await?;
    }
    // All pumps have read the checkpoints of their sinks before the clock starts.
    tokio::time::sleep(Duration::from_millis(20)).await;
    let (last, events) = (events.last().map(Event::id), events.clone());
    let took = tokio::spawn(async move {
        let start = Instant::now();
        workload::append(&log, None, &events, batch).await?;
        for sink in &held {
            while sink.checkpoint().await?.id() < last {
                tokio::task::yield_now().await;
            }
        }
        let took = start.elapsed();
        drop(log.close(Duration::ZERO).await);
        Ok::<_, hydrant::Error>(took)
    });
    Ok(took.await??)
}

async fn alone(events: &Arc<[Event]>, batch: usize) -> Result<Duration> {
    let (store, events) = (MemoryStore::default(), events.clone());
    let took = tokio::spawn(async move {
        let start = Instant::now();
        workload::append(&store, None, &events, batch).await?;
        Ok::<_, hydrant::Error>(start.elapsed())
    });
    Ok(took.await??)
}

/// Measures eight sinks, with a ninth that hangs and without it. The noise is the difference of two rounds without it.
async fn isolation() -> Result<Figure> {
    let events: Arc<[Event]> = workload::events(0, EVENTS)?.into();
    let (mut hung, mut without, mut again) = (
        Series::new("8 sinks, and one that hangs"),
        Series::new("8 sinks"),
        Series::new("8 sinks, once more"),
    );
    for _ in 0..ROUNDS {
        without.push(each(EVENTS, through(&events, 64, SINKS, false).await?));
        hung.push(each(EVENTS, through(&events, 64, SINKS, true).await?));
        again.push(each(EVENTS, through(&events, 64, SINKS, false).await?));
    }
    let differ: Vec<f64> =
        without.values.iter().zip(&again.values).map(|(one, two)| (one / two).max(two / one)).collect();
    let noise = percentile(&differ, 0.9);
    let figure = Figure::new("FanOut, isolation", "µs an event", vec![hung, without, again])
        .wants_ratio(1, "of the time without the one that hangs", Bound::AtMost(noise))
        .note("The bound is the noise: the 90th percentile of what two equal runs of one round differ by.");
    print(&figure);
    Ok(figure)
}

/// A sink whose append never ends.
struct Hung;

#[async_trait]
impl EventSink for Hung {
    async fn append(&self, _: Batch<'_>) -> hydrant::Result<()> {
        std::future::pending().await
    }

    async fn checkpoint(&self) -> hydrant::Result<Checkpoint> {
        Ok(Checkpoint::Empty)
    }
}

/// Measures the time from the primary's `Ok` until `append` of a live secondary begins.
async fn hand_over() -> Result<Figure> {
    const EVENTS: u64 = 2000;
    const ROUNDS: usize = 5;
    let (mut middle, mut worst, mut worst_paced) = (
        Series::new("back to back, median"),
        Series::new("back to back, 99th percentile"),
        Series::new("one event a millisecond, 99th percentile"),
    );
    let mut middle_paced = Series::new("one event a millisecond, median");
    for _ in 0..ROUNDS {
        let took = handed_over(EVENTS, None).await?;
        middle.push(percentile(&took, 0.5));
        worst.push(percentile(&took, 0.99));
        let took = handed_over(EVENTS, Some(Duration::from_millis(1))).await?;
        middle_paced.push(percentile(&took, 0.5));
        worst_paced.push(percentile(&took, 0.99));
    }
    let slower = worst.median().max(worst_paced.median());
    let figure = Figure::new("FanOut, hand-over to a live secondary", "µs", vec![worst, middle, worst_paced, middle_paced])
        .wants("µs, the slower 99th percentile", slower, Bound::AtMost(1000.0))
        .note("From the `Ok` of a durable file store to the call of `append` of each of 8 sinks: 16,000 hand-overs a round.");
    print(&figure);
    Ok(figure)
}

/// Returns the time of each hand-over to each sink, in microseconds.
async fn handed_over(events: u64, pause: Option<Duration>) -> Result<Vec<f64>> {
    let dir = fresh("fanout")?;
    let stamps = Arc::new(Stamps::new(events));
    let primary =
        Stamped { store: FileStore::open(&dir, FileStoreOptions::default()).await?, stamps: stamps.clone() };
    let log = FanOut::open(primary, FanOutOptions::default()).await?;
    let mut arrivals = Vec::new();
    for at in 0..SINKS {
        let arrived = Arc::new(stamps.beside());
        arrivals.push(arrived.clone());
        let options = SecondaryOptions::default().with_start(StartAt::Origin);
        log.attach(&format!("sink {at}"), Arrivals { stamps: arrived }, options).await?;
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    let batch = workload::events(0, events)?;
    let writer = log.clone();
    tokio::spawn(async move {
        let mut after = None;
        for event in &batch {
            writer.append(Batch::new(after, std::slice::from_ref(event))?).await?;
            after = Some(event.id());
            if let Some(pause) = pause {
                tokio::time::sleep(pause).await;
            }
        }
        Ok::<_, hydrant::Error>(())
    })
    .await??;
    log.delivered(EventId::new(events - 1), DEADLINE).await.map_err(|laggards| format!("{laggards:?}"))?;
    drop(log.close(DEADLINE).await);
    log.primary().store.close().await?;
    let took = arrivals.iter().flat_map(|arrived| stamps.until(arrived)).collect();
    remove(&dir)?;
    Ok(took)
}

/// A sink that notes when it is called.
struct Arrivals {
    stamps: Arc<Stamps>,
}

#[async_trait]
impl EventSink for Arrivals {
    async fn append(&self, batch: Batch<'_>) -> hydrant::Result<()> {
        self.stamps.stamp(batch.events());
        Ok(())
    }

    async fn checkpoint(&self) -> hydrant::Result<Checkpoint> {
        Ok(Checkpoint::Unknown)
    }
}
