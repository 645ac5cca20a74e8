//! A follower: a position in a log, and nothing else. Pumps, `follow` and web clients are all followers.

use std::sync::Arc;

use futures_util::stream::Fuse;
use futures_util::{StreamExt, stream};
use tracing::Instrument as _;

use super::feed::{Feed, Look};
use super::lineage::{self, Place};
use super::signal::Changes;
use crate::mutants::mutant;
use crate::{Batch, Error, ErrorKind, Event, EventId, EventSource, EventStream, ReadFrom, Result, Retry};

/// Reads a log from a position on: from the shared ring, or from the primary for events below the ring.
///
/// There is no mode to switch: each chunk looks at the ring first. The position moves only by
/// [`advance`](Follower::advance), so a chunk that was not acknowledged comes again.
///
/// All events that it returns are of one history, the ring's: a read begins at the event of the position and compares
/// it, and a chunk is returned once the log is seen to still have the newest event that was published.
pub(crate) struct Follower {
    feed: Arc<Feed>,
    source: Arc<dyn EventSource>,
    position: Option<Place>,
    reading: Option<Reading>,
    moved: Changes,
    /// Whether it ends at the head of a log that stopped. A pump waits there until the log is closed.
    ends_with_log: bool,
}

/// A read of the primary under way.
struct Reading {
    /// The event that it returned last.
    at: Option<EventId>,
    /// An event that was read but did not fit.
    next: Option<Event>,
    events: Fuse<EventStream>,
}

impl Follower {
    pub(crate) fn new(feed: Arc<Feed>, source: Arc<dyn EventSource>, position: Option<Place>) -> Self {
        let moved = feed.subscribe();
        Self { feed, source, position, reading: None, moved, ends_with_log: false }
    }

    pub(crate) fn position(&self) -> Option<EventId> {
        lineage::id_of(self.position.as_ref())
    }

    pub(crate) fn place(&self) -> Option<&Place> {
        self.position.as_ref()
    }

    /// Moves past an event that was acknowledged.
    pub(crate) fn advance(&mut self, event: Event) {
        self.position = Some(Place::Event(event));
    }

    /// Returns the next events of one batch, at least one. Waits at the head.
    ///
    /// # Errors
    /// `Closed` at the head of a log that was closed; `Diverged` if the log lost events that it had; any error of the
    /// source.
    ///
    /// # Cancel safety
    /// The position does not move, so nothing is lost.
    pub(crate) async fn chunk(&mut self, events_max: usize, bytes_max: usize) -> Result<Vec<Event>> {
        let mut yielded = false;
        loop {
            // Marked before the look, so that an event published after the look wakes the wait below.
            self.moved.mark_unchanged();
            match self.feed.look(self.position.as_ref(), events_max, bytes_max)? {
                Look::Events(mut events) => {
                    self.reading = None;
                    let first = Batch::segments(&events).next().map_or(0, <[Event]>::len);
                    events.truncate(first);
                    return Ok(events);
                }
                Look::Below => {
                    let span = tracing::debug_span!("catch_up", after = ?self.position());
                    return self.read(events_max, bytes_max).instrument(span).await;
                }
                // A yield often saves the cost of a sleep and a wake-up.
                Look::AtHead if !yielded => {
                    yielded = true;
                    tokio::task::yield_now().await;
                }
                Look::AtHead => {
                    let ends = self.ends_with_log || self.feed.is_closed();
                    if let Some(stopped) = self.feed.stopped().filter(|_| ends) {
                        return Err(stopped);
                    }
                    #[cfg(test)]
                    tests::between_look_and_wait();
                    yielded = false;
                    // The sender lives in the feed, which this follower holds; closing it wakes this wait too.
                    self.moved.changed().await;
                }
            }
        }
    }

    /// Adds the events after a chunk that is not acknowledged yet. Returns when no more fits or no more will come.
    ///
    /// # Cancel safety
    /// The added events stay, and the position does not move.
    pub(crate) async fn fill(&mut self, chunk: &mut Vec<Event>, events_max: usize, bytes_max: usize) {
        let mut bytes: usize = chunk.iter().map(Event::size).sum();
        while chunk.len() < events_max && bytes < bytes_max {
            self.moved.mark_unchanged();
            let last = chunk.last().cloned().map(Place::Event);
            match self.feed.look(last.as_ref(), events_max - chunk.len(), bytes_max - bytes) {
                Ok(Look::Events(events)) => {
                    for event in events {
                        bytes += event.size();
                        // A look yields one event at least, however large it is; a snapshot opens the next batch.
                        if bytes > bytes_max || event.is_snapshot() {
                            return;
                        }
                        chunk.push(event);
                    }
                }
                // More is ready than the ring holds, or there is an error, which the next chunk reports.
                Ok(Look::Below) | Err(_) => return,
                Ok(Look::AtHead)
                    if (self.feed.is_closed() || self.feed.stopped().is_some())
                        && !mutant("linger-through-close") =>
                {
                    return;
                }
                Ok(Look::AtHead) => self.moved.changed().await,
            }
        }
    }

