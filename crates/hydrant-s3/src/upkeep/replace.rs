//! Replacing one version of an object by another, as often as it takes and no more than once.

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use hydrant::{Error, Result, Retry};
use tokio::time::{Instant, sleep};

use crate::backoff::Backoff;
use crate::bucket::{Bucket, Condition, Put, left};
use crate::keys::Place;
use crate::probe;
use crate::wire::{Metadata, Object};

/// Tombstones that are put at the same time.
const TOMBSTONES_AT_ONCE: usize = 16;

/// Makes changes to objects that are there already.
#[derive(Debug)]
pub(super) struct Replacer<'b> {
    bucket: &'b Bucket,
}

impl<'b> Replacer<'b> {
    /// For a server that holds to `If-Match`, which is tried. Where conditions are ignored, a single writer is not
    /// enough: a PUT of an append that was given up may land on what replaced its object.
    ///
    /// # Errors
    /// `Unsupported` for a server that ignores it.
    pub(super) async fn open(bucket: &'b Bucket) -> Result<Self> {
        if bucket.is_conditional && !ignores_if_match(bucket).await? {
            return Ok(Self { bucket });
        }
        let message = "the server ignores conditions of a PUT, without which objects cannot be replaced safely: take \
                       one that holds to `If-Match` and `If-None-Match`, or keep all objects";
        Err(Error::unsupported(message).at_target(bucket.url(&bucket.keys.log())))
    }

    /// Replaces the version `etag`. Returns `false` and does nothing if there is another version now.
    ///
    /// Throttling, conflicts and lost answers are tried again until `append_timeout` is over.
    ///
    /// # Errors
    /// `AfterCheckpoint` where it may have been done, or be done yet.
    ///
    /// # Cancel safety
    /// Dropped, it may be done or not, now or later; never to another version.
    pub(super) async fn replace(
        &self,
        place: Place,
        object: &Object,
        body: Bytes,
        etag: &str,
    ) -> Result<bool> {
        let deadline = Instant::now() + self.bucket.options.append_timeout;
        let mut rng = self.bucket.options.seed.map_or_else(fastrand::Rng::new, fastrand::Rng::with_seed);
        let mut is_open = false;
        let mut backoff = Backoff::new(&mut rng);
        loop {
            let on = Condition::Unchanged(etag);
            let error = match self.bucket.put(place, object, body.clone(), on, deadline).await {
                Ok(Put::Done(_)) => return Ok(true),
                // It may be this very change, by an attempt whose answer was lost.
                Ok(Put::Refused) if is_open => return self.is_there(place, object).await,
                Ok(Put::Refused) => return Ok(false),
                Err(error) => error,
            };
            is_open |= error.retry() == Retry::AfterCheckpoint;
            let pause = backoff.pause();
            // What wants a long pause is the caller's to repeat.
            let is_over = error.retry() == Retry::Never || error.pause_min().is_some();
            if is_over || left(deadline).is_none_or(|left| left <= pause) {
                return Err(if is_open { error.maybe_applied() } else { error });
            }
            tracing::debug!(%error, ?pause, "an object is replaced again");
            sleep(pause).await;
        }
    }

    /// Replaces each of these versions by a tombstone; the number of those that were still there.
    pub(super) async fn bury(&self, versions: Vec<(Place, String)>, tombstone: &Object) -> Result<u64> {
        let bury = |(place, etag): (Place, String)| async move {
            self.replace(place, tombstone, Bytes::new(), &etag).await
        };
        let buried = stream::iter(versions).map(bury).buffer_unordered(TOMBSTONES_AT_ONCE);
        buried.try_fold(0, |count, done| async move { Ok(count + u64::from(done)) }).await
    }

    async fn is_there(&self, place: Place, object: &Object) -> Result<bool> {
        let found = self.bucket.head(place).await.map_err(Error::maybe_applied)?;
        Ok(found.is_some_and(|found| found.object == *object))
    }
}

/// Tries to replace a version that the probe never had.
async fn ignores_if_match(bucket: &Bucket) -> Result<bool> {
    let deadline = Instant::now() + bucket.options.append_timeout;
    let key = bucket.keys.beside(probe::NAME);
    let never = Condition::Unchanged(probe::NEVER);
    let body = Bytes::from_static(b"Made with If-Match on a version that never was.\n");
    let put = bucket.put_key(&key, Metadata::new(), body, never, deadline).await;
    Ok(matches!(put.map_err(Error::nothing_applied)?, Put::Done(_)))
}
