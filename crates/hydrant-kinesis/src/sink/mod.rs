//! The sink: the events of a log, packed into records, one in flight.

mod kept;
mod options;
mod put;
mod read_back;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::config::retry::RetryConfig;
use hydrant::store::caught;
use hydrant::{Batch, Capabilities, Checkpoint, Error, ErrorKind, Event, EventSink, Result, Retry};
use tokio::sync::{Mutex, OwnedMutexGuard, oneshot, watch};
use tokio::time::{Instant, timeout_at};

use crate::source::{KinesisSourceOptions, Unanswered, Upstream};
use crate::wire::{Packed, Wire};
use kept::Kept;
pub use options::{KinesisSinkOptions, Oversize, Packing};
use put::NotPut;

/// The largest record that any stream takes.
const RECORD_BYTES_MAX: usize = 10 << 20;

/// Writes a log to a Kinesis stream, in order: as many events a record as fit, one record in flight.
///
/// Acknowledged means: every record of the batch was acknowledged by Kinesis, which keeps it in three
/// Availability Zones for the stream's retention (24 hours by default), and then the checkpoint was written, where a
/// store keeps it (but see [`checkpoint_interval`](KinesisSinkOptions::checkpoint_interval)).
///
/// Kinesis has no compare-and-append, so the sink is no [`Primary`](hydrant::Primary), and does not fence: **one
/// process writes a log**. A second one is found out by readers (`Diverged`), and by the store of checkpoints where
/// there is one (`Fenced`).
///
/// # Order
/// The log's name is the partition key of all its records, so they go to one shard at a time, one after the
/// other with `PutRecord`, each naming the one before (`SequenceNumberForOrdering`). `PutRecords` is not used: it
/// may fail for one record and take the next, and then the order on the stream is lost whatever one does next.
/// Through resharding Kinesis keeps the order of a key: the parent's records come before the child's.
///
/// The next call puts a record again whose answer was lost, so its events may be on the stream
/// twice. Every event carries its id, and a [`KinesisSource`](crate::KinesisSource) yields it once. A batch
/// that needs several records is not atomic: a prefix of it may be left.
///
/// # Its checkpoint
/// With [`with_checkpoints`](KinesisSinkOptions::with_checkpoints) the first call asks a store of checkpoints. Events
/// that a crash left on the stream behind that entry are put again, unless a wrapper above counts them as delivered.
/// So an event is acknowledged only when the entry includes it. Without a store, or when its entry is lost, the
/// first call reads the stream back: only the shards that hold the log's key, the last minute first, then eight
/// times as far and so on. That costs about as long as reading what all logs wrote to that shard since the
/// log's last event, at 2 MB a second, and at most the whole retention. Where the stream keeps nothing of the log,
/// it is `Empty`: a log that rests for longer than the retention needs a store, or it is sent anew (which readers
/// drop, as far as they had it). A [`Checkpointed`](hydrant::Checkpointed) around the sink would take such a log for
/// one that lost its events; it belongs around a filter or a map, not here.
///
/// A stream that is deleted and made anew while the sink is idle is not found out until the next put fails. Up to then
/// the sink reports the events of the old stream as held, and others prune by that: close it before, open it after.
///
/// `open` sends no request, so a stream that is down keeps no program from starting. The first call reports it.
///
/// # Throttling
/// A shard takes 1 MB and 1,000 records a second from all its writers together. Beyond that an append waits with
/// exponential backoff and jitter until `append_timeout`, and then is `Unavailable`, `Safe` as long as nothing of
/// its batch was put. All other failures are returned at once; the fan-out retries.
pub struct KinesisSink {
    shared: Arc<Shared>,
    state: Arc<Mutex<State>>,
    /// Changed by `close`, and gone with the sink: what still reads back then gives up.
    alive: watch::Sender<()>,
}

/// What every call has in common.
struct Shared {
    upstream: Arc<Upstream>,
    /// The same client without retries of its own: they hide whether an attempt before the last was applied.
    putting: Client,
    /// Stream and log in one word, for errors.
    name: String,
    wire: Wire,
    options: KinesisSinkOptions,
}

/// What the sink knows. Only the holder of the lock asks or writes.
struct State {
    /// The last event on the stream, once that is known.
    head: Option<Checkpoint>,
    /// The number of the last record that was put.
    previous: Option<String>,
    kept: Option<Kept>,
    /// What stream the head was found on, by ARN and time of creation.
    target: Option<String>,
    /// Whether a put failed since: the stream may have been made anew meanwhile.
    is_doubted: bool,
    rng: fastrand::Rng,
    closed: bool,
}

