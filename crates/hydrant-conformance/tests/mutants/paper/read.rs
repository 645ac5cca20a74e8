//! Laws 8 and 10 to 13: reads and followers.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use hydrant::store::follow_by_reading;
use hydrant::{Error, Event, EventId, EventSource, EventStream, ReadFrom, Result};

use super::{Page, Paper};
use crate::bugs::Bug;

const READ_CHUNK_EVENTS: usize = 100;

impl Page {
    /// Where a read starts, as the event before it.
    fn start(&self, from: ReadFrom, bug: Bug) -> Result<Option<EventId>> {
        let after = match from {
            ReadFrom::Origin => None,
            ReadFrom::After(id) if bug == Bug::AfterIsInclusive => id.prev(),
            ReadFrom::After(id) if bug == Bug::RefusesUnknownPositions => {
                let known = self.events.iter().any(|event| event.id() == id);
                return if known { Ok(Some(id)) } else { Err(Error::invalid("no such event").at(id)) };
            }
            ReadFrom::After(id) => Some(id),
            ReadFrom::At(id) if bug == Bug::AtIsExclusive => Some(id),
            ReadFrom::At(id) => id.prev(),
            ReadFrom::Snapshot => {
                let oldest = bug == Bug::SnapshotIsTheOldest;
                let found = if oldest {
                    self.events.iter().position(Event::is_snapshot)
                } else {
                    self.events.iter().rposition(Event::is_snapshot)
                };
                match found {
                    Some(at) if at > 0 => Some(self.events[at - 1].id()),
                    _ => self.floor_after,
                }
            }
        };
        match self.events.first() {
            Some(oldest) if after < self.floor_after && bug != Bug::SilentBelowTheFloor => {
                Err(Error::pruned(oldest.id()))
            }
            _ => Ok(after),
        }
    }
}

/// The position of a read: `None` after its last item.
type Position = Option<Result<Option<EventId>>>;

impl EventSource for Paper {
    fn read(&self, from: ReadFrom) -> EventStream {
        let bug = self.shared.bug;
        if bug == Bug::ReadsAllIntoMemory {
            return stream::iter(self.copy_all()).boxed();
        }
        let (start, end) = {
            let page = self.shared.page();
            (page.start(from, bug), page.events.last().map(Event::id))
        };
        // A log that is empty when a read begins has nothing for it.
        let end = end.or(Some(EventId::ZERO)).filter(|_| bug != Bug::NeverEndsARead);
        let empty = self.shared.page().events.is_empty();
        let guard = (bug == Bug::ReadersBlockTheWriter)
            .then(|| Arc::clone(&self.shared.readers).try_read_owned().ok())
            .flatten();
        let paper = self.clone();
        let position: Position = (!empty || start.is_err()).then_some(start);
        let chunks = stream::unfold(position, move |position| {
            let _ = &guard;
            std::future::ready(paper.next_chunk(position, end))
        });
        let events = chunks.flat_map(stream::iter);
        match bug {
            Bug::ReadsOnePage => events.take(1_000).boxed(),
            Bug::LosesWhenGivenUp => crate::bugs::forgetful(events.boxed()),
            _ => events.boxed(),
        }
    }

    fn follow(&self, from: ReadFrom) -> EventStream {
        let shared = Arc::clone(&self.shared);
        let tick = move || {
            let shared = Arc::clone(&shared);
            async move {
                tokio::time::sleep(Duration::from_millis(1)).await;
                if shared.bug != Bug::ShowsWhatIsUnsynced {
                    shared.sync();
                }
            }
        };
        let follow = if self.shared.bug == Bug::FollowsAnotherLog {
            self.clone().follow_unchecked(from)
        } else {
            follow_by_reading(Arc::new(self.clone()), from, tick)
        };
        crate::bugs::follow(self, follow, from)
    }
}

impl Paper {
    /// Reads again and again, without a look at the event returned last.
    fn follow_unchecked(self, from: ReadFrom) -> EventStream {
        let state = (self.read(from), from, self);
        stream::unfold(state, |(mut read, mut from, paper)| async move {
            loop {
                if let Some(event) = read.next().await {
                    if let Ok(event) = &event {
                        from = ReadFrom::After(event.id());
                    }
                    return Some((event, (read, from, paper)));
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
                read = paper.read(from);
            }
        })
        .boxed()
    }
}

impl Paper {
    /// The next events behind `after`, up to `end`, as a reader may see them.
    fn chunk(&self, after: Option<EventId>, end: Option<EventId>) -> Result<Vec<Result<Event>>> {
        let bug = self.shared.bug;
        let mut page = self.shared.page();
        if page.busy && bug == Bug::UnreadableWhileRotating {
            return Err(Error::unavailable("the page is being turned"));
        }
        if page.pruning && bug == Bug::PruneTearsReads {
            return Err(Error::corrupt("a segment is missing"));
        }
        let after = if bug == Bug::SkipsWhatIsPruned {
            after
        } else {
            page.start(after.into(), Bug::None).or_else(|error| {
                if bug == Bug::SilentBelowTheFloor { Ok(page.floor_after) } else { Err(error) }
            })?
        };
        let shown = if bug == Bug::ShowsWhatIsUnsynced || bug == Bug::ShowsWhatIsInFlight {
            page.events.len()
        } else {
            page.durable
        };
        let from = page.behind(after);
        let until = page.events.len().min(shown).max(from);
        let mut chunk = Vec::new();
        for event in page.events[from..until].iter().take(READ_CHUNK_EVENTS) {
            if end.is_some_and(|end| event.id() > end) {
                break;
            }
            let behind_a_seal = event.id().get() > 1 && event.id().get() % 9 == 1;
            if Some(event.id()) == page.damaged {
                let error = Error::corrupt("this line does not check").at(event.id());
                match bug {
                    Bug::SkipsWhatIsDamaged => {}
                    Bug::EndsAtDamage => return Ok(chunk),
                    Bug::DamageIsUnavailable => {
                        chunk.push(Err(Error::unavailable("try again")));
                    }
                    _ => chunk.push(Err(error)),
                }
            } else if !(bug == Bug::SkipsBehindASeal && behind_a_seal) {
                chunk.push(Ok(event.clone()));
            }
        }
        if self.shared.weak && bug != Bug::ShowsWhatIsUnsynced {
            page.durable = page.events.len();
        }
        Ok(chunk)
    }

    /// Everything that is shown now, copied: what a careless reader keeps in memory.
    fn copy_all(&self) -> Vec<Result<Event>> {
        self.shared.page().events.iter().map(|event| Ok(event.detached())).collect()
    }

    fn next_chunk(&self, position: Position, end: Option<EventId>) -> Option<(Vec<Result<Event>>, Position)> {
        let chunk = position?.and_then(|after| self.chunk(after, end));
        let chunk = match chunk {
            Ok(chunk) if chunk.is_empty() => return None,
            Ok(chunk) => chunk,
            Err(error) => {
                let floor = Ok(self.shared.page().floor_after);
                let goes_on = self.shared.bug == Bug::GoesOnBehindAnError;
                return Some((vec![Err(error)], goes_on.then_some(floor)));
            }
        };
        match chunk.iter().position(Result::is_err) {
            Some(at) if self.shared.bug != Bug::GoesOnBehindAnError => {
                Some((chunk.into_iter().take(at + 1).collect(), None))
            }
            _ => {
                let last = chunk.iter().rev().find_map(|event| event.as_ref().ok()).map(Event::id);
                let position = last.map(|last| Ok(Some(last)));
                Some((chunk, position))
            }
        }
    }
}
