//! The store: what callers hold.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use aws_sdk_s3::Client;
use hydrant::store::caught;
use hydrant::{
    Batch, Capabilities, Checkpoint, CheckpointStore, CommitPoint, Durability, Error, ErrorKind, EventSink,
    EventSource, EventStream, Primary, ReadFrom, Result, Retry,
};
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::{Instant, timeout_at};

use crate::append::{Writer, deadline_passed};
use crate::bucket::Bucket;
use crate::head::View;
use crate::options::S3StoreOptions;
use crate::{S3Checkpoints, S3Source, probe};

/// A log in a bucket: one object a batch, fenced by conditional writes.
///
/// Acknowledged means: S3 answered that it stored the object, which on AWS means in several data centres.
///
/// A batch is one PUT: whole or not at all. Any number of handles, here and elsewhere, may write the same log:
/// each append names its predecessor, and of two behind the same one the other is `Fenced`. Reading takes no
/// lock and affects no writer.
///
/// Handles are cheap to clone and share one view of the log. There is nothing to release when the last is
/// dropped; [`close`](S3Store::close) waits for a write that is under way.
///
/// ```no_run
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> hydrant::Result<()> {
/// use hydrant::{Batch, Event, EventId, EventSink, EventSourceExt, ReadFrom};
/// use hydrant_s3::{ClientOptions, S3Store, S3StoreOptions};
///
/// let client = hydrant_s3::connect(&ClientOptions::default()).await?;
/// let log = S3Store::open(client, "bucket", "logs/alice", S3StoreOptions::default()).await?;
/// let events = [Event::new(EventId::ZERO, "hello")?];
/// log.append(Batch::new(None, &events)?).await?;
/// assert_eq!(log.collect(ReadFrom::Origin).await?, events);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct S3Store {
    pub(crate) source: S3Source,
    writer: Arc<Mutex<Writer>>,
    roster: Arc<S3Checkpoints>,
}

impl fmt::Debug for S3Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Store").field("log", &self.url()).finish_non_exhaustive()
    }
}

/// Where the roster of a fan-out is, beside the log.
const ROSTER: &str = "secondaries";

impl S3Store {
    /// What `append` and the rest of the laws can count on, from a server that holds to conditional writes.
    /// What this one holds to: [`capabilities`](S3Store::capabilities).
    pub const CAPABILITIES: Capabilities = Capabilities::ALL;

    /// Opens the log under a prefix of a bucket, or begins one there if [`create`](S3StoreOptions::create) is set.
    ///
    /// `client` comes from [`connect`](crate::connect), or is your own. It needs `s3:ListBucket`, `s3:GetObject`
    /// and `s3:PutObject`. Three requests for a log of less than 1,000 objects (the very first time four), and at
    /// most two more each time that its ids double.
    ///
    /// # Errors
    /// `Unsupported` for a server that ignores conditional writes, unless the options say
    /// `unsafe_single_writer`; `Denied`; `Invalid` for options that cannot work; `Corrupt` where the end
    /// of the log makes no sense; `Unavailable`, also for a bucket that does not exist, and without `create` for a log
    /// without any object; `Bug` where the SDK panics.
    ///
    /// # Cancel safety
    /// A dropped future leaves at most the small object `probe`.
    pub async fn open(client: Client, bucket: &str, prefix: &str, options: S3StoreOptions) -> Result<Self> {
        caught("opening a log in S3", || Box::pin(Self::open_log(client, bucket, prefix, options))).await
    }

    async fn open_log(client: Client, bucket: &str, prefix: &str, options: S3StoreOptions) -> Result<Self> {
        let mut bucket = Bucket::new(client, bucket, prefix, options)?;
        bucket.is_conditional = probe::is_conditional(&bucket).await?;
        if !bucket.is_conditional && !bucket.options.unsafe_single_writer {
            return Err(probe::refusal(&bucket));
        }
        let roster = Arc::new(S3Checkpoints::unopened(bucket.for_checkpoints(ROSTER)));
        let create = bucket.options.create;
        let source = S3Source::over(bucket).await?;
        if !create && source.seen().head.is_none() {
            let message =
                "there is no log under this prefix; check bucket and prefix, or set `create` to begin one";
            return Err(Error::unavailable(message).at_target(source.url()));
        }
        let writer = Arc::new(Mutex::new(Writer::new(source.seen(), source.bucket().options.seed)));
        Ok(Self { source, writer, roster })
    }

