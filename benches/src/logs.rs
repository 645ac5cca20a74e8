//! Logs that are written once, before something is measured on them.

use std::path::PathBuf;

use hydrant::{Journal, JournalOptions};
use hydrant_benches::{Result, fresh, rate, scratch, workload};
use hydrant_file::{FileStore, FileStoreOptions, Fsync};
use tokio::time::Instant;

/// Returns the directory of a log of `events` events. Writes the log if no earlier run has left it.
pub(crate) async fn of(name: &str, events: u64) -> Result<PathBuf> {
    let dir = scratch().join("logs").join(name);
    let complete = dir.join("complete");
    if complete.exists() {
        return Ok(dir.join("log"));
    }
    fresh(&format!("logs/{name}"))?;
    let start = Instant::now();
    let options = FileStoreOptions::default().with_fsync(Fsync::Never);
    let store = FileStore::open(dir.join("log"), options).await?;
    let journal = Journal::open(store.clone(), JournalOptions::default()).await?;
    workload::fill(&journal, events).await?;
    journal.close().await?;
    store.close().await?;
    std::fs::write(complete, "")?;
    println!("wrote {events} events, {:.0} a second, synced at the end", rate(events, start.elapsed()));
    Ok(dir.join("log"))
}
