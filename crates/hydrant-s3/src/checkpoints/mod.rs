//! Checkpoints in a bucket: one small object for each sink, replaced by compare-and-swap.

mod content;
mod options;
mod requests;

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use async_trait::async_trait;
use aws_sdk_s3::Client;
use futures_util::{StreamExt, TryStreamExt, stream};
use hydrant::{CheckpointEntry, CheckpointStore, Error, Result, Retry};
use tokio::sync::{Mutex, MutexGuard};

use self::content::Content;
pub use self::options::S3CheckpointsOptions;
use self::requests::{Put, Requests, Version};
use crate::backoff::Backoff;
use crate::bucket::Bucket;

/// Calls for the same name wait for each other; the number of gates bounds the memory for that.
const GATES: usize = 16;

/// How many times a swap is sent: as many as the SDK sends a read.
const SWAPS_MAX: u32 = 3;

/// How many times a swap reads the object again after another writer wrote an equal entry.
const LOOKS_MAX: u32 = 4;

/// Entries of a list that are fetched at the same time.
const FETCHES_MAX: usize = 8;

/// Checkpoints kept as objects under a prefix of their own, one for each sink.
///
/// `Ok` from [`swap`](CheckpointStore::swap) means that S3 has stored the entry, as durably as it stores
/// anything. Any number of handles and processes may share the prefix: entries move by conditional writes
/// only (`If-None-Match`, then `If-Match` on the version that was read), so that the second of two runners of
/// one sink gets `Fenced`. If the server ignores these conditions, opening fails with `Unsupported`.
///
/// Each swap leaves a mark of its own in the object, by which a swap with a lost reply is recognised. A request
/// that was dropped cannot take effect later: before the next call for that name on this handle returns, the
/// object is written once more if necessary, so that the condition of the dropped request no longer holds.
///
/// A removed entry leaves a small object that marks it as removed, because not every server can delete under a
/// condition. A swap costs one request if this handle made the last one; a load costs one; a list one for each
/// 1,000 objects and one for each entry. A name may hold any characters, if its key fits in 1,024 bytes.
///
/// ```no_run
/// # async fn keep() -> hydrant::Result<()> {
/// use hydrant::{Checkpoint, CheckpointStore, CheckpointEntry};
/// use hydrant_s3::{ClientOptions, S3Checkpoints, S3CheckpointsOptions, connect};
///
/// let client = connect(&ClientOptions::default()).await?;
/// let checkpoints =
///     S3Checkpoints::open(client, "bucket", "checkpoints", S3CheckpointsOptions::default()).await?;
/// let entry = CheckpointEntry::new("mail", "smtp", Checkpoint::Empty);
/// checkpoints.swap("mail", None, Some(&entry)).await?;
/// assert_eq!(checkpoints.load("mail").await?, Some(entry));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct S3Checkpoints {
    requests: Arc<Requests>,
    gates: Arc<[Mutex<Names>; GATES]>,
}

/// The objects of some names, as this handle knows them.
type Names = HashMap<String, Known>;

/// The object of one name, as this handle knows it.
#[derive(Debug)]
enum Known {
    /// It wrote or read this version last. Another handle may have replaced it since.
    Last(Version),
    /// It sent a swap with this mark to replace that version, and got no reply.
    Open { mark: String, replaces: Version },
}

impl S3Checkpoints {
    /// Opens the checkpoints under `prefix`, which holds nothing else.
    ///
    /// # Errors
    /// `Unsupported` where the server ignores conditional writes; `Invalid` for options that cannot work; `Denied`,
    /// `Invalid` or `Unavailable` as the server answers.
    ///
    /// # Cancel safety
    /// A dropped future leaves at most the object `.probe`, which stays anyway.
    pub async fn open(
        client: Client,
        bucket: &str,
        prefix: &str,
        options: S3CheckpointsOptions,
    ) -> Result<Self> {
        let checkpoints = Self::unopened(Bucket::new(client, bucket, prefix, options.into_store())?);
        checkpoints.requests.must_be_conditional().await?;
        Ok(checkpoints)
    }

    /// Nothing is asked before the first swap, which is refused where the server ignores conditional writes.
    pub(crate) fn unopened(bucket: Bucket) -> Self {
        let requests = Arc::new(Requests::new(bucket));
        Self { requests, gates: Arc::new(std::array::from_fn(|_| Mutex::default())) }
    }

