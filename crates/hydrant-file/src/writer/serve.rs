//! What is asked of the writer, and the thread that serves it.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hydrant::{Checkpoint, Event, EventId, Result};
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;

use super::Writer;

/// Held while sealed files are removed or replaced.
pub(crate) type Gate = tokio::sync::OwnedMutexGuard<()>;

/// What is asked of the writer.
pub(crate) enum Command {
    Append(Append),
    /// Answers when everything asked before is done.
    Barrier(oneshot::Sender<Result<()>>),
    /// Returns the newest event accepted.
    Head(oneshot::Sender<Result<Checkpoint>>),
    /// Makes everything accepted durable.
    Sync(oneshot::Sender<Result<()>>),
    /// The timer of [`Fsync::Interval`](crate::Fsync::Interval).
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
    /// Something was accepted that is not synced yet.
    pub(crate) unsynced: Notify,
    /// A segment was sealed.
    pub(crate) sealed: Notify,
}

/// How long a caller whose append is alone polls for its answer before it sleeps: about two syncs of a quick disk.
/// A wake-up would cost a third of the time that the disk needs.
pub(crate) const LOOK_FOR_MAX: Duration = Duration::from_micros(250);

/// How long the writer polls for the next command before it sleeps.
const LINGER_MAX: Duration = Duration::from_micros(30);

/// The largest batch whose caller polls. A larger one is a group of callers, which can use the core meanwhile.
pub(crate) const LOOK_EVENTS_MAX: usize = 16;

/// The same bound in polls, for a clock that a test has stopped.
pub(crate) const LOOKS_MAX: u32 = 4096;

/// After this many polls, about 20 µs, the caller yields to other tasks. Each yield wakes threads of the runtime.
pub(crate) const LOOKS_PER_YIELD: u32 = 32;

impl Counters {
    /// Returns whether at most one call is under way.
    pub(crate) fn is_alone(&self) -> bool {
        self.under_way.load(Ordering::Relaxed) <= 1
    }
}

/// The next command; looks for it a little before going to sleep, because a caller that was just answered
/// often comes back at once, and waking a thread would take longer.
fn next(queue: &mut mpsc::Receiver<Command>) -> Option<Command> {
    let begun = Instant::now();
    while begun.elapsed() < LINGER_MAX {
        match queue.try_recv() {
            Ok(command) => return Some(command),
            Err(TryRecvError::Disconnected) => return None,
            Err(TryRecvError::Empty) => std::hint::spin_loop(),
        }
    }
    queue.blocking_recv()
}

impl Writer {
    /// Serves commands until it is closed, or until no handle is left.
    pub(crate) fn run(mut self, mut queue: mpsc::Receiver<Command>) {
        let mut ahead = None;
        while let Some(command) = ahead.take().or_else(|| next(&mut queue)) {
            match self.serve(command, &mut queue) {
                ControlFlow::Continue(next) => ahead = next,
                ControlFlow::Break(()) => return,
            }
        }
        self.abandon();
    }

    /// Like [`run`](Writer::run), as a task of a simulator: it waits for its turn before each command.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) async fn run_inline(
        mut self,
        mut queue: mpsc::Receiver<Command>,
        disk: std::sync::Arc<dyn crate::disk::Disk>,
    ) {
        let mut ahead = None;
        loop {
            let command = match ahead.take() {
                Some(command) => Some(command),
                None => queue.recv().await,
            };
            disk.turn().await;
            let served = crate::sim::stepped::run(&disk, move || {
                let flow = if let Some(command) = command {
                    self.serve(command, &mut queue)
                } else {
                    self.abandon();
                    ControlFlow::Break(())
                };
                (self, queue, flow)
            });
            (self, queue, ahead) = match served.await {
                (writer, queue, ControlFlow::Continue(next)) => (writer, queue, next),
                (_, _, ControlFlow::Break(())) => return,
            };
        }
    }

    /// Closes a log that no handle is left of.
    fn abandon(&mut self) {
        if let Err(error) = self.close() {
            tracing::warn!(%error, "the log was not closed in order: the next open recovers it");
        }
    }

    /// Serves one command; returns the next one if it was taken from the queue already, or breaks at the close.
    fn serve(
        &mut self,
        command: Command,
        queue: &mut mpsc::Receiver<Command>,
    ) -> ControlFlow<(), Option<Command>> {
        match command {
            Command::Append(append) => return ControlFlow::Continue(self.appends(append, queue)),
            Command::Barrier(reply) => self.answer(reply, self.stopped.clone().map_or(Ok(()), Err)),
            Command::Head(reply) => {
                let head = self.head.as_ref().map_or(Checkpoint::Empty, Checkpoint::at);
                self.answer(reply, self.stopped.clone().map_or(Ok(head), Err));
            }
            Command::Sync(reply) => {
                let synced = self.sync();
                self.answer(reply, synced);
            }
            Command::Prune(before, gate, reply) => {
                let pruned = self.prune(before);
                drop(gate);
                self.answer(reply, pruned);
            }
            // A failure has stopped the log, and is the answer to all later commands.
            Command::Due => drop(self.sync()),
            Command::Close(reply) => {
                queue.close();
                let closed = self.close();
                // Commands that wait in the queue are refused by dropping them.
                while queue.try_recv().is_ok() {}
                self.answer(reply, closed);
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(None)
    }

    pub(super) fn answer<T>(&self, reply: oneshot::Sender<Result<T>>, answer: Result<T>) {
        self.counters.under_way.fetch_sub(1, Ordering::Release);
        // The caller may have left. The command is still carried out.
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
