//! Each event once, in order, right behind its predecessor: where duplicates, losses and foreign writers show.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use hydrant::{Checkpoint, Digest, Error, EventId, Result};

use super::lineage::ShardId;
use super::options::Unnamed;
use super::upstream::SequenceNumber;
use crate::wire::{Marked, Predecessor};

/// The place of a record in the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) shard: ShardId,
    pub(crate) number: SequenceNumber,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.shard, self.number)
    }
}

/// How an event stands to those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Right behind the last one.
    Next,
    /// One of those before, again.
    Again,
    /// Perhaps right behind the last one: its record does not name its predecessor. No lower event may still come.
    Perhaps,
    /// Behind one that has not come.
    Ahead,
}

/// What came so far.
#[derive(Debug)]
pub(crate) struct Order {
    unnamed: Unnamed,
    compared_events_max: usize,
    /// The newest of the events, in order.
    newest: VecDeque<Seen>,
}

#[derive(Debug)]
struct Seen {
    id: EventId,
    digest: Digest,
    /// `None` for the event of a saved position.
    place: Option<Arc<Place>>,
}

impl Order {
    /// `last`: the event that the reading begins behind, where one is known.
    pub(crate) fn new(unnamed: Unnamed, compared_events_max: usize, last: Option<(EventId, Digest)>) -> Self {
        let newest = last.map(|(id, digest)| Seen { id, digest, place: None }).into_iter().collect();
        Self { unnamed, compared_events_max, newest }
    }

    pub(crate) fn last(&self) -> Checkpoint {
        self.newest
            .back()
            .map_or(Checkpoint::Empty, |seen| Checkpoint::At { id: seen.id, digest: seen.digest })
    }

    /// Returns the place of the last event, if it came since the reader began.
    pub(crate) fn last_place(&self) -> Option<Arc<Place>> {
        self.newest.back().and_then(|seen| seen.place.clone())
    }

    /// The event before the last one.
    pub(crate) fn before_last(&self) -> Option<(EventId, Digest)> {
        let seen = self.newest.get(self.newest.len().checked_sub(2)?)?;
        Some((seen.id, seen.digest))
    }

    /// The event before this one, named or taken for it.
    pub(crate) fn predecessor(&self, marked: &Marked) -> Predecessor {
        if marked.predecessor == Predecessor::Unnamed && self.unnamed == Unnamed::Contiguous {
            return Predecessor::Named(marked.event.id().prev());
        }
        marked.predecessor
    }

    /// Compares an event with those before it.
    ///
    /// # Errors
    /// `Diverged` when it is not the event that came under its id, or belongs where another history was read;
    /// `Corrupt` by option, when it does not name its predecessor.
    pub(crate) fn stand(&self, marked: &Marked, place: &Place) -> Result<Standing> {
        let id = marked.event.id();
        let predecessor = self.predecessor(marked);
        if predecessor == Predecessor::Unnamed && self.unnamed == Unnamed::Refuse {
            let message = "its record does not name the event before it, so a loss would not be noticed; read \
                           the log with another `unnamed`";
            return Err(Error::corrupt(message).at(id));
        }
        let Some(last) = self.newest.back() else { return Ok(Standing::Perhaps) };
        if id <= last.id {
            return self.again(marked, place).map(|()| Standing::Again);
        }
        match predecessor {
            Predecessor::Unnamed => Ok(Standing::Perhaps),
            Predecessor::Named(after) if after == Some(last.id) => Ok(Standing::Next),
            Predecessor::Named(after) if after > Some(last.id) => Ok(Standing::Ahead),
            Predecessor::Named(after) => {
                let after = after.map_or_else(|| "the beginning".to_owned(), |id| format!("event {id}"));
                Err(diverged(
                    id,
                    &format!("it was written behind {after}, where event {} stands", last.id),
                    place,
                ))
            }
        }
    }

    /// An event that is not new must be one that came. What is too old to be remembered passes.
    fn again(&self, marked: &Marked, place: &Place) -> Result<()> {
        let id = marked.event.id();
        let at = self.newest.partition_point(|seen| seen.id < id);
        match self.newest.get(at) {
            Some(seen) if seen.id == id && seen.digest == marked.event.digest() => Ok(()),
            Some(seen) if seen.id == id => {
                let (digest, first) = (marked.event.digest(), seen.digest);
                let stands = seen.place.as_ref().map_or_else(String::new, |place| format!(" ({place})"));
                let what =
                    format!("another event came under this id{stands}: digest {first}, this one {digest}");
                Err(diverged(id, &what, place))
            }
            Some(next) if at > 0 => {
                let before = self.newest[at - 1].id;
                let what = format!("the log has no such event: behind {before} stands {}", next.id);
                Err(diverged(id, &what, place))
            }
            _ => {
                tracing::debug!(event = id.get(), %place, "an event came again, too late to be compared");
                Ok(())
            }
        }
    }

