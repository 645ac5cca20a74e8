//! Pruning: the floor is raised, and then what is below it goes.
//!
//! The floor is the object at the origin, which a prune replaces and never removes: so it only rises, and an
//! empty key there can win no race. No reader needs what is below, so it may go in any order. A key below
//! is free again only when all its objects are older than `tombstones_kept`: FORMAT says why.

use std::time::{Duration, SystemTime};

use aws_sdk_s3::types::{Delete, ObjectIdentifier};
use bytes::Bytes;
use hydrant::{Error, ErrorKind, EventId, Result, Retry};

use super::listing::Listing;
use super::replace::Replacer;
use crate::bucket::Bucket;
use crate::chain::{root, seek};
use crate::error::{Request, sdk_error};
use crate::head::look;
use crate::keys::Place;
use crate::wire::{Floor, Object, Snapshot};

/// How many keys one request has, at most as S3 takes; and how many tombstones are put before the listing continues.
const KEYS_AT_ONCE: usize = 1_000;

/// How many times a step starts over because another prune or compaction was first.
const TRIES_MAX: u32 = 5;

/// Drops all segments that end before `before`, but never the newest snapshot.
pub(super) async fn prune(bucket: &Bucket, before: EventId) -> Result<()> {
    let Some(kept) = root(bucket).await? else { return Ok(()) };
    let replacer = Replacer::open(bucket).await?;
    let mut floor = kept.place;
    // No kept object is before it, so no snapshot is looked for among freed objects.
    let is_below = before.prev() <= kept.after;
    if !is_below
        && let Some(newest) = snapshot_before(bucket, before).await?
        && newest.after > kept.after
    {
        floor = raise(bucket, &replacer, newest).await?;
    }
    clear(bucket, &replacer, floor).await
}

/// The newest snapshot event whose predecessor comes before `before`.
async fn snapshot_before(bucket: &Bucket, before: EventId) -> Result<Option<Snapshot>> {
    let Some(id) = before.prev() else { return Ok(None) };
    for _ in 0..TRIES_MAX {
        let Some(head) = look(bucket, None).await?.head else { return Ok(None) };
        // The object that holds the first event from `before` on, or the last of all. It begins before that.
        let place = if id >= head.segment.last { head.place } else { seek(bucket, id).await? };
        if let Some(Object::Segment(segment)) = bucket.head(place).await?.map(|found| found.object) {
            return Ok(segment.snapshot.filter(|snapshot| snapshot.after < Some(before)));
        }
        // A compaction merged that object meanwhile.
    }
    Ok(None)
}

/// Raises the floor to this snapshot event, unless it is there already; where it is now.
async fn raise(bucket: &Bucket, replacer: &Replacer<'_>, to: Snapshot) -> Result<Place> {
    let floor = Floor { after: to.after, oldest: to.id };
    for _ in 0..TRIES_MAX {
        let opens = match bucket.head(to.after).await?.map(|found| found.object) {
            Some(Object::Segment(segment)) => segment.first == to.id,
            _ => false,
        };
        // Read the origin after the segment: the prune that removed the segment raised the floor before.
        let Some(origin) = bucket.head(None).await? else { break };
        if let Object::Floor(now) = origin.object
            && now.after >= floor.after
        {
            return Ok(now.after);
        }
        if !opens {
            let message = "the snapshot event does not begin an object of its own; run `hydrant verify`";
            return Err(Error::corrupt(message).at_target(bucket.url_at(to.after)).at(to.id));
        }
        // Two floors must not look alike to `If-Match`: so it has a body.
        let object = Object::Floor(floor);
        if replacer.replace(None, &object, floor.body(), &origin.etag).await? {
            return Ok(floor.after);
        }
    }
    let message = "others keep changing the floor of this log; try again";
    Err(Error::unavailable(message).at_target(bucket.url(&bucket.keys.log())))
}

/// Frees what is below the floor: what is old enough at once, the rest leaves tombstones.
async fn clear(bucket: &Bucket, replacer: &Replacer<'_>, floor: Place) -> Result<()> {
    if floor.is_none() {
        return Ok(());
    }
    let kept = bucket.options.tombstones_kept;
    let mut listing = Listing::from(bucket, Some(EventId::ZERO));
    let (mut old, mut young) = (Vec::new(), Vec::new());
    while let Some(entry) = listing.next().await? {
        if entry.place >= floor {
            break;
        }
        if is_past(entry.modified, listing.now(), kept) {
            old.push(entry.place);
        } else if entry.size > 0 {
            young.push((entry.place, entry.etag));
        }
        if old.len() >= KEYS_AT_ONCE {
            remove(bucket, std::mem::take(&mut old)).await?;
        }
        if young.len() >= KEYS_AT_ONCE {
            replacer.bury(std::mem::take(&mut young), &Object::Pruned).await?;
        }
    }
    replacer.bury(young, &Object::Pruned).await?;
    remove(bucket, old).await
}

/// Returns whether a version was put longer ago than this; not, where the server does not say when.
pub(super) fn is_past(modified: Option<SystemTime>, now: SystemTime, kept: Duration) -> bool {
    modified.and_then(|modified| now.duration_since(modified).ok()).is_some_and(|age| age > kept)
}

async fn remove(bucket: &Bucket, places: Vec<Place>) -> Result<()> {
    if places.is_empty() {
        return Ok(());
    }
    let target = bucket.url(&bucket.keys.log());
    let incomplete = |cause| Error::bug("an incomplete request").because(cause);
    let object = |place: &Place| ObjectIdentifier::builder().key(bucket.keys.at(*place)).build();
    let objects = places.iter().map(object).collect::<Result<Vec<_>, _>>().map_err(incomplete)?;
    let delete = Delete::builder().set_objects(Some(objects)).quiet(true).build().map_err(incomplete)?;
    let request = bucket.client.delete_objects().bucket(&bucket.name).delete(delete).send();
    let answer = bucket.bounded(&target, request).await?;
    // Removed or not: to prune again is safe.
    let answer = answer.map_err(|cause| sdk_error(&target, Request::Read, cause))?;
    match answer.errors.unwrap_or_default().first() {
        None => Ok(()),
        Some(error) => {
            let code = error.code().unwrap_or("no code");
            let kind = if code == "AccessDenied" { ErrorKind::Denied } else { ErrorKind::Unavailable };
            let retry = if code == "AccessDenied" { Retry::Never } else { Retry::Safe };
            let message = format!("an object below the floor could not be removed ({code}); prune again");
            Err(Error::new(kind, retry, message).at_target(bucket.url(error.key().unwrap_or_default())))
        }
    }
}

impl Floor {
    /// Says the same to people, and makes each floor another version than the one before.
    pub(super) fn body(&self) -> Bytes {
        format!("The log was pruned: it begins with event {}.\n", self.oldest).into()
    }
}
