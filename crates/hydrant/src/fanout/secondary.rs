//! One secondary as the fan-out sees it: what it is told to do, and how far it is.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use metrics::{Counter, Gauge};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::feed::Feed;
use super::guard::guarded;
use super::status::{Laggard, SecondaryState, SecondaryStatus};
use crate::{Checkpoint, Error, EventId, EventSink, Result};

/// The last event that was disposed of, with all before it; `None` before the first.
pub(crate) type Position = Option<EventId>;

/// What a person wants of a secondary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    Run,
    Park,
    Stop,
}

pub(crate) struct Secondary {
    pub(crate) name: String,
    pub(crate) target: String,
    pub(crate) lag_events_max: Option<u64>,
    pub(crate) wanted: watch::Sender<Wanted>,
    pub(crate) task: Mutex<Option<JoinHandle<()>>>,
    /// The pump's, as long as that runs.
    sink: Weak<dyn EventSink>,
    progress: Mutex<Progress>,
    dead_letters: Option<Arc<AtomicU64>>,
    meters: Meters,
}

struct Progress {
    state: SecondaryState,
    /// `Some` once the sink has told where it stands.
    position: Option<Position>,
    floor: Option<EventId>,
    last_error: Option<Error>,
    retries: u64,
}

struct Meters {
    events: Counter,
    retries: Counter,
    lag_events: Gauge,
    lag_seconds: Gauge,
    parked: Gauge,
}

impl Secondary {
    pub(crate) fn new(
        name: &str,
        target: String,
        sink: Weak<dyn EventSink>,
        lag_events_max: Option<u64>,
        dead_letters: Option<Arc<AtomicU64>>,
    ) -> Self {
        let secondary = || name.to_owned();
        let meters = Meters {
            events: metrics::counter!("hydrant_events_delivered_total", "secondary" => secondary()),
            retries: metrics::counter!("hydrant_retries_total", "secondary" => secondary()),
            lag_events: metrics::gauge!("hydrant_lag_events", "secondary" => secondary()),
            lag_seconds: metrics::gauge!("hydrant_lag_seconds", "secondary" => secondary()),
            parked: metrics::gauge!("hydrant_parked", "secondary" => secondary()),
        };
        let progress = Progress {
            state: SecondaryState::Starting,
            position: None,
            floor: None,
            last_error: None,
            retries: 0,
        };
        Self {
            name: name.to_owned(),
            target,
            lag_events_max,
            wanted: watch::Sender::new(Wanted::Run),
            task: Mutex::default(),
            sink,
            progress: Mutex::new(progress),
            dead_letters,
            meters,
        }
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_state(&self, state: SecondaryState) {
        self.progress().state = state;
    }

    pub(crate) fn state(&self) -> SecondaryState {
        self.progress().state
    }

    /// The sink told where it stands.
    pub(crate) fn stands(&self, position: Option<EventId>, floor: Option<EventId>) {
        let mut progress = self.progress();
        progress.position = Some(position);
        progress.floor = floor.or(progress.floor);
    }

    /// The sink acknowledged so many events, up to `id`.
    pub(crate) fn advanced(&self, id: EventId, events: usize) {
        self.progress().position = Some(Some(id));
        self.meters.events.increment(events as u64);
    }

    pub(crate) fn retrying(&self, error: Error) {
        let mut progress = self.progress();
        (progress.state, progress.last_error) = (SecondaryState::Retrying, Some(error));
        progress.retries += 1;
        self.meters.retries.increment(1);
    }

    /// Stops it until a person resumes it; without an error where the person asked for it.
    pub(crate) fn parked(&self, error: Option<Error>) {
        let mut progress = self.progress();
        progress.state = SecondaryState::Parked;
        progress.last_error = error.or_else(|| progress.last_error.take());
    }

    /// How far it is; `None` until the sink has told.
    pub(crate) fn position(&self) -> Option<Position> {
        self.progress().position
    }

    /// How far its sink holds everything durably, where that is less than it acknowledged; `None` until the
    /// sink has told.
    ///
    /// # Errors
    /// What the sink meets, or that it does not answer.
    pub(crate) async fn durable(&self, patience: Duration) -> Result<Option<Position>> {
        let Some(acknowledged) = self.position() else { return Ok(None) };
        let Some(sink) = self.sink.upgrade() else { return Err(Error::closed("its pump has ended")) };
        Ok(Some(match guarded("the sink's checkpoint", patience, sink.checkpoint()).await? {
            Checkpoint::Unknown => acknowledged,
            checkpoint => acknowledged.min(checkpoint.id()),
        }))
    }

    /// Whether it has disposed of everything up to `id`.
    pub(crate) fn has(&self, id: Option<EventId>) -> bool {
        self.position().is_some_and(|position| position >= id)
    }

    pub(crate) fn status(&self, feed: &Feed) -> SecondaryStatus {
        let progress = self.progress();
        let position = progress.position.flatten();
        let (lag_events, since) = feed.lag(position);
        SecondaryStatus {
            name: self.name.clone(),
            target: self.target.clone(),
            state: progress.state,
            checkpoint: position,
            floor: progress.floor,
            lag_events,
            lag: since.map_or(Duration::ZERO, |since| Instant::now().duration_since(since)),
            last_error: progress.last_error.clone(),
            retries: progress.retries,
            dead_letters: self.dead_letters.as_ref().map_or(0, |counter| counter.load(Ordering::Relaxed)),
        }
    }

    pub(crate) fn laggard(&self, feed: &Feed) -> Laggard {
        let status = self.status(feed);
        Laggard {
            name: status.name,
            state: status.state,
            checkpoint: status.checkpoint,
            lag_events: status.lag_events,
            last_error: status.last_error,
        }
    }

    /// Publishes the gauges; called on a clock, so that a sink that hangs is seen to lag.
    #[expect(clippy::cast_precision_loss, reason = "a gauge is an f64")]
    pub(crate) fn report(&self, feed: &Feed) {
        let status = self.status(feed);
        self.meters.lag_events.set(status.lag_events as f64);
        self.meters.lag_seconds.set(status.lag.as_secs_f64());
        self.meters.parked.set(f64::from(u8::from(status.state == SecondaryState::Parked)));
    }
}
