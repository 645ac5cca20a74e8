//! A relay: the fan-out's pumps over a log that another program writes.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::Fuse;
use futures_util::{FutureExt, Stream, StreamExt};

use super::CLOSE_MIN;
use super::feed::Feed;
use super::guard::{backoff, caught, later, rng};
use super::hub::{Hub, Owner, Settings};
use super::lineage::{self, Place, id_of};
use super::options::{RelayOptions, SecondaryOptions};
use super::patient::Patient;
use super::secondary::Reached;
use super::signal::Signal;
use super::start::end;
use super::status::{FanOutStatus, Laggards};
use crate::mutants::mutant;
use crate::{
    Checkpoint, CheckpointStore, Error, ErrorKind, Event, EventId, EventSink, EventSource, EventStream,
    ReadFrom, Result, Retry,
};

/// The pauses before the source is read again after it failed.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// The bounds of what is taken from the source at once; one event may exceed the bytes.
const CHUNK_EVENTS: usize = 256;
const CHUNK_BYTES: usize = 1 << 20;

/// The same pumps as a [`FanOut`](crate::FanOut), over a log that another program writes: no append, no prune.
///
/// A source that fails is read again, with backoff, and must still have the event that came last. If the log continues
/// without it, as after a failover that lost the tail, the relay ends with `Diverged`, and nothing of the other history
/// is relayed.
///
/// The caller chooses where the roster of its secondaries is kept, so that what each of them needs is known across
/// restarts. All clones are handles of the same relay; when the last is dropped its tasks end. Its metrics are those of
/// a fan-out.
#[derive(Clone)]
pub struct Relay {
    hub: Arc<Hub>,
    owner: Arc<Owner>,
}

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relay").field("head", &self.hub.feed.head()).finish_non_exhaustive()
    }
}

impl Relay {
    /// Opens a relay over a log.
    ///
    /// # Errors
    /// Any error of the roster. The source is read once a secondary is attached.
    ///
    /// # Cancel safety
    /// A dropped future has started nothing.
    pub async fn open(
        source: impl EventSource + 'static,
        roster: Arc<dyn CheckpointStore>,
        options: RelayOptions,
    ) -> Result<Self> {
        let signal = Signal::default();
        let feed =
            Feed::new(Checkpoint::Empty, signal.clone(), options.ring_events_max, options.ring_bytes_max);
        let settings = Settings {
            target: options.target.clone(),
            knows_head: false,
            call_timeout: options.call_timeout,
            read_timeout: options.read_timeout,
            clock: options.clock.clone(),
            seed: options.seed,
        };
        let hub = Hub::open(feed, signal, Arc::new(source), roster, settings).await?;
        let feeder = tokio::spawn(feed_from_source(hub.clone(), options)).abort_handle();
        Ok(Self { owner: Owner::new(hub.clone(), feeder), hub })
    }

    /// Adds a secondary, at any time; see [`FanOut::attach`](crate::FanOut::attach).
    ///
    /// # Errors
    /// `Invalid` for a name that is attached already or belongs to another target; `Closed` once the relay was closed; any
    /// error of the roster.
    ///
    /// # Cancel safety
    /// As [`FanOut::attach`](crate::FanOut::attach).
    pub async fn attach(
        &self,
        name: &str,
        sink: impl EventSink + 'static,
        options: SecondaryOptions,
    ) -> Result<()> {
        self.hub.attach(name, Arc::new(sink), options).await
    }

    /// Removes a secondary from the relay and from the roster; see [`FanOut::detach`](crate::FanOut::detach).
    ///
    /// # Errors
    /// `Invalid` for a name that neither the roster nor the status has; any error of the roster.
    ///
    /// # Cancel safety
    /// As [`FanOut::detach`](crate::FanOut::detach).
    pub async fn detach(&self, name: &str) -> Result<()> {
        self.hub.detach(name).await
    }

    /// Stops a secondary until an operator [resumes](Relay::resume) it; the others continue.
    ///
    /// # Errors
    /// `Invalid` for a name that is not attached.
    pub fn park(&self, name: &str) -> Result<()> {
        self.hub.park(name)
    }

