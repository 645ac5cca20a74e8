//! Many tasks that append through one journal.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use hydrant::{
    Batch, Checkpoint, CommitPoint, EventSink, EventSource, EventStream, Journal, JournalOptions, ReadFrom,
};
use hydrant_file::{FileStore, FileStoreOptions};
use tokio::time::Instant;

use crate::Result;
use crate::workload::{Change, change};

/// The result of a crowd of tasks.
#[derive(Clone, Debug)]
pub struct Crowd {
    /// How many events were acknowledged.
    pub events: u64,
    /// How long it took.
    pub took: Duration,
    /// How many events each commit had.
    pub commits: Vec<usize>,
}

impl Crowd {
    /// Returns the events a second.
    pub fn rate(&self) -> f64 {
        crate::rate(self.events, self.took)
    }

    /// Returns the average number of events in a commit.
    #[expect(clippy::cast_precision_loss, reason = "an average")]
    pub fn commit_events(&self) -> f64 {
        self.events as f64 / self.commits.len().max(1) as f64
    }
}

/// Lets `tasks` tasks append `together` events at a time for `run`, and awaits each call. The appends are durable. They
/// use a journal over a new log in `dir`, with [`Fsync::Always`](hydrant_file::Fsync::Always).
///
/// # Errors
/// As the log.
pub async fn crowd(dir: &Path, tasks: usize, together: usize, run: Duration) -> Result<Crowd> {
    crowd_with(dir, FileStoreOptions::default(), tasks, together, run).await
}

/// Like [`crowd`], with options of the log.
///
/// # Errors
/// As the log.
pub async fn crowd_with(
    dir: &Path,
    options: FileStoreOptions,
    tasks: usize,
    together: usize,
    run: Duration,
) -> Result<Crowd> {
    let store = FileStore::open(dir, options).await?;
    let crowd = crowd_over(store.clone(), tasks, together, run).await;
    store.close().await?;
    crowd
}

/// Like [`crowd`], over any store.
///
/// # Errors
/// As the log.
pub async fn crowd_over<S: CommitPoint + 'static>(
    store: S,
    tasks: usize,
    together: usize,
    run: Duration,
) -> Result<Crowd> {
    let commits = Arc::new(Mutex::new(Vec::with_capacity(1 << 20)));
    let counted = Counted { store, commits: commits.clone() };
    let journal: Journal<Change> = Journal::open(counted, JournalOptions::default()).await?;
    let changes: Arc<Vec<Change>> = Arc::new((0..1024.max(together as u64)).map(change).collect());
    let stop = Arc::new(AtomicBool::new(false));

    let start = Instant::now();
    let tasks: Vec<_> = (0..tasks)
        .map(|task| {
            let (journal, changes, stop) = (journal.clone(), changes.clone(), stop.clone());
            tokio::spawn(async move {
                let mut events = 0;
                let first = task * together % (changes.len() - together + 1);
                let mine = &changes[first..first + together];
                while !stop.load(Ordering::Relaxed) {
                    if let [event] = mine {
                        journal.append(event).await?;
                    } else {
                        journal.append_all(mine).await?;
                    }
                    events += together as u64;
                }
                Ok::<_, hydrant::Error>(events)
            })
        })
        .collect();
    tokio::time::sleep(run).await;
    stop.store(true, Ordering::Relaxed);
    let mut events = 0;
    for task in tasks {
        events += task.await??;
    }
    let took = start.elapsed();
    journal.close().await?;
    let commits = std::mem::take(&mut *commits.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(Crowd { events, took, commits })
}

/// A store that records how many events each append has.
struct Counted<S> {
    store: S,
    commits: Arc<Mutex<Vec<usize>>>,
}

#[async_trait]
impl<S: CommitPoint> EventSink for Counted<S> {
    async fn append(&self, batch: Batch<'_>) -> hydrant::Result<()> {
        self.commits.lock().unwrap_or_else(PoisonError::into_inner).push(batch.events().len());
        self.store.append(batch).await
    }

    async fn checkpoint(&self) -> hydrant::Result<Checkpoint> {
        self.store.checkpoint().await
    }
}

impl<S: CommitPoint> EventSource for Counted<S> {
    fn read(&self, from: ReadFrom) -> EventStream {
        self.store.read(from)
    }

    fn follow(&self, from: ReadFrom) -> EventStream {
        self.store.follow(from)
    }
}

#[async_trait]
impl<S: CommitPoint> CommitPoint for Counted<S> {
    async fn head(&self) -> hydrant::Result<Checkpoint> {
        self.store.head().await
    }

    fn event_bytes_max(&self) -> usize {
        self.store.event_bytes_max()
    }
}
