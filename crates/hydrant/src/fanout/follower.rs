//! A follower: a position in a log, and nothing else. Pumps, `follow` and web clients are all followers.

use std::sync::Arc;

use futures_util::{StreamExt, stream};
use tokio::sync::watch;

use super::feed::{Feed, Look};
use crate::{Batch, Error, ErrorKind, Event, EventId, EventSource, EventStream, ReadFrom, Result, Retry};

/// Reads a log from a position on: from the shared ring where that reaches, from the primary below it.
///
/// There is no mode to switch: each chunk looks at the ring first. The position moves only by
/// [`advance`](Follower::advance), so a chunk that was not acknowledged comes again.
pub(crate) struct Follower {
    feed: Arc<Feed>,
    source: Arc<dyn EventSource>,
    position: Option<EventId>,
    /// A read of the primary under way, and the event that it has got to.
    reading: Option<(Option<EventId>, EventStream)>,
    seen: watch::Receiver<Option<EventId>>,
}

impl Follower {
    pub(crate) fn new(feed: Arc<Feed>, source: Arc<dyn EventSource>, position: Option<EventId>) -> Self {
        let seen = feed.subscribe();
        Self { feed, source, position, reading: None, seen }
    }

    pub(crate) fn position(&self) -> Option<EventId> {
        self.position
    }

    /// Whether the newest chunk came from memory, not from a read of the primary.
    pub(crate) fn is_live(&self) -> bool {
        self.reading.is_none()
    }

    /// Moves behind what was acknowledged.
    pub(crate) fn advance(&mut self, id: EventId) {
        self.position = Some(id);
    }

    /// The next events of one batch, at least one; waits at the head.
    ///
    /// # Cancel safety
    /// Nothing is lost: the position has not moved.
    pub(crate) async fn chunk(&mut self, events_max: usize, bytes_max: usize) -> Result<Vec<Event>> {
        let mut events = self.look_or_read(events_max, bytes_max).await?;
        let first = Batch::segments(&events).next().map_or(0, <[Event]>::len);
        events.truncate(first);
        Ok(events)
    }

    async fn look_or_read(&mut self, events_max: usize, bytes_max: usize) -> Result<Vec<Event>> {
        let mut yielded = false;
        loop {
            // Seen before looking: what is published after the look wakes the wait below.
            self.seen.borrow_and_update();
            match self.feed.look(self.position, events_max, bytes_max) {
                Look::Events(events) => {
                    self.reading = None;
                    return Ok(events);
                }
                Look::Below => return self.read(events_max, bytes_max).await,
                // Sleeping and being woken is the cost of a live feed: one yield often saves it.
                Look::AtHead if !yielded => {
                    yielded = true;
                    tokio::task::yield_now().await;
                }
                Look::AtHead if self.feed.is_closed() => {
                    return Err(Error::closed("the fan-out was closed; open it again to go on"));
                }
                Look::AtHead => {
                    #[cfg(test)]
                    tests::between_look_and_wait();
                    yielded = false;
                    // The sender lives in the feed that we hold; closing it bumps the watch.
                    drop(self.seen.changed().await);
                }
            }
        }
    }

    /// Adds what comes behind a chunk that is not acknowledged yet; returns when no more fits or no more will come.
    ///
    /// # Cancel safety
    /// What was added stays, and the position has not moved.
    pub(crate) async fn fill(&mut self, chunk: &mut Vec<Event>, events_max: usize, bytes_max: usize) {
        let mut bytes: usize = chunk.iter().map(Event::size).sum();
        while chunk.len() < events_max && bytes < bytes_max {
            self.seen.borrow_and_update();
            let position = chunk.last().map(Event::id);
            match self.feed.look(position, events_max - chunk.len(), bytes_max - bytes) {
                Look::Events(events) => {
                    for event in events {
                        bytes += event.size();
                        // A look yields one event at least, however large it is; a snapshot opens the next batch.
                        if bytes > bytes_max || event.is_snapshot() {
                            return;
                        }
                        chunk.push(event);
                    }
                }
                // More is waiting than the ring can hold: this is no time to linger.
                Look::Below => return,
                Look::AtHead if self.feed.is_closed() => return,
                Look::AtHead => drop(self.seen.changed().await),
            }
        }
    }

