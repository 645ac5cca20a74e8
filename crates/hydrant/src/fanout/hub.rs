//! What a fan-out and a relay share: the feed of one log, its roster, and a pump for each secondary.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use futures_util::{Stream, stream};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::feed::Feed;
use super::guard::{guarded, rng};
use super::patient::Patient;
use super::secondary::{Secondary, Wanted};
use super::signal::{Signal, Watched};
use super::status::{FanOutStatus, Laggards, SecondaryState, SecondaryStatus};
use crate::mutants::mutant;
use crate::{CheckpointEntry, CheckpointStore, Clock, Error, ErrorKind, EventId, EventSource, Result};

/// How often the gauges are set, so that a sink that hangs is seen to lag.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// How long `close` waits for tasks that it has aborted: one of them may block its thread.
const ABORT_PATIENCE: Duration = Duration::from_millis(100);

pub(crate) struct Hub {
    pub(crate) feed: Arc<Feed>,
    pub(crate) source: Arc<dyn EventSource>,
    pub(crate) roster: Arc<dyn CheckpointStore>,
    /// Wakes all tasks that wait for the log or its secondaries.
    pub(crate) signal: Signal,
    pub(crate) settings: Settings,
    /// The reads of `prune`.
    pub(super) pruned: Patient,
    /// Held while the roster gains or loses a name. Counts these changes.
    pub(super) roster_turn: tokio::sync::Mutex<u64>,
    pub(super) members: Watched<Members>,
    rng: Mutex<fastrand::Rng>,
    reporter: OnceLock<AbortHandle>,
}

/// What the options of a fan-out and of a relay have in common.
pub(crate) struct Settings {
    pub(crate) target: Option<String>,
    /// Whether the head of the feed is that of the log. A relay's is only the newest event that it has read.
    pub(crate) knows_head: bool,
    pub(crate) call_timeout: Duration,
    pub(crate) read_timeout: Duration,
    pub(crate) clock: Clock,
    pub(crate) seed: Option<u64>,
}

/// The roster, as far as this process knows it.
#[derive(Default)]
pub(super) struct Members {
    pub(super) attached: BTreeMap<String, Arc<Secondary>>,
    /// Names that are in the roster, or may be, and are not attached.
    pub(super) absent: BTreeMap<String, Absent>,
    /// Names that this process detached, or failed to detach. A record or a removal may still land late, and must not
    /// change the entry of a later `attach`.
    pub(super) late_changes: BTreeSet<String>,
    /// Secondaries that were detached, as long as their pumps run.
    pub(super) detached: Vec<Arc<Secondary>>,
    pub(super) is_closing: bool,
}

/// A name of the roster that is not attached here. It still holds back `prune`.
pub(super) struct Absent {
    pub(super) target: String,
    pub(super) position: Option<EventId>,
}

impl From<CheckpointEntry> for Absent {
    fn from(entry: CheckpointEntry) -> Self {
        Self { position: entry.checkpoint.id(), target: entry.target }
    }
}

impl Hub {
    /// Reads the roster.
    pub(crate) async fn open(
        feed: Feed,
        signal: Signal,
        source: Arc<dyn EventSource>,
        roster: Arc<dyn CheckpointStore>,
        settings: Settings,
    ) -> Result<Arc<Self>> {
        let entries = guarded("the roster", settings.call_timeout, || roster.list()).await?;
        let absent = entries.into_iter().map(|entry| (entry.name.clone(), entry.into())).collect();
        let members = Members { absent, ..Members::default() };
        let hub = Arc::new(Self {
            pruned: Patient::new(source.clone(), settings.read_timeout),
            feed: Arc::new(feed),
            source,
            roster,
            roster_turn: tokio::sync::Mutex::default(),
            members: Watched::new(members, &signal),
            rng: Mutex::new(rng(settings.seed)),
            signal,
            settings,
            reporter: OnceLock::new(),
        });
        let reporter = tokio::spawn(report(Arc::downgrade(&hub)));
        hub.reporter.get_or_init(|| reporter.abort_handle());
        Ok(hub)
    }

    pub(crate) fn rng(&self) -> fastrand::Rng {
        self.rng.lock().unwrap_or_else(PoisonError::into_inner).fork()
    }

    /// The source, with a time-out for reads that yield nothing.
    pub(crate) fn patient(&self) -> Patient {
        Patient::new(self.source.clone(), self.settings.read_timeout)
    }

    pub(crate) fn now(&self) -> SystemTime {
        self.settings.clock.now()
    }

    pub(crate) fn secondaries(&self) -> Vec<Arc<Secondary>> {
        self.members.read(|members| members.attached.values().cloned().collect())
    }

