//! Who runs the writer: a thread of its own, or, where nobody waits, the caller itself.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hydrant::{Event, EventId, Result};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::{Notify, mpsc, oneshot};

use super::Writer;

/// Held by whoever removes sealed files or replaces them.
pub(crate) type Gate = tokio::sync::OwnedMutexGuard<()>;

/// What is asked of the writer.
pub(crate) enum Command {
    Append(Append),
    /// Answers when everything asked before is done.
    Barrier(oneshot::Sender<Result<()>>),
    /// Makes everything accepted durable.
    Sync(oneshot::Sender<Result<()>>),
    /// The timer of [`Fsync::Interval`].
    Due,
    /// Drops the sealed segments that end before an event.
    Prune(EventId, Gate, oneshot::Sender<Result<()>>),
    Close(oneshot::Sender<Result<()>>),
}

pub(crate) struct Append {
    pub(crate) after: Option<EventId>,
    pub(crate) events: Vec<Event>,
    pub(crate) reply: oneshot::Sender<Result<()>>,
}

/// The parts that handles and the writer share.
#[derive(Default)]
pub(crate) struct Counters {
    /// Calls that were begun and are not done.
    pub(crate) under_way: AtomicUsize,
    /// What a sync takes, in microseconds, as an average in which the latest counts an eighth.
    sync_us: AtomicU64,
    /// Something was accepted that is not synced yet.
    pub(crate) unsynced: Notify,
    /// A segment was sealed.
    pub(crate) sealed: Notify,
}

/// While syncs take longer than this, no caller is made to wait for the disk on its own thread.
const QUICK_SYNC_US_MAX: u64 = 1000;

impl Counters {
    /// Whether a caller may wait for the disk itself; if so, it counts as under way.
    ///
    /// Changing threads twice costs a third of what the disk needs. So where nobody else waits, the disk
    /// has been quick, and the runtime has other threads for other tasks, the caller writes.
    fn may_write_here(&self) -> bool {
        let has_others = Handle::try_current().is_ok_and(|runtime| {
            runtime.runtime_flavor() == RuntimeFlavor::MultiThread && runtime.metrics().num_workers() > 1
        });
        has_others
            && self.sync_us.load(Ordering::Relaxed) <= QUICK_SYNC_US_MAX
            && self.under_way.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// Takes note of how long a sync took.
    pub(super) fn synced_in(&self, time: Duration) {
        let latest = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let average = self.sync_us.load(Ordering::Relaxed);
        self.sync_us.store(average - average / 8 + latest / 8, Ordering::Relaxed);
    }
}

/// The writer, for its thread and for callers that write themselves; gone once the log is closed.
pub(crate) struct Desk(Mutex<Option<Writer>>);

impl Desk {
    pub(crate) fn new(writer: Writer) -> Self {
        Self(Mutex::new(Some(writer)))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Writer>> {
        // A writer that panicked half way has been left in no state to go on from.
        let mut writer = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if self.0.is_poisoned() {
            *writer = None;
        }
        writer
    }

    /// Appends on the calling thread, where that is the quicker way; gives the append back where it is not.
    pub(crate) fn append_here(&self, append: Append, counters: &Counters) -> Option<Append> {
        if !counters.may_write_here() {
            return Some(append);
        }
        if let Some(writer) = self.lock().as_mut() {
            let mut pending = Vec::new();
            writer.append(append, &mut pending);
            writer.flush(&mut pending);
            return None;
        }
        counters.under_way.fetch_sub(1, Ordering::Release);
        Some(append)
    }

    /// Serves until it is told to close, or until nobody is left who could.
    pub(crate) fn run(&self, mut queue: mpsc::Receiver<Command>) {
        let mut ahead = None;
        loop {
            let Some(command) = ahead.take().or_else(|| queue.blocking_recv()) else {
                let mut writer = self.lock().take();
                return drop(writer.as_mut().map(Writer::close));
            };
            let mut desk = self.lock();
            let Some(writer) = desk.as_mut() else {
                return;
            };
            match command {
                Command::Append(append) => ahead = writer.appends(append, &mut queue),
                Command::Barrier(reply) => writer.answer(reply, writer.stopped.clone().map_or(Ok(()), Err)),
                Command::Sync(reply) => {
                    let synced = writer.sync();
                    writer.answer(reply, synced);
                }
                Command::Prune(before, gate, reply) => {
                    let pruned = writer.prune(before);
                    drop(gate);
                    writer.answer(reply, pruned);
                }
                Command::Due => drop(writer.sync()),
                Command::Close(reply) => {
                    queue.close();
                    let closed = writer.close();
                    // What was sent before is refused when the queue is dropped.
                    drop((queue, desk.take()));
                    // Nobody is left to hear it, if the caller has gone.
                    drop(reply.send(closed));
                    return;
                }
            }
        }
    }
}

impl Writer {
    pub(super) fn answer(&self, reply: oneshot::Sender<Result<()>>, answer: Result<()>) {
        self.counters.under_way.fetch_sub(1, Ordering::Release);
        // The caller may have left; what it asked for is done all the same.
        drop(reply.send(answer));
    }

    /// Takes this append and those that wait behind it, as far as they fit into one write.
    fn appends(&mut self, first: Append, queue: &mut mpsc::Receiver<Command>) -> Option<Command> {
        let mut pending = Vec::new();
        let mut next = Some(first);
        let mut ahead = None;
        while let Some(append) = next.take() {
            self.append(append, &mut pending);
            if self.buffer.len() >= self.options.commit_bytes_max {
                break;
            }
            match queue.try_recv() {
                Ok(Command::Append(append)) => next = Some(append),
                Ok(other) => ahead = Some(other),
                Err(_) => {}
            }
        }
        self.flush(&mut pending);
        ahead
    }
}
