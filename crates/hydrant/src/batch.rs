//! A batch: events in order, and the id of the event they stand behind.

use futures_util::StreamExt;
use tokio::time::Instant;

use crate::{Checkpoint, Error, ErrorKind, Event, EventId, EventSource, Result, Retry};

/// Events to append, and the predecessor that they must stand right behind.
///
/// A batch is not empty, its ids strictly grow from `after` on, and a snapshot event is its first: a batch is valid
/// once it is made, and no store checks it again. Naming the predecessor makes every append a compare-and-append.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    after: Option<EventId>,
    events: &'a [Event],
    deadline: Option<Instant>,
}

impl<'a> Batch<'a> {
    /// `events` right behind the event `after`, or at the beginning of the log.
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
                return Err(Error::invalid(format!("ids must strictly grow, but {last} stands before it"))
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

    /// The same batch, to be answered before `deadline`.
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

    /// The event that the batch stands right behind; `None` at the beginning of a log.
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

    /// The part that a sink with this checkpoint still has to write, or the right error: one line in every
    /// store's `append`.
    ///
    /// Empty when everything is held already. What lies at or below the checkpoint is compared by the
    /// digest of the last event held; a store that can read compares the rest of
    /// [`held_by`](Batch::held_by) with its own events.
    ///
    /// # Errors
    /// `Gap` when the sink does not hold the predecessor yet, `Fenced` when another event stands where one
    /// of these should, `Unsupported` for a checkpoint that is `Unknown`.
    pub fn fresh_after(&self, checkpoint: &Checkpoint) -> Result<&'a [Event]> {
        let (head, digest) = match *checkpoint {
            Checkpoint::At { id, digest } => (id, digest),
            // An empty sink may start at a snapshot: that is its floor.
            Checkpoint::Empty if self.after.is_none() || self.first().is_snapshot() => return Ok(self.events),
            Checkpoint::Empty => return Err(self.gap("holds nothing")),
            Checkpoint::Unknown => {
                let message = "the sink has no memory; wrap it in `Checkpointed`";
                return Err(Error::new(ErrorKind::Unsupported, Retry::Never, message));
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
                "the sink ends at event {head}, which this batch passes over: end the other writer, or give \
                 this log a sink of its own"
            ))
            .at(self.first().id())),
        }
    }

    /// The part that a sink with this checkpoint says it holds already.
    pub fn held_by(&self, checkpoint: &Checkpoint) -> &'a [Event] {
        let held = |event: &Event| checkpoint.id().is_some_and(|head| event.id() <= head);
        &self.events[..self.events.partition_point(held)]
    }

    /// Compares the part that a store says it holds already with the events it really holds.
    ///
    /// The second line of a store's `append`, behind [`fresh_after`](Batch::fresh_after).
    ///
    /// # Errors
    /// `Fenced`, naming the first event that differs; `Pruned` when it was pruned; what the read meets.
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
        Error::gap(format!("the sink {holds}, the batch stands behind {after}; catch up first"))
            .at(self.first().id())
    }
}

/// The answer to a batch whose event `id` is not the one that is held there.
pub(crate) fn differs(id: EventId) -> Error {
    Error::fenced(
        "another event is held where this one should be: end the other writer, or give this log a sink of its own",
    )
    .at(id)
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(batch.fresh_after(&other(3)).unwrap_err().kind(), ErrorKind::Fenced); // passed over
        assert_eq!(batch.fresh_after(&other(5)).unwrap_err().kind(), ErrorKind::Fenced); // passed over, inside
        assert_eq!(batch.fresh_after(&other(99)).unwrap().len(), 0); // below: the store compares by reading
        assert_eq!(batch.held_by(&at(3)).len(), 2);
        assert_eq!(batch.fresh_after(&Checkpoint::Unknown).unwrap_err().kind(), ErrorKind::Unsupported);
    }

    #[test]
    fn an_empty_sink_starts_at_a_snapshot() {
        let snapshot = Event::builder(EventId::new(7)).payload_json("{}").snapshot().build().unwrap();
        let batch = Batch::new(Some(EventId::new(6)), std::slice::from_ref(&snapshot)).unwrap();
        assert_eq!(batch.fresh_after(&Checkpoint::Empty).unwrap().len(), 1);
    }
}
