//! The source: what readers hold.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aws_sdk_s3::Client;
use futures_util::{FutureExt, StreamExt, stream};
use hydrant::store::caught;
use hydrant::store::follow_by_reading;
use hydrant::{Checkpoint, Error, EventSource, EventStream, ReadFrom, Result};
use tokio::sync::watch;

use crate::bucket::Bucket;
use crate::head::{Head, View, look};
use crate::options::S3StoreOptions;
use crate::reading;

/// Reads a log in a bucket, with or without a writer beside it.
///
/// It takes no lock, writes nothing and affects no writer: `s3:ListBucket` and `s3:GetObject` are enough.
/// [`follow`](EventSource::follow) looks every [`poll_interval`](S3StoreOptions::poll_interval).
///
/// Handles are cheap to clone, share one view of the log, and have nothing to release.
///
/// ```no_run
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> hydrant::Result<()> {
/// use hydrant::{EventSourceExt, ReadFrom};
/// use hydrant_s3::{ClientOptions, S3Source, S3StoreOptions};
///
/// let client = hydrant_s3::connect(&ClientOptions::default()).await?;
/// let log = S3Source::open(client, "bucket", "logs/alice", S3StoreOptions::default()).await?;
/// println!("{} events", log.collect(ReadFrom::Origin).await?.len());
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct S3Source {
    shared: Arc<Shared>,
}

struct Shared {
    bucket: Arc<Bucket>,
    /// The end as this handle saw it last: where a look begins, and what wakes its followers.
    seen: watch::Sender<View>,
    is_closed: AtomicBool,
}

impl fmt::Debug for S3Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Source").field("log", &self.url()).finish_non_exhaustive()
    }
}

impl S3Source {
    /// Looks where the log under a prefix of a bucket ends; without any object there it is empty.
    ///
    /// Two requests for a log of less than 1,000 objects, and at most two more each time that its ids double.
    ///
    /// # Errors
    /// `Denied`; `Invalid` for options that cannot work; `Corrupt` where the end of the log makes no sense;
    /// `Unavailable`, also for a bucket that does not exist.
    pub async fn open(client: Client, bucket: &str, prefix: &str, options: S3StoreOptions) -> Result<Self> {
        let open = || Box::pin(async { Self::over(Bucket::new(client, bucket, prefix, options)?).await });
        caught("opening a log in S3", open).await
    }

    /// The same for a bucket whose options were checked.
    pub(crate) async fn over(bucket: Bucket) -> Result<Self> {
        let seen = watch::Sender::new(look(&bucket, None).await?);
        let shared = Shared { bucket: Arc::new(bucket), seen, is_closed: AtomicBool::new(false) };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Where the log is: `s3://bucket/prefix/log/`.
    pub fn url(&self) -> String {
        self.bucket().url(&self.bucket().keys.log())
    }

    /// The last event that a read would yield now.
    ///
    /// # Errors
    /// `Denied`, `Corrupt`, `Unavailable`.
    pub async fn checkpoint(&self) -> Result<Checkpoint> {
        self.check_open()?;
        let head = self.see().await?;
        Ok(head.map_or(Checkpoint::Empty, |head| head.segment.checkpoint()))
    }

    pub(crate) fn bucket(&self) -> &Arc<Bucket> {
        &self.shared.bucket
    }

    /// The end as it was seen last.
    pub(crate) fn seen(&self) -> View {
        self.shared.seen.borrow().clone()
    }

    /// Refuses all calls from now on; followers end with `Closed`.
    pub(crate) fn close(&self) {
        self.shared.is_closed.store(true, Ordering::Release);
        self.shared.seen.send_modify(|_| ());
    }

    pub(crate) fn check_open(&self) -> Result<()> {
        if self.shared.is_closed.load(Ordering::Acquire) {
            return Err(Error::closed("the log was closed; open it again"));
        }
        Ok(())
    }

    /// Keeps what was seen last, and wakes followers where the log went on.
    pub(crate) fn publish(&self, view: Option<&View>) {
        let Some(view) = view else { return };
        self.shared.seen.send_if_modified(|seen| {
            let goes_on = view.end() > seen.end();
            // Of two looks at the same time either may be published first.
            if view.end() >= seen.end() {
                *seen = view.clone();
            }
            goes_on
        });
    }

    /// The end of the log as it is now.
    async fn see(&self) -> Result<Option<Head>> {
        let view = look(self.bucket(), self.seen().head.as_ref()).await?;
        self.publish(Some(&view));
        Ok(view.head)
    }

    /// Returns whether nothing follows the end that was seen last, by one request of the cheapest kind. If the view is
    /// older than `view_age_max`, only a listing distinguishes a hole from the end.
    async fn is_unchanged(&self) -> bool {
        let (seen, bucket) = (self.seen(), self.bucket());
        self.check_open().is_ok()
            && seen.is_fresh(&bucket.options)
            && bucket.head(seen.end()).await.is_ok_and(|next| next.is_none())
    }
}

impl EventSource for S3Source {
    fn read(&self, from: ReadFrom) -> EventStream {
        let source = self.clone();
        let begun = async move {
            source.check_open()?;
            let head = source.see().await?;
            Ok(head.map(|head| reading::read(source.bucket().clone(), from, head)))
        };
        stream::once(begun.map(|begun| match begun {
            Ok(Some(stream)) => stream,
            Ok(None) => stream::empty().boxed(),
            Err(error) => stream::iter([Err(error)]).boxed(),
        }))
        .flatten()
        .boxed()
    }

    fn follow(&self, from: ReadFrom) -> EventStream {
        let interval = self.bucket().options.poll_interval;
        let mut changed = self.shared.seen.subscribe();
        let source = self.clone();
        follow_by_reading(Arc::new(self.clone()), from, move || {
            changed.mark_unchanged();
            let (mut changed, source) = (changed.clone(), source.clone());
            async move {
                // The sender lives as long as the log that is read.
                while tokio::time::timeout(interval, changed.changed()).await.is_err() {
                    if !source.is_unchanged().await {
                        return;
                    }
                }
            }
        })
    }
}
