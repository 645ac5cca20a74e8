//! Finding one's way along the chain: where it begins, and which object holds an event.

use hydrant::{Error, EventId, ReadFrom, Result};

use crate::bucket::Bucket;
use crate::head::{Head, check_place, hole};
use crate::keys::Place;
use crate::wire::{Object, Segment};

/// Where a read begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Beginning {
    /// Where the first object is expected.
    pub(crate) place: Place,
    /// The last event that is not wanted.
    pub(crate) skip: Option<EventId>,
}

/// Where the log begins: at its floor, or with its first segment. `None` for one without objects.
pub(crate) async fn root(bucket: &Bucket) -> Result<Option<Root>> {
    let Some(found) = bucket.head(None).await? else { return Ok(None) };
    match found.object {
        Object::Floor(floor) => {
            Ok(Some(Root { place: floor.after, after: floor.after, oldest: floor.oldest }))
        }
        Object::Segment(segment) => {
            Ok(Some(Root { place: None, after: segment.after, oldest: segment.first }))
        }
        Object::Moved { .. } | Object::Pruned => {
            Err(Error::corrupt("a tombstone stands where the log begins; run `hydrant verify`")
                .at_target(bucket.url_at(None)))
        }
    }
}

/// The oldest that is kept of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Root {
    /// The place of the first object that is kept.
    pub(crate) place: Place,
    /// The event before the oldest; `None` where no event ever was before it.
    pub(crate) after: Option<EventId>,
    pub(crate) oldest: EventId,
}

/// Where to begin a read of a log that ends with `head`.
///
/// # Errors
/// `Pruned` for what begins below the floor; `Corrupt` where the log has no beginning.
pub(crate) async fn begin(bucket: &Bucket, from: ReadFrom, head: &Head) -> Result<Beginning> {
    let root = root(bucket).await?.ok_or_else(|| hole(bucket, None, head.place))?;
    let after = match from.exclusive() {
        ReadFrom::After(id) => Some(id),
        ReadFrom::Snapshot => match head.segment.snapshot {
            Some(newest) if newest.after >= root.after => newest.after,
            _ => root.after,
        },
        ReadFrom::Origin | ReadFrom::At(_) => None,
    };
    if after < root.after {
        return Err(Error::pruned(root.oldest).at_target(bucket.url(&bucket.keys.log())));
    }
    if after == root.after {
        return Ok(Beginning { place: root.place, skip: None });
    }
    // Mostly an object begins right there; where none does, the read finds out which one holds it.
    Ok(Beginning { place: after, skip: after })
}

/// The place of the object that holds the first event behind `id`, or is the last to begin before it.
///
/// One request where an object begins there, as behind every checkpoint; else O(log n).
pub(crate) async fn seek(bucket: &Bucket, id: EventId) -> Result<Place> {
    match bucket.head(Some(id)).await? {
        Some(found) => follow_moves(bucket, Some(id), found.object).await,
        None => holder(bucket, id).await,
    }
}

/// The place of the object that holds event `id`, or is the last to begin before it.
async fn holder(bucket: &Bucket, id: EventId) -> Result<Place> {
    let place = greatest_below(bucket, id).await?;
    match bucket.head(place).await? {
        Some(found) => follow_moves(bucket, place, found.object).await,
        None => Err(hole(bucket, place, Some(id))),
    }
}

/// Returns the place of the events that were once at `place`. A tombstone may name an object that was itself merged
/// since.
async fn follow_moves(bucket: &Bucket, mut place: Place, mut object: Object) -> Result<Place> {
    while let Object::Moved { into } = object {
        // Merged into what is before it: so this ends.
        if into >= place {
            let message = "a tombstone that points forward; run `hydrant verify`";
            return Err(Error::corrupt(message).at_target(bucket.url_at(place)));
        }
        place = into;
        object = bucket.head(place).await?.ok_or_else(|| hole(bucket, place, None))?.object;
    }
    Ok(place)
}

/// The greatest place below `id` that has an object.
///
/// Listing begins before guesses: each twice as far below as the one before, until something is found; then
/// the rest is halved.
async fn greatest_below(bucket: &Bucket, id: EventId) -> Result<Place> {
    let keys = bucket.options.list_keys;
    let end = id.get();
    let mut step = u64::from(keys);
    // Nothing is in `high..end`.
    let mut high = end;
    let mut low = loop {
        let guess = end.saturating_sub(step);
        let below = below(bucket, guess, high, keys).await?;
        match below {
            Below::Nothing if guess == 0 => return Ok(None),
            Below::Nothing => high = guess,
            Below::Greatest(place) => return Ok(place),
            Below::More(last) => break last,
        }
        step = step.saturating_mul(2);
    };
    while high - low > 1 {
        let guess = low + (high - low) / 2;
        match below(bucket, guess, high, keys).await? {
            Below::Nothing => high = guess,
            Below::Greatest(place) => return Ok(place),
            Below::More(last) => low = last,
        }
    }
    Ok(Some(EventId::new(low)))
}

/// What a page shows of the places from `from` on and below `end`.
enum Below {
    Nothing,
    /// The greatest of them.
    Greatest(Place),
    /// One of them, and the page was full: there may be more behind it.
    More(u64),
}

async fn below(bucket: &Bucket, from: u64, end: u64, keys: u16) -> Result<Below> {
    let page = bucket.list(Some(EventId::new(from)), keys).await?;
    let is_below = |place: &Place| place.is_none_or(|id| id.get() < end);
    let count = page.listed.iter().take_while(|listed| is_below(&listed.place)).count();
    Ok(match count.checked_sub(1).map(|last| page.listed[last].place) {
        None => Below::Nothing,
        Some(Some(last)) if count == page.listed.len() && page.has_more => Below::More(last.get()),
        Some(place) => Below::Greatest(place),
    })
}

/// Returns the place of the next object of the chain: behind the last event of `segment`.
///
/// # Errors
/// `Corrupt` if it says that it belongs elsewhere.
pub(crate) fn next_place(bucket: &Bucket, place: Place, segment: &Segment) -> Result<Place> {
    check_place(bucket, place, segment)?;
    Ok(Some(segment.last))
}
