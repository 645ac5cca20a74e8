//! The journal.

mod accepting;
mod appending;
mod bounds;
mod cancelling;
mod closing;
mod deadlines;
mod failing;
mod interleavings;
mod over_a_fan_out;
mod panicking;
mod reading;
mod simulation;
mod snapshots;
mod spans;
mod submitting;

use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use hydrant::{Clock, CommitPoint, EventSourceExt, Journal, JournalOptions, ReadFrom, Result, Store};

/// Options of tests: a seed, and a clock that does not move.
fn options() -> JournalOptions {
    JournalOptions::default().with_seed(1).with_clock(Clock::from_fn(|| SystemTime::UNIX_EPOCH))
}

async fn open(store: impl CommitPoint + 'static) -> Journal<String> {
    Journal::open(store, options()).await.unwrap()
}

/// Appends each by a caller of its own, all at once.
async fn append_each(journal: &Journal<String>, texts: &[&str]) -> Vec<Result<u64>> {
    let append = |text: &&str| {
        let (journal, text) = (journal.clone(), (*text).to_owned());
        async move { journal.append(&text).await.map(hydrant::EventId::get) }
    };
    join_all(texts.iter().map(append)).await
}

/// Returns the events of the log, as `id:payload`.
async fn log(store: &impl Store) -> Vec<String> {
    let events = store.collect(ReadFrom::Origin).await.unwrap();
    events.iter().map(|event| format!("{}:{}", event.id(), event.decode::<String>().unwrap())).collect()
}

/// Lets the other tasks of this thread run until they wait.
async fn settle() {
    tokio::time::sleep(Duration::from_nanos(1)).await;
}
