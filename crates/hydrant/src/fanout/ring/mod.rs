//! The ring: the newest events of a log, of one history.

use std::collections::VecDeque;

use tokio::time::Instant;

use super::lineage::{self, Place, id_of};
use super::marks::Marks;
use crate::mutants::mutant;
use crate::{Error, Event, EventId, Result};

/// Holds every staged event above `base`, bounded in events and bytes, and the newest durable event.
///
/// Events are staged in order and evicted oldest first. Followers see them once `publish` marks them as durable.
/// Eviction may run ahead of publication: a follower below `base` reads the primary.
///
/// An event of the ring never changes: another event in its place is `Diverged`, and followers never see that one. If the
/// primary loses an event that is only staged, the ring keeps the event, to find another one in its place.
pub(super) struct Ring {
    /// The newest event below the ring: evicted, or never held.
    base: Option<Place>,
    events: VecDeque<Event>,
    bytes: usize,
    /// The newest event that may be seen.
    head: Option<Place>,
    /// The newest event that the primary has, as far as is known. The primary lost the staged events after it.
    newest: Option<EventId>,
    marks: Marks,
    events_max: usize,
    bytes_max: usize,
}

/// What a follower sees from its position.
pub(crate) enum Look {
    /// The next events, at least one.
    Events(Vec<Event>),
    /// Nothing yet: wait for the head to move.
    AtHead,
    /// The ring no longer has the next event: read the primary.
    Below,
}

/// What the ring knows of a place in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Same,
    /// The ring has another event there.
    Other,
    /// Evicted, or never in the ring: only the primary knows.
    Below,
    /// Newer than every event of the ring.
    Beyond,
}

impl Ring {
    pub(super) fn new(head: Option<Place>, events_max: usize, bytes_max: usize) -> Self {
        let mut marks = Marks::new();
        if let Some(head) = &head {
            marks.add(head.id());
        }
        let (base, newest) = (head.clone(), id_of(head.as_ref()));
        Self { base, events: VecDeque::new(), bytes: 0, head, newest, marks, events_max, bytes_max }
    }

    /// Removes all events, and starts anew after `head`.
    pub(super) fn restart(&mut self, head: Option<Place>) {
        if let Some(head) = &head {
            self.marks.add(head.id());
        }
        self.head.clone_from(&head);
        self.clear(head);
    }

    /// Adds the events that are newer than those of the ring, and evicts the oldest. In the log, `events` follow `after`.
    ///
    /// If the ring does not have the event `after`, it starts anew: followers read the primary there.
    ///
    /// # Errors
    /// `Diverged` if an event of the ring has another event in its place.
    pub(super) fn stage(&mut self, after: Option<EventId>, events: &[Event]) -> Result<()> {
        if let Some(replaced) = self.replaced(after, events) {
            if mutant("lost-tail") {
                return Ok(());
            }
            if !mutant("accepted-replaced") || replaced.event() <= self.head_id() {
                return Err(replaced);
            }
            self.clear(after.map(Place::Id));
        }
        if self.misses(after) {
            self.clear(after.map(Place::Id));
        }
        // Also if all of them are at or below the base.
        self.newest = self.newest.max(events.last().map(Event::id));
        let (from, events) = self.above_base(after, events);
        let common = self.common(from, events);
        for event in &events[common..] {
            self.bytes += event.size();
            self.events.push_back(event.clone());
        }
        self.evict();
        Ok(())
    }

    /// Returns the error if the log has another event in the place of one that the ring knows. In the log, `events`
    /// follow `after`.
    fn replaced(&self, after: Option<EventId>, events: &[Event]) -> Option<Error> {
        for place in [&self.head, &self.base].into_iter().flatten() {
            if let Some(other) = replacement(place, after, events) {
                return Some(self.replaced_by(place, other));
            }
        }
        let (from, events) = self.above_base(after, events);
        let common = self.common(from, events);
        let ours = self.events.get(self.index_after(from) + common)?;
        Some(self.replaced_by(&Place::Event(ours.clone()), events.get(common)?))
    }

    /// Returns the error if a batch has another event in the place of one that the primary is known to have lost.
    ///
    /// While a loss is known, a batch that ends below the base gets an error too: the ring cannot compare it.
    pub(super) fn replaces_lost(&self, after: Option<EventId>, events: &[Event]) -> Option<Error> {
        if !self.has_lost() {
            return None;
        }
        let replaced = self.replaced(after, events).or_else(|| {
            let (last, base) = (events.last()?, id_of(self.base.as_ref()));
            (Some(last.id()) < base).then(|| lineage::evicted_and_lost(last.id()))
        });
        replaced.filter(|replaced| replaced.event() > self.newest)
    }