    /// Reads the next events from the primary.
    async fn read(&mut self, events_max: usize, bytes_max: usize) -> Result<Vec<Event>> {
        // Taken out, so that a dropped future also drops a stream whose events were not returned.
        let under_way = self.reading.take().filter(|reading| reading.at == self.position());
        let is_new = under_way.is_none();
        let mut reading = match under_way {
            Some(reading) => reading,
            None => Reading::open(self.source.clone(), self.position.clone()).await?,
        };
        let mut events = reading.take(events_max, bytes_max).await?;
        if events.is_empty() && !is_new {
            // The old read ended where the log ended when it began.
            reading = Reading::open(self.source.clone(), self.position.clone()).await?;
            events = reading.take(events_max, bytes_max).await?;
        }
        while events.is_empty() && mutant("reread-at-once") {
            tokio::task::yield_now().await;
            reading = Reading::open(self.source.clone(), self.position.clone()).await?;
            events = reading.take(events_max, bytes_max).await?;
        }
        let Some(last) = events.last() else {
            return Err(self.feed.head_place().map_or_else(
                || {
                    Error::new(
                        ErrorKind::Bug,
                        Retry::AfterCheckpoint,
                        "a read below the head of an empty log",
                    )
                },
                |head| lineage::behind(&head),
            ));
        };
        reading.at = Some(last.id());
        check(&self.feed, &*self.source, &events).await?;
        self.reading = Some(reading);
        Ok(events)
    }
}

/// Checks that the events read are of the ring's history: the log must still have the newest event published.
///
/// # Errors
/// `Diverged`, which also stops the log; `Unavailable` if the log ends before it.
async fn check(feed: &Feed, source: &dyn EventSource, events: &[Event]) -> Result<()> {
    let Some(head) = feed.head_place().filter(|_| !mutant("mixed-histories")) else { return Ok(()) };
    let checked = match events.binary_search_by_key(&head.id(), Event::id) {
        Ok(index) if head.is_same(&Place::Event(events[index].clone())) => Ok(()),
        Ok(index) => Err(lineage::replaced(&head, &events[index])),
        // A start that an operator named may be between two events.
        Err(index) if index < events.len() && !head.may_be_absent() => {
            Err(lineage::replaced(&head, &events[index]))
        }
        Err(_) => lineage::check(source, &head).await,
    };
    if let Err(error) = &checked
        && error.kind() == ErrorKind::Diverged
    {
        feed.stop(error.clone());
    }
    checked
}

impl Reading {
    async fn open(source: Arc<dyn EventSource>, position: Option<Place>) -> Result<Self> {
        let compared = position.as_ref().filter(|_| !mutant("mixed-histories"));
        let events = match compared {
            Some(_) => lineage::open(|from| source.read(from), compared).await?,
            None => source.read(lineage::id_of(position.as_ref()).into()),
        };
        Ok(Self { at: lineage::id_of(position.as_ref()), next: None, events: events.fuse() })
    }

    /// Returns the next events of one batch; none at the end of the read. Returns the events before an error first; the
    /// next read meets the error again.
    async fn take(&mut self, events_max: usize, bytes_max: usize) -> Result<Vec<Event>> {
        let mut events: Vec<Event> = Vec::new();
        let mut bytes = 0;
        while events.len() < events_max && bytes < bytes_max {
            let event = match self.next.take() {
                Some(event) => event,
                None => match self.events.next().await {
                    Some(Ok(event)) => event,
                    Some(Err(error)) if events.is_empty() => return Err(error),
                    Some(Err(_)) | None => break,
                },
            };
            if !events.is_empty() && event.is_snapshot() {
                self.next = Some(event);
                break;
            }
            bytes += event.size();
            events.push(event);
        }
        Ok(events)
    }
}

/// How many events a followed stream takes at once.
const CHUNK_EVENTS: usize = 256;
const CHUNK_BYTES: usize = 256 << 10;

