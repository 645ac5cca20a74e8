//! A log as a model store keeps it: compare-and-append, a floor, and a part that is durable.

use hydrant::{Batch, Checkpoint, Error, Event, EventId, ReadFrom, Result};

use super::bell::Bell;

/// The durable state of one model store. It outlives every process of the run.
#[derive(Debug, Default)]
pub struct Log {
    pub events: Vec<Event>,
    /// The predecessor of the first event that is kept.
    pub after: Option<EventId>,
    /// How many of `events` are durable.
    pub durable: usize,
    /// Changes when the store fails over: reads break, and where another writer wrote, writers are fenced.
    pub epoch: u64,
    pub fence: u64,
    pub changed: Bell,
}

impl Log {
    /// The newest event, durable or not.
    pub fn head(&self) -> Checkpoint {
        self.events.last().map_or(Checkpoint::Empty, Checkpoint::at)
    }

    /// The newest durable event.
    pub fn checkpoint(&self) -> Checkpoint {
        match self.durable.checked_sub(1) {
            Some(last) => Checkpoint::at(&self.events[last]),
            None => Checkpoint::Empty,
        }
    }

    /// The id of the newest durable event.
    pub fn durable_id(&self) -> Option<EventId> {
        self.durable.checked_sub(1).map(|last| self.events[last].id())
    }

    pub fn event(&self, id: EventId) -> Option<&Event> {
        let index = self.events.binary_search_by_key(&id, Event::id).ok()?;
        self.events.get(index)
    }

    /// Appends what is not held, and returns how many events that were.
    pub fn append(&mut self, batch: Batch<'_>) -> Result<usize> {
        let head = self.head();
        let fresh = batch.fresh_after(&head)?;
        let held = batch.held_by(&head);
        if let (Some(first), Some(oldest)) = (held.first(), self.events.first())
            && batch.after() < self.after
        {
            return Err(Error::pruned(oldest.id()).at(first.id()));
        }
        let stored = &self.events[self.behind(batch.after())..];
        if let Some((event, _)) = held.iter().zip(stored).find(|(event, stored)| event != stored) {
            return Err(Error::fenced("another event is held under this id").at(event.id()));
        }
        if self.events.is_empty() {
            self.after = batch.after();
        }
        // Copied: the events that the code under test holds are counted by their buffers.
        self.events.extend(fresh.iter().map(Event::detached));
        Ok(fresh.len())
    }

    /// The index of the first event behind `after`.
    pub fn behind(&self, after: Option<EventId>) -> usize {
        after.map_or(0, |after| self.events.partition_point(|event| event.id() <= after))
    }

    /// Where a read begins, as the event before it.
    pub fn start(&self, from: ReadFrom) -> Result<Option<EventId>> {
        let durable = &self.events[..self.durable];
        let after = match from.exclusive() {
            ReadFrom::Origin | ReadFrom::At(_) => None,
            ReadFrom::After(id) => Some(id),
            ReadFrom::Snapshot => match durable.iter().rposition(Event::is_snapshot) {
                Some(0) | None => self.after,
                Some(index) => Some(durable[index - 1].id()),
            },
        };
        match self.events.first() {
            Some(oldest) if after < self.after => Err(Error::pruned(oldest.id())),
            _ => Ok(after),
        }
    }

    /// Drops what ends before `before`, never the newest snapshot.
    pub fn prune(&mut self, before: EventId) {
        let opens = |index: &usize| {
            self.events[*index].is_snapshot() && *index > 0 && self.events[index - 1].id() < before
        };
        if let Some(kept) = (0..self.durable).rev().find(opens) {
            self.after = Some(self.events[kept - 1].id());
            self.events.drain(..kept);
            self.durable -= kept;
        }
    }

    /// Removes the newest events, and returns them.
    pub fn cut(&mut self, keep: usize) -> Vec<Event> {
        let cut = self.events.split_off(keep.min(self.events.len()));
        self.durable = self.durable.min(self.events.len());
        if self.events.is_empty() && keep == 0 {
            self.after = None;
        }
        cut
    }
}