    /// Returns whether the primary lost staged events, as far as is known.
    pub(super) fn has_lost(&self) -> bool {
        self.newest < self.end()
    }

    /// Publishes everything up to `head`, which must be durable.
    ///
    /// # Errors
    /// `Diverged` if the log ends before what was published, or has another event in its place.
    pub(super) fn publish(&mut self, head: Place) -> Result<()> {
        if let Some(published) = &self.head {
            if head.is_same(published) {
                return Ok(());
            }
            if mutant("lost-tail") && head.id() <= published.id() {
                return Ok(());
            }
            if head.id() < published.id() {
                let what = format!("the log ends at event {}, and had this event before", head.id());
                return Err(lineage::diverged(published.id(), what));
            }
            if head.id() == published.id() {
                let what = "the log has another event in the place of this one, which was acknowledged";
                return Err(lineage::diverged(head.id(), what));
            }
        }
        match self.find(&head) {
            Found::Same | Found::Below => {}
            Found::Beyond if mutant("publish-unstaged") => {}
            Found::Other if !mutant("accepted-replaced") => return Err(self.replaced_at(&head)),
            // An append of unknown outcome reached the log. The ring misses its events, so followers read the primary.
            Found::Beyond | Found::Other => self.clear(Some(head.clone())),
        }
        self.marks.add(head.id());
        self.newest = self.newest.max(Some(head.id()));
        self.head = Some(head);
        Ok(())
    }

    /// Marks the staged events that the primary lost. `newest` is the newest event of the primary, durable or not.
    ///
    /// # Errors
    /// `Diverged` if the primary has another event in the place of a staged one.
    pub(super) fn lose_after(&mut self, newest: Option<Place>) -> Result<()> {
        let Some(newest) = newest.filter(|newest| Some(newest.id()) > self.head_id()) else {
            self.newest = self.head_id();
            return Ok(());
        };
        match self.find(&newest) {
            Found::Beyond => {}
            Found::Same | Found::Below => self.newest = Some(newest.id()),
            Found::Other => return Err(self.replaced_at(&newest)),
        }
        Ok(())
    }

    /// Returns whether the ring has this event.
    pub(super) fn has(&self, place: &Place) -> bool {
        self.find(place) == Found::Same
    }

    /// Returns whether the ring has the events after `position`, and can take more without evicting one of them.
    pub(super) fn has_room_above(&self, position: Option<EventId>) -> bool {
        let full = self.events.len() >= self.events_max || self.bytes >= self.bytes_max;
        let is_useful = id_of(self.base.as_ref()) <= position;
        is_useful && (!full || self.events.front().is_none_or(|oldest| Some(oldest.id()) <= position))
    }

    /// The newest event that may be seen.
    pub(super) fn head(&self) -> Option<&Place> {
        self.head.as_ref()
    }

    pub(super) fn head_id(&self) -> Option<EventId> {
        id_of(self.head.as_ref())
    }

    /// The newest event that was acknowledged, durable or not, and that the primary has not lost.
    pub(super) fn newest(&self) -> Option<EventId> {
        self.newest
    }

    /// The newest event up to `id` whose digest is known.
    pub(super) fn known_up_to(&self, id: EventId) -> Option<Place> {
        let staged =
            self.index_after(Some(id)).checked_sub(1).map(|index| Place::Event(self.events[index].clone()));
        let known = [&staged, &self.base, &self.head].into_iter().flatten();
        let known = known.filter(|place| place.id() <= id && !place.may_be_absent());
        known.max_by_key(|place| place.id()).cloned()
    }

    /// The newest event that the ring knows, lost or not.
    fn end(&self) -> Option<EventId> {
        let staged = self.events.back().map(Event::id).max(id_of(self.base.as_ref()));
        staged.max(self.head_id())
    }

    /// Returns the events after `position`: at most `events_max` events and `bytes_max` bytes, but always the first.
    ///
    /// # Errors
    /// `Diverged` if the ring has another event at `position`.
    pub(super) fn look(&self, position: Option<&Place>, events_max: usize, bytes_max: usize) -> Result<Look> {
        let (at, head) = (id_of(position), self.head_id());
        if at >= head {
            return Ok(Look::AtHead);
        }
        if at < id_of(self.base.as_ref()) {
            return Ok(Look::Below);
        }
        if let Some(position) = position.filter(|_| !mutant("mixed-histories"))
            && self.find(position) == Found::Other
        {
            let what = "the log has another event in the place of this one";
            return Err(lineage::diverged(position.id(), what));
        }
        let mut bytes = 0;
        let fits = |event: &&Event| {
            bytes += event.size();
            (Some(event.id()) <= head || mutant("show-staged"))
                && (bytes <= bytes_max || bytes == event.size())
        };
        let events = self.events.range(self.index_after(at)..).take(events_max.max(1)).take_while(fits);
        Ok(Look::Events(events.cloned().collect()))
    }

