//! A log of 10 GB: how soon it is open, and how soon a read in its middle begins.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use futures_util::StreamExt;
use hydrant::{Checkpoint, EventId, EventSink, EventSource, ReadFrom};
use hydrant_benches::figure::{Bound, Figure, Series, print};
use hydrant_benches::{Result, machine, micros, percentile, remove, scratch, workload};
use hydrant_file::{FileSource, FileSourceOptions, FileStore, FileStoreOptions};
use tokio::time::Instant;

use crate::logs;

/// A log of 10 GB, at about 200 bytes a line.
const EVENTS: u64 = 50_000_000;
const ROUNDS: usize = 21;

pub(crate) async fn run() -> Result<Vec<Figure>> {
    let log = logs::of("ten-gigabytes", EVENTS).await?;
    let size = std::fs::metadata(log.join("state"))?.len();
    println!("a log of {:.1} GB", f64::from(u32::try_from(size / 1_000_000)?) / 1000.0);
    let figures = vec![open(&log).await?, after(&log).await?];
    // The log is large, and can be written again quickly.
    remove(&scratch().join("logs/ten-gigabytes"))?;
    Ok(figures)
}

/// Measures open and checkpoint: after a clean close, for a reader, after a crash, and from a cold cache.
async fn open(log: &Path) -> Result<Figure> {
    let mut closed = Series::new("open for writing, checkpoint");
    let mut reader = Series::new("open for reading, checkpoint");
    let mut crashed = Series::new("open for writing after SIGKILL, checkpoint");
    let mut cold = Series::new("open for writing, checkpoint, nothing cached");
    for _ in 0..ROUNDS {
        closed.push(millis(open_writer(log).await?));
        reader.push(millis(open_reader(log).await?));
        crash(log)?;
        crashed.push(millis(open_writer(log).await?));
        if machine::drop_caches() {
            cold.push(millis(open_writer(log).await?));
        }
    }
    let slowest = [&closed, &reader, &crashed].map(Series::median).into_iter().fold(0.0, f64::max);
    let mut figure = Figure::new("Open a log of 10 GB", "ms", vec![closed, reader, crashed])
        .wants_median(Bound::AtMost(10.0))
        .wants("ms, the slowest of these", slowest, Bound::AtMost(10.0));
    if cold.values.is_empty() {
        figure = figure
            .note("The page cache could not be dropped (only root may), so a cold cache is not measured.");
    } else {
        figure.series.push(cold);
    }
    print(&figure);
    Ok(figure)
}

async fn open_writer(log: &Path) -> Result<Duration> {
    let log = log.to_owned();
    tokio::spawn(async move {
        let start = Instant::now();
        let store = FileStore::open(log, FileStoreOptions::default()).await?;
        let checkpoint = store.checkpoint().await?;
        let took = start.elapsed();
        store.close().await?;
        head(checkpoint)?;
        Ok(took)
    })
    .await?
}

async fn open_reader(log: &Path) -> Result<Duration> {
    let log = log.to_owned();
    tokio::spawn(async move {
        let start = Instant::now();
        let source = FileSource::open(log, FileSourceOptions::default()).await?;
        head(source.checkpoint().await?)?;
        Ok(start.elapsed())
    })
    .await?
}

fn head(checkpoint: Checkpoint) -> Result<EventId> {
    checkpoint
        .id()
        .filter(|id| id.get() >= EVENTS - 1)
        .ok_or_else(|| format!("the log ends at {checkpoint:?}").into())
}

/// Starts a child process that appends to the log and dies.
fn crash(log: &Path) -> Result<()> {
    let status = Command::new(std::env::current_exe()?).arg("child-crash").arg(log).status()?;
    if status.success() { Err("the child that should have died did not".into()) } else { Ok(()) }
}

/// Runs in a child process: appends some commits, and dies by a signal with the log open.
pub(crate) async fn child_crash(log: &Path) -> Result<()> {
    let store = FileStore::open(log, FileStoreOptions::default()).await?;
    let head = head(store.checkpoint().await?)?;
    let events = workload::events(head.get() + 1, 100)?;
    workload::append(&store, Some(head), &events, 10).await?;
    std::process::abort();
}

/// Measures the time to the first event after an id, at random places.
async fn after(log: &Path) -> Result<Figure> {
    const SEEKS: usize = 100;
    let mut random = 0x9E37_79B9_7F4A_7C15_u64; // the same places in every run
    let mut places = || {
        let places = std::array::from_fn::<u64, SEEKS, _>(|_| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % (EVENTS - 1)
        });
        places.to_vec()
    };
    let mut warm_middle = Series::new("first event behind a random id, median");
    let mut warm_worst = Series::new("99th percentile");
    let mut cold_middle = Series::new("nothing cached, median");
    let mut cold_worst = Series::new("nothing cached, 99th percentile");
    for _ in 0..5 {
        let took = seek(log, &places(), false).await?;
        warm_middle.push(percentile(&took, 0.5));
        warm_worst.push(percentile(&took, 0.99));
        let took = seek(log, &places()[..20], true).await?;
        if !took.is_empty() {
            cold_middle.push(percentile(&took, 0.5));
            cold_worst.push(percentile(&took, 0.99));
        }
    }
    let worst = warm_worst.median();
    let mut figure = Figure::new("Seek in a log of 10 GB", "ms", vec![warm_middle, warm_worst])
        .wants_median(Bound::AtMost(5.0))
        .wants("ms, 99th percentile", worst, Bound::AtMost(5.0));
    if !cold_middle.values.is_empty() {
        figure.series.extend([cold_middle, cold_worst]);
    }
    print(&figure);
    Ok(figure)
}

/// Returns how long each seek took, in milliseconds. Returns no value if the cache was to be dropped and could not be.
async fn seek(log: &Path, places: &[u64], cold: bool) -> Result<Vec<f64>> {
    let source = FileSource::open(log, FileSourceOptions::default()).await?;
    let mut took = Vec::with_capacity(places.len());
    for &place in places {
        if cold && !machine::drop_caches() {
            return Ok(Vec::new());
        }
        let source = source.clone();
        let seek = tokio::spawn(async move {
            let start = Instant::now();
            let first = source.read(ReadFrom::After(EventId::new(place))).next().await;
            (first, start.elapsed())
        });
        match seek.await? {
            (Some(Ok(event)), one) if event.id().get() == place + 1 => took.push(millis(one)),
            (other, _) => return Err(format!("behind event {place} stands {other:?}").into()),
        }
    }
    Ok(took)
}

fn millis(took: Duration) -> f64 {
    micros(took) / 1000.0
}
