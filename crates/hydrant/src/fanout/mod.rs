//! The fan-out: one primary that commits, many secondaries that follow, each from its own checkpoint.

mod commit;
mod delivery;
mod feed;
mod follower;
pub(crate) mod guard;
mod hub;
pub(crate) mod lineage;
mod looks;
mod marks;
mod options;
mod patient;
mod progress;
mod prune;
mod pump;
mod relay;
mod ring;
mod roster;
mod secondary;
mod signal;
mod start;
mod status;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::Stream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use self::commit::{Append, Claim, Command, Committer, late};
use self::feed::Feed;
use self::guard::later;
use self::hub::{Hub, Owner, Settings};
pub use self::options::{FanOutOptions, RelayOptions, SecondaryOptions, StartAt};
pub use self::relay::Relay;
use self::signal::Signal;
pub use self::status::{FanOutStatus, Laggard, Laggards, SecondaryState, SecondaryStatus};
use crate::mutants::mutant;
use crate::{
    Batch, Checkpoint, CommitPoint, Error, ErrorKind, EventId, EventSink, EventSource, EventStream, Primary,
    Prune, ReadFrom, Result, Retry,
};

/// Appends that wait for the one in flight; more wait for a place.
const COMMANDS_MAX: usize = 64;

/// The smallest time-out of `close`: tasks that have nothing left to do need a moment to end.
const CLOSE_MIN: Duration = Duration::from_millis(100);

/// One log with a primary store that commits and secondary sinks that follow at their own pace.
///
/// - **The primary is the commit point**: no secondary, reader or caller sees an event before it is
///   durable there.
/// - **Each secondary** holds a contiguous part of the log, at least once, in order, across crashes of
///   either side, from its own checkpoint on.
/// - **Isolation**: a secondary that is slow, hangs, errs, panics or is down delays neither the primary nor
///   any other. (It must not block its thread: nothing can isolate that.) Memory is bounded at any lag.
/// - **Retries**: transient errors are retried forever, with capped exponential backoff and full jitter.
///   Permanent ones park the secondary until an operator resumes it; the others continue.
/// - **The roster** of secondaries is durable beside the primary, until [`detach`](FanOut::detach): nothing
///   is pruned that one of them still needs, also after a restart and before it is attached again.
///
/// It is a source and a sink itself, so it nests. All clones are handles of the same fan-out. When the last is
/// dropped, its tasks end; an append in flight is dropped with them.
///
/// Metrics, with the label `secondary`: the counters `hydrant_events_delivered_total` and
/// `hydrant_retries_total`, the gauges `hydrant_lag_events`, `hydrant_lag_seconds` and `hydrant_parked` (0 or
/// 1). [`status`](FanOut::status) and [`watch`](FanOut::watch) show the same and more.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use hydrant::{Batch, Event, EventId, EventSink, FanOut, FanOutOptions, MemoryStore, SecondaryOptions};
///
/// let log = FanOut::open(MemoryStore::default(), FanOutOptions::default()).await?;
/// let archive = MemoryStore::default();
/// log.attach("archive", archive.clone(), SecondaryOptions::default()).await?;
///
/// let event = Event::new(EventId::ZERO, "hello")?;
/// log.append(Batch::new(None, &[event])?).await?; // durable in the primary
/// log.delivered(EventId::ZERO, Duration::from_secs(5)).await?; // the archive has it
/// assert_eq!(archive.checkpoint().await?, log.checkpoint().await?);
///
/// let laggards = log.close(Duration::from_secs(5)).await;
/// assert!(laggards.is_empty());
/// # Ok(()) }
/// ```
pub struct FanOut<P> {
    primary: Arc<P>,
    hub: Arc<Hub>,
    commands: mpsc::Sender<Command>,
    owner: Arc<Owner>,
    options: FanOutOptions,
}