    /// Waits for the call that is under way for this name.
    async fn gate(&self, name: &str) -> MutexGuard<'_, Names> {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        let index = usize::try_from(hasher.finish() % GATES as u64).expect("a remainder below 16 fits");
        self.gates[index].lock().await
    }

    /// The version that is there now. What a call that was given up still does cannot change it any more.
    async fn settled(&self, names: &mut Names, name: &str) -> Result<Version> {
        let version = self.requests.get(name).await?;
        match names.get(name) {
            // That swap may still be on its way. It asks for this version: so there must be another one.
            Some(Known::Open { replaces, .. }) if version == *replaces => {
                let content = Content { entry: version.entry().cloned(), swap: self.requests.mark() };
                match self.requests.put(name, content, &version).await? {
                    Put::Done(version) => Ok(version),
                    // Another write came between; the version that the swap asks for is gone.
                    Put::Changed => self.requests.get(name).await,
                }
            }
            _ => Ok(version),
        }
    }

    async fn look(&self, names: &mut Names, name: &str) -> Result<Version> {
        let version = self.settled(names, name).await?;
        names.insert(name.to_owned(), Known::Last(version.clone()));
        Ok(version)
    }

    async fn try_swap(
        &self,
        names: &mut Names,
        name: &str,
        expected: Option<&CheckpointEntry>,
        new: Option<&CheckpointEntry>,
    ) -> Result<()> {
        self.requests.must_be_conditional().await?;
        let open = match names.get(name) {
            Some(Known::Open { mark, .. }) => Some(mark.clone()),
            _ => None,
        };
        let mut version = match names.get(name) {
            Some(Known::Last(version)) if version.entry() == expected => version.clone(),
            _ => self.look(names, name).await?,
        };
        // The same swap again, whose first answer was lost.
        if open.is_some() && version.mark() == open.as_deref() && version.entry() == new {
            return Ok(());
        }
        for _ in 0..LOOKS_MAX {
            if version.entry() != expected {
                break;
            }
            if version == Version::Absent && new.is_none() {
                return Ok(());
            }
            let content = Content { entry: new.cloned(), swap: self.requests.mark() };
            let mark = content.swap.clone();
            // Stays so if this future is dropped, or the answer is lost.
            let open = Known::Open { mark: mark.clone(), replaces: version.clone() };
            names.insert(name.to_owned(), open);
            match self.requests.put(name, content, &version).await {
                Ok(Put::Done(version)) => {
                    names.insert(name.to_owned(), Known::Last(version));
                    return Ok(());
                }
                Ok(Put::Changed) => {
                    // By an answer that says no, this swap is over; but the HTTP client may have sent it twice.
                    version = self.requests.get(name).await.map_err(Error::maybe_applied)?;
                    names.insert(name.to_owned(), Known::Last(version.clone()));
                    if version.mark() == Some(&mark) {
                        return Ok(());
                    }
                }
                Err(error) => {
                    if error.retry() != Retry::AfterCheckpoint {
                        names.insert(name.to_owned(), Known::Last(version));
                    }
                    return Err(error);
                }
            }
        }
        Err(Error::fenced("another runner moved this checkpoint; end one of the two")
            .at_target(self.requests.target(name)))
    }
}

/// # Cancel safety
/// A dropped `swap` is made or not made as a whole; the next call for that name on this handle finds out, and
/// sees to it that it stays so.
#[async_trait]
impl CheckpointStore for S3Checkpoints {
    async fn load(&self, name: &str) -> Result<Option<CheckpointEntry>> {
        self.requests.check(name)?;
        let mut names = self.gate(name).await;
        let version = self.look(&mut names, name).await?;
        Ok(version.entry().cloned())
    }

    async fn list(&self) -> Result<Vec<CheckpointEntry>> {
        for gate in self.gates.iter() {
            let mut names = gate.lock().await;
            let is_open =
                |(name, known): (&String, &Known)| matches!(known, Known::Open { .. }).then(|| name.clone());
            let open: Vec<String> = names.iter().filter_map(is_open).collect();
            for name in open {
                self.look(&mut names, &name).await?;
            }
        }
        let keys = self.requests.list().await?;
        let fetch = |encoded: String| async move { self.requests.get_encoded(&encoded).await };
        let versions = stream::iter(keys).map(fetch).buffer_unordered(FETCHES_MAX);
        let mut entries: Vec<CheckpointEntry> =
            versions.try_filter_map(|version| async move { Ok(version.into_entry()) }).try_collect().await?;
        entries.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(entries)
    }

    async fn swap(
        &self,
        name: &str,
        expected: Option<&CheckpointEntry>,
        new: Option<&CheckpointEntry>,
    ) -> Result<()> {
        self.requests.check(name)?;
        for entry in [expected, new].into_iter().flatten() {
            if entry.name != name {
                return Err(Error::invalid(format!("the entry is named {:?}, not {name:?}", entry.name)));
            }
        }
        let mut names = self.gate(name).await;
        let mut rng = fastrand::Rng::new();
        let mut backoff = Backoff::new(&mut rng);
        let mut is_open = false;
        for attempt in 1.. {
            let Err(error) = self.try_swap(&mut names, name, expected, new).await else { break };
            is_open |= error.retry() == Retry::AfterCheckpoint;
            if error.retry() == Retry::Never || attempt == SWAPS_MAX {
                return Err(if is_open { error.maybe_applied() } else { error });
            }
            tokio::time::sleep(backoff.pause()).await;
        }
        Ok(())
    }
}