impl State {
    /// What was known of a stream that is not there any more, perhaps.
    fn forget(&mut self) {
        (self.head, self.previous, self.kept) = (None, None, None);
    }

    /// After `Fenced`, the next call reads entry and stream again: an operator may have ended the other runner.
    fn saved(&mut self, saved: Result<()>) -> Result<()> {
        if saved.as_ref().is_err_and(|error| error.kind() == ErrorKind::Fenced) {
            self.forget();
        }
        saved
    }
}

/// The right to make the next call.
struct Turn {
    state: OwnedMutexGuard<State>,
    alive: watch::Receiver<()>,
}

/// Who waits for a call, and may stop doing so.
struct Caller(oneshot::Sender<Result<Checkpoint>>);

impl Caller {
    async fn gone(&mut self) {
        self.0.closed().await;
    }
}

impl KinesisSink {
    /// What it declares: a memory, and that appending what it holds changes nothing.
    ///
    /// No `Fencing` and no `Atomic`: Kinesis has no compare-and-append.
    pub const CAPABILITIES: Capabilities = Capabilities::IDEMPOTENT.with(Capabilities::MEMORY);

    /// Opens a sink that writes `log` to the stream of this name. Sends no request yet.
    ///
    /// # Errors
    /// `Invalid` for a name that Kinesis does not take, and for options that make no sense.
    ///
    /// # Cancel safety
    /// A dropped future leaves nothing.
    pub async fn open(client: Client, stream: &str, log: &str, options: KinesisSinkOptions) -> Result<Self> {
        caught("opening a sink of Kinesis", || async { Self::unasked(client, stream, log, options) }).await
    }

    fn unasked(client: Client, stream: &str, log: &str, options: KinesisSinkOptions) -> Result<Self> {
        let name = format!("{stream}/{log}");
        let wire = Wire {
            log: log.to_owned(),
            hash_key: options.explicit_hash_key.map(|key| key.to_string()),
            packing: options.packing,
            oversize: options.oversize,
            record_bytes_max: options.record_bytes_max,
            event_bytes_max: options.event_bytes_max,
        };
        check(stream, &wire).map_err(|message| Error::invalid(message).at_target(&name))?;
        let rng = options.seed.map_or_else(fastrand::Rng::new, fastrand::Rng::with_seed);
        let state = State {
            head: None,
            previous: None,
            kept: None,
            target: None,
            is_doubted: false,
            rng,
            closed: false,
        };
        let once = client.config().to_builder().retry_config(RetryConfig::disabled()).build();
        let putting = Client::from_conf(once);
        let upstream = Arc::new(Upstream::new(client, stream, log, reading(&options)));
        Ok(Self {
            shared: Arc::new(Shared { upstream, putting, name, wire, options }),
            state: Arc::new(Mutex::new(state)),
            alive: watch::Sender::default(),
        })
    }

    /// Waits for the call in flight and writes the checkpoint to its store. What comes later is answered
    /// `Closed`.
    ///
    /// # Errors
    /// `Fenced` when another runner moved the checkpoint.
    ///
    /// # Cancel safety
    /// Dropped, it may have closed nothing; call it again.
    pub async fn close(&self) -> Result<()> {
        self.alive.send_replace(());
        let mut state = self.state.lock().await;
        state.closed = true;
        let State { head: Some(head), kept: Some(kept), .. } = &mut *state else { return Ok(()) };
        let saved = kept.save_loosely(*head, Duration::ZERO).await;
        state.kept = None;
        saved
    }

    /// Waits until the call before has ended, which `close` ends early: so that is watched from before the wait on.
    async fn turn(&self) -> Turn {
        let alive = self.alive.subscribe();
        Turn { state: Arc::clone(&self.state).lock_owned().await, alive }
    }

    /// Runs `call` to its end in a task of its own, so that a caller who goes away leaves nothing half done. The
    /// next call begins when it has ended.
    async fn call<C, F>(&self, turn: Turn, call: C) -> Result<Checkpoint>
    where
        C: FnOnce(Arc<Shared>, OwnedMutexGuard<State>, Caller, watch::Receiver<()>) -> F,
        F: Future<Output = (Caller, Result<Checkpoint>)> + Send + 'static,
    {
        let Turn { state, alive } = turn;
        if state.closed {
            return Err(Error::closed("the sink was closed; open it again").at_target(&self.shared.name));
        }
        let (answer, answered) = oneshot::channel();
        let running = call(Arc::clone(&self.shared), state, Caller(answer), alive);
        tokio::spawn(async move {
            let (caller, result) = running.await;
            caller.0.send(result).ok(); // a caller who went away does not hear it
        });
        answered.await.unwrap_or_else(|_| {
            let message = "the sink panicked; report it";
            Err(Error::new(ErrorKind::Bug, Retry::AfterCheckpoint, message).at_target(&self.shared.name))
        })
    }
}