    /// What this store can do with its server: without conditional writes no `Fencing`.
    pub fn capabilities(&self) -> Capabilities {
        if self.source.bucket().is_conditional {
            Self::CAPABILITIES
        } else {
            Self::CAPABILITIES.without(Capabilities::FENCING)
        }
    }

    /// Where the log is: `s3://bucket/prefix/log/`.
    pub fn url(&self) -> String {
        self.source.url()
    }

    /// Waits for a write that is under way, and refuses all calls from then on. Followers end with `Closed`.
    ///
    /// # Errors
    /// None so far: everything acknowledged is stored already.
    ///
    /// # Cancel safety
    /// A dropped future leaves the store closed to new calls.
    pub async fn close(&self) -> Result<()> {
        self.source.close();
        drop(self.writer.lock().await);
        Ok(())
    }

    /// Runs one call of the writer in a task of its own: a caller that leaves cuts nothing off, and the next
    /// call waits until it has ended.
    async fn with_writer<T, C, F>(&self, writer: OwnedMutexGuard<Writer>, call: C) -> Result<T>
    where
        T: Send + 'static,
        C: FnOnce(Self, OwnedMutexGuard<Writer>) -> F,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        self.source.check_open()?;
        tokio::spawn(call(self.clone(), writer)).await.unwrap_or_else(|cause| {
            let message = "the task that wrote is gone: it panicked, or its runtime ended";
            let error = Error::new(ErrorKind::Bug, Retry::AfterCheckpoint, message);
            Err(error.at_target(self.url()).because(cause))
        })
    }
}

#[async_trait]
impl EventSink for S3Store {
    /// Appends a batch as one object; acknowledged when S3 has stored it.
    ///
    /// One request, if there is no other writer. Throttling, conflicts and lost answers are tried again, with the
    /// same bytes, until the batch's deadline or `append_timeout`, whichever is earlier.
    ///
    /// # Errors
    /// `Gap`, `Fenced` and `Pruned` as the contract says; `Invalid` for an event above `event_bytes_max`, or one that
    /// the server finds too large;
    /// `Denied`; `Unavailable`, as `AfterCheckpoint` where the object may be stored all the same, and as `Safe`
    /// where the deadline passed while an earlier call was under way.
    ///
    /// # Cancel safety
    /// A dropped future leaves all of the batch or none; the next call on this log waits until that is
    /// settled.
    async fn append(&self, batch: Batch<'_>) -> Result<()> {
        batch.check_size(self.event_bytes_max()).map_err(|error| error.at_target(self.url()))?;
        let bucket = self.source.bucket();
        let latest = Instant::now() + bucket.options.append_timeout;
        let deadline = batch.deadline().map_or(latest, |deadline| deadline.min(latest));
        let turn = timeout_at(deadline, self.writer.clone().lock_owned());
        let writer = turn.await.map_err(|_| deadline_passed(bucket, Retry::Safe))?;
        let (after, events) = (batch.after(), batch.events().to_vec());
        let append = self.with_writer(writer, move |store, mut writer| async move {
            let source = &store.source;
            let batch = Batch::new(after, &events)?;
            let appended = writer.append(source.bucket(), source, batch, deadline).await;
            source.publish(writer.view());
            appended
        });
        timeout_at(deadline, append)
            .await
            .unwrap_or_else(|_| Err(deadline_passed(bucket, Retry::AfterCheckpoint)))
    }

    /// The end of the log, by asking for it: one request where nothing changed.
    async fn checkpoint(&self) -> Result<Checkpoint> {
        let writer = self.writer.clone().lock_owned().await;
        self.with_writer(writer, |store, mut writer| async move {
            let checkpoint = writer.look(store.source.bucket()).await.map(View::checkpoint);
            store.source.publish(writer.view());
            checkpoint
        })
        .await
    }
}

impl EventSource for S3Store {
    fn read(&self, from: ReadFrom) -> EventStream {
        self.source.read(from)
    }

    fn follow(&self, from: ReadFrom) -> EventStream {
        self.source.follow(from)
    }
}

#[async_trait]
impl CommitPoint for S3Store {
    async fn head(&self) -> Result<Checkpoint> {
        self.checkpoint().await
    }

    fn event_bytes_max(&self) -> usize {
        self.source.bucket().options.event_bytes_max
    }
}

impl Primary for S3Store {
    fn roster(&self) -> Arc<dyn CheckpointStore> {
        self.roster.clone()
    }

    fn durability(&self) -> Durability {
        Durability::Durable
    }
}
