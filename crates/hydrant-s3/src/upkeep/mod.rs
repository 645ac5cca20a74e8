//! What a log needs from time to time, beside its writer and its readers.

mod check;
mod compact;
mod listing;
mod prune;
mod replace;
mod verify;
mod walk;

use async_trait::async_trait;
use hydrant::{EventId, Prune, Result};

pub use self::compact::{CompactOptions, CompactionReport};
pub use self::verify::{Finding, FindingStream, verify};
use crate::S3Store;

impl S3Store {
    /// Merges small segments that follow one another into larger ones; the log stays the same.
    ///
    /// May run at any time, beside writers, readers, prunes and other compactions, here and elsewhere. The last
    /// object of the log is left alone, and a snapshot event still begins an object of its own. Of what was
    /// merged a tombstone without bytes stays; see FORMAT. What was merged once is merged again only where it at
    /// least doubles, so a log that is compacted every hour is written again a few times in all.
    ///
    /// Costs a GET for each segment that is merged, a PUT for each tombstone and each object that is made, a
    /// HEAD for each object that is larger than `segment_bytes_max` as it is stored, and a listing for each 1,000.
    ///
    /// # Errors
    /// `Corrupt` at the first object that does not check; what was merged before stays merged. `Unsupported`
    /// where the server ignores `If-Match` or `If-None-Match`; `Denied`; `Unavailable`. Compacting again is safe.
    ///
    /// # Cancel safety
    /// A dropped future leaves a whole log. What was begun may still be done, or is done by the next compaction.
    pub async fn compact(&self, options: &CompactOptions) -> Result<CompactionReport> {
        self.source.check_open()?;
        let compactor = compact::Compactor::open(self.source.bucket(), options.clone()).await?;
        Box::pin(compactor.run()).await
    }
}

#[async_trait]
impl Prune for S3Store {
    /// Raises the floor to the newest snapshot event behind an event before `before`, and frees what is below.
    ///
    /// Objects that are older than `tombstones_kept` are removed at once; of younger ones a tombstone without
    /// bytes stays, which a later prune removes. A prune that was cut short is ended by the next.
    ///
    /// # Errors
    /// `Unsupported` where the server ignores `If-Match`; `Denied` (removing needs `s3:DeleteObject`);
    /// `Unavailable`. Pruning again is safe.
    ///
    /// # Cancel safety
    /// A dropped future leaves a whole log, with the old floor or the new one; pruning again is safe.
    async fn prune(&self, before: EventId) -> Result<()> {
        self.source.check_open()?;
        Box::pin(prune::prune(self.source.bucket(), before)).await
    }
}