/// Returns a stream of the history and then of new events, without a gap or a duplicate. An error is its last item.
pub(crate) fn follow(feed: Arc<Feed>, source: Arc<dyn EventSource>, from: ReadFrom) -> EventStream {
    let first = async move {
        let position = match from.exclusive() {
            ReadFrom::After(id) => Some(Place::Id(id)),
            ReadFrom::Origin | ReadFrom::At(_) => None,
            // The snapshot itself is the first chunk; everything after it follows.
            ReadFrom::Snapshot => match source.read(ReadFrom::Snapshot).next().await.transpose() {
                Ok(Some(event)) => {
                    let follower = Follower::new(feed, source, Some(Place::Event(event.clone())));
                    return (Ok(vec![event]), Some(follower));
                }
                Ok(None) => None,
                Err(error) => return (Err(error), None),
            },
        };
        (Ok(vec![]), Some(Follower::new(feed, source, position)))
    };
    let rest = |follower: Option<Follower>| {
        let follower = follower.map(|follower| Follower { ends_with_log: true, ..follower });
        stream::unfold(follower, |follower| async move {
            let mut follower = follower?;
            let chunk = follower.chunk(CHUNK_EVENTS, CHUNK_BYTES).await;
            let last = chunk.as_ref().ok().and_then(|events| events.last().cloned());
            let follower = last.map(|last| {
                follower.advance(last);
                follower
            });
            Some((chunk, follower))
        })
    };
    let chunks = stream::once(first)
        .flat_map(move |(chunk, follower)| stream::once(std::future::ready(chunk)).chain(rest(follower)));
    Box::pin(chunks.flat_map(|chunk| {
        let (events, error) = match chunk {
            Ok(events) => (events, None),
            Err(error) => (vec![], Some(error)),
        };
        stream::iter(events.into_iter().map(Ok).chain(error.map(Err)))
    }))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::time::Duration;

    use super::super::signal::Signal;
    use super::*;
    use crate::{Checkpoint, EventSink, MemoryStore};

    thread_local! {
        static BETWEEN: RefCell<Option<Box<dyn FnOnce()>>> = const { RefCell::new(None) };
    }

    /// Runs the test's code after a look that found nothing, and before the wait.
    pub(super) fn between_look_and_wait() {
        if let Some(happen) = BETWEEN.take() {
            happen();
        }
    }

    fn events(ids: std::ops::Range<u64>) -> Vec<Event> {
        ids.map(|id| Event::new(EventId::new(id), &id).unwrap()).collect()
    }

    fn feed(head: Checkpoint, events_max: usize) -> Arc<Feed> {
        Arc::new(Feed::new(head, Signal::default(), events_max, 10_000))
    }

    fn add(feed: &Feed, log: &[Event]) {
        feed.stage(log[0].id().prev(), log).unwrap();
        feed.publish(Place::Event(log.last().unwrap().clone())).unwrap();
    }

    /// The interleaving that random tests do not find.
    #[tokio::test(start_paused = true)]
    async fn an_event_published_between_look_and_wait_wakes() {
        let feed = feed(Checkpoint::Empty, 10);
        let mut follower = Follower::new(feed.clone(), Arc::new(MemoryStore::default()), None);
        BETWEEN.set(Some(Box::new(move || add(&feed, &events(0..1)))));
        let chunk = tokio::time::timeout(Duration::from_secs(1), follower.chunk(9, 9999)).await;
        assert_eq!(chunk.expect("the wake-up was lost").unwrap().len(), 1);
    }

    #[tokio::test]
    async fn history_and_ring_join_without_gap_or_duplicate() {
        let store = MemoryStore::default();
        let log = events(0..100);
        store.append(Batch::new(None, &log[..90]).unwrap()).await.unwrap();
        let feed = feed(Checkpoint::at(&log[89]), 5);
        let mut follower = Follower::new(feed.clone(), Arc::new(store.clone()), None);
        let mut got = Vec::new();
        while got.len() < 100 {
            if got.len() == 63 {
                store.append(Batch::new(Some(EventId::new(89)), &log[90..]).unwrap()).await.unwrap();
                add(&feed, &log[90..]);
            }
            let chunk = follower.chunk(7, 9999).await.unwrap();
            assert_eq!(follower.chunk(7, 9999).await.unwrap(), chunk, "not acknowledged: it comes again");
            follower.advance(chunk.last().unwrap().clone());
            got.extend(chunk);
        }
        assert_eq!(got, log);
    }

    /// A copy with other events after 49, put in the place of the log while a follower reads below the ring.
    #[tokio::test]
    async fn another_history_below_the_ring_is_never_returned() {
        let log = events(0..100);
        let other = |id: u64| Event::new(EventId::new(id), &"other").unwrap();
        let copy: Vec<_> = events(0..50).into_iter().chain((50..100).map(other)).collect();
        let store = MemoryStore::default();
        store.append(Batch::new(None, &copy).unwrap()).await.unwrap();
        let feed = feed(Checkpoint::at(&log[99]), 5);
        let mut follower = Follower::new(feed.clone(), Arc::new(store), Some(Place::Event(log[30].clone())));
        let error = follower.chunk(7, 9999).await.unwrap_err();
        assert_eq!((error.kind(), error.event()), (ErrorKind::Diverged, Some(EventId::new(99))), "{error}");
        assert!(feed.stopped().is_some());
    }

    #[tokio::test]
    async fn a_log_that_ends_before_its_head_is_retried_later() {
        let log = events(0..100);
        let store = MemoryStore::default();
        store.append(Batch::new(None, &log[..50]).unwrap()).await.unwrap();
        let feed = feed(Checkpoint::at(&log[99]), 5);
        let mut follower = Follower::new(feed, Arc::new(store), Some(Place::Event(log[49].clone())));
        assert_eq!(follower.chunk(7, 9999).await.unwrap_err().retry(), Retry::Safe);
    }
}