impl<P> Clone for FanOut<P> {
    fn clone(&self) -> Self {
        Self {
            primary: self.primary.clone(),
            hub: self.hub.clone(),
            commands: self.commands.clone(),
            owner: self.owner.clone(),
            options: self.options.clone(),
        }
    }
}

impl<P> fmt::Debug for FanOut<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FanOut").field("head", &self.hub.feed.head()).finish_non_exhaustive()
    }
}

impl<P: Primary + 'static> FanOut<P> {
    /// Opens a log over its primary, and reads the roster of secondaries beside it.
    ///
    /// # Errors
    /// `Unsupported` for a primary without memory; any error of the primary or its roster.
    ///
    /// # Cancel safety
    /// A dropped future has started nothing.
    pub async fn open(primary: P, options: FanOutOptions) -> Result<Self> {
        let primary = Arc::new(primary);
        let timeout = options.call_timeout;
        let head = guard::guarded("the primary's checkpoint", timeout, || primary.checkpoint()).await?;
        let accepted = guard::guarded("the primary's head", timeout, || primary.head()).await?.id();
        if head == Checkpoint::Unknown {
            let message = "a primary must know its own checkpoint; take a store that has a memory";
            return Err(Error::unsupported(message));
        }
        let signal = Signal::default();
        let feed = Feed::new(head, signal.clone(), options.ring_events_max, options.ring_bytes_max);
        let settings = Settings {
            target: options.target.clone(),
            knows_head: true,
            call_timeout: timeout,
            read_timeout: options.read_timeout,
            clock: options.clock.clone(),
            seed: options.seed,
        };
        let described = || async { Ok((primary.roster(), primary.durability())) };
        let (roster, durability) = guard::caught("the primary", described).await?;
        let hub = Hub::open(feed, signal, primary.clone(), roster, settings).await?;
        let (commands, received) = mpsc::channel(COMMANDS_MAX);
        let committer = Committer::new(primary.clone(), hub.clone(), options.clone(), durability, accepted);
        let committer = tokio::spawn(committer.run(received)).abort_handle();
        let owner = Owner::new(hub.clone(), committer);
        Ok(Self { primary, hub, commands, owner, options })
    }

    /// Returns the primary. Append to the fan-out instead: what is appended to the primary directly is published
    /// late, and is not in the ring.
    pub fn primary(&self) -> &P {
        &self.primary
    }

    /// Adds a secondary, at any time; it backfills from its own checkpoint.
    ///
    /// Returns when the roster holds it, and does not wait for the sink: one that is down is retried.
    ///
    /// # Errors
    /// `Invalid` for a name that is attached already or belongs to another target; `Closed` once the fan-out is being
    /// closed; any error of the roster.
    ///
    /// # Cancel safety
    /// A dropped future has attached nothing. The roster may have the name already, or get it later, and the status shows
    /// it as [`Detached`](SecondaryState::Detached). Call `attach` again, or [detach](FanOut::detach) the name. If the
    /// roster gets the name after that, the next `prune` or `open` shows it again.
    pub async fn attach(
        &self,
        name: &str,
        sink: impl EventSink + 'static,
        options: SecondaryOptions,
    ) -> Result<()> {
        self.hub.attach(name, Arc::new(sink), options).await
    }

    /// Removes a secondary from the log and from the roster, and waits until its call in flight is dropped.
    ///
    /// # Errors
    /// `Invalid` for a name that neither status nor roster has; any error of the roster. After an error of the roster, the
    /// secondary has ended, still holds back `prune`, and the status shows it as [`Detached`](SecondaryState::Detached).
    /// Call `detach` again.
    ///
    /// # Cancel safety
    /// After a dropped future, it completes all the same; call it again to learn the result.
    pub async fn detach(&self, name: &str) -> Result<()> {
        self.hub.detach(name).await
    }

    /// Stops a secondary until an operator [resumes](FanOut::resume) it; the others continue.
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

    /// Waits until all attached secondaries have handled `id`: held it, filtered it out, or durably
    /// dead-lettered it.
    ///
    /// # Errors
    /// The secondaries that had not done so within `timeout`.
    ///
    /// # Cancel safety
    /// Only waits.
    pub async fn delivered(&self, id: EventId, timeout: Duration) -> Result<(), Laggards> {
        self.hub.delivered(id, timeout).await
    }

    /// Returns the log and its secondaries, as they are now.
    pub fn status(&self) -> FanOutStatus {
        self.hub.status()
    }

    /// Yields the status now, and again after each change; changes in quick succession are one.
    pub fn watch(&self) -> impl Stream<Item = FanOutStatus> + Send + use<P> {
        self.hub.watch()
    }

    /// Takes no more appends, waits until acknowledged events are durable, lets the secondaries drain and an `attach` or
    /// `detach` under way end, and ends all tasks. Reports the acknowledged events that each secondary does not have.
    ///
    /// Returns within `timeout` (100 ms if it is less), and another 100 ms if tasks had to be aborted. An append in
    /// flight that hangs for so long has an unknown outcome. Of several calls at once, the shortest time-out counts.
    ///
    /// # Cancel safety
    /// A dropped future leaves a fan-out that takes no more appends; call it again to wait for the end of its tasks.
    pub async fn close(&self, timeout: Duration) -> Laggards {
        let deadline = later(timeout.max(CLOSE_MIN));
        self.hub.begin_to_close();
        let finished = async {
            let (reply, finished) = oneshot::channel();
            if self.commands.send(Command::Finish { reply }).await.is_ok() {
                drop(finished.await);
            }
        };
        if tokio::time::timeout_at(deadline, finished).await.is_err() {
            tracing::warn!("closed before the primary had everything durable");
            self.owner.feeder.abort();
        }
        self.hub.close(deadline).await
    }

    /// Waits while a secondary lags by more than its `lag_events_max`.
    async fn wait_for_laggards(&self, deadline: Instant) -> Result<()> {
        let too_far = || {
            self.hub.secondaries().into_iter().find(|secondary| {
                let lag = self.hub.feed.lag(secondary.position().flatten()).0;
                let holds_back = !secondary.is_parked() || mutant("parked-holds-appends");
                secondary.lag_events_max.is_some_and(|lag_max| lag > lag_max) && holds_back
            })
        };
        let deadline = if mutant("back-pressure-without-end") { later(Duration::MAX) } else { deadline };
        let may_append = || too_far().is_none() || self.hub.admits_appends().is_err();
        if may_append() || tokio::time::timeout_at(deadline, self.hub.signal.until(may_append)).await.is_ok()
        {
            return Ok(());
        }
        let laggard = too_far().map_or_else(String::new, |secondary| format!(" `{}`", secondary.name));
        let message = format!(
            "the secondary{laggard} lags by more than `lag_events_max` events, and nothing was written: try again, or \
             park it"
        );
        Err(Error::unavailable(message))
    }

    /// Hands an append to the committer, and waits for its outcome.
    async fn commit(&self, batch: Batch<'_>) -> Result<()> {
        let claim = Claim::default();
        let (reply, done) = oneshot::channel();
        let command = Command::Append(Append {
            after: batch.after(),
            events: batch.events().to_vec(),
            deadline: batch.deadline(),
            claim: claim.clone(),
            reply,
        });
        let committed = async {
            self.commands.send(command).await.map_err(|_| self.refusal())?;
            done.await.unwrap_or_else(|_| Err(if claim.take() { self.refusal() } else { gone() }))
        };
        let deadline = batch.deadline().filter(|_| !mutant("deadline-ignored"));
        let Some(deadline) = deadline else { return committed.await };
        tokio::time::timeout_at(deadline, committed).await.unwrap_or_else(|_| {
            // Either it was given up before it was begun, or it was begun and its outcome is unknown.
            if claim.take() { Err(late()) } else { Err(unanswered()) }
        })
    }

    /// The error for an append that the committer does not take any more.
    fn refusal(&self) -> Error {
        self.hub.admits_appends().err().unwrap_or_else(|| {
            Error::closed("the fan-out's runtime ended, and nothing was written; open it again")
        })
    }

    /// Asks the committer, or calls `otherwise` once that has ended.
    async fn ask(
        &self,
        what: &str,
        command: impl FnOnce(oneshot::Sender<Result<Checkpoint>>) -> Command,
        otherwise: impl AsyncFnOnce() -> Result<Checkpoint>,
    ) -> Result<Checkpoint> {
        let (reply, done) = oneshot::channel();
        if self.commands.send(command(reply)).await.is_ok()
            && let Ok(checkpoint) = done.await
        {
            return checkpoint;
        }
        guard::guarded(what, self.options.call_timeout, || otherwise()).await
    }
}