    /// Lets a parked secondary continue from its own checkpoint.
    ///
    /// # Errors
    /// `Invalid` for a name that is not attached.
    pub fn resume(&self, name: &str) -> Result<()> {
        self.hub.resume(name)
    }

    /// Waits until all attached secondaries have handled `id`.
    ///
    /// # Errors
    /// The secondaries that had not done so within `timeout`.
    ///
    /// # Cancel safety
    /// Only waits.
    pub async fn delivered(&self, id: EventId, timeout: Duration) -> Result<(), Laggards> {
        self.hub.delivered(id, timeout).await
    }

    /// Waits until the source has ended ([`RelayOptions::follow`] off, or an error that retrying cannot help) and every
    /// secondary has all of it or is parked; or until all are parked; or until the relay is closed. Before a secondary is
    /// attached, it waits. Reports what each secondary does not have.
    ///
    /// # Errors
    /// The error that the source ended with; then the log is not complete.
    ///
    /// # Cancel safety
    /// Only waits.
    pub async fn finished(&self) -> Result<Laggards> {
        let hub = &self.hub;
        let finished = || {
            let has_ended = hub.feed.stopped().is_some() || hub.all_parked();
            hub.is_closing() && !mutant("finished-ignores-close") || has_ended && hub.is_drained()
        };
        hub.signal.until(finished).await;
        hub.feed.failed().map_or_else(|| Ok(hub.laggards()), Err)
    }

    /// Returns the log and its secondaries, as they are now; the head is the newest event read.
    pub fn status(&self) -> FanOutStatus {
        self.hub.status()
    }

    /// Yields the status now, and again after each change; changes in quick succession are one.
    pub fn watch(&self) -> impl Stream<Item = FanOutStatus> + Send + use<> {
        self.hub.watch()
    }

    /// Reads no more, lets the secondaries drain for at most `timeout`, ends all tasks, and reports what each secondary
    /// does not have of what was read.
    ///
    /// Returns within `timeout` (100 ms if it is less), and another 100 ms if tasks had to be aborted.
    ///
    /// # Cancel safety
    /// A dropped future leaves a relay that reads no more; call it again to wait for the end of its tasks.
    pub async fn close(&self, timeout: Duration) -> Laggards {
        let deadline = later(timeout.max(CLOSE_MIN));
        self.hub.begin_to_close();
        self.owner.feeder.abort();
        self.hub.close(deadline).await
    }
}

/// Fills the ring from the source, no further than its fastest secondary can use.
async fn feed_from_source(hub: Arc<Hub>, options: RelayOptions) {
    let mut rng = rng(options.seed);
    let mut attempt = 0;
    // Do not read the log before a secondary is attached, nor what the fastest one has.
    hub.signal.until(|| fastest(&hub).is_some()).await;
    let mut fed = None;
    let source = hub.patient();
    loop {
        let before = hub.feed.head();
        let ended = caught("the source", || feed(&hub, &source, &options, &mut fed)).await;
        if hub.feed.head() != before {
            attempt = 0;
        }
        match ended {
            Ok(()) => return hub.feed.end(),
            Err(error) if error.retry() == Retry::Never => return hub.feed.stop(error),
            Err(error) => {
                let pause = backoff(&mut rng, attempt, BACKOFF_MIN, BACKOFF_MAX);
                attempt = attempt.saturating_add(1);
                tracing::warn!(%error, ?pause, "the log cannot be read: retrying");
                tokio::time::sleep(pause).await;
            }
        }
    }
}

/// The event that came last into the ring; `None` before the first.
type Fed = Option<Place>;

