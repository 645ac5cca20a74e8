//! The state of one secondary: what its pump has to do, and its progress.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, SystemTime};

use metrics::{Counter, Gauge};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::feed::Feed;
use super::guard::guarded;
use super::lineage::{Place, id_of};
use super::options::SecondaryOptions;
use super::signal::{Signal, Watched};
use super::status::{Laggard, SecondaryState, SecondaryStatus};
use crate::mutants::mutant;
use crate::{Checkpoint, Error, ErrorKind, Event, EventId, EventSink, Result};

/// The newest event that the secondary has, with all before it; `None` before the first.
pub(crate) type Position = Option<EventId>;

/// The place of a [`Position`], with the event's digest where that is known.
pub(crate) type Reached = Option<Place>;

/// A secondary is live as long as the oldest event that it does not have is younger than this.
const LIVE_LAG_MAX: Duration = Duration::from_secs(1);

/// What a pump has to do. An operator, an error or the end of the log decides it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    Run,
    Park,
    /// Record the progress in the roster, and end.
    Leave,
    /// End at once: the name leaves the roster.
    Remove,
}

pub(crate) struct Secondary {
    pub(crate) name: String,
    pub(crate) target: String,
    pub(crate) lag_events_max: Option<u64>,
    pub(crate) wanted: watch::Sender<Wanted>,
    /// Aborts the pump's task.
    pub(crate) abort: OnceLock<AbortHandle>,
    batch_events_max: usize,
    linger_max: Duration,
    /// As long as the pump runs, it holds the sink.
    sink: Weak<dyn EventSink>,
    progress: Watched<Progress>,
    dead_letters: Option<Arc<AtomicU64>>,
    meters: Meters,
}

/// What the pump is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Starting,
    Running,
    Retrying,
    Parked,
}