    /// Reads the next events from the primary.
    async fn read(&mut self, events_max: usize, bytes_max: usize) -> Result<Vec<Event>> {
        // Taken out, so that a dropped future also drops a stream whose events nobody got.
        let going_on = self.reading.take().filter(|(at, _)| *at == self.position);
        let is_new = going_on.is_none();
        let (_, mut stream) =
            going_on.unwrap_or_else(|| (self.position, self.source.read(self.position.into())));
        let mut events = Vec::new();
        let mut bytes = 0;
        while events.len() < events_max && bytes < bytes_max {
            match stream.next().await {
                Some(Ok(event)) => {
                    bytes += event.size();
                    events.push(event);
                }
                Some(Err(error)) if events.is_empty() => return Err(error),
                // What came before the error is delivered first; the next read meets it again.
                Some(Err(_)) => return Ok(events),
                None if !events.is_empty() => return Ok(events),
                // The old read ended where the log ended when it began.
                None if !is_new => stream = self.source.read(self.position.into()),
                None => {
                    let head = self.feed.head();
                    return Err(Error::new(
                        ErrorKind::Corrupt,
                        Retry::AfterCheckpoint,
                        format!("the primary ends before its head, event {}", head.map_or(0, EventId::get)),
                    ));
                }
            }
        }
        self.reading = events.last().map(|last| (Some(last.id()), stream));
        Ok(events)
    }
}

/// How many events a followed stream takes at once.
const CHUNK_EVENTS: usize = 256;
const CHUNK_BYTES: usize = 256 << 10;

/// History, then live, without a gap or a duplicate, as a stream. An error is the last item.
pub(crate) fn follow(feed: Arc<Feed>, source: Arc<dyn EventSource>, from: ReadFrom) -> EventStream {
    let first = async move {
        let position = match from.exclusive() {
            ReadFrom::After(id) => Some(id),
            ReadFrom::Origin | ReadFrom::At(_) => None,
            // The snapshot itself is the first chunk; everything behind it follows.
            ReadFrom::Snapshot => {
                let snapshot = source.read(ReadFrom::Snapshot).next().await;
                let mut follower = Follower::new(feed, source, None);
                return match snapshot.transpose() {
                    Ok(None) => (Ok(vec![]), Some(follower)),
                    Ok(Some(event)) => {
                        follower.advance(event.id());
                        (Ok(vec![event]), Some(follower))
                    }
                    Err(error) => (Err(error), None),
                };
            }
        };
        (Ok(vec![]), Some(Follower::new(feed, source, position)))
    };
    let rest = |follower: Option<Follower>| {
        stream::unfold(follower, |follower| async move {
            let mut follower = follower?;
            let chunk = follower.chunk(CHUNK_EVENTS, CHUNK_BYTES).await;
            let next = chunk.as_ref().ok().and_then(|events| events.last()).map(Event::id);
            let follower = next.map(|id| {
                follower.advance(id);
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

    use super::*;
    use crate::{EventSink, MemoryStore};

    thread_local! {
        static BETWEEN: RefCell<Option<Box<dyn FnOnce()>>> = const { RefCell::new(None) };
    }

    /// Runs what a test wants to happen after a look that found nothing, and before the wait.
    pub(super) fn between_look_and_wait() {
        if let Some(happen) = BETWEEN.take() {
            happen();
        }
    }

    fn events(ids: std::ops::Range<u64>) -> Vec<Event> {
        ids.map(|id| Event::new(EventId::new(id), &id).unwrap()).collect()
    }

    /// The interleaving that random tests do not find: an event published between the look and the wait.
    #[tokio::test(start_paused = true)]
    async fn an_event_published_between_look_and_wait_wakes_the_follower() {
        let feed = Arc::new(Feed::new(None, 10, 10_000));
        let mut follower = Follower::new(feed.clone(), Arc::new(MemoryStore::default()), None);
        BETWEEN.set(Some(Box::new(move || {
            feed.stage(None, &events(0..1));
            feed.publish(EventId::ZERO);
        })));
        let chunk = tokio::time::timeout(Duration::from_secs(1), follower.chunk(9, 9999)).await;
        assert_eq!(chunk.expect("the wake-up was lost").unwrap().len(), 1);
    }

    #[tokio::test]
    async fn a_follower_goes_from_history_to_the_ring_without_gap_or_duplicate() {
        let store = MemoryStore::default();
        let log = events(0..100);
        store.append(Batch::new(None, &log[..90]).unwrap()).await.unwrap();
        let feed = Arc::new(Feed::new(Some(EventId::new(89)), 5, 10_000));
        let mut follower = Follower::new(feed.clone(), Arc::new(store.clone()), None);
        let mut got = Vec::new();
        while got.len() < 100 {
            if got.len() == 63 {
                store.append(Batch::new(Some(EventId::new(89)), &log[90..]).unwrap()).await.unwrap();
                feed.stage(Some(EventId::new(89)), &log[90..]);
                feed.publish(EventId::new(99));
            }
            let chunk = follower.chunk(7, 9999).await.unwrap();
            assert_eq!(follower.chunk(7, 9999).await.unwrap(), chunk, "not acknowledged: it comes again");
            follower.advance(chunk.last().unwrap().id());
            got.extend(chunk);
        }
        assert_eq!(got, log);
    }
}