    /// Returns how many events a follower has not received, and when the oldest of them was published.
    ///
    /// The count is exact within the ring. Below the ring it counts ids: an upper bound if they have gaps.
    pub(super) fn lag(&self, position: Option<EventId>) -> (u64, Option<Instant>) {
        let head = self.head_id();
        if position >= head || mutant("lag-is-zero") {
            return (0, None);
        }
        (self.count(position, head), Some(self.marks.since(position)))
    }

    /// Returns how many events are after `position`, up to `end`.
    pub(super) fn count(&self, position: Option<EventId>, end: Option<EventId>) -> u64 {
        if position >= end {
            return 0;
        }
        let below = match (id_of(self.base.as_ref()).min(end), position) {
            (Some(base), Some(position)) => base.get().saturating_sub(position.get()),
            (Some(base), None) => base.get().saturating_add(1),
            (None, _) => 0,
        };
        below + self.index_after(end).saturating_sub(self.index_after(position)) as u64
    }

    fn find(&self, place: &Place) -> Found {
        let id = Some(place.id());
        if id > self.end() {
            return Found::Beyond;
        }
        let ours = match &self.base {
            Some(base) if Some(base.id()) > id => return Found::Below,
            Some(base) if Some(base.id()) == id => base.clone(),
            _ => match self.index_after(id).checked_sub(1).map(|index| &self.events[index]) {
                Some(event) if event.id() == place.id() => Place::Event(event.clone()),
                _ if place.may_be_absent() => return Found::Same,
                _ => return Found::Other,
            },
        };
        if ours.is_same(place) { Found::Same } else { Found::Other }
    }

    /// Returns the index of the first event after `id`.
    fn index_after(&self, id: Option<EventId>) -> usize {
        self.events.partition_point(|event| Some(event.id()) <= id)
    }

    /// Returns whether the ring misses the event `after` of the log, above the events that were published. Events before
    /// `after` may then be missing too.
    fn misses(&self, after: Option<EventId>) -> bool {
        if after <= self.head_id() || after <= id_of(self.base.as_ref()) {
            return false;
        }
        let there = self.index_after(after).checked_sub(1).map(|index| self.events[index].id());
        there != after
    }

    /// Returns how many of `events`, which follow `from`, the ring has already.
    fn common(&self, from: Option<EventId>, events: &[Event]) -> usize {
        let held = self.events.range(self.index_after(from)..);
        held.zip(events).take_while(|(held, event)| held == event).count()
    }

    /// Returns the events above the base, and the event that they follow: `after`, or the base.
    fn above_base<'a>(&self, after: Option<EventId>, events: &'a [Event]) -> (Option<EventId>, &'a [Event]) {
        let base = id_of(self.base.as_ref());
        (after.max(base), &events[events.partition_point(|event| Some(event.id()) <= base)..])
    }

    /// Returns the error for a log that has `other` in the place of `place`.
    fn replaced_by(&self, place: &Place, other: &Event) -> Error {
        if Some(place.id()) <= self.head_id() {
            return lineage::replaced(place, other);
        }
        lineage::accepted_and_lost(place.id(), &Place::Event(other.clone()))
    }

    /// Returns the error for a log that has `other`, an event that the ring does not have.
    fn replaced_at(&self, other: &Place) -> Error {
        let ours = self.events.get(self.index_after(other.id().prev())).map_or(other.id(), Event::id);
        lineage::accepted_and_lost(ours, other)
    }

    fn clear(&mut self, base: Option<Place>) {
        self.events.clear();
        (self.base, self.bytes) = (base, 0);
        self.newest = self.end();
    }

    fn evict(&mut self) {
        let is_full = |ring: &Self| ring.events.len() > ring.events_max || ring.bytes > ring.bytes_max;
        while is_full(self) && !mutant("ring-unbounded") {
            let Some(evicted) = self.events.pop_front() else { break };
            self.bytes -= evicted.size();
            self.base = Some(Place::Event(evicted));
        }
    }
}

/// Returns the event that the log has in this place instead, if `events` show one. In the log, they follow `after`.
fn replacement<'a>(place: &Place, after: Option<EventId>, events: &'a [Event]) -> Option<&'a Event> {
    if after >= Some(place.id()) {
        return None;
    }
    let there = events.get(events.partition_point(|event| event.id() < place.id()))?;
    let is_same = if there.id() == place.id() {
        place.is_same(&Place::Event(there.clone()))
    } else {
        place.may_be_absent()
    };
    (!is_same).then_some(there)
}

#[cfg(test)]
mod tests;