    /// Forgets the events so far: the next event follows others.
    pub(crate) fn forget(&mut self) {
        self.newest.clear();
    }

    /// The event is taken: it is the last one now.
    pub(crate) fn take(&mut self, marked: &Marked, place: &Arc<Place>) {
        if self.newest.len() >= self.compared_events_max {
            self.newest.pop_front();
        }
        let (id, digest) = (marked.event.id(), marked.event.digest());
        self.newest.push_back(Seen { id, digest, place: Some(place.clone()) });
    }
}

fn diverged(id: EventId, what: &str, place: &Place) -> Error {
    let message = format!(
        "{place}: {what}; two writers share this log, or another log has its partition key: end one, or give \
         each a partition key of its own"
    );
    Error::diverged(message).at(id)
}

#[cfg(test)]
mod tests {
    use hydrant::{ErrorKind, Event};

    use super::*;

    fn marked(id: u64, payload: &str, predecessor: Predecessor) -> Marked {
        Marked { event: Event::new(EventId::new(id), payload).unwrap(), predecessor }
    }

    fn named(id: u64, after: Option<u64>) -> Marked {
        marked(id, "x", Predecessor::Named(after.map(EventId::new)))
    }

    fn place() -> Arc<Place> {
        Arc::new(Place { shard: "shardId-0".into(), number: "49".into() })
    }

    fn order(unnamed: Unnamed, compared: usize, ids: &[u64]) -> Order {
        let mut order = Order::new(unnamed, compared, None);
        let mut before = None;
        for &id in ids {
            order.take(&named(id, before), &place());
            before = Some(id);
        }
        order
    }

    #[test]
    fn an_event_follows_its_predecessor_at_any_distance_of_ids() {
        let order = order(Unnamed::Contiguous, 9, &[0, 1, 5]);
        let stand = |marked| order.stand(&marked, &place());
        assert_eq!(stand(named(9, Some(5))).unwrap(), Standing::Next);
        assert_eq!(stand(named(9, Some(8))).unwrap(), Standing::Ahead);
        assert_eq!(stand(named(5, Some(1))).unwrap(), Standing::Again);
        assert_eq!(stand(marked(6, "x", Predecessor::Unnamed)).unwrap(), Standing::Next);
        assert_eq!(stand(marked(7, "x", Predecessor::Unnamed)).unwrap(), Standing::Ahead);
    }

    #[test]
    fn another_history_is_reported_with_both_sides() {
        let order = order(Unnamed::Contiguous, 9, &[0, 1, 5]);
        let message = |marked: Marked| {
            let error = order.stand(&marked, &place()).unwrap_err();
            assert_eq!((error.kind(), error.event()), (ErrorKind::Diverged, Some(marked.event.id())));
            error.to_string()
        };
        let other = message(marked(1, "y", Predecessor::Unnamed));
        assert_eq!(other.matches("shardId-0 at 49").count(), 2, "{other}");
        assert!(message(named(3, Some(1))).contains("behind 1 stands 5"));
        assert!(message(named(7, Some(4))).contains("written behind event 4"));
        assert!(message(named(7, None)).contains("written behind the beginning"));
    }

    #[test]
    fn what_is_not_named_is_taken_as_the_options_say() {
        let unnamed = |id| marked(id, "x", Predecessor::Unnamed);
        let ascending = order(Unnamed::Ascending, 9, &[0, 1]);
        assert_eq!(ascending.stand(&unnamed(7), &place()).unwrap(), Standing::Perhaps);
        let refuse = order(Unnamed::Refuse, 9, &[0, 1]);
        assert_eq!(refuse.stand(&unnamed(2), &place()).unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn the_memory_is_bounded_and_what_is_older_passes() {
        let order = order(Unnamed::Contiguous, 2, &[0, 1, 5, 6]);
        assert_eq!(order.newest.len(), 2);
        assert_eq!(order.stand(&marked(1, "y", Predecessor::Unnamed), &place()).unwrap(), Standing::Again);
        assert!(order.stand(&marked(5, "y", Predecessor::Unnamed), &place()).is_err());
    }

    #[test]
    fn a_reader_that_goes_on_knows_the_event_it_stands_behind() {
        let last = named(5, Some(1));
        let known = Some((last.event.id(), last.event.digest()));
        let order = Order::new(Unnamed::Contiguous, 9, known);
        assert_eq!(order.stand(&last, &place()).unwrap(), Standing::Again);
        assert_eq!(order.stand(&named(6, Some(5)), &place()).unwrap(), Standing::Next);
        assert!(order.stand(&marked(5, "y", Predecessor::Unnamed), &place()).is_err());
    }
}
