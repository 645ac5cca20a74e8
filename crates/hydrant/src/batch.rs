//! A batch: events in order, and the id of the event they follow.

use std::ops::{Range, RangeInclusive};

use futures_util::StreamExt;
use tokio::time::Instant;

use crate::{Checkpoint, Error, Event, EventId, EventSource, Result};

/// Events to append, and the predecessor that they must follow directly.
///
/// A batch is not empty, its ids strictly grow from `after` on, and only its first event may be a snapshot. This is
/// checked once, by [`new`](Batch::new), and no store checks it again. Naming the predecessor makes every append a
/// compare-and-append.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    after: Option<EventId>,
    events: &'a [Event],
    deadline: Option<Instant>,
}

impl<'a> Batch<'a> {
    /// Creates a batch of `events` that follow the event `after`, or begin the log.
    ///
    /// # Errors
    /// `Invalid` if there are no events, if their ids do not strictly grow from `after` on, or if a snapshot event is
    /// not the first of them: [`segments`](Batch::segments) cuts events there.
    pub fn new(after: Option<EventId>, events: &'a [Event]) -> Result<Self> {
        if events.is_empty() {
            return Err(Error::invalid("a batch holds at least one event"));
        }
        let mut last = after;
        for event in events {
            if let Some(last) = last
                && event.id() <= last
            {
                return Err(Error::invalid(format!("ids must strictly grow, but {last} comes before it"))
                    .at(event.id()));
            }
            last = Some(event.id());
        }
        if let Some(snapshot) = events[1..].iter().find(|event| event.is_snapshot()) {
            let message = "a snapshot event must be the first of its batch; cut the batch before it";
            return Err(Error::invalid(message).at(snapshot.id()));
        }
        Ok(Self { after, events, deadline: None })
    }

    /// Returns the events in this range of indices as a batch of its own, with the same deadline.
    ///
    /// `None` if the range is empty or ends beyond the batch.
    #[must_use]
    pub fn part(&self, range: Range<usize>) -> Option<Self> {
        let events = self.events.get(range.clone()).filter(|events| !events.is_empty())?;
        let after = range.start.checked_sub(1).map_or(self.after, |before| Some(self.events[before].id()));
        Some(Self { after, events, deadline: self.deadline })
    }

    /// Cuts events where batches end: before each snapshot event.
    ///
    /// ```
    /// use hydrant::{Batch, Event, EventId};
    ///
    /// # fn main() -> hydrant::Result<()> {
    /// let events = [
    ///     Event::new(EventId::new(0), "a")?,
    ///     Event::builder(EventId::new(1)).payload_json("{}").snapshot().build()?,
    ///     Event::new(EventId::new(2), "b")?,
    /// ];
    /// let mut after = None;
    /// for part in Batch::segments(&events) {
    ///     let batch = Batch::new(after, part)?;
    ///     after = Some(batch.last().id());
    /// }
    /// assert_eq!(Batch::segments(&events).map(<[Event]>::len).collect::<Vec<_>>(), [1, 2]);
    /// # Ok(()) }
    /// ```
    pub fn segments(events: &[Event]) -> impl Iterator<Item = &[Event]> {
        events.chunk_by(|_, next| !next.is_snapshot())
    }

