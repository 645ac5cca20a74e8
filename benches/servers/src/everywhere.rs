//! One fan-out to a file, Postgres, S3 and Kinesis: how much the others slow the file, how far they lag,
//! and how much memory it uses.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use hydrant::{Batch, EventId, EventSink, FanOut, FanOutOptions, Primary, SecondaryOptions, SecondaryState};
use hydrant_benches::figure::{Bound, Figure, Series, print};
use hydrant_benches::stamps::{Stamped, Stamps};
use hydrant_benches::{Result, fresh, machine, micros, percentile, remove, workload};
use hydrant_file::{FileStore, FileStoreOptions};
use tokio::time::Instant;

use crate::servers::Servers;

const DEADLINE: Duration = Duration::from_mins(2);
/// The pause between two appends.
const PACE: Duration = Duration::from_millis(5);
const PACED: u64 = 1000;
const ROUNDS: usize = 7;
/// Fewer rounds than elsewhere: each has half a million events, and the servers are slow.
const MEMORY_ROUNDS: usize = 3;

pub(crate) async fn run() -> Result<Vec<Figure>> {
    let isolation = isolation(&Servers::start_apart().await?).await?;
    let servers = Servers::start(&fresh("everywhere")?).await?;
    Ok(vec![isolation, lag(&servers).await?, memory(&servers)?])
}

/// Measures the file's appends, with the others attached and without them.
async fn isolation(servers: &Servers) -> Result<Figure> {
    let (mut with, mut without, mut again) = (
        Series::new("with Postgres, S3 and Kinesis attached, 99th percentile"),
        Series::new("the file alone, 99th percentile"),
        Series::new("the file alone, once more, 99th percentile"),
    );
    let (mut with_middle, mut without_middle) =
        (Series::new("with the three attached, median"), Series::new("the file alone, median"));
    for round in 0..ROUNDS {
        let alone = paced(None).await?;
        without.push(percentile(&alone, 0.99));
        without_middle.push(percentile(&alone, 0.5));
        let attached = paced(Some((servers, &format!("isolation-{round}")))).await?;
        with.push(percentile(&attached, 0.99));
        with_middle.push(percentile(&attached, 0.5));
        again.push(percentile(&paced(None).await?, 0.99));
    }
    let differ: Vec<f64> =
        without.values.iter().zip(&again.values).map(|(one, two)| (one / two).max(two / one)).collect();
    let noise = percentile(&differ, 0.9);
    let figure = Figure::new(
        "The file's append, with the others and without",
        "µs",
        vec![with, without, again, with_middle, without_middle],
    )
    .wants_ratio(1, "of the 99th percentile without them", Bound::AtMost(noise))
    .note(
        "One durable event every 5 ms. The bound is the noise: the 90th percentile of what two equal runs of one \
         round differ by. The servers are on this machine, with their data in memory and at the lowest priority, so \
         that what is measured is the process and not who else wants its disk and processors.",
    );
    print(&figure);
    Ok(figure)
}

/// Returns how long each append to the primary took, in microseconds.
async fn paced(secondaries: Option<(&Servers, &str)>) -> Result<Vec<f64>> {
    let dir = fresh("paced")?;
    let log =
        FanOut::open(FileStore::open(&dir, FileStoreOptions::default()).await?, FanOutOptions::default())
            .await?;
    if let Some((servers, name)) = secondaries {
        attach(&log, servers, name).await?;
    }
    let events = workload::events(0, PACED)?;
    let writer = log.clone();
    let took = tokio::spawn(async move {
        let mut took = Vec::with_capacity(events.len());
        let mut after = None;
        let mut ticks = tokio::time::interval(PACE);
        for event in &events {
            ticks.tick().await;
            let start = Instant::now();
            writer.append(Batch::new(after, std::slice::from_ref(event))?).await?;
            took.push(micros(start.elapsed()));
            after = Some(event.id());
        }
        Ok::<_, hydrant::Error>(took)
    })
    .await??;
    log.delivered(EventId::new(PACED - 1), DEADLINE).await?;
    drop(log.close(DEADLINE).await);
    log.primary().close().await?;
    remove(&dir)?;
    Ok(took)
}

async fn attach<P: Primary + 'static>(log: &FanOut<P>, servers: &Servers, name: &str) -> Result<()> {
    log.attach("postgres", servers.postgres(name).await?, SecondaryOptions::default()).await?;
    log.attach("s3", servers.s3(name).await?, SecondaryOptions::default()).await?;
    log.attach("kinesis", servers.kinesis(name).await?, SecondaryOptions::default()).await?;
    Ok(())
}

