//! What a fan-out and a relay share: the feed of one log, its roster, and a pump for each secondary.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures_util::{Stream, stream};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::Instrument;

use super::feed::Feed;
use super::guard::rng;
use super::options::SecondaryOptions;
use super::pump::Pump;
use super::secondary::{Secondary, Wanted};
use super::status::{FanOutStatus, Laggards, SecondaryState, SecondaryStatus};
use crate::{Checkpoint, CheckpointEntry, CheckpointStore, Error, EventId, EventSink, EventSource, Result};

/// How often the gauges are set, so that a sink that hangs is seen to lag.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

pub(crate) struct Hub {
    pub(crate) feed: Arc<Feed>,
    pub(crate) source: Arc<dyn EventSource>,
    pub(crate) roster: Arc<dyn CheckpointStore>,
    /// Bumped whenever anything in the status changed.
    pub(crate) changed: watch::Sender<()>,
    /// Held while the roster gains or loses a name, and while what may be pruned is worked out.
    pub(crate) roster_turn: tokio::sync::Mutex<()>,
    secondaries: Mutex<BTreeMap<String, Arc<Secondary>>>,
    /// Names of the roster that are not attached.
    detached: Mutex<BTreeMap<String, CheckpointEntry>>,
    stopped: Mutex<Option<Error>>,
    rng: Mutex<fastrand::Rng>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hub {
    /// Reads the roster.
    pub(crate) async fn open(
        feed: Feed,
        source: Arc<dyn EventSource>,
        roster: Arc<dyn CheckpointStore>,
        seed: Option<u64>,
    ) -> Result<Arc<Self>> {
        let entries = roster.list().await?;
        let detached = entries.into_iter().map(|entry| (entry.name.clone(), entry)).collect();
        let hub = Arc::new(Self {
            feed: Arc::new(feed),
            source,
            roster,
            changed: watch::Sender::default(),
            roster_turn: tokio::sync::Mutex::default(),
            secondaries: Mutex::default(),
            detached: Mutex::new(detached),
            stopped: Mutex::default(),
            rng: Mutex::new(rng(seed)),
        });
        tokio::spawn(report(Arc::downgrade(&hub)));
        Ok(hub)
    }

    pub(crate) fn secondaries(&self) -> Vec<Arc<Secondary>> {
        lock(&self.secondaries).values().cloned().collect()
    }

    fn secondary(&self, name: &str) -> Result<Arc<Secondary>> {
        let secondaries = lock(&self.secondaries);
        secondaries.get(name).cloned().ok_or_else(|| {
            let names: Vec<_> = secondaries.keys().map(String::as_str).collect();
            Error::invalid(format!("no secondary `{name}` is attached; attached are: {}", names.join(", ")))
        })
    }

    /// Enters the roster and starts the pump; the sink itself is not waited for.
    pub(crate) async fn attach(
        self: &Arc<Self>,
        name: &str,
        sink: Arc<dyn EventSink>,
        options: SecondaryOptions,
    ) -> Result<()> {
        if name.is_empty() {
            return Err(Error::invalid("a secondary needs a name"));
        }
        let _turn = self.roster_turn.lock().await;
        if self.feed.is_closed() {
            return Err(Error::closed("the fan-out was closed; open it again to attach"));
        }
        if lock(&self.secondaries).contains_key(name) {
            return Err(Error::invalid(format!("a secondary `{name}` is attached already; detach it first")));
        }
        let entry = self.enter(name, options.target.as_deref().unwrap_or(name)).await?;
        lock(&self.detached).remove(name);
        let secondary = Arc::new(Secondary::new(
            name,
            entry.target.clone(),
            Arc::downgrade(&sink),
            options.lag_events_max,
            options.dead_letters.clone(),
        ));
        let pump = Pump {
            hub: self.clone(),
            secondary: secondary.clone(),
            sink,
            options,
            rng: lock(&self.rng).fork(),
            entry,
            entry_at: Instant::now(),
            pending: None,
            unsaved: None,
            remembered: None,
            attempt: 0,
        };
        let span = tracing::info_span!("secondary", name);
        let task = tokio::spawn(pump.run(secondary.wanted.subscribe()).instrument(span));
        *lock(&secondary.task) = Some(task);
        lock(&self.secondaries).insert(name.to_owned(), secondary);
        self.changed.send_replace(());
        Ok(())
    }

    /// The roster's entry of this name and target, made where there is none: one that was never reached
    /// needs everything.
    async fn enter(&self, name: &str, target: &str) -> Result<CheckpointEntry> {
        let new = CheckpointEntry::new(name, target, Checkpoint::Empty);
        match self.roster.load(name).await? {
            Some(entry) if entry.target != target => Err(Error::invalid(format!(
                "the secondary `{name}` belongs to {}, not to {target}; detach it first, or use another name",
                entry.target
            ))),
            Some(entry) => Ok(entry),
            None => {
                self.roster.swap(name, None, Some(&new)).await?;
                Ok(new)
            }
        }
    }

    /// Stops the pump, waits for the call in flight to end, and leaves the roster.
    pub(crate) async fn detach(&self, name: &str) -> Result<()> {
        let _turn = self.roster_turn.lock().await;
        let attached = lock(&self.secondaries).remove(name);
        if let Some(secondary) = &attached {
            stop(secondary).await;
        }
        let entry = self.roster.load(name).await?;
        let left = match (&entry, attached) {
            (Some(_), _) => self.roster.swap(name, entry.as_ref(), None).await,
            (None, Some(_)) => Ok(()),
            (None, None) => Err(Error::invalid(format!("no secondary `{name}` is in the roster"))),
        };
        match (&left, entry) {
            // It still holds back `prune`, so it is still to be seen.
            (Err(_), Some(entry)) => drop(lock(&self.detached).insert(name.to_owned(), entry)),
            _ => drop(lock(&self.detached).remove(name)),
        }
        self.changed.send_replace(());
        left
    }

    pub(crate) fn park(&self, name: &str) -> Result<()> {
        self.secondary(name)?.wanted.send_replace(Wanted::Park);
        Ok(())
    }

    pub(crate) fn resume(&self, name: &str) -> Result<()> {
        let secondary = self.secondary(name)?;
        secondary.wanted.send_if_modified(|wanted| {
            let parked = *wanted == Wanted::Park;
            if parked {
                secondary.set_state(SecondaryState::Starting);
                *wanted = Wanted::Run;
            }
            parked
        });
        Ok(())
    }

    /// Nothing more comes from the log, for this reason.
    pub(crate) fn stop(&self, error: Error) {
        *lock(&self.stopped) = Some(error);
        self.changed.send_replace(());
    }

    pub(crate) fn stopped(&self) -> Option<Error> {
        lock(&self.stopped).clone()
    }

    pub(crate) fn status(&self) -> FanOutStatus {
        let absent = |entry: &CheckpointEntry| {
            let (lag_events, _) = self.feed.lag(entry.checkpoint.id());
            SecondaryStatus {
                name: entry.name.clone(),
                target: entry.target.clone(),
                state: SecondaryState::Detached,
                checkpoint: entry.checkpoint.id(),
                floor: None,
                lag_events,
                lag: Duration::ZERO,
                last_error: None,
                retries: 0,
                dead_letters: 0,
            }
        };
        let mut secondaries: Vec<_> = lock(&self.detached).values().map(absent).collect();
        secondaries.extend(self.secondaries().iter().map(|secondary| secondary.status(&self.feed)));
        secondaries.sort_by(|a, b| a.name.cmp(&b.name));
        FanOutStatus { head: self.feed.head(), secondaries, stopped: self.stopped() }
    }

    /// The status now, and again after each change; changes in quick succession are one.
    pub(crate) fn watch(self: &Arc<Self>) -> impl Stream<Item = FanOutStatus> + Send + use<> {
        let state = (self.changed.subscribe(), Arc::downgrade(self), true);
        stream::unfold(state, |(mut changed, hub, first)| async move {
            if !first {
                changed.changed().await.ok()?;
            }
            changed.mark_unchanged();
            let status = hub.upgrade()?.status();
            Some((status, (changed, hub, false)))
        })
    }

    /// Waits until `done`; the receiver is marked before each look.
    pub(crate) async fn until(&self, done: impl Fn() -> bool) {
        let mut changed = self.changed.subscribe();
        loop {
            changed.mark_unchanged();
            if done() {
                return;
            }
            drop(changed.changed().await); // the sender lives in `self`
        }
    }

    /// Waits until all attached secondaries have disposed of `id`; else the laggards.
    pub(crate) async fn delivered(&self, id: EventId, timeout: Duration) -> Result<(), Laggards> {
        let lacking = || {
            let secondaries = self.secondaries();
            secondaries.into_iter().filter(|secondary| !secondary.has(Some(id))).collect::<Vec<_>>()
        };
        match tokio::time::timeout(timeout, self.until(|| lacking().is_empty())).await {
            Ok(()) => Ok(()),
            Err(_) => Err(lacking().iter().map(|secondary| secondary.laggard(&self.feed)).collect()),
        }
    }

    /// The secondaries that do not hold everything up to the head, parked ones only where told to.
    fn behind(&self, with_parked: bool) -> Vec<Arc<Secondary>> {
        let head = self.feed.head();
        let lacks = |secondary: &Arc<Secondary>| !secondary.has(head);
        let counts = |secondary: &Arc<Secondary>| with_parked || secondary.state() != SecondaryState::Parked;
        self.secondaries().into_iter().filter(|secondary| lacks(secondary) && counts(secondary)).collect()
    }

    /// Whether there are secondaries, and a person has to look at each of them.
    pub(crate) fn all_parked(&self) -> bool {
        let secondaries = self.secondaries();
        !secondaries.is_empty()
            && secondaries.iter().all(|secondary| secondary.state() == SecondaryState::Parked)
    }

    /// Waits until every secondary has everything that was published, or is parked.
    pub(crate) async fn drained(&self) {
        self.until(|| self.behind(false).is_empty()).await;
    }

    /// What each secondary still lacks.
    pub(crate) fn laggards(&self) -> Laggards {
        self.behind(true).iter().map(|secondary| secondary.laggard(&self.feed)).collect()
    }

    /// Lets the secondaries drain until the deadline, stops all pumps, and tells what each still lacks.
    pub(crate) async fn close(&self, timeout: Duration) -> Laggards {
        let drained = tokio::time::timeout(timeout, self.drained()).await;
        self.feed.close();
        let laggards = self.laggards();
        if drained.is_err() {
            tracing::warn!(secondaries = laggards.len(), "closed before all secondaries had everything");
        }
        for secondary in self.secondaries() {
            stop(&secondary).await;
        }
        laggards
    }

    /// Tells all pumps to stop, without waiting.
    pub(crate) fn abandon(&self) {
        self.feed.close();
        for secondary in self.secondaries() {
            secondary.wanted.send_replace(Wanted::Stop);
        }
        lock(&self.secondaries).clear();
    }
}

async fn stop(secondary: &Secondary) {
    secondary.wanted.send_replace(Wanted::Stop);
    let task = lock(&secondary.task).take();
    if let Some(task) = task
        && let Err(error) = task.await
    {
        tracing::error!(secondary = secondary.name, %error, "the pump ended badly");
    }
}

async fn report(hub: Weak<Hub>) {
    let mut clock = tokio::time::interval(REPORT_INTERVAL);
    clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        clock.tick().await;
        let Some(hub) = hub.upgrade().filter(|hub| !hub.feed.is_closed()) else { return };
        for secondary in hub.secondaries() {
            secondary.report(&hub.feed);
        }
    }
}
