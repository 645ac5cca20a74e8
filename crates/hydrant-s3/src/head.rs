//! Finding the end of a log, in O(log n) requests.

use std::time::SystemTime;

use hydrant::{Checkpoint, Error, EventId, Result};
use tokio::time::Instant;

use crate::bucket::{Bucket, Listed, Page};
use crate::keys::Place;
use crate::options::S3StoreOptions;
use crate::wire::{Object, Segment};

/// The last segment of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) place: Place,
    pub(crate) segment: Segment,
}

/// The end of a log as it was seen at some moment.
#[derive(Clone, Debug)]
pub(crate) struct View {
    /// `None` for a log without events.
    pub(crate) head: Option<Head>,
    seen: Moment,
}

/// A moment by two clocks: either may stand still while the machine sleeps, or be set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    runtime: Instant,
    wall: SystemTime,
}

impl Moment {
    pub(crate) fn now(options: &S3StoreOptions) -> Self {
        Self { runtime: Instant::now(), wall: options.clock.now() }
    }

    /// Returns whether more than this has passed by either clock. A wall clock that was set back says nothing.
    fn is_past(self, age: std::time::Duration, options: &S3StoreOptions) -> bool {
        let wall = options.clock.now().duration_since(self.wall).unwrap_or_default();
        self.runtime.elapsed().max(wall) > age
    }
}

impl View {
    pub(crate) fn new(head: Option<Head>, seen: Moment) -> Self {
        Self { head, seen }
    }

    pub(crate) fn checkpoint(&self) -> Checkpoint {
        self.head.as_ref().map_or(Checkpoint::Empty, |head| head.segment.checkpoint())
    }

    /// The last event, behind which the next segment goes.
    pub(crate) fn end(&self) -> Place {
        self.head.as_ref().map(|head| head.segment.last)
    }

    /// Returns whether a PUT may follow from it.
    pub(crate) fn is_fresh(&self, options: &S3StoreOptions) -> bool {
        !self.seen.is_past(options.view_age_max, options)
    }

    /// Returns whether a PUT that followed from it, and is answered now, is to be believed: see FORMAT, pruning.
    pub(crate) fn is_believed(&self, options: &S3StoreOptions) -> bool {
        !self.seen.is_past(options.believed_for(), options)
    }
}

/// How many times a search for the head starts over because the log has grown.
const LOOKS_MAX: u32 = 5;

/// The end of the log, from a head that was known before on.
///
/// The greatest key is part of the chain (FORMAT, the chain), so its last id is the head: no other object is
/// asked. One request where nothing changed or the log is short.
pub(crate) async fn look(bucket: &Bucket, known: Option<&Head>) -> Result<View> {
    let mut from = known.and_then(|head| head.place);
    for _ in 0..LOOKS_MAX {
        let seen = Moment::now(&bucket.options);
        let Some(greatest) = greatest(bucket, from).await? else {
            if from.is_none() {
                return Ok(View::new(None, seen));
            }
            // The store never frees the greatest key, so it was removed by hand. The rest decides.
            from = None;
            continue;
        };
        if let Some(known) = known
            && known.place == greatest.place
        {
            return Ok(View::new(Some(known.clone()), seen));
        }
        // Gone or a tombstone: the log went on and was compacted since it was listed.
        let Some(found) = bucket.head(greatest.place).await? else { continue };
        match found.object {
            Object::Segment(segment) => {
                check_place(bucket, greatest.place, &segment)?;
                let head = Head { place: greatest.place, segment };
                return Ok(View::new(Some(head), seen));
            }
            Object::Moved { .. } | Object::Pruned => {}
            Object::Floor(floor) => return Err(hole(bucket, floor.after, None)),
        }
    }
    let message = "the end of the log is a tombstone, or goes as soon as it is seen; run `hydrant verify`";
    Err(Error::corrupt(message).at_target(bucket.url(&bucket.keys.log())))
}

/// Checks that a segment is where it says that it is.
pub(crate) fn check_place(bucket: &Bucket, place: Place, segment: &Segment) -> Result<()> {
    // Only the first segment of a log may name an event that was never in it.
    if place.is_none() || place == segment.after {
        return Ok(());
    }
    let message = "the object says that it belongs elsewhere: it was copied or renamed; run `hydrant verify`";
    Err(Error::corrupt(message).at_target(bucket.url_at(place)).at(segment.first))
}

/// The chain is broken behind `place`'s event: where the next segment should be, there is none.
pub(crate) fn hole(bucket: &Bucket, after: Place, greater: Place) -> Error {
    let behind = after.map_or_else(|| "at its beginning".to_owned(), |id| format!("behind event {id}"));
    let beyond = greater.map_or_else(String::new, |id| format!(", yet there is one behind event {id}"));
    let error = Error::corrupt(format!(
        "the chain is broken: the object with the events {behind} is missing{beyond}; put it back from another \
         version of the bucket, or from another sink"
    ))
    .at_target(bucket.url_at(after));
    match after.and_then(EventId::next) {
        Some(next) => error.at(next),
        None => error,
    }
}

/// The object with the greatest key from a place on.
///
/// Listing begins behind guesses: each twice as far as the one before until nothing is behind one, then
/// halfway between. Each page narrows it by as many objects as it holds.
async fn greatest(bucket: &Bucket, from: Place) -> Result<Option<Listed>> {
    let keys = bucket.options.list_keys;
    let page = bucket.list(from, keys).await?;
    let Some(mut low) = page.listed.last().cloned() else { return Ok(None) };
    if !page.has_more {
        return Ok(Some(low));
    }
    let mut step = rank(low.place).saturating_sub(rank(page.listed[0].place)).max(1);
    // Nothing is at or behind it, once it is known; `low` is there.
    let mut high = None;
    loop {
        let at = rank(low.place);
        let guess = match high {
            Some(high) if high - at <= 1 => return Ok(Some(low)),
            None if at == RANK_MAX => return Ok(Some(low)),
            None => RANK_MAX.min(at.saturating_add(step)),
            Some(high) => at + (high - at) / 2,
        };
        step = step.saturating_mul(2);
        let Page { mut listed, has_more } = bucket.list(ranked(guess), keys).await?;
        match listed.pop() {
            None => high = Some(guess),
            Some(last) if !has_more => return Ok(Some(last)),
            Some(last) => low = last,
        }
    }
}

/// Where a place is in the order of keys: the origin first, then all ids.
fn rank(place: Place) -> u128 {
    place.map_or(0, |id| u128::from(id.get()) + 1)
}

const RANK_MAX: u128 = 1 << 64;

/// The place of a rank.
fn ranked(rank: u128) -> Place {
    let id = rank.checked_sub(1)?;
    Some(EventId::new(u64::try_from(id).expect("no more than `RANK_MAX`")))
}