/// How the sink reads its own log back.
fn reading(options: &KinesisSinkOptions) -> KinesisSourceOptions {
    let mut reading = KinesisSourceOptions::default()
        .with_poll_interval(options.read_back_interval)
        .with_event_bytes_max(options.event_bytes_max)
        .with_call_timeout(options.append_timeout);
    reading.seed = options.seed;
    reading
}

/// What would only fail later, or never work.
fn check(stream: &str, wire: &Wire) -> Result<(), String> {
    if stream.is_empty() || stream.len() > 128 {
        return Err("a stream's name has 1 to 128 characters".to_owned());
    }
    if !(1..=256).contains(&wire.log.chars().count()) {
        return Err("the log's name is the partition key: give it 1 to 256 characters".to_owned());
    }
    let min = wire.record_bytes_min();
    if !(min..=RECORD_BYTES_MAX).contains(&wire.record_bytes_max) {
        let max = wire.record_bytes_max;
        return Err(format!("`record_bytes_max` is {max}; take {min} to {RECORD_BYTES_MAX}"));
    }
    if wire.oversize == Oversize::Chunk && u32::try_from(wire.event_bytes_max).is_err() {
        return Err("an event in chunks has less than 4 GiB; lower `event_bytes_max`".to_owned());
    }
    Ok(())
}

impl Shared {
    /// The last event on the stream: as known, as kept, or as read back.
    ///
    /// # Cancel safety
    /// Asks only. It continues without its caller, so that a stream that takes long to read back is read once; it
    /// ends with the sink.
    async fn head(&self, state: &mut State, mut alive: watch::Receiver<()>) -> Result<Checkpoint> {
        if let (Some(head), false) = (state.head, state.is_doubted) {
            return Ok(head);
        }
        tokio::select! {
            biased;
            _ = alive.changed() => {
                Err(Error::closed("the sink was closed before it knew its checkpoint").at_target(&self.name))
            }
            found = self.find_head(state) => found,
        }
    }

    async fn find_head(&self, state: &mut State) -> Result<Checkpoint> {
        let target = self.target().await?;
        if state.target.as_ref() != Some(&target) {
            state.forget();
        }
        (state.target, state.is_doubted) = (Some(target.clone()), false);
        if let Some(head) = state.head {
            return Ok(head);
        }
        if let Some((store, name)) = &self.options.checkpoints {
            let kept = Kept::load(Arc::clone(store), name, target).await?;
            let checkpoint = kept.checkpoint();
            state.kept = Some(kept);
            if let Some(checkpoint) = checkpoint {
                return Ok(*state.head.insert(checkpoint));
            }
        }
        let found = self.read_back().await?;
        state.previous = found.number;
        Ok(*state.head.insert(found.checkpoint))
    }

    /// What a kept checkpoint belongs to: this stream, not one that was made anew under its name.
    async fn target(&self) -> Result<String> {
        let ask = self.upstream.client.describe_stream_summary().stream_name(&self.upstream.stream);
        let answer = self.upstream.ask("DescribeStreamSummary", ask.send()).await;
        let answer = answer.map_err(Unanswered::into_error)?;
        let stream = answer.stream_description_summary().ok_or_else(|| {
            let message = "DescribeStreamSummary: the answer describes no stream; check the endpoint";
            Error::unavailable(message).at_target(&self.name)
        })?;
        let made = stream.stream_creation_timestamp().secs();
        Ok(format!("{} of {made}, log {}", stream.stream_arn(), self.wire.log))
    }