    /// Sets when `append` has to return.
    ///
    /// A component that forwards batches and receives one with a deadline calls the `append` below exactly once,
    /// with the same deadline. One that receives a batch without a deadline sets it, and resolves an unknown
    /// outcome. So each composition has one resolver and at most one attempt in flight.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Option<Instant>) -> Self {
        self.deadline = deadline;
        self
    }

    /// When `append` has to return. `None`: the callee sets its own time-out.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// The event that the batch follows directly; `None` at the beginning of a log.
    pub fn after(&self) -> Option<EventId> {
        self.after
    }

    /// The events, at least one.
    pub fn events(&self) -> &'a [Event] {
        self.events
    }

    /// The first event.
    pub fn first(&self) -> &'a Event {
        &self.events[0]
    }

    /// The last event.
    pub fn last(&self) -> &'a Event {
        &self.events[self.events.len() - 1]
    }

    /// Returns the part that a sink with this checkpoint still has to write, or the right error: the first line
    /// of every store's `append`.
    ///
    /// Empty if everything is held already. What lies at or below the checkpoint is compared by the digest of
    /// the last event held. A sink that can read compares the rest by [`check_held`](Batch::check_held) or
    /// [`check_held_with`](Batch::check_held_with).
    ///
    /// # Errors
    /// `Gap` if the sink does not hold the predecessor yet, `Fenced` if another event is held in place of one
    /// of these, `Unsupported` for a checkpoint that is `Unknown`.
    pub fn fresh_after(&self, checkpoint: &Checkpoint) -> Result<&'a [Event]> {
        let (head, digest) = match *checkpoint {
            Checkpoint::At { id, digest } => (id, digest),
            // An empty sink may start at a snapshot: that is its floor.
            Checkpoint::Empty if self.after.is_none() || self.first().is_snapshot() => return Ok(self.events),
            Checkpoint::Empty => return Err(self.gap("holds nothing")),
            Checkpoint::Unknown => {
                let message = "the sink has no memory; wrap it in `Checkpointed`";
                return Err(Error::unsupported(message));
            }
        };
        if self.after == Some(head) {
            return Ok(self.events);
        }
        if self.after.is_some_and(|after| after > head) {
            return Err(self.gap(&format!("ends at event {head}")));
        }
        let (held, fresh) = self.events.split_at(self.events.partition_point(|event| event.id() <= head));
        match held.last() {
            Some(last) if last.id() == head && last.digest() == digest => Ok(fresh),
            Some(last) if last.id() == head => Err(differs(head)),
            Some(_) if fresh.is_empty() => Ok(fresh),
            _ => Err(Error::fenced(format!(
                "the sink ends at event {head}, which this batch skips: end the other writer, or give this log a sink \
                 of its own"
            ))
            .at(self.first().id())),
        }
    }

    /// Returns the part that a sink with this checkpoint claims to hold already.
    pub fn held_by(&self, checkpoint: &Checkpoint) -> &'a [Event] {
        let held = |event: &Event| checkpoint.id().is_some_and(|head| event.id() <= head);
        &self.events[..self.events.partition_point(held)]
    }

    /// Compares the part that a store's checkpoint covers with the events that the store really holds.
    ///
    /// The second line of a store's `append`, after [`fresh_after`](Batch::fresh_after).
    ///
    /// # Errors
    /// `Fenced`, naming the first event that differs; `Pruned` if it was pruned; any error of the read.
    ///
    /// # Cancel safety
    /// Reads only.
    pub async fn check_held<S: EventSource + ?Sized>(
        &self,
        checkpoint: &Checkpoint,
        store: &S,
    ) -> Result<()> {
        let held = self.held_by(checkpoint);
        if held.is_empty() {
            return Ok(());
        }
        let mut stored = store.read(self.after().into());
        for event in held {
            if stored.next().await.transpose()?.as_ref() != Some(event) {
                return Err(differs(event.id()));
            }
        }
        Ok(())
    }

    /// Compares the part that a sink's checkpoint covers with the events that the sink really holds, for a
    /// sink that is no [`EventSource`].
    ///
    /// `read` receives the ids to read, bounds included, and returns all events that the sink holds there, in
    /// order. It is not called if the checkpoint covers no event of the batch.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> hydrant::Result<()> {
    /// use std::collections::BTreeMap;
    /// use hydrant::{Batch, Checkpoint, Event, EventId, Result};
    ///
    /// /// What a sink without `read` may keep: its rows by id.
    /// async fn append(rows: &mut BTreeMap<EventId, Event>, batch: Batch<'_>) -> Result<()> {
    ///     let checkpoint = rows.values().last().map_or(Checkpoint::Empty, Checkpoint::at);
    ///     let fresh = batch.fresh_after(&checkpoint)?;
    ///     let held = async |ids| Ok(rows.range(ids).map(|(_, event)| event.clone()).collect());
    ///     batch.check_held_with(&checkpoint, held).await?;
    ///     rows.extend(fresh.iter().map(|event| (event.id(), event.clone())));
    ///     Ok(())
    /// }
    ///
    /// let mut rows = BTreeMap::new();
    /// let event = |id, text| Event::new(EventId::new(id), text);
    /// let log = [event(1, "a")?, event(2, "b")?, event(3, "c")?];
    /// append(&mut rows, Batch::new(None, &log)?).await?;
    /// append(&mut rows, Batch::new(None, &log)?).await?; // held: changes nothing
    ///
    /// let other = [event(1, "a")?, event(2, "other")?];
    /// let error = append(&mut rows, Batch::new(None, &other)?).await.unwrap_err();
    /// assert_eq!(error.event(), Some(EventId::new(2)));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// `Fenced`, naming the first event that differs; any error of `read`.
    ///
    /// # Cancel safety
    /// As `read`.
    pub async fn check_held_with<R>(&self, checkpoint: &Checkpoint, read: R) -> Result<()>
    where
        R: AsyncFnOnce(RangeInclusive<EventId>) -> Result<Vec<Event>>,
    {
        let held = self.held_by(checkpoint);
        let Some(last) = held.last() else { return Ok(()) };
        // From right after the predecessor: an event that this batch skips counts too.
        let first = self.after.map_or(Some(EventId::ZERO), EventId::next).unwrap_or(last.id());
        let stored = read(first..=last.id()).await?;
        let differ = (0..held.len()).find(|&at| stored.get(at) != Some(&held[at]));
        differ.map_or(Ok(()), |at| Err(differs(held[at].id())))
    }

    /// Checks that no event is larger than `bytes_max` bytes, by [`Event::size`].
    ///
    /// # Errors
    /// `Invalid`, naming the first event that is too large, its size and the limit.
    pub fn check_size(&self, bytes_max: usize) -> Result<()> {
        match self.events.iter().find(|event| event.size() > bytes_max) {
            Some(event) => {
                let size = event.size();
                let message = format!(
                    "{size} bytes are more than `event_bytes_max` = {bytes_max}; raise it, or keep large values elsewhere"
                );
                Err(Error::invalid(message).at(event.id()))
            }
            None => Ok(()),
        }
    }

    fn gap(&self, holds: &str) -> Error {
        let after = self.after.map_or_else(|| "the beginning".to_owned(), |after| format!("event {after}"));
        Error::gap(format!("the sink {holds}, the batch follows {after}; catch up first"))
            .at(self.first().id())
    }
}

