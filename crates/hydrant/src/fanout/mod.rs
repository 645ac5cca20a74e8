//! The fan-out: one primary that commits, many secondaries that follow, each from its own checkpoint.

mod commit;
mod feed;
mod follower;
pub(crate) mod guard;
mod hub;
mod options;
mod prune;
mod pump;
mod relay;
mod secondary;
mod start;
mod status;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::Stream;
use tokio::sync::{mpsc, oneshot};

use self::commit::{Command, Committer};
use self::feed::Feed;
use self::hub::Hub;
pub use self::options::{FanOutOptions, RelayOptions, SecondaryOptions, StartAt};
pub use self::relay::Relay;
pub use self::status::{FanOutStatus, Laggard, Laggards, SecondaryState, SecondaryStatus};
use crate::{
    Batch, Checkpoint, CommitPoint, Error, ErrorKind, EventId, EventSink, EventSource, EventStream, Primary,
    Prune, ReadFrom, Result, Retry,
};

/// Appends that wait for the one in flight; more wait for a place.
const COMMANDS_MAX: usize = 64;

/// One log with a primary store that commits and secondary sinks that follow at their own pace.
///
/// - **The primary is the commit point**: no secondary, reader or caller sees an event before it is
///   durable there.
/// - **Each secondary** holds a contiguous piece of the log, at least once, in order, across crashes of
///   either side, from its own checkpoint on.
/// - **Isolation**: a secondary that is slow, hangs, errs, panics or is down delays neither the primary nor
///   any other. (It must not block its thread: nothing can isolate that.) Memory is bounded at any lag.
/// - **Retries**: what may be retried is, for ever, with capped exponential backoff and full jitter. What a
///   person has to look at parks the secondary, visibly; the others go on.
/// - **The roster** of secondaries is durable beside the primary, until [`detach`](FanOut::detach): nothing
///   is pruned that one of them still needs, also after a restart and before it is attached again.
///
/// It is a source and a sink itself, so it nests. All clones are handles of the same fan-out; when the last
/// is dropped its tasks end.
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
    options: FanOutOptions,
}