/// Measures the time from the primary's `Ok` to the secondary's.
async fn lag(servers: &Servers) -> Result<Figure> {
    let mut series = [
        "Postgres, median",
        "Postgres, 99th percentile",
        "S3, median",
        "S3, 99th percentile",
        "Kinesis, median",
        "Kinesis, 99th percentile",
    ]
    .map(Series::new);
    for round in 0..ROUNDS {
        let took = lagged(servers, &format!("lag-{round}")).await?;
        for (series, took) in series.chunks_mut(2).zip(&took) {
            series[0].push(percentile(took, 0.5) / 1000.0);
            series[1].push(percentile(took, 0.99) / 1000.0);
        }
    }
    let figure = Figure::new("Delivery, from the file's `Ok` to the secondary's", "ms", series.into())
        .note("One durable event every 5 ms, all three attached at once, each event its own PUT where the sink keeps up.");
    print(&figure);
    Ok(figure)
}

/// Returns the lags of Postgres, S3 and Kinesis, in microseconds.
async fn lagged(servers: &Servers, name: &str) -> Result<[Vec<f64>; 3]> {
    let dir = fresh("lagged")?;
    let stamps = Arc::new(Stamps::new(PACED));
    let arrived = [(); 3].map(|()| Arc::new(stamps.beside()));
    let primary =
        Stamped { store: FileStore::open(&dir, FileStoreOptions::default()).await?, stamps: stamps.clone() };
    let log = FanOut::open(primary, FanOutOptions::default()).await?;
    let [postgres, s3, kinesis] = arrived.clone();
    let options = SecondaryOptions::default;
    log.attach("postgres", Stamped { store: servers.postgres(name).await?, stamps: postgres }, options())
        .await?;
    log.attach("s3", Stamped { store: servers.s3(name).await?, stamps: s3 }, options()).await?;
    log.attach("kinesis", Stamped { store: servers.kinesis(name).await?, stamps: kinesis }, options())
        .await?;
    // Kinesis first looks back for the end of its log. Events that arrive meanwhile would be measured as lag.
    while log.status().secondaries.iter().any(|secondary| secondary.state != SecondaryState::Live) {
        tokio::time::sleep(PACE).await;
    }
    let events = workload::events(0, PACED)?;
    let mut after = None;
    let mut ticks = tokio::time::interval(PACE);
    for event in &events {
        ticks.tick().await;
        log.append(Batch::new(after, std::slice::from_ref(event))?).await?;
        after = Some(event.id());
    }
    log.delivered(EventId::new(PACED - 1), DEADLINE).await?;
    drop(log.close(DEADLINE).await);
    log.primary().store.close().await?;
    remove(&dir)?;
    Ok(arrived.map(|arrived| stamps.until(&arrived)))
}

/// Measures the peak of the memory of a process that appends events, and ends when all four stores hold them.
fn memory(servers: &Servers) -> Result<Figure> {
    const FEW: u64 = 100_000;
    let (mut many, mut few) = (Series::new("500,000 events"), Series::new("100,000 events"));
    for round in 0..MEMORY_ROUNDS {
        few.push(peak(servers, FEW, &format!("few-{round}"))?);
        many.push(peak(servers, FEW * 5, &format!("many-{round}"))?);
    }
    let figure = Figure::new("Memory of a fan-out to all four", "MiB", vec![many, few])
        .wants_ratio(1, "times that of a fifth of the events", Bound::AtMost(1.25))
        .note("The peak of a process (`VmHWM`) that appends as fast as the file takes it, while the others lag.");
    print(&figure);
    Ok(figure)
}

fn peak(servers: &Servers, events: u64, name: &str) -> Result<f64> {
    let mut child = Command::new(std::env::current_exe()?);
    child.args(["child-everywhere", &events.to_string(), name]);
    let output = servers.envs(&mut child).output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into());
    }
    Ok(String::from_utf8(output.stdout)?.trim().parse()?)
}

/// Appends, waits until all stores hold the events, and prints the peak in MiB.
#[expect(clippy::cast_precision_loss, reason = "a size for people")]
pub(crate) async fn child(events: u64, name: &str) -> Result<()> {
    const TOGETHER: u64 = 4096;
    let servers = Servers::from_env().await?;
    let dir = fresh("everywhere-child")?;
    let log =
        FanOut::open(FileStore::open(&dir, FileStoreOptions::default()).await?, FanOutOptions::default())
            .await?;
    attach(&log, &servers, name).await?;
    let mut after = None;
    for first in (0..events).step_by(usize::try_from(TOGETHER)?) {
        let batch = workload::events(first, TOGETHER.min(events - first))?;
        workload::append(&log, after, &batch, 64).await?;
        after = batch.last().map(hydrant::Event::id);
    }
    log.delivered(EventId::new(events - 1), DEADLINE).await?;
    drop(log.close(DEADLINE).await);
    log.primary().close().await?;
    remove(&dir)?;
    println!("{}", machine::memory_peak().unwrap_or(0) as f64 / f64::from(1 << 20));
    Ok(())
}