/// Reads the source until it ends or fails. It may be another copy of the log than before, as after a failover. So the
/// read begins with the event that came last, and compares it.
async fn feed(hub: &Hub, source: &Patient, options: &RelayOptions, fed: &mut Option<Fed>) -> Result<()> {
    let fed = if let Some(fed) = fed {
        fed
    } else {
        let start = start(hub, source).await?;
        hub.feed.restart(start.clone());
        fed.insert(start)
    };
    let read = |from: ReadFrom| if options.follow { source.follow(from) } else { source.read(from) };
    let mut events = lineage::open(read, fed.as_ref()).await?.fuse();
    while let Some(chunk) = next_ready(&mut events, options.ring_bytes_max.min(CHUNK_BYTES)).await {
        if let Some(last) = chunk.events.last().cloned() {
            let has_room = || hub.feed.has_room_above(fastest(hub).flatten().map(|place| place.id()));
            hub.signal.until(has_room).await;
            hub.feed.stage(id_of(fed.as_ref()), &chunk.events)?;
            hub.feed.publish(Place::Event(last.clone()))?;
            *fed = Some(Place::Event(last));
            source.progressed();
        }
        // The events before the error were fed first.
        if let Some(error) = chunk.error {
            return Err(or_begin_at_floor(hub, fed, error));
        }
    }
    Ok(())
}

/// If the next event was pruned, the ring begins at the oldest event that is kept. A secondary that is below it reads the
/// source itself, and parks as `Pruned`; the others continue.
fn or_begin_at_floor(hub: &Hub, fed: &mut Fed, error: Error) -> Error {
    match error.kind() {
        ErrorKind::Pruned { oldest }
            if oldest.prev() > id_of(fed.as_ref()) && !mutant("pruned-ends-relay") =>
        {
            *fed = oldest.prev().map(Place::Id);
            hub.feed.restart(fed.clone());
            error.with_retry(Retry::Safe)
        }
        _ => error,
    }
}

/// Where to begin: at the fastest secondary, or at the end of a log that does not reach so far yet.
///
/// # Errors
/// `Diverged` if the log has lost the event of that secondary since it was compared; any error of the source.
async fn start(hub: &Hub, source: &dyn EventSource) -> Result<Fed> {
    let Some(fastest) = fastest(hub).flatten() else { return Ok(None) };
    if !fastest.may_be_absent() {
        lineage::check(source, &fastest).await?;
        return Ok(Some(fastest));
    }
    // A start that an operator named, perhaps between two events.
    match source.read(ReadFrom::At(fastest.id())).next().await {
        Some(Ok(event)) if event.id() == fastest.id() => Ok(Some(Place::Event(event))),
        Some(Ok(_)) => Ok(Some(fastest)),
        Some(Err(error)) if matches!(error.kind(), ErrorKind::Pruned { .. }) => Ok(Some(fastest)),
        Some(Err(error)) => Err(error),
        None if mutant("start-beyond-the-end") => Ok(Some(fastest)),
        None => end(source, None).await,
    }
}

/// Events that were ready together, and the error after them.
#[derive(Default)]
struct Chunk {
    events: Vec<Event>,
    error: Option<Error>,
}

/// Waits for an event, and takes those that are ready after it, up to the bounds. `None` at the end.
async fn next_ready(source: &mut Fuse<EventStream>, bytes_max: usize) -> Option<Chunk> {
    let mut chunk = Chunk::default();
    let mut bytes = 0;
    let mut next = source.next().await?;
    loop {
        match next {
            Ok(event) => {
                bytes += event.size();
                chunk.events.push(event);
            }
            Err(error) => {
                chunk.error = Some(error);
                break;
            }
        }
        let is_full = bytes >= bytes_max && !mutant("ready-chunks-unbounded");
        if chunk.events.len() >= CHUNK_EVENTS || is_full {
            break;
        }
        match source.next().now_or_never() {
            Some(Some(ready)) => next = ready,
            Some(None) | None => break,
        }
    }
    Some(chunk)
}

/// How far the fastest secondary is; `None` until one has reported its checkpoint.
fn fastest(hub: &Hub) -> Option<Reached> {
    let places = hub.secondaries().into_iter().filter_map(|secondary| secondary.reached());
    places.max_by_key(|place| id_of(place.as_ref()))
}