impl<P> Clone for FanOut<P> {
    fn clone(&self) -> Self {
        let (primary, hub) = (self.primary.clone(), self.hub.clone());
        Self { primary, hub, commands: self.commands.clone(), options: self.options.clone() }
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
    /// What the primary's checkpoint and roster meet; `Unsupported` for a primary without memory.
    ///
    /// # Cancel safety
    /// A dropped future has started nothing.
    pub async fn open(primary: P, options: FanOutOptions) -> Result<Self> {
        let primary = Arc::new(primary);
        let timeout = options.call_timeout;
        let head = match guard::guarded("the primary's checkpoint", timeout, primary.checkpoint()).await? {
            Checkpoint::Unknown => {
                let message = "a primary must know its own checkpoint; take a store that has a memory";
                return Err(Error::new(ErrorKind::Unsupported, Retry::Never, message));
            }
            checkpoint => checkpoint.id(),
        };
        let feed = Feed::new(head, options.ring_events_max, options.ring_bytes_max);
        let hub = Hub::open(feed, primary.clone(), primary.roster(), options.seed).await?;
        let (commands, received) = mpsc::channel(COMMANDS_MAX);
        let committer = Committer {
            primary: primary.clone(),
            hub: hub.clone(),
            options: options.clone(),
            rng: guard::rng(options.seed),
            unsynced: None,
        };
        tokio::spawn(committer.run(received));
        Ok(Self { primary, hub, commands, options })
    }

    /// The primary. Appending to it directly would pass by the secondaries' memory: append here.
    pub fn primary(&self) -> &P {
        &self.primary
    }

    /// Adds a secondary, at any time; it backfills by itself, from its own checkpoint.
    ///
    /// Returns when the roster holds it. The sink is not waited for: one that is down is retried.
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

    /// Removes a secondary from the log and from the roster; waits for its call in flight to be given up.
    ///
    /// # Errors
    /// `Invalid` for a name that the roster does not have; what the roster meets.
    ///
    /// # Cancel safety
    /// Dropped, it may leave the name in the roster, which then still holds back `prune`. Call it again.
    pub async fn detach(&self, name: &str) -> Result<()> {
        self.hub.detach(name).await
    }

    /// Stops a secondary until [`resume`](FanOut::resume); the others go on.
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

    /// Waits until all attached secondaries have disposed of `id`: held it, filtered it out, or durably
    /// dead-lettered it.
    ///
    /// # Errors
    /// Those that had not when `timeout` was over, by name.
    ///
    /// # Cancel safety
    /// It only waits.
    pub async fn delivered(&self, id: EventId, timeout: Duration) -> Result<(), Laggards> {
        self.hub.delivered(id, timeout).await
    }

    /// The log and its secondaries, as they stand now.
    pub fn status(&self) -> FanOutStatus {
        self.hub.status()
    }

    /// The status now, and again after each change; changes in quick succession are one.
    pub fn watch(&self) -> impl Stream<Item = FanOutStatus> + Send + use<P> {
        self.hub.watch()
    }

    /// Takes no more appends, lets the secondaries drain for at most `timeout`, ends all tasks, and reports what
    /// each secondary still lacks.
    ///
    /// # Cancel safety
    /// Dropped, it leaves a fan-out that takes no more appends; call it again.
    pub async fn close(&self, timeout: Duration) -> Laggards {
        let (reply, closed) = oneshot::channel();
        if self.commands.send(Command::Close { reply }).await.is_ok() {
            drop(closed.await); // the committer ends only with the last handle, so it answers
        }
        self.hub.close(timeout).await
    }

    /// Waits while a secondary that wants back-pressure is too far behind.
    async fn wait_for_laggards(&self) {
        let too_far = || {
            self.hub.secondaries().iter().any(|secondary| {
                let Some(lag_max) = secondary.lag_events_max else { return false };
                let position = secondary.position().flatten();
                secondary.state() != SecondaryState::Parked && self.hub.feed.lag(position).0 > lag_max
            })
        };
        if too_far() {
            self.hub.until(|| !too_far() || self.hub.feed.is_closed()).await;
        }
    }
}

fn gone() -> Error {
    Error::closed("the fan-out's runtime ended; open it again").with_retry(Retry::AfterCheckpoint)
}

#[async_trait]
impl<P: Primary + 'static> EventSink for FanOut<P> {
    /// `Ok`: durable in the primary (or accepted by it, where it says so). Appends are served one by one.
    ///
    /// A write with an unknown outcome is sent again, the same bytes under the same ids, until the answer
    /// is known; after `resolve_timeout` the log stops with an error that says so.
    async fn append(&self, batch: Batch<'_>) -> Result<()> {
        self.wait_for_laggards().await;
        let (reply, done) = oneshot::channel();
        let command = Command::Append { after: batch.after(), events: batch.events().to_vec(), reply };
        self.commands.send(command).await.map_err(|_| gone())?;
        done.await.map_err(|_| gone())?
    }

    async fn checkpoint(&self) -> Result<Checkpoint> {
        let (reply, done) = oneshot::channel();
        self.commands.send(Command::Checkpoint { reply }).await.map_err(|_| gone())?;
        done.await.map_err(|_| gone())?
    }
}

#[async_trait]
impl<P: Primary + 'static> CommitPoint for FanOut<P> {
    async fn head(&self) -> Result<Checkpoint> {
        self.primary.head().await
    }

    fn event_bytes_max(&self) -> usize {
        self.primary.event_bytes_max()
    }
}

impl<P: Primary + 'static> EventSource for FanOut<P> {
    fn read(&self, from: ReadFrom) -> EventStream {
        self.primary.read(from)
    }

    /// History from the primary, then live from memory. A slow follower is dropped back to reading history.
    fn follow(&self, from: ReadFrom) -> EventStream {
        follower::follow(self.hub.feed.clone(), self.primary.clone(), from)
    }
}

#[async_trait]
impl<P: Primary + Prune + 'static> Prune for FanOut<P> {
    /// Drops what ends before `before`, and never what a secondary of the roster still needs.
    async fn prune(&self, before: EventId) -> Result<()> {
        let _turn = self.hub.roster_turn.lock().await;
        let needed = prune::needed(&self.hub, before, self.options.retain_bytes_max).await?;
        match needed {
            Some(before) => self.primary.prune(before).await,
            None => Ok(()),
        }
    }
}
