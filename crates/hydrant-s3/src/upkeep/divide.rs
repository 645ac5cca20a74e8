//! Ending a division that was cut short: each snapshot event begins an object of its own.

use hydrant::Result;

use super::check::lines_of;
use super::prune::{TRIES_MAX, contended};
use crate::bucket::Bucket;
use crate::chain::{holder, root};
use crate::keys::Place;
use crate::split::Whole;
use crate::wire::{Lines, Object, Snapshot};

/// Divides the segment at a place, if snapshot events still are inside of it; whether there were. Its writer may be
/// at it, too: what one of the two did, the other finds done.
pub(super) async fn divide(bucket: &Bucket, place: Place) -> Result<bool> {
    let Some(whole) = bucket.get(place).await? else { return Ok(false) };
    let Object::Segment(segment) = whole.object else { return Ok(false) };
    if !segment.has_snapshot_inside() {
        return Ok(false);
    }
    let newest = newest_before(bucket, place).await?;
    let lines = lines_of(bucket, place, &segment, whole.body).await?;
    let after = segment.after;
    let events = Lines::new(segment, lines).collect::<Result<Vec<_>>>()?;
    Whole { place, etag: whole.etag, after, events, newest }.divide(bucket).await?;
    Ok(true)
}

/// The newest snapshot event before a segment: the one that the segment before it names.
async fn newest_before(bucket: &Bucket, place: Place) -> Result<Option<Snapshot>> {
    let Some(id) = place else { return Ok(None) };
    for _ in 0..TRIES_MAX {
        if root(bucket).await?.is_none_or(|root| root.place >= place) {
            return Ok(None);
        }
        let before = holder(bucket, id).await?;
        if let Some(Object::Segment(segment)) = bucket.head(before).await?.map(|found| found.object) {
            return Ok(segment.snapshot);
        }
        // Merged or pruned since.
    }
    Err(contended(bucket))
}
