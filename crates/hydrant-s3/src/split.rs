//! A snapshot event begins an object of its own: a batch with one inside is committed whole, then divided.

use hydrant::{Event, EventId, Result};
use tokio::time::Instant;

use crate::append::encode_events;
use crate::bucket::{Bucket, Condition, Put};
use crate::head::Head;
use crate::keys::Place;
use crate::wire::{Object, Snapshot};

/// A segment with snapshot events inside, as it was committed.
#[derive(Debug)]
pub(crate) struct Whole {
    pub(crate) place: Place,
    pub(crate) etag: String,
    /// The event before the first, as the whole says.
    pub(crate) after: Option<EventId>,
    pub(crate) events: Vec<Event>,
    /// The newest snapshot event before the whole.
    pub(crate) newest: Option<Snapshot>,
}

impl Whole {
    /// `None` where there is nothing to divide, or nothing may be replaced.
    pub(crate) fn of(
        bucket: &Bucket,
        head: &Head,
        events: &[Event],
        newest: Option<Snapshot>,
    ) -> Option<Self> {
        let has_inside = bucket.is_conditional && events.iter().skip(1).any(Event::is_snapshot);
        has_inside.then(|| Self {
            place: head.place,
            etag: head.etag.clone(),
            after: head.segment.after,
            events: events.to_vec(),
            newest,
        })
    }

    /// Divides it, and tells the last of its parts. Dropped or failed between two requests, it leaves
    /// parts that lie inside of the whole and say the same.
    pub(crate) async fn divide(self, bucket: &Bucket) -> Result<Head> {
        let deadline = Instant::now() + bucket.options.append_timeout;
        let opens: Vec<_> = (1..self.events.len()).filter(|&at| self.events[at].is_snapshot()).collect();
        let mut last = None;
        let mut end = self.events.len();
        for &at in opens.iter().rev() {
            let before = self.events[at - 1].id();
            let part = encode_events(bucket, Some(before), &self.events[at..end], None).await?;
            let object = Object::Segment(part.segment.clone());
            let etag = match bucket.put(Some(before), &object, part.body, Condition::Free, deadline).await? {
                Put::Done(etag) => etag,
                // It was divided so before, and cut short.
                Put::Refused => String::new(),
            };
            last.get_or_insert(Head { place: Some(before), etag, segment: part.segment });
            end = at;
        }
        let first = encode_events(bucket, self.after, &self.events[..end], self.newest).await?;
        let object = Object::Segment(first.segment);
        bucket.put(self.place, &object, first.body, Condition::Unchanged(&self.etag), deadline).await?;
        Ok(last.expect("there is a snapshot inside"))
    }
}
