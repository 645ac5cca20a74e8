//! A walk along the chain that sees each object once, fetched ahead in bounded memory.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesOrdered;
use futures_util::{FutureExt, StreamExt};
use hydrant::{Error, ErrorKind, Result};

use super::listing::{Entry, Listing};
use crate::ahead::Ahead;
use crate::bucket::Bucket;
use crate::chain::{next_place, root, seek};
use crate::keys::Place;
use crate::wire::{Object, Segment};

/// How many times a walk starts over at one place because the log changed under it.
const AGAIN_MAX: u32 = 8;

/// What a walker wants to know of an object, by what the listing says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Want {
    Nothing,
    Metadata,
    Whole,
}

/// A segment that was met.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) entry: Entry,
    /// Of the version that was read, which may be newer than the one that was listed.
    pub(super) etag: String,
    pub(super) segment: Segment,
    /// As it is stored, where it was wanted.
    pub(super) body: Option<Bytes>,
}

/// What a walk meets.
#[derive(Debug)]
pub(super) enum Met {
    /// The next of the chain.
    Next(Step),
    /// Inside of the one before: what an interrupted compaction left.
    Inside(Step),
    /// Neither: a tombstone, or the floor.
    Empty(Entry, Object),
    /// It cannot be read; the walk continues behind it.
    Damaged(Entry, Error),
    /// The next object is missing, but there are objects behind it; the walk continues there.
    Hole { at: Place, next: Place },
}

struct Got {
    object: Object,
    etag: String,
    body: Option<Bytes>,
}

type Fetching = BoxFuture<'static, (Entry, Want, Result<Option<Got>>)>;

pub(super) struct Walk<'b, F> {
    bucket: &'b Bucket,
    /// The same, for requests that are under way beside the walk.
    shared: Arc<Bucket>,
    pub(super) listing: Listing<'b>,
    want: F,
    /// Whether the last object of all is met, too.
    with_last: bool,
    /// The place of the next object of the chain. `None` if the one before was damaged: then any object is next.
    reach: Option<Place>,
    fetching: FuturesOrdered<Fetching>,
    /// What is fetched ahead, in bytes as they are stored.
    bytes: u64,
    bytes_max: u64,
    /// What was missing when the walk began anew last, because the chain had changed.
    again_at: Option<Place>,
    /// How many times it started over without a step since.
    again: u32,
}

impl<'b, F: Fn(&Entry) -> Want> Walk<'b, F> {
    pub(super) fn new(bucket: &'b Bucket, from: Place, with_last: bool, bytes_max: u64, want: F) -> Self {
        Self {
            bucket,
            shared: Arc::new(bucket.clone()),
            listing: Listing::from(bucket, from),
            want,
            with_last,
            reach: Some(from),
            fetching: FuturesOrdered::new(),
            bytes: 0,
            bytes_max,
            again_at: None,
            again: 0,
        }
    }

    pub(super) async fn next(&mut self) -> Result<Option<Met>> {
        loop {
            self.fetch_ahead().await?;
            let Some((entry, want, got)) = self.fetching.next().await else { return Ok(None) };
            if want == Want::Whole {
                self.bytes -= entry.size;
            }
            let got = match got {
                Ok(got) => got,
                Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported) => {
                    if self.reach.is_some_and(|reach| entry.place >= reach) {
                        self.reach = None;
                    }
                    return Ok(Some(Met::Damaged(entry, error)));
                }
                Err(error) => return Err(error),
            };
            let Some(Got { object, etag, body }) = got else {
                // It was there when it was listed: only below the floor is anything removed.
                self.begin_again().await?;
                continue;
            };
            let Object::Segment(segment) = object else {
                if entry.size == 0 {
                    return Ok(Some(Met::Empty(entry, object)));
                }
                // It was compacted or pruned since it was listed.
                self.begin_again().await?;
                continue;
            };
            let step = Step { entry, etag, segment, body };
            match self.take(step) {
                Some(met) => return Ok(Some(met)),
                None => self.begin_again().await?,
            }
        }
    }

    /// `None` where the chain changed since it was listed.
    fn take(&mut self, step: Step) -> Option<Met> {
        let place = step.entry.place;
        let next = next_place(self.bucket, place, &step.segment);
        match (self.reach, next) {
            (Some(reach), Err(error)) if place < reach => return Some(Met::Damaged(step.entry, error)),
            (Some(reach), Ok(_)) if place < reach => return Some(Met::Inside(step)),
            (Some(reach), _) if place > reach => {
                if self.again_at != Some(reach) {
                    return None;
                }
                self.reach = Some(place);
                self.fetching.push_front(async move { put_back(step) }.boxed());
                return Some(Met::Hole { at: reach, next: place });
            }
            (_, Ok(next)) => self.reach = Some(next),
            (_, Err(error)) => {
                self.reach = None;
                return Some(Met::Damaged(step.entry, error));
            }
        }
        if self.reach > self.again_at {
            self.again = 0;
        }
        Some(Met::Next(step))
    }

    /// Lists anew from the object that holds what comes next, or from the floor, where that was raised.
    async fn begin_again(&mut self) -> Result<()> {
        let Some(reach) = self.reach else { return Ok(()) };
        self.fetching = FuturesOrdered::new();
        self.bytes = 0;
        self.again += 1;
        if self.again > AGAIN_MAX {
            let message = "the log changes faster than it can be walked; try again";
            return Err(Error::unavailable(message).at_target(self.bucket.url_at(reach)));
        }
        let root = root(self.bucket).await?.and_then(|root| root.place);
        let from = match reach {
            _ if reach < root => root,
            Some(id) => match seek(self.bucket, id).await {
                Ok(place) => place.max(root),
                // The walk will find the hole itself.
                Err(error) if error.kind() == ErrorKind::Corrupt => reach,
                Err(error) => return Err(error),
            },
            None => None,
        };
        self.again_at = Some(reach.max(root));
        self.reach = Some(from);
        self.listing = Listing::from(self.bucket, from);
        Ok(())
    }

    async fn fetch_ahead(&mut self) -> Result<()> {
        while self.fetching.len() < self.bucket.options.prefetch_objects.max(1)
            && (self.bytes < self.bytes_max || self.fetching.is_empty())
        {
            let Some(entry) = self.listing.next().await? else { return Ok(()) };
            if !self.with_last && !self.listing.has_next().await? {
                return Ok(());
            }
            let want = (self.want)(&entry);
            if want == Want::Nothing {
                continue;
            }
            if want == Want::Whole {
                self.bytes += entry.size;
            }
            self.fetching.push_back(fetch(self.shared.clone(), entry, want));
        }
        Ok(())
    }
}

fn put_back(step: Step) -> (Entry, Want, Result<Option<Got>>) {
    let Step { entry, etag, segment, body } = step;
    (entry, Want::Metadata, Ok(Some(Got { object: Object::Segment(segment), etag, body })))
}

fn fetch(bucket: Arc<Bucket>, entry: Entry, want: Want) -> Fetching {
    let place = entry.place;
    let got = Ahead::new(async move {
        if want == Want::Whole {
            let whole = bucket.get(place).await?;
            return Ok(whole.map(|it| Got { object: it.object, etag: it.etag, body: Some(it.body) }));
        }
        let found = bucket.head(place).await?;
        Ok(found.map(|it| Got { object: it.object, etag: it.etag, body: None }))
    });
    async move { (entry, want, got.await) }.boxed()
}