    fn secondary(&self, name: &str) -> Result<Arc<Secondary>> {
        self.members.read(|members| {
            members.attached.get(name).cloned().ok_or_else(|| {
                let names: Vec<_> = members.attached.keys().map(String::as_str).collect();
                Error::invalid(format!(
                    "no secondary `{name}` is attached; attached are: {}",
                    names.join(", ")
                ))
            })
        })
    }

    pub(crate) fn park(&self, name: &str) -> Result<()> {
        self.secondary(name).map(|secondary| secondary.want(Wanted::Park))
    }

    pub(crate) fn resume(&self, name: &str) -> Result<()> {
        self.secondary(name).map(|secondary| secondary.resume())
    }

    /// Checks that the log takes another append.
    ///
    /// # Errors
    /// `Closed`, or `Diverged` if that stopped the log; nothing of the append was applied.
    pub(crate) fn admits_appends(&self) -> Result<()> {
        if self.members.read(|members| members.is_closing) {
            return Err(Error::closed("the fan-out was closed; open it again to append"));
        }
        match self.feed.stopped() {
            None => Ok(()),
            Some(stopped) if stopped.kind() == ErrorKind::Diverged => Err(stopped),
            Some(stopped) => {
                let message = "the log has stopped, and nothing of this append was written; open it again";
                Err(Error::closed(message).because(stopped))
            }
        }
    }

    /// The error of a primary that every attached sink with a checkpoint contradicts.
    pub(crate) fn stale(&self) -> Option<Error> {
        let known: Vec<_> =
            self.secondaries().iter().filter_map(|secondary| secondary.has_diverged()).collect();
        if mutant("stale-unnoticed") || known.is_empty() || !known.iter().all(|diverged| *diverged) {
            return None;
        }
        let head = self.feed.head();
        let ends = head.map_or_else(|| "is empty".to_owned(), |head| format!("ends at event {head}"));
        let message = format!(
            "the primary {ends}, and every sink that has a checkpoint holds other or newer events: it is empty or older \
             than all of them, as when its volume is missing. Stop now; then mount or restore the primary, or copy the \
             log back from a sink. If the sinks belong to another log, detach them",
        );
        Some(Error::diverged(message))
    }

    pub(crate) fn status(&self) -> FanOutStatus {
        // At once: a secondary that is being detached moves from the one to the other.
        let mut secondaries = self.members.read(|members| {
            let absent = members.absent.iter().map(|(name, absent)| absent.status(name, &self.feed));
            let attached = members.attached.values().map(|secondary| secondary.status(&self.feed));
            absent.chain(attached).collect::<Vec<_>>()
        });
        secondaries.sort_by(|a, b| a.name.cmp(&b.name));
        FanOutStatus {
            target: self.settings.target.clone(),
            head: self.feed.head(),
            secondaries,
            stopped: self.feed.stopped().or_else(|| self.is_closing().then(closed)),
            stale: self.stale(),
        }
    }

    /// Yields the status now, and again after each change; changes in quick succession are one.
    pub(crate) fn watch(self: &Arc<Self>) -> impl Stream<Item = FanOutStatus> + Send + use<> {
        let state = (self.signal.subscribe(), Arc::downgrade(self), true);
        stream::unfold(state, |(mut changed, hub, first)| async move {
            if !first {
                changed.changed().await;
            }
            changed.mark_unchanged();
            let status = hub.upgrade()?.status();
            Some((status, (changed, hub, false)))
        })
    }

    /// The attached secondaries that have not handled everything up to `id`.
    fn without(&self, id: Option<EventId>) -> Vec<Arc<Secondary>> {
        self.secondaries().into_iter().filter(|secondary| !secondary.has(id)).collect()
    }

    fn laggards_of(&self, secondaries: &[Arc<Secondary>]) -> Laggards {
        secondaries.iter().map(|secondary| secondary.laggard(&self.feed)).collect()
    }

    /// The acknowledged events that each secondary does not have.
    pub(crate) fn laggards(&self) -> Laggards {
        self.laggards_of(&self.without(self.feed.newest()))
    }

    /// Waits until all attached secondaries have handled `id`; else returns the laggards.
    pub(crate) async fn delivered(&self, id: EventId, timeout: Duration) -> Result<(), Laggards> {
        let delivered =
            self.signal.until(|| self.without(Some(id)).is_empty() || mutant("delivered-at-once"));
        match tokio::time::timeout(timeout, delivered).await {
            Ok(()) => Ok(()),
            Err(_) => Err(self.laggards_of(&self.without(Some(id)))),
        }
    }