    /// Puts what of the batch the stream does not hold, record by record. No put begins after `deadline`.
    async fn append(
        &self,
        state: &mut State,
        batch: Batch<'_>,
        deadline: Instant,
        caller: &mut Caller,
        alive: watch::Receiver<()>,
    ) -> Result<Checkpoint> {
        let head = self.head(state, alive).await?;
        let fresh = batch.fresh_after(&head).map_err(|error| error.at_target(&self.name))?;
        let held = batch.events().len() - fresh.len();
        let after = if held == 0 { batch.after() } else { Some(batch.events()[held - 1].id()) };
        let mut rest = fresh;
        let mut put_any = false;
        let packed = self.wire.pack(after, fresh).map_err(|error| error.at_target(&self.name))?;
        for Packed { data, completes } in packed {
            let previous = state.previous.as_deref();
            let put = if caller.0.is_closed() || Instant::now() >= deadline {
                Err(self.deadline_passed(Retry::Safe).into())
            } else {
                self.put(data, previous, deadline, &mut state.rng, caller).await
            };
            let number = put.map_err(|NotPut { error, may_be_another }| {
                state.is_doubted = true;
                if may_be_another {
                    state.forget();
                }
                // Only the fault of an event itself is `Invalid` and names it: that may become a dead letter.
                let error = if error.kind() == ErrorKind::Invalid { error } else { error.at(rest[0].id()) };
                if put_any { error.maybe_applied() } else { error }
            })?;
            state.previous = Some(number);
            put_any = true;
            let (completed, remaining) = rest.split_at(completes);
            if let Some(last) = completed.last() {
                state.head = Some(Checkpoint::at(last));
            }
            rest = remaining;
        }
        let head = state.head.unwrap_or(head);
        let saved = match (&mut state.kept, self.options.checkpoint_interval) {
            (None, _) => Ok(()),
            // What is acknowledged is known again after a crash: a wrapper above may have forgotten it by then.
            (Some(kept), Duration::ZERO) => kept.save(head).await.map_err(|error| self.uncounted(error)),
            (Some(kept), interval) => kept.save_loosely(head, interval).await,
        };
        state.saved(saved)?;
        Ok(head)
    }

    /// The last event on the stream that the sink will know when it is opened again: what it says here, others prune
    /// their logs by.
    async fn checkpoint(&self, state: &mut State, alive: watch::Receiver<()>) -> Result<Checkpoint> {
        let head = self.head(state, alive).await?;
        let Some(kept) = &mut state.kept else { return Ok(head) };
        let saved = kept.save_loosely(head, Duration::ZERO).await;
        let known = kept.known_again(head);
        state.saved(saved)?;
        Ok(known)
    }

    /// The events are on the stream, and their checkpoint is not written, as far as one knows.
    fn uncounted(&self, cause: Error) -> Error {
        let message = "the records were put, but their checkpoint could not be written; check its store";
        let error = Error::new(cause.kind(), cause.retry(), message).at_target(&self.name);
        error.because(cause).maybe_applied()
    }

    fn deadline_passed(&self, retry: Retry) -> Error {
        let message = match retry {
            Retry::Safe => {
                "the deadline of the append passed before the next record of it was put; append again"
            }
            _ => "the deadline of the append passed; a part of the batch may be on the stream",
        };
        Error::new(ErrorKind::Unavailable, retry, message).at_target(&self.name)
    }
}

#[async_trait]
impl EventSink for KinesisSink {
    /// Puts what of the batch the stream does not hold yet, as far as this handle knows.
    ///
    /// # Errors
    /// As [`EventSink::append`]; `Unavailable` when the shard is throttled until the batch's deadline or
    /// `append_timeout`, whichever is earlier, as `Safe` where nothing of the batch was put by then.
    ///
    /// # Cancel safety
    /// A dropped future leaves a prefix of the batch. The record in flight ends before the next call begins.
    async fn append(&self, batch: Batch<'_>) -> Result<()> {
        let (after, events): (_, Vec<Event>) = (batch.after(), batch.events().to_vec());
        let latest = Instant::now() + self.shared.options.append_timeout;
        let deadline = batch.deadline().map_or(latest, |deadline| deadline.min(latest));
        let late = |retry| self.shared.deadline_passed(retry);
        let turn = timeout_at(deadline, self.turn()).await.map_err(|_| late(Retry::Safe))?;
        let appended = self.call(turn, |shared, mut state, mut caller, alive| async move {
            let batch = Batch::new(after, &events).expect("it was a batch before");
            let result = shared.append(&mut state, batch, deadline, &mut caller, alive).await;
            drop(state);
            (caller, result)
        });
        let appended = timeout_at(deadline, appended).await;
        appended.unwrap_or_else(|_| Err(late(Retry::AfterCheckpoint))).map(drop)
    }

    /// The last event that the sink will know again when it is opened anew; the entry in the store of checkpoints is
    /// written for that, and what could not be written does not count.
    ///
    /// # Errors
    /// `Fenced` when another runner moved the entry; what the service or the store meets.
    ///
    /// # Cancel safety
    /// A dropped future leaves the question, and the entry, to be finished before the next call begins.
    async fn checkpoint(&self) -> Result<Checkpoint> {
        let turn = self.turn().await;
        self.call(turn, |shared, mut state, caller, alive| async move {
            let result = shared.checkpoint(&mut state, alive).await;
            drop(state);
            (caller, result)
        })
        .await
    }
}

impl fmt::Debug for KinesisSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KinesisSink")
            .field("stream", &self.shared.upstream.stream)
            .field("log", &self.shared.wire.log)
            .field("options", &self.shared.options)
            .finish_non_exhaustive()
    }
}
