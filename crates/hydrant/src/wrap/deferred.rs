//! A sink that is opened later, when opening succeeds.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::{Mutex, OnceCell};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::Instrument as _;

use super::guard::before;
use crate::{Batch, Checkpoint, Error, EventSink, Result};

/// How long one opening may take, unless [`Deferred::with_open_timeout`] sets it.
const OPEN_TIMEOUT: Duration = Duration::from_secs(600);

type Open<S> = Arc<dyn Fn() -> BoxFuture<'static, Result<S>> + Send + Sync>;

/// Opens a sink at the first call that succeeds, so that a sink that is down when a program starts is a
/// secondary like any other: it lags, the status shows its error, and it catches up later.
///
/// Until then, a call begins to open the sink, or waits for the opening that is under way, and returns its error. The
/// fan-out retries or parks, depending on the error.
///
/// The opening runs in a task of its own, one at a time. A call that is dropped, for example by the call
/// time-out of a secondary, does not end it: the next call waits for the same opening. It ends after the
/// [open time-out](Self::with_open_timeout), or when the `Deferred` is dropped. A panic in it is `Bug`.
///
/// Acknowledged means what it means for the sink inside.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use hydrant::{Deferred, FanOut, FanOutOptions, Journal, JournalOptions, MemoryStore, SecondaryOptions};
///
/// let log = FanOut::open(MemoryStore::default(), FanOutOptions::default()).await?;
/// // In production: || PostgresStore::open("postgres://app@db/shop", "ledger", PostgresStoreOptions::default())
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
    open_timeout: Duration,
    sink: OnceCell<S>,
    /// At most one task, which ends with this set.
    opening: Mutex<JoinSet<Result<S>>>,
}

impl<S: EventSink + 'static> Deferred<S> {
    /// Creates a sink that `open` opens. `open` is called until it succeeds, one call at a time.
    pub fn new<F, O>(open: F) -> Self
    where
        F: Fn() -> O + Send + Sync + 'static,
        O: Future<Output = Result<S>> + Send + 'static,
    {
        Self {
            open: Arc::new(move || open().boxed()),
            open_timeout: OPEN_TIMEOUT,
            sink: OnceCell::new(),
            opening: Mutex::default(),
        }
    }

    /// Sets how long one opening may take before it is ended and begun again. Default: 10 minutes.
    #[must_use]
    pub fn with_open_timeout(mut self, timeout: Duration) -> Self {
        self.open_timeout = timeout;
        self
    }

    /// The sink inside, once it is open.
    pub fn inner(&self) -> Option<&S> {
        self.sink.get()
    }

    async fn opened(&self) -> Result<&S> {
        self.sink.get_or_try_init(|| self.join()).await
    }

    /// Waits for the opening that is under way, or begins one.
    async fn join(&self) -> Result<S> {
        let mut opening = self.opening.lock().await;
        if opening.is_empty() {
            let (open, limit) = (Arc::clone(&self.open), self.open_timeout);
            let task = async move {
                timeout(limit, open()).await.unwrap_or_else(|_| {
                    Err(Error::unavailable(format!(
                        "opening the sink did not end within {limit:?}; check its server"
                    )))
                })
            };
            opening.spawn(task.in_current_span());
        }
        match opening.join_next().await {
            Some(Ok(opened)) => opened,
            Some(Err(join)) if join.is_panic() => {
                Err(Error::panicked("opening the sink", &*join.into_panic()))
            }
            Some(Err(_)) | None => Err(Error::closed("the runtime shuts down")),
        }
    }
}

#[async_trait]
impl<S: EventSink + 'static> EventSink for Deferred<S> {
    async fn append(&self, batch: Batch<'_>) -> Result<()> {
        let sink = before(batch.deadline(), self.opened(), Error::unavailable).await?;
        sink.append(batch).await
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