/// The error for an append that the committer had begun as it ended.
fn gone() -> Error {
    Error::closed("the fan-out was closed or its runtime ended while this was written; open it again")
        .with_retry(Retry::AfterCheckpoint)
}

/// The error for an append whose deadline was over while the primary wrote.
fn unanswered() -> Error {
    let message = "the primary did not answer before the deadline of this append";
    Error::outcome_unknown(message)
}

#[async_trait]
impl<P: Primary + 'static> EventSink for FanOut<P> {
    /// Appends to the primary. `Ok` means durable there, or accepted, as the primary's own `Ok`. Appends are served one by
    /// one.
    ///
    /// With a deadline in the batch, the primary is called at most once, and `append` returns before the deadline: the
    /// caller resolves an unknown outcome. Without one, a write of unknown outcome is sent again, the same bytes under
    /// the same ids, until the outcome is known; after `resolve_timeout` the log stops with an error that says so.
    async fn append(&self, batch: Batch<'_>) -> Result<()> {
        self.hub.admits_appends()?;
        if self.options.stop_if_stale
            && let Some(stale) = self.hub.stale()
        {
            // Safe: it may be sent again once an operator has detached the sinks.
            let message = format!("nothing of this append was written: {}", stale.message());
            return Err(Error::new(ErrorKind::Diverged, Retry::Safe, message));
        }
        let patience = later(self.options.resolve_timeout);
        self.wait_for_laggards(batch.deadline().unwrap_or(patience)).await?;
        self.commit(batch).await
    }

    async fn checkpoint(&self) -> Result<Checkpoint> {
        let command = |reply| Command::Checkpoint { reply };
        self.ask("the primary's checkpoint", command, async || self.primary.checkpoint().await).await
    }
}