/// The error for a batch whose event `id` is not the one that is held there.
pub(crate) fn differs(id: EventId) -> Error {
    Error::fenced(
        "another event is held where this one should be: end the other writer, or give this log a sink of its own",
    )
    .at(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    fn events(ids: &[u64]) -> Vec<Event> {
        ids.iter().map(|&id| Event::new(EventId::new(id), &id).unwrap()).collect()
    }

    #[test]
    fn a_batch_is_ordered_and_not_empty() {
        let id = |id| Some(EventId::new(id));
        assert!(Batch::new(None, &[]).is_err());
        assert!(Batch::new(None, &events(&[0, 5, 9])).is_ok());
        assert_eq!(Batch::new(None, &events(&[1, 1])).unwrap_err().event(), id(1));
        assert_eq!(Batch::new(id(1), &events(&[1])).unwrap_err().event(), id(1));
        assert!(Batch::new(None, &events(&[2, 1])).is_err());
    }

    #[test]
    fn fresh_after_returns_what_is_still_to_write() {
        let log = events(&[0, 2, 4, 6, 8]);
        let at = |index: usize| Checkpoint::at(&log[index]);
        let batch = Batch::new(Some(EventId::new(2)), &log[2..]).unwrap(); // 4 6 8 behind 2

        assert_eq!(batch.fresh_after(&at(1)).unwrap().len(), 3); // right behind
        assert_eq!(batch.fresh_after(&at(2)).unwrap().len(), 2); // overlaps
        assert_eq!(batch.fresh_after(&at(4)).unwrap().len(), 0); // all held
        assert_eq!(batch.fresh_after(&at(0)).unwrap_err().kind(), ErrorKind::Gap);
        assert_eq!(batch.fresh_after(&Checkpoint::Empty).unwrap_err().kind(), ErrorKind::Gap);
        let other = |id| Checkpoint::at(&Event::new(EventId::new(id), &"other").unwrap());
        assert_eq!(batch.fresh_after(&other(6)).unwrap_err().kind(), ErrorKind::Fenced); // diverges
        assert_eq!(batch.fresh_after(&other(3)).unwrap_err().kind(), ErrorKind::Fenced); // skipped
        assert_eq!(batch.fresh_after(&other(5)).unwrap_err().kind(), ErrorKind::Fenced); // skipped, inside
        assert_eq!(batch.fresh_after(&other(99)).unwrap().len(), 0); // below: the store compares by reading
        assert_eq!(batch.held_by(&at(3)).len(), 2);
        assert_eq!(batch.fresh_after(&Checkpoint::Unknown).unwrap_err().kind(), ErrorKind::Unsupported);
    }

    #[test]
    fn a_part_names_its_predecessor_and_keeps_the_deadline() {
        let log = events(&[4, 6, 8]);
        let deadline = Some(Instant::now());
        let batch = Batch::new(Some(EventId::new(2)), &log).unwrap().with_deadline(deadline);
        let part = |range: Range<usize>| {
            batch.part(range).map(|part| (part.after().unwrap().get(), part.events().len(), part.deadline()))
        };
        assert_eq!(part(0..3), Some((2, 3, deadline)));
        assert_eq!(part(0..1), Some((2, 1, deadline)));
        assert_eq!(part(1..3), Some((4, 2, deadline)));
        for none in [3..3, 2..4, 4..5, 1..1] {
            assert_eq!(part(none), None);
        }
    }

    #[tokio::test]
    async fn held_events_are_compared_by_a_range_reader() {
        let log = events(&[2, 4, 6, 8]);
        let batch = Batch::new(Some(EventId::new(1)), &log).unwrap();
        let at = |index: usize| Checkpoint::at(&log[index]);
        let check = async |checkpoint: &Checkpoint, stored: &[Event]| {
            let read = async |ids: RangeInclusive<EventId>| {
                assert_eq!((ids.start().get(), Some(*ids.end())), (2, checkpoint.id()));
                Ok(stored.to_vec())
            };
            batch.check_held_with(checkpoint, read).await.map_err(|error| error.event().unwrap().get())
        };
        assert_eq!(check(&at(2), &log[..3]).await, Ok(()));
        assert_eq!(check(&at(2), &log[..2]).await, Err(6));
        assert_eq!(check(&at(2), &[]).await, Err(2));
        let skipped = [events(&[2, 3]), log[1..3].to_vec()].concat();
        assert_eq!(check(&at(2), &skipped).await, Err(4), "the sink holds an event that the batch skips");
        let never = async |_| unreachable!("nothing of the batch is held");
        batch.check_held_with(&Checkpoint::Empty, never).await.unwrap();
        let fails = async |_| Err(Error::unavailable("not now"));
        assert_eq!(batch.check_held_with(&at(0), fails).await.unwrap_err().kind(), ErrorKind::Unavailable);
    }

    #[test]
    fn an_empty_sink_starts_at_a_snapshot() {
        let snapshot = Event::builder(EventId::new(7)).payload_json("{}").snapshot().build().unwrap();
        let batch = Batch::new(Some(EventId::new(6)), std::slice::from_ref(&snapshot)).unwrap();
        assert_eq!(batch.fresh_after(&Checkpoint::Empty).unwrap().len(), 1);
    }
}
