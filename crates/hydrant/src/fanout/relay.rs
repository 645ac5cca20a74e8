//! A relay: the fan-out's pumps over a log that somebody else writes.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt};

use super::feed::Feed;
use super::guard::{backoff, caught, rng};
use super::hub::Hub;
use super::options::{RelayOptions, SecondaryOptions};
use super::secondary::Position;
use super::status::{FanOutStatus, Laggards};
use crate::{
    CheckpointStore, Error, ErrorKind, Event, EventId, EventSink, EventSource, EventStream, ReadFrom, Result,
    Retry,
};

/// The pauses before the source is read again after it failed.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// How many events that are ready are taken from the source at once.
const CHUNK_EVENTS: usize = 256;

/// The same pumps as a [`FanOut`](crate::FanOut), over a log that somebody else writes: no append, no prune.
///
/// A source that fails is read again, with backoff, and must still have the event that came last: one that went on
/// without it, as behind a failover that lost the tail, ends the relay with `Diverged`, and nothing of the other
/// history is relayed.
///
/// The roster of its secondaries is kept where the caller says, so that what each of them needs is known
/// across restarts. All clones are handles of the same relay; when the last is dropped its tasks end. Its
/// metrics are those of a fan-out.
#[derive(Clone)]
pub struct Relay {
    hub: Arc<Hub>,
    /// Ends the pumps with the last handle.
    owner: Arc<Owner>,
}

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relay").field("head", &self.hub.feed.head()).finish_non_exhaustive()
    }
}

struct Owner {
    hub: Arc<Hub>,
    feeder: tokio::task::JoinHandle<()>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.feeder.abort();
        self.hub.abandon();
    }
}

impl Relay {
    /// Opens a relay over a log.
    ///
    /// # Errors
    /// What the roster meets. The source is read once a secondary is attached.
    ///
    /// # Cancel safety
    /// A dropped future has started nothing.
    pub async fn open(
        source: impl EventSource + 'static,
        roster: Arc<dyn CheckpointStore>,
        options: RelayOptions,
    ) -> Result<Self> {
        let feed = Feed::new(None, options.ring_events_max, options.ring_bytes_max);
        let hub = Hub::open(feed, Arc::new(source), roster, options.seed).await?;
        let feeder = tokio::spawn(feed_from_source(hub.clone(), options));
        Ok(Self { hub: hub.clone(), owner: Arc::new(Owner { hub, feeder }) })
    }

    /// Adds a secondary, at any time; see [`FanOut::attach`](crate::FanOut::attach).
    ///
    /// # Errors
    /// `Invalid` for a name that is attached already or belongs to another target; what the roster meets.
    ///
    /// # Cancel safety
    /// Dropped, it has attached nothing; the roster may have the name already. Call it again.
    pub async fn attach(
        &self,
        name: &str,
        sink: impl EventSink + 'static,
        options: SecondaryOptions,
    ) -> Result<()> {
        self.hub.attach(name, Arc::new(sink), options).await
    }

    /// Removes a secondary from the relay and from the roster.
    ///
    /// # Errors
    /// `Invalid` for a name that the roster does not have; what the roster meets.
    ///
    /// # Cancel safety
    /// Dropped, it may leave the name in the roster. Call it again.
    pub async fn detach(&self, name: &str) -> Result<()> {
        self.hub.detach(name).await
    }

    /// Stops a secondary until [`resume`](Relay::resume); the others go on.
    ///
    /// # Errors
    /// `Invalid` for a name that is not attached.
    pub fn park(&self, name: &str) -> Result<()> {
        self.hub.park(name)
    }

    /// Lets a parked secondary go on from its own checkpoint.
    ///
    /// # Errors
    /// `Invalid` for a name that is not attached.
    pub fn resume(&self, name: &str) -> Result<()> {
        self.hub.resume(name)
    }

    /// Waits until all attached secondaries have disposed of `id`.
    ///
    /// # Errors
    /// Those that had not when `timeout` was over, by name.
    ///
    /// # Cancel safety
    /// It only waits.
    pub async fn delivered(&self, id: EventId, timeout: Duration) -> Result<(), Laggards> {
        self.hub.delivered(id, timeout).await
    }

    /// Waits until the source has ended ([`RelayOptions::follow`] off, or an error that retrying cannot help)
    /// and every secondary has all of it or is parked, or until all are parked; reports what each still lacks.
    ///
    /// # Errors
    /// What the source ended with.
    ///
    /// # Cancel safety
    /// It only waits.
    pub async fn finished(&self) -> Result<Laggards> {
        self.hub.until(|| self.hub.stopped().is_some() || self.hub.all_parked()).await;
        self.hub.drained().await;
        match self.hub.stopped() {
            Some(error) if error.kind() != ErrorKind::Closed => Err(error),
            _ => Ok(self.hub.laggards()),
        }
    }

