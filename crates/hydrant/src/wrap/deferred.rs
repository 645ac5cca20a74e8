//! A sink that is opened when it can be.

use std::fmt;

use async_trait::async_trait;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::OnceCell;

use crate::{Batch, Checkpoint, EventSink, Result};

type Open<S> = Box<dyn Fn() -> BoxFuture<'static, Result<S>> + Send + Sync>;

/// Opens a sink at the first call that finds it there, so that one that is down when a program starts is a
/// secondary like any other: it lags, its error stands in the status, and it catches up when it is back.
///
/// Until then each call tries to open it once and answers with the reason why not, which the fan-out retries
/// or parks as it says. Acknowledged means what the sink inside says.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use hydrant::{Deferred, FanOut, FanOutOptions, Journal, JournalOptions, MemoryStore, SecondaryOptions};
///
/// let log = FanOut::open(MemoryStore::default(), FanOutOptions::default()).await?;
/// // In earnest: || PostgresStore::open("postgres://app@db/shop", "ledger", PostgresStoreOptions::default())
/// let archive = Deferred::new(|| async { Ok(MemoryStore::default()) });
/// log.attach("archive", archive, SecondaryOptions::default()).await?; // does not wait for it
///
/// let journal = Journal::open(log.clone(), JournalOptions::default()).await?;
/// let id = journal.append(&"it happened").await?;
/// log.delivered(id, Duration::from_secs(5)).await?;
/// # Ok(()) }
/// ```
pub struct Deferred<S> {
    open: Open<S>,
    sink: OnceCell<S>,
}

impl<S: EventSink> Deferred<S> {
    /// A sink that `open` opens. It is called again and again until it succeeds, one call at a time, and
    /// dropped when the call that made it is.
    pub fn new<F, O>(open: F) -> Self
    where
        F: Fn() -> O + Send + Sync + 'static,
        O: Future<Output = Result<S>> + Send + 'static,
    {
        Self { open: Box::new(move || open().boxed()), sink: OnceCell::new() }
    }

    /// The sink inside, once it is open.
    pub fn inner(&self) -> Option<&S> {
        self.sink.get()
    }

    async fn opened(&self) -> Result<&S> {
        self.sink.get_or_try_init(|| (self.open)()).await
    }
}

#[async_trait]
impl<S: EventSink> EventSink for Deferred<S> {
    async fn append(&self, batch: Batch<'_>) -> Result<()> {
        self.opened().await?.append(batch).await
    }

    async fn checkpoint(&self) -> Result<Checkpoint> {
        self.opened().await?.checkpoint().await
    }
}

impl<S: fmt::Debug> fmt::Debug for Deferred<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deferred").field("sink", &self.sink.get()).finish_non_exhaustive()
    }
}