    /// Returns whether there are secondaries, and each of them waits for an operator.
    pub(crate) fn all_parked(&self) -> bool {
        let secondaries = self.secondaries();
        !secondaries.is_empty() && secondaries.iter().all(|secondary| secondary.is_parked())
    }

    /// Returns whether every secondary has everything that was published, or waits for an operator.
    pub(crate) fn is_drained(&self) -> bool {
        self.without(self.feed.head()).iter().all(|secondary| secondary.is_parked())
    }

    /// Refuses appends and attaches from now on.
    pub(crate) fn begin_to_close(&self) {
        self.members.update(|members| members.is_closing = true);
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.members.read(|members| members.is_closing)
    }

    /// Lets the secondaries drain until the deadline, ends all tasks, and reports what each does not have.
    ///
    /// # Cancel safety
    /// Nothing is lost: the next call waits for the same pumps.
    pub(crate) async fn close(&self, deadline: Instant) -> Laggards {
        self.begin_to_close();
        // Pumps deliver what is left, record their progress, and end.
        self.feed.close();
        let all_ended = || mutant("close-without-waiting") || self.running().is_empty();
        let drained = async {
            self.signal.until(all_ended).await;
            // The next program must not find a roster that an attach or a detach under way still changes.
            drop(self.roster_turn.lock().await);
        };
        let drained = tokio::time::timeout_at(deadline, drained).await;
        let laggards = self.laggards();
        if drained.is_err() && mutant("close-without-abort") {
            self.signal.until(all_ended).await;
        } else if drained.is_err() {
            tracing::warn!(%laggards, "closed before all secondaries had ended");
            for secondary in self.running() {
                abort(&secondary.abort);
            }
            drop(tokio::time::timeout(ABORT_PATIENCE, self.signal.until(all_ended)).await);
            for secondary in self.running() {
                tracing::error!(
                    secondary = secondary.name,
                    "the sink blocks its thread: its task still runs"
                );
            }
        }
        abort(&self.reporter);
        laggards
    }

    /// The secondaries, attached or detached, whose pumps have not ended.
    fn running(&self) -> Vec<Arc<Secondary>> {
        self.members.read(|members| {
            let all = members.attached.values().chain(&members.detached);
            all.filter(|secondary| !secondary.has_ended()).cloned().collect()
        })
    }

    /// Asks all pumps to end, without waiting.
    fn abandon(&self) {
        self.begin_to_close();
        self.feed.close();
        for secondary in self.secondaries() {
            secondary.wanted.send_replace(Wanted::Leave);
        }
        abort(&self.reporter);
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        abort(&self.reporter);
        // The streams of `watch` end.
        if !mutant("drop-without-wake") {
            self.signal.wake();
        }
    }
}

/// The log was closed by a call, not stopped by a fault.
fn closed() -> Error {
    Error::closed("the log was closed; open it again")
}

/// Ends the tasks of a log with its last handle.
pub(crate) struct Owner {
    hub: Arc<Hub>,
    /// The task that fills the feed.
    pub(crate) feeder: AbortHandle,
}

impl Owner {
    pub(crate) fn new(hub: Arc<Hub>, feeder: AbortHandle) -> Arc<Self> {
        Arc::new(Self { hub, feeder })
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.feeder.abort();
        self.hub.abandon();
    }
}

pub(super) fn abort(task: &OnceLock<AbortHandle>) {
    if let Some(task) = task.get() {
        task.abort();
    }
}

impl Absent {
    fn status(&self, name: &str, feed: &Feed) -> SecondaryStatus {
        SecondaryStatus {
            name: name.to_owned(),
            target: self.target.clone(),
            state: SecondaryState::Detached,
            checkpoint: self.position,
            floor: None,
            lag_events: feed.lag(self.position).0,
            lag: Duration::ZERO,
            last_error: None,
            last_error_at: None,
            retries: 0,
            dead_letters: 0,
        }
    }
}

/// Sets the gauges, and wakes the streams of `watch` when only time changed a state.
async fn report(hub: Weak<Hub>) {
    let mut clock = tokio::time::interval(REPORT_INTERVAL);
    clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut shown: Vec<SecondaryState> = Vec::new();
    let mut was_stale = false;
    loop {
        clock.tick().await;
        let Some(hub) = hub.upgrade() else { return };
        let mut states = Vec::with_capacity(shown.len());
        for secondary in hub.secondaries() {
            let status = secondary.status(&hub.feed);
            secondary.report(&status);
            states.push(status.state);
        }
        if states != shown {
            shown = states;
            hub.signal.wake();
        }
        let stale = hub.stale();
        if let Some(error) = &stale
            && !was_stale
        {
            tracing::error!(%error, "the primary is stale");
        }
        was_stale = stale.is_some();
    }
}