    /// The log and its secondaries, as they stand now; its head is what has been read so far.
    pub fn status(&self) -> FanOutStatus {
        self.hub.status()
    }

    /// The status now, and again after each change; changes in quick succession are one.
    pub fn watch(&self) -> impl Stream<Item = FanOutStatus> + Send + use<> {
        self.hub.watch()
    }

    /// Reads no more, lets the secondaries drain for at most `timeout`, ends all tasks, and reports what each
    /// secondary still lacks of what was read.
    ///
    /// # Cancel safety
    /// Dropped, it leaves a relay that reads no more; call it again.
    pub async fn close(&self, timeout: Duration) -> Laggards {
        self.owner.feeder.abort();
        self.hub.close(timeout).await
    }
}

/// Fills the ring from the source, no further than its fastest secondary can use.
async fn feed_from_source(hub: Arc<Hub>, options: RelayOptions) {
    let mut rng = rng(options.seed);
    let mut attempt = 0;
    // The log is not read for nobody; and what even the fastest secondary has need not be read again.
    hub.until(|| fastest(&hub).is_some()).await;
    let mut fed = Fed { position: fastest(&hub).flatten(), last: None };
    hub.feed.restart(fed.position);
    loop {
        let before = fed.position;
        let ended = caught("the source", feed_once(&hub, &options, &mut fed)).await;
        if fed.position != before {
            attempt = 0;
        }
        let error = match ended {
            Ok(()) => Error::closed("the end of the log was reached"),
            Err(error) if error.retry() == Retry::Never => error,
            Err(error) => {
                let pause = backoff(&mut rng, attempt, BACKOFF_MIN, BACKOFF_MAX);
                attempt += 1;
                tracing::warn!(%error, ?pause, "the log cannot be read: retrying");
                tokio::time::sleep(pause).await;
                continue;
            }
        };
        return hub.stop(error);
    }
}

/// How far the ring was filled.
struct Fed {
    position: Option<EventId>,
    /// The event at the position, once one was read.
    last: Option<Event>,
}

async fn feed_once(hub: &Hub, options: &RelayOptions, fed: &mut Fed) -> Result<()> {
    let mut chunks = open(hub, options, fed).await?.ready_chunks(CHUNK_EVENTS);
    while let Some(chunk) = chunks.next().await {
        let (mut events, mut failed) = (Vec::with_capacity(chunk.len()), None);
        for event in chunk {
            event.map_or_else(|error| failed = Some(error), |event| events.push(event));
        }
        if let Some(last) = events.last().cloned() {
            if !hub.feed.has_room_above(fastest(hub).flatten()) {
                hub.until(|| hub.feed.has_room_above(fastest(hub).flatten())).await;
            }
            hub.feed.stage(fed.position, &events);
            hub.feed.publish(last.id());
            hub.changed.send_replace(());
            *fed = Fed { position: Some(last.id()), last: Some(last) };
        }
        // An error is the last item: what came before it was fed first.
        if let Some(error) = failed {
            return Err(error);
        }
    }
    Ok(())
}

/// The events to come. A source that failed may be another copy of the log now, as behind a failover to a standby that
/// did not have all of it: so it is read from before the event that came last, which must come again.
///
/// # Errors
/// `Diverged` when the log went on without that event; `Unavailable` when it ends before it; what the source meets.
async fn open(hub: &Hub, options: &RelayOptions, fed: &Fed) -> Result<EventStream> {
    let open = |from: ReadFrom| if options.follow { hub.source.follow(from) } else { hub.source.read(from) };
    let behind = fed.position.into();
    let Some(last) = &fed.last else { return Ok(open(behind)) };
    let mut events = open(last.id().prev().into());
    match events.next().await {
        Some(Ok(same)) if same.id() == last.id() && same.digest() == last.digest() => Ok(events),
        Some(Ok(other)) => Err(diverged(last, &other)),
        // It was pruned since.
        Some(Err(error)) if matches!(error.kind(), ErrorKind::Pruned { .. }) => Ok(open(behind)),
        Some(Err(error)) => Err(error),
        None => {
            let message =
                "the log ends before this event, which was read from it, as a standby may that is behind";
            Err(Error::new(ErrorKind::Unavailable, Retry::Safe, message).at(last.id()))
        }
    }
}

/// The log went on without the event that was read from it last.
fn diverged(last: &Event, other: &Event) -> Error {
    let message = format!(
        "the log has lost this event (digest {}), which was read from it, and has event {} (digest {}) in its place, as \
         behind a failover to a standby that did not have it yet, or a restored copy: rebuild the sinks that have it, or \
         undo what came of it",
        last.digest(),
        other.id(),
        other.digest(),
    );
    Error::new(ErrorKind::Diverged, Retry::Never, message).at(last.id())
}

/// How far the fastest secondary is; `None` until one has told.
fn fastest(hub: &Hub) -> Option<Position> {
    hub.secondaries().iter().filter_map(|secondary| secondary.position()).max()
}