struct Progress {
    phase: Phase,
    /// `Some` once the sink has reported its checkpoint.
    reached: Option<Reached>,
    floor: Option<EventId>,
    last_error: Option<Error>,
    last_error_at: Option<SystemTime>,
    retries: u64,
    /// Whether the sink's checkpoint is of another history than the primary's.
    has_diverged: bool,
    /// The pump's task has ended.
    has_ended: bool,
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
        target: &str,
        sink: Weak<dyn EventSink>,
        options: &SecondaryOptions,
        signal: &Signal,
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
            phase: Phase::Starting,
            reached: None,
            floor: None,
            last_error: None,
            last_error_at: None,
            retries: 0,
            has_diverged: false,
            has_ended: false,
        };
        Self {
            name: name.to_owned(),
            target: target.to_owned(),
            lag_events_max: options.lag_events_max,
            wanted: watch::Sender::new(Wanted::Run),
            abort: OnceLock::new(),
            batch_events_max: options.batch_events_max,
            linger_max: options.linger_max,
            sink,
            progress: Watched::new(progress, signal),
            dead_letters: options.dead_letters.clone(),
            meters,
        }
    }

    /// Changes what a running pump has to do.
    pub(crate) fn want(&self, next: Wanted) {
        self.wanted.send_if_modified(|wanted| {
            let runs = *wanted == Wanted::Run;
            if runs {
                *wanted = next;
            }
            runs
        });
    }

    /// Lets a parked pump run again, and shows that at once.
    pub(crate) fn resume(&self) {
        self.wanted.send_if_modified(|wanted| {
            let is_parked = *wanted == Wanted::Park;
            if is_parked {
                self.starting();
                *wanted = Wanted::Run;
            }
            is_parked
        });
    }

    /// Parks the pump because of an error, until an operator resumes it.
    pub(crate) fn park(&self, error: Error, now: SystemTime) {
        self.wanted.send_if_modified(|wanted| {
            self.progress.update(|progress| {
                progress.phase = Phase::Parked;
                progress.fails(error, now);
            });
            let runs = *wanted == Wanted::Run;
            if runs {
                *wanted = Wanted::Park;
            }
            runs
        });
    }

    /// Shows the secondary as parked, unless it was resumed meanwhile.
    pub(crate) fn parked(&self) {
        self.wanted.send_if_modified(|wanted| {
            if *wanted == Wanted::Park {
                self.progress.update(|progress| progress.phase = Phase::Parked);
            }
            false
        });
    }

    pub(crate) fn starting(&self) {
        self.progress.update(|progress| progress.phase = Phase::Starting);
    }

    /// Records that the sink reported its checkpoint, which belongs to the primary's history.
    pub(crate) fn begins(&self, reached: Reached, floor: Option<EventId>) {
        self.progress.update(|progress| {
            progress.phase = Phase::Running;
            progress.reached = Some(reached);
            progress.floor = floor.or(progress.floor);
            progress.has_diverged = false;
        });
    }

    /// Records that the comparison of the sink's place with the primary failed. (A `Diverged` of the sink itself says
    /// nothing about the primary.)
    pub(crate) fn compared(&self, error: &Error) {
        if error.kind() == ErrorKind::Diverged {
            self.progress.update(|progress| progress.has_diverged = true);
        }
    }

    /// Records that the sink acknowledged this many events, up to this one.
    pub(crate) fn advanced(&self, last: &Event, events: usize) {
        self.meters.events.increment(events as u64);
        let recovered = self.progress.update(|progress| {
            progress.reached = Some(Some(Place::Event(last.clone())));
            progress.last_error.take_if(|_| !mutant("keeps-last-error"))
        });
        self.log_recovery(recovered);
    }

    /// Records that the sink has everything, and so has recovered.
    pub(crate) fn at_head(&self) {
        if self.progress.read(|progress| progress.last_error.is_some()) && !mutant("keeps-last-error") {
            self.log_recovery(self.progress.update(|progress| progress.last_error.take()));
        }
    }

    fn log_recovery(&self, error: Option<Error>) {
        if let Some(error) = error {
            tracing::info!(secondary = self.name, after = %error, "recovered");
        }
    }

    pub(crate) fn retrying(&self, error: Error, now: SystemTime) {
        self.meters.retries.increment(1);
        self.progress.update(|progress| {
            progress.phase = Phase::Retrying;
            progress.retries += 1;
            progress.fails(error, now);
        });
    }

    /// Records that the pump's task has ended, and dropped the sink.
    pub(crate) fn ended(&self) {
        self.progress.update(|progress| progress.has_ended = true);
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.progress.read(|progress| progress.has_ended)
    }

    pub(crate) fn is_parked(&self) -> bool {
        self.progress.read(|progress| progress.phase == Phase::Parked)
    }

    /// Returns whether the sink contradicts the primary. `None` if the sink has no checkpoint, or has not reported it.
    pub(crate) fn has_diverged(&self) -> Option<bool> {
        self.progress.read(|progress| match &progress.reached {
            _ if progress.has_diverged => Some(true),
            Some(Some(_)) => Some(false),
            _ => None,
        })
    }

    /// Returns the position of the secondary; `None` until the sink has reported its checkpoint.
    pub(crate) fn position(&self) -> Option<Position> {
        self.progress.read(|progress| progress.reached.as_ref().map(|reached| id_of(reached.as_ref())))
    }

    /// Returns the place of this position, with the digest if it is known.
    pub(crate) fn reached(&self) -> Option<Reached> {
        self.progress.read(|progress| progress.reached.clone())
    }

    /// Asks the sink how far it holds everything durably, which may be less than it acknowledged. `None` until the sink
    /// has reported its checkpoint.
    ///
    /// # Errors
    /// Any error of the sink, `Unavailable` if it does not reply in time, and `Closed` if the pump has ended.
    pub(crate) async fn durable(&self, patience: Duration) -> Result<Option<Position>> {
        let Some(acknowledged) = self.position() else { return Ok(None) };
        let Some(sink) = self.sink.upgrade() else { return Err(Error::closed("its pump has ended")) };
        if mutant("prune-acknowledged") {
            return Ok(Some(acknowledged));
        }
        Ok(Some(match guarded("the sink's checkpoint", patience, || sink.checkpoint()).await? {
            Checkpoint::Unknown => acknowledged,
            checkpoint => acknowledged.min(checkpoint.id()),
        }))
    }

    /// Returns whether the secondary has everything up to `id`.
    pub(crate) fn has(&self, id: Option<EventId>) -> bool {
        self.position().is_some_and(|position| position >= id)
    }

    pub(crate) fn status(&self, feed: &Feed) -> SecondaryStatus {
        self.progress.read(|progress| {
            let position = progress.reached.as_ref().and_then(|reached| id_of(reached.as_ref()));
            let (lag_events, since) = feed.lag(position);
            let lag = since.map_or(Duration::ZERO, |since| Instant::now().duration_since(since));
            let live_lag_max = LIVE_LAG_MAX.saturating_add(self.linger_max);
            let is_soon = lag < live_lag_max || mutant("live-by-lag-alone");
            let is_live = lag_events <= self.batch_events_max as u64 && is_soon;
            SecondaryStatus {
                name: self.name.clone(),
                target: self.target.clone(),
                state: match progress.phase {
                    Phase::Starting => SecondaryState::Starting,
                    Phase::Running if is_live => SecondaryState::Live,
                    Phase::Running => SecondaryState::CatchingUp,
                    Phase::Retrying => SecondaryState::Retrying,
                    Phase::Parked => SecondaryState::Parked,
                },
                checkpoint: position,
                floor: progress.floor,
                lag_events,
                lag,
                last_error: progress.last_error.clone(),
                last_error_at: progress.last_error_at,
                retries: progress.retries,
                dead_letters: self.dead_letters.as_ref().map_or(0, |counter| counter.load(Ordering::Relaxed)),
            }
        })
    }

    /// Returns what the secondary does not have, up to the newest event acknowledged, durable or not.
    pub(crate) fn laggard(&self, feed: &Feed) -> Laggard {
        let status = self.status(feed);
        Laggard {
            name: status.name,
            target: status.target,
            state: status.state,
            checkpoint: status.checkpoint,
            lag_events: feed.lag_to_newest(status.checkpoint),
            last_error: status.last_error,
        }
    }

    /// Sets the gauges.
    #[expect(clippy::cast_precision_loss, reason = "a gauge is an f64")]
    pub(crate) fn report(&self, status: &SecondaryStatus) {
        self.meters.lag_events.set(status.lag_events as f64);
        self.meters.lag_seconds.set(status.lag.as_secs_f64());
        self.meters.parked.set(f64::from(u8::from(status.state == SecondaryState::Parked)));
    }
}

impl Progress {
    fn fails(&mut self, error: Error, now: SystemTime) {
        self.last_error = Some(error);
        self.last_error_at = Some(now);
    }
}
