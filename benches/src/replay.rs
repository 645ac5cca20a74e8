//! Reads of a log from its beginning: raw, and folded into a state.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use futures_util::StreamExt;
use hydrant::{EventSource, Journal, JournalOptions, ReadFrom};
use hydrant_benches::figure::{Bound, Figure, Series, print};
use hydrant_benches::workload::{Change, Ledger};
use hydrant_benches::{Result, machine, rate, raw};
use hydrant_file::{FileSource, FileSourceOptions, FileStore, FileStoreOptions};
use serde::Deserialize;
use tokio::time::Instant;

use crate::logs;

const EVENTS: u64 = 1_000_000;
const ROUNDS: usize = 7;
/// Logs of 100 MB and of 2 GB, at about 200 bytes a line.
const SMALL: u64 = 500_000;
const LARGE: u64 = 10_000_000;

pub(crate) async fn run() -> Result<Vec<Figure>> {
    let log = logs::of("million", EVENTS).await?;
    let figures = vec![raw_read(&log).await?, hydrate(&log).await?, memory().await?];
    Ok(figures)
}

/// Compares a read of all events, checked but not decoded, with a loop that decodes each line to a `Value`.
async fn raw_read(log: &Path) -> Result<Figure> {
    let mut ours = Series::new("hydrant, `FileSource::read`, checksums verified");
    let mut value = Series::new("loop: lines, `from_slice::<Value>`");
    let mut lines = Series::new("loop: lines only");
    for _ in 0..ROUNDS {
        ours.push(rate(EVENTS, read(log).await?));
        let state = log.join("state");
        value.push(rate(
            EVENTS,
            timed(|| {
                raw::lines(&state, |line| {
                    std::hint::black_box(serde_json::from_slice::<serde_json::Value>(line)?);
                    Ok(())
                })
            })?,
        ));
        lines.push(rate(
            EVENTS,
            timed(|| {
                raw::lines(&state, |line| {
                    std::hint::black_box(line);
                    Ok(())
                })
            })?,
        ));
    }
    let figure = Figure::new("Replay, raw", "events/s", vec![ours, value, lines])
        .wants_ratio(1, "times the `Value` loop", Bound::AtLeast(4.0))
        .note("1,000,000 events, in the page cache.");
    print(&figure);
    Ok(figure)
}

async fn read(log: &Path) -> Result<Duration> {
    let log = log.to_owned();
    tokio::spawn(async move {
        let start = Instant::now();
        let source = FileSource::open(log, FileSourceOptions::default()).await?;
        let mut events = source.read(ReadFrom::Origin);
        let mut count = 0;
        while let Some(event) = events.next().await {
            std::hint::black_box(event?);
            count += 1;
        }
        expect(count, EVENTS)?;
        Ok(start.elapsed())
    })
    .await?
}

/// Compares a state folded from typed events with a bare program.
async fn hydrate(log: &Path) -> Result<Figure> {
    let mut one = Series::new("hydrant, `Journal::hydrate`");
    let mut bare = Series::new("bare program: lines, `from_slice::<T>`, fold");
    let mut two = Series::new("hydrant, `hydrate_tasks` = 2");
    for _ in 0..ROUNDS {
        let (ledger, took) = hydrated(log, 0).await?;
        one.push(rate(EVENTS, took));
        let (expected, took) = bare_hydrated(log)?;
        bare.push(rate(EVENTS, took));
        let (again, took) = hydrated(log, 2).await?;
        two.push(rate(EVENTS, took));
        if ledger != expected || again != expected {
            return Err(format!("one log, three states: {ledger:?}, {expected:?}, {again:?}").into());
        }
    }
    let cores = two.ratio(&bare);
    let figure = Figure::new("Replay, typed", "events/s", vec![one, bare, two])
        .wants_ratio(1, "of the bare program", Bound::AtLeast(0.9))
        .wants("of the bare program, on two cores", cores, Bound::AtLeast(1.6))
        .note(
            "1,000,000 events, in the page cache. The bare program checks nothing but that the JSON parses.",
        )
        .chart("Replay of 1,000,000 events into a state");
    print(&figure);
    Ok(figure)
}

async fn hydrated(log: &Path, tasks: usize) -> Result<(Ledger, Duration)> {
    let log = log.to_owned();
    tokio::spawn(async move {
        let store = FileStore::open(log, FileStoreOptions::default()).await?;
        let options = JournalOptions::default().with_hydrate_tasks(tasks);
        let journal: Journal<Change> = Journal::open(store.clone(), options).await?;
        let start = Instant::now();
        let hydrated = journal.hydrate(Ledger::default(), Ledger::apply).await?;
        let took = start.elapsed();
        journal.close().await?;
        store.close().await?;
        Ok((hydrated.state, took))
    })
    .await?
}

/// The same fold, written without a library.
fn bare_hydrated(log: &Path) -> Result<(Ledger, Duration)> {
    #[derive(Deserialize)]
    struct Line {
        #[serde(rename = "stateChanged")]
        change: Change,
    }
    let mut ledger = Ledger::default();
    let took = timed(|| {
        raw::lines(&log.join("state"), |line| {
            ledger.apply(serde_json::from_slice::<Line>(line)?.change);
            Ok(())
        })
    })?;
    Ok((ledger, took))
}

/// Measures the peak of the memory of a process that hydrates a log of 100 MB, and one of 2 GB.
async fn memory() -> Result<Figure> {
    const ROUNDS: usize = 3;
    let (small, large) = (logs::of("small", SMALL).await?, logs::of("large", LARGE).await?);
    let mut of_large = Series::new("a log of 2 GB");
    let mut of_small = Series::new("a log of 100 MB");
    for _ in 0..ROUNDS {
        of_large.push(peak_of_child(&large)?);
        of_small.push(peak_of_child(&small)?);
    }
    let figure = Figure::new("Replay, memory", "MiB", vec![of_large, of_small])
        .wants_median(Bound::AtMost(64.0))
        .wants_ratio(1, "times that of 100 MB", Bound::AtMost(1.15))
        .note("The peak of a process (`VmHWM`) that opens the log, hydrates, and ends.");
    print(&figure);
    Ok(figure)
}

#[expect(clippy::cast_precision_loss, reason = "a size in MiB")]
fn peak_of_child(log: &Path) -> Result<f64> {
    let output = Command::new(std::env::current_exe()?).arg("child-hydrate").arg(log).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let peak: u64 = text
        .trim()
        .parse()
        .map_err(|_| format!("the child said {text:?} {}", String::from_utf8_lossy(&output.stderr)))?;
    Ok(peak as f64 / f64::from(1 << 20))
}

/// Runs in a child process: hydrates, and prints the peak of its memory in bytes.
pub(crate) async fn child_hydrate(log: &Path) -> Result<()> {
    let (ledger, _) = hydrated(log, 0).await?;
    std::hint::black_box(ledger);
    println!("{}", machine::memory_peak().ok_or("this system does not report the peak of memory")?);
    Ok(())
}

fn timed(work: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed())
}

fn expect(count: u64, events: u64) -> Result<()> {
    if count == events { Ok(()) } else { Err(format!("{count} events were read, not {events}").into()) }
}
