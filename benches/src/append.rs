//! Appends that are durable before they are acknowledged, compared with a raw loop on the same disk.

use std::fs::OpenOptions;
use std::path::Path;
use std::time::Duration;

use hydrant::{Batch, Event, EventId, EventSink, Journal, JournalOptions};
use hydrant_benches::figure::{Bound, Figure, Series, print};
use hydrant_benches::{Result, fresh, median, micros, ours, rate, raw, remove, workload};
use hydrant_file::{FileStore, FileStoreOptions};
use tokio::time::Instant;

const ROUNDS: usize = 7;
const RUN: Duration = Duration::from_millis(1500);

pub(crate) async fn run() -> Result<Vec<Figure>> {
    let figures = vec![batches().await?, crowd().await?, alone(0).await?, alone(64 << 20).await?];
    Ok(figures)
}

/// Measures one crowd for a second, and the raw loop.
pub(crate) async fn one_crowd(tasks: usize, together: usize) -> Result<()> {
    let dir = fresh("crowd")?;
    let crowd = ours::crowd(&dir.join("log"), tasks, together, Duration::from_secs(1)).await?;
    let raw = raw::append_synced(&dir.join("raw"), &workload::line()?, &crowd.commits)?;
    let (rate, raw) = (crowd.rate(), rate(crowd.events, raw));
    println!("{rate:.0} events/s, {:.0} a commit; the raw loop {raw:.0}", crowd.commit_events());
    remove(&dir)
}

/// Compares 64 tasks with 64 events a call with a loop that writes and syncs commits of the same sizes.
async fn batches() -> Result<Figure> {
    let line = workload::line()?;
    let (mut ours, mut raw) =
        (Series::new("hydrant, 64 tasks of 64 events a call"), Series::new("raw loop, the same commits"));
    let mut sizes = Vec::new();
    for _ in 0..ROUNDS {
        let dir = fresh("append")?;
        let crowd = ours::crowd(&dir.join("log"), 64, 64, RUN).await?;
        ours.push(crowd.rate());
        sizes.push(crowd.commit_events());
        let took = raw::append_synced(&dir.join("raw"), &line, &crowd.commits)?;
        raw.push(rate(crowd.events, took));
        remove(&dir)?;
    }
    let figure = Figure::new("Append, batches", "events/s", vec![ours, raw])
        .wants_ratio(1, "of the raw loop", Bound::AtLeast(0.8))
        .note(format!("A commit had {:.0} events on average.", median(&sizes)))
        .chart("Durable appends, 64 tasks of 64 events a call");
    print(&figure);
    Ok(figure)
}

/// Compares 1,024 tasks with one event each with hydra-node's method, which syncs nothing.
async fn crowd() -> Result<Figure> {
    const HYDRA: usize = 50_000;
    let line = workload::line()?;
    let mut ours = Series::new("hydrant, 1,024 tasks of one event a call");
    let mut raw = Series::new("raw loop, the same commits");
    let mut hydra = Series::new("open, append, close for each event, no sync");
    let mut sizes = Vec::new();
    for _ in 0..ROUNDS {
        let dir = fresh("append")?;
        let crowd = ours::crowd(&dir.join("log"), 1024, 1, RUN).await?;
        ours.push(crowd.rate());
        sizes.push(crowd.commit_events());
        let took = raw::append_synced(&dir.join("raw"), &line, &crowd.commits)?;
        raw.push(rate(crowd.events, took));
        let took = raw::open_append_close(&dir.join("hydra"), &line, HYDRA)?;
        hydra.push(rate(HYDRA as u64, took));
        remove(&dir)?;
    }
    let figure = Figure::new("Append, a crowd", "events/s", vec![ours, raw, hydra])
        .wants_median(Bound::AtLeast(1e6))
        .wants_ratio(2, "times hydra-node's way", Bound::AtLeast(10.0))
        .note(format!("A commit had {:.0} events on average.", median(&sizes)))
        .chart("Durable appends, 1,024 tasks of one event a call");
    print(&figure);
    Ok(figure)
}

/// Measures the median latency of one task with one event at a time.
async fn alone(preallocate_bytes: u64) -> Result<Figure> {
    const EVENTS: usize = 500;
    const ROUNDS: usize = 11;
    let line = workload::line()?;
    let events = workload::events(500_000, (ROUNDS * EVENTS) as u64)?;
    let dir = fresh("append")?;
    let options = || FileStoreOptions::default().with_preallocate_bytes(preallocate_bytes);
    let store = FileStore::open(dir.join("store"), options()).await?;
    let under_journal = FileStore::open(dir.join("journal"), options()).await?;
    let journal: Journal<workload::Change> =
        Journal::open(under_journal.clone(), JournalOptions::default()).await?;
    let mut file = raw_file(&dir.join("raw"), preallocate_bytes)?;

    let is_ahead = preallocate_bytes > 0;
    let mut by_store = Series::new("hydrant, `FileStore::append`");
    let mut by_journal = Series::new("hydrant, `Journal::append`");
    let mut raw =
        Series::new(if is_ahead { "raw write + fdatasync, preallocated" } else { "raw append + fdatasync" });
    let mut after = None;
    for events in events.chunks(EVENTS) {
        by_store.push(middle(store_alone(store.clone(), after, events.to_vec()).await?));
        after = events.last().map(Event::id);
        raw.push(middle(raw::append_alone(&mut file, &line, EVENTS)?));
        by_journal.push(middle(journal_alone(journal.clone(), EVENTS).await?));
    }
    journal.close().await?;
    under_journal.close().await?;
    store.close().await?;
    remove(&dir)?;
    let name = if is_ahead { "Append, alone, preallocated" } else { "Append, alone" };
    let figure = Figure::new(name, "µs", vec![by_store, raw, by_journal]).wants_ratio(
        1,
        "of the raw latency",
        Bound::AtMost(1.15),
    );
    print(&figure);
    Ok(figure)
}

fn raw_file(path: &Path, preallocate_bytes: u64) -> Result<std::fs::File> {
    Ok(match usize::try_from(preallocate_bytes)? {
        0 => OpenOptions::new().create(true).append(true).open(path)?,
        bytes => raw::preallocated(path, bytes)?,
    })
}

fn middle(took: Vec<Duration>) -> f64 {
    median(&took.into_iter().map(micros).collect::<Vec<_>>())
}

async fn store_alone(
    store: FileStore,
    mut after: Option<EventId>,
    events: Vec<Event>,
) -> Result<Vec<Duration>> {
    let task = tokio::spawn(async move {
        let mut took = Vec::with_capacity(events.len());
        for event in &events {
            let start = Instant::now();
            store.append(Batch::new(after, std::slice::from_ref(event))?).await?;
            took.push(start.elapsed());
            after = Some(event.id());
        }
        Ok::<_, hydrant::Error>(took)
    });
    Ok(task.await??)
}

async fn journal_alone(journal: Journal<workload::Change>, events: usize) -> Result<Vec<Duration>> {
    let task = tokio::spawn(async move {
        let mut took = Vec::with_capacity(events);
        for n in 0..events {
            let change = workload::change(n as u64);
            let start = Instant::now();
            journal.append(&change).await?;
            took.push(start.elapsed());
        }
        Ok::<_, hydrant::Error>(took)
    });
    Ok(task.await??)
}