#[async_trait]
impl<P: Primary + 'static> CommitPoint for FanOut<P> {
    async fn head(&self) -> Result<Checkpoint> {
        self.ask("the primary's head", |reply| Command::Head { reply }, async || self.primary.head().await)
            .await
    }

    fn event_bytes_max(&self) -> usize {
        self.primary.event_bytes_max()
    }
}

impl<P: Primary + 'static> EventSource for FanOut<P> {
    fn read(&self, from: ReadFrom) -> EventStream {
        self.primary.read(from)
    }

    /// Yields history from the primary, then live events from memory. A slow follower reads history again.
    ///
    /// At the head of a log that was closed or has stopped, ends with that error.
    fn follow(&self, from: ReadFrom) -> EventStream {
        follower::follow(self.hub.feed.clone(), self.primary.clone(), from)
    }
}

#[async_trait]
impl<P: Primary + Prune + 'static> Prune for FanOut<P> {
    /// Removes segments that end before `before`, but nothing that a secondary of the roster, or an attached one, still
    /// needs. Adds to the status the names of the roster that it does not show.
    async fn prune(&self, before: EventId) -> Result<()> {
        let pruned = || async {
            match prune::needed(&self.hub, before, self.options.retain_bytes_max).await? {
                Some(before) => self.primary.prune(before).await,
                None => Ok(()),
            }
        };
        guard::caught("pruning the primary", pruned).await
    }
}
