//! The store: the handles of callers, and their messages to the writer.

mod upkeep;
mod views;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use hydrant::{
    Batch, Capabilities, Checkpoint, CheckpointStore, CommitPoint, Durability, Error, ErrorKind, EventSink,
    EventSource, EventStream, Primary, ReadFrom, Result, Retry,
};
use tokio::sync::oneshot::error::TryRecvError;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use self::upkeep::Upkeep;
use self::views::{Fixed, Live};
use crate::FileCheckpoints;
use crate::directory::Directory;
use crate::disk::create_dirs;
use crate::error::io_error;
use crate::lock::Lock;
use crate::options::{FileStoreOptions, Fsync};
use crate::recovery::{self, Known, Recovered};
use crate::stream;
use crate::work::Work;
use crate::writer::{
    Append, Command, Counters, LOOK_EVENTS_MAX, LOOK_FOR_MAX, LOOKS_MAX, LOOKS_PER_YIELD, Published, Writer,
};

/// A log in a directory: plain JSON lines, durable, rotated. One writer, any number of readers.
///
/// Acknowledged means: `fdatasync` returned, so that neither SIGKILL nor a power cut takes it back. With
/// another [`Fsync`] it means accepted by the kernel; checkpoint and reads then follow when it is durable.
///
/// A batch is written whole or not at all. After a failed sync the handle refuses every call, because only opening
/// the log again shows what the disk holds. If the disk is full, the writer cuts back the bytes that were not
/// acknowledged, and the same handle continues once there is space.
///
/// Handles are cheap to clone and write to the same log. The last one dropped closes it when the call in
/// flight ends; [`close`](FileStore::close) closes it and waits.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> hydrant::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path();
/// use hydrant::{Batch, Event, EventId, EventSink, EventSourceExt, ReadFrom};
/// use hydrant_file::{FileStore, FileStoreOptions};
///
/// let log = FileStore::open(path, FileStoreOptions::default()).await?;
/// let events = [Event::new(EventId::ZERO, "hello")?];
/// log.append(Batch::new(None, &events)?).await?;
/// assert_eq!(log.collect(ReadFrom::Origin).await?, events);
/// log.close().await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct FileStore {
    shared: Arc<Shared>,
}

impl fmt::Debug for FileStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileStore").field("dir", &self.dir()).finish_non_exhaustive()
    }
}

struct Shared {
    dir: Arc<Directory>,
    options: FileStoreOptions,
    queue: mpsc::Sender<Command>,
    published: watch::Receiver<Published>,
    counters: Arc<Counters>,
    recovered: Vec<Recovered>,
    roster: Arc<dyn CheckpointStore>,
    /// What runs beside the writer.
    tasks: Mutex<Vec<JoinHandle<()>>>,
    upkeep: Arc<Upkeep>,
}

/// How long an open waits for a reader's glance at the lock, or for a handle that was just dropped.
const LOCK_PATIENCE: (u32, Duration) = (40, Duration::from_millis(5));

impl FileStore {
    /// What `append` and the rest of the laws can count on.
    pub const CAPABILITIES: Capabilities = Capabilities::ALL;

    /// Opens a log for writing, or begins one: takes the lock and recovers what a crash left behind.
    ///
    /// Recovery logs a warning for all that it sets aside, and [`recovered`](FileStore::recovered) returns it.
    ///
    /// # Errors
    /// - `Fenced` if another handle, here or in another process, has the log open for writing.
    /// - `Corrupt`, with file, line and byte offset, for damage. Nothing is changed then.
    /// - `Unavailable` if there is no log and [`create`](FileStoreOptions::create) is off.
    /// - `Denied`, `Full`, `Invalid` for what the file system refuses.
    ///
    /// # Cancel safety
    /// A dropped future leaves no lock. Recovery may have begun; the next open continues it.
    pub async fn open(dir: impl AsRef<Path>, options: FileStoreOptions) -> Result<Self> {
        let dir = Arc::new(Directory::new(dir.as_ref(), options.event_bytes_max));
        let (made, create) = (dir.clone(), options.create);
        dir.run(move || make(&made, create)).await?;
        let roster = FileCheckpoints::open(dir.file("secondaries")).await?;
        Self::open_in(dir, Arc::new(roster), options).await
    }

    /// Opens a log on a simulated disk, with the roster that the simulator keeps for it. See [`sim`](crate::sim).
    ///
    /// # Errors
    /// As [`open`](FileStore::open).
    #[cfg(any(test, feature = "sim"))]
    #[doc(hidden)]
    pub async fn open_on(
        disk: Arc<dyn crate::disk::Disk>,
        dir: &Path,
        roster: Arc<dyn CheckpointStore>,
        options: FileStoreOptions,
    ) -> Result<Self> {
        let dir = Arc::new(Directory::simulated(disk, dir, options.event_bytes_max));
        let (made, create) = (dir.clone(), options.create);
        dir.run(move || make(&made, create)).await?;
        Self::open_in(dir, roster, options).await
    }

    /// Opens a log in a directory that exists.
    async fn open_in(
        dir: Arc<Directory>,
        roster: Arc<dyn CheckpointStore>,
        options: FileStoreOptions,
    ) -> Result<Self> {
        let (lock, record) = Self::lock(&dir).await?;
        let held = lock.share();
        let delivered = roster.list().await?.iter().filter_map(|entry| entry.checkpoint.id()).max();

        let counters = Arc::new(Counters::default());
        let (opened, shared, settings) = (dir.clone(), counters.clone(), options.clone());
        let (writer, recovered) = dir
            .run(move || {
                let known = Known { record, torn_tail: settings.torn_tail, delivered };
                let mut ready = recovery::recover(&opened, &lock, &known)?;
                let recovered = std::mem::take(&mut ready.recovered);
                Ok((Writer::new(opened, settings, lock, ready, shared)?, recovered))
            })
            .await?;
        let published = writer.subscribe();
        let upkeep = Arc::new(Upkeep::new(dir.clone(), published.clone(), held));
        let (queue, commands) = mpsc::channel(options.appends_waiting_max.clamp(1, Semaphore::MAX_PERMITS));
        dir.start(writer, commands)?;
        let mut tasks = Vec::new();
        if let Fsync::Interval(interval) = options.fsync {
            tasks.push(timer(interval, counters.clone(), queue.downgrade()));
        }
        if options.compress {
            tasks.push(tokio::spawn(upkeep.clone().compress_always(counters.clone())));
        }
        let tasks = Mutex::new(tasks);
        Ok(Self {
            shared: Arc::new(Shared {
                dir,
                options,
                queue,
                published,
                counters,
                recovered,
                roster,
                tasks,
                upkeep,
            }),
        })
    }

    async fn lock(dir: &Arc<Directory>) -> Result<(Lock, Option<crate::lock::Record>)> {
        for _ in 0..LOCK_PATIENCE.0 {
            let locked = dir.clone();
            if let Some(taken) = dir.run(move || Lock::take(&locked)).await? {
                return Ok(taken);
            }
            tokio::time::sleep(LOCK_PATIENCE.1).await;
        }
        Err(Lock::held(dir))
    }

    /// The directory of the log.
    pub fn dir(&self) -> &Path {
        &self.shared.dir.path
    }

    /// What recovery set aside when the log was opened; empty after a clean close.
    pub fn recovered(&self) -> &[Recovered] {
        &self.shared.recovered
    }

    /// Makes everything accepted durable. With [`Fsync::Always`] it is already.
    ///
    /// # Errors
    /// As [`append`](EventSink::append).
    ///
    /// # Cancel safety
    /// Once the writer has taken it, it continues without its caller.
    pub async fn sync(&self) -> Result<()> {
        self.ask(Command::Sync).await
    }

    /// Makes everything durable, releases the lock and all files, and waits for it. Readers and followers
    /// of this handle end with `Closed`.
    ///
    /// # Errors
    /// - The error of the last sync, or `Closed` if an earlier failure stopped the log: accepted events may then not be
    ///   durable.
    /// - `Unavailable` if another process has moved `state` or written to it. Its bytes stay, for the next open.
    ///
    /// The log is closed in each case.
    ///
    /// # Cancel safety
    /// Once begun, it continues without its caller.
    pub async fn close(&self) -> Result<()> {
        self.shared.end_tasks();
        self.shared.upkeep.close().await;
        let (reply, answer) = oneshot::channel();
        match self.send(Command::Close(reply)).await {
            // Another call closed the log, before or at the same time, and got the answer.
            Err(_) => Ok(()),
            Ok(()) => answer.await.unwrap_or(Ok(())),
        }
    }

    /// Sends a command and waits until it is done.
    async fn ask(&self, command: impl FnOnce(oneshot::Sender<Result<()>>) -> Command) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        self.send(command(reply)).await?;
        answer.await.unwrap_or_else(|_| Err(self.unanswered()))
    }

    async fn send(&self, command: Command) -> Result<()> {
        self.send_before(None, command).await
    }

    /// Hands a command over to the writer before the deadline, or not at all.
    async fn send_before(&self, deadline: Option<Instant>, command: Command) -> Result<()> {
        let late = || {
            let message =
                "the writer did not take the batch before its deadline: other calls wait, or the disk hangs";
            Error::unavailable(message).at_target(self.dir().display().to_string())
        };
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return Err(late());
        }
        let permit = before(deadline, self.shared.queue.reserve()).await.ok_or_else(late)?;
        let permit = permit.map_err(|_| self.stopped())?;
        self.shared.counters.under_way.fetch_add(1, Ordering::Acquire);
        permit.send(command);
        Ok(())
    }

    /// Polls for the answer of a call that is alone, for as long as a quick disk needs, and lets other tasks run
    /// in between. A wake-up by another thread would take longer.
    async fn look_for(
        &self,
        deadline: Option<Instant>,
        answer: &mut oneshot::Receiver<Result<()>>,
    ) -> Option<Result<()>> {
        let until = Instant::now() + LOOK_FOR_MAX;
        let until = deadline.map_or(until, |deadline| deadline.min(until));
        for look in 1..LOOKS_MAX {
            match answer.try_recv() {
                Ok(answer) => return Some(answer),
                Err(TryRecvError::Closed) => return Some(Err(self.unanswered())),
                Err(TryRecvError::Empty) => {}
            }
            if !self.shared.counters.is_alone() || Instant::now() > until {
                return None;
            }
            // The writer's thread may wait for this core, and, now and then, other tasks for this thread.
            std::thread::yield_now();
            if look % LOOKS_PER_YIELD == 0 {
                tokio::task::yield_now().await;
            }
        }
        None
    }

    /// The error of a command that the writer took and did not reply to.
    fn unanswered(&self) -> Error {
        let stopped = self.shared.published.borrow().stopped.clone();
        stopped.unwrap_or_else(|| {
            let message =
                "the writer ended before it replied, so the outcome is not known: open the log again";
            Error::new(ErrorKind::Closed, Retry::AfterCheckpoint, message)
        })
    }

    fn stopped(&self) -> Error {
        let stopped = self.shared.published.borrow().stopped.clone();
        stopped.unwrap_or_else(|| Error::closed("the log was closed; open it again"))
    }
}

/// What a future returns before the deadline.
async fn before<T>(deadline: Option<Instant>, future: impl Future<Output = T>) -> Option<T> {
    match deadline {
        Some(deadline) => tokio::time::timeout_at(deadline, future).await.ok(),
        None => Some(future.await),
    }
}

/// Makes the directory of a new log, or refuses to begin one.
fn make(dir: &Directory, create: bool) -> Result<()> {
    let path: PathBuf = dir.path.clone();
    let failed = |cause| io_error(&path, "opening", Retry::Safe, cause);
    let absent = |what| {
        let message = format!(
            "{what}, and `create` is off; mount the volume or put the log back, or open with `create` to begin a new log"
        );
        Err(Error::unavailable(message).at_target(path.display().to_string()))
    };
    match dir.disk.stat(&path).map_err(failed)? {
        None if create => create_dirs(&*dir.disk, &path).map_err(failed),
        None => absent("there is no such directory"),
        Some(found) if found.is_file => Err(failed(std::io::ErrorKind::NotADirectory.into())),
        Some(_) if create || dir.has_log()? => Ok(()),
        Some(_) => absent("there is no log in this directory"),
    }
}

/// Asks for a sync, `interval` after something was accepted.
fn timer(interval: Duration, counters: Arc<Counters>, queue: mpsc::WeakSender<Command>) -> JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            counters.unsynced.notified().await;
            tokio::time::sleep(interval).await;
            let Some(queue) = queue.upgrade() else {
                return;
            };
            if queue.send(Command::Due).await.is_err() {
                return;
            }
        }
    })
}

impl Shared {
    fn end_tasks(&self) {
        for task in self.tasks.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            task.abort();
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.end_tasks();
        self.upkeep.stop();
    }
}

#[async_trait]
impl EventSink for FileStore {
    /// Appends a batch; acknowledged as [`Fsync`] says. Appends that wait at the same time share one sync.
    ///
    /// Returns before the batch's deadline, if it has one. Without a deadline, it waits as long as the disk takes.
    ///
    /// # Errors
    /// - `Gap`, `Fenced` and `Pruned` as the contract says.
    /// - `Invalid` for an event above `event_bytes_max`.
    /// - `Full` if the disk is full. `Safe`: nothing was applied.
    /// - `Unavailable` at the deadline. `Safe` if the writer did not take the batch; `AfterCheckpoint` if it did, and
    ///   may still write it. A later call on this log is served after it.
    /// - `Closed` after a failure that only reopening settles.
    ///
    /// # Cancel safety
    /// A dropped future leaves all of the batch or none, and the next call on this log is served after it.
    async fn append(&self, batch: Batch<'_>) -> Result<()> {
        batch.check_size(self.event_bytes_max())?;
        let (deadline, after, events) = (batch.deadline(), batch.after(), batch.events().to_vec());
        // A simulator's clock does not advance in a loop.
        let looks = self.shared.dir.work == Work::Threads && events.len() <= LOOK_EVENTS_MAX;
        let (reply, mut answer) = oneshot::channel();
        self.send_before(deadline, Command::Append(Append { after, events, reply })).await?;
        if looks && let Some(answer) = self.look_for(deadline, &mut answer).await {
            return answer;
        }
        if let Some(answer) = before(deadline, answer).await {
            return answer.unwrap_or_else(|_| Err(self.unanswered()));
        }
        let message = "the writer did not end the append before its deadline, and may still do so: the disk hangs or is slow";
        Err(Error::outcome_unknown(message).at_target(self.dir().display().to_string()))
    }

    async fn checkpoint(&self) -> Result<Checkpoint> {
        if self.shared.counters.under_way.load(Ordering::Acquire) > 0 {
            // An append whose caller has left ends before this call begins.
            self.ask(Command::Barrier).await?;
        }
        let (head, stopped) = {
            let published = self.shared.published.borrow();
            (published.head.clone(), published.stopped.clone())
        };
        match stopped {
            Some(stopped) => Err(stopped),
            None => Ok(head.as_ref().map_or(Checkpoint::Empty, Checkpoint::at)),
        }
    }
}

impl EventSource for FileStore {
    fn read(&self, from: ReadFrom) -> EventStream {
        let published = self.shared.published.borrow().clone();
        // A log that stopped can still be read as far as it is durable; one that was closed cannot.
        let views = Fixed(match published.stopped {
            Some(stopped) if published.view.current.is_none() => Err(stopped),
            _ => Ok(published.view),
        });
        stream::events(self.shared.dir.clone(), from, Box::new(views), false)
    }

    fn follow(&self, from: ReadFrom) -> EventStream {
        let views = Live::new(self.shared.published.clone());
        stream::events(self.shared.dir.clone(), from, Box::new(views), true)
    }
}

#[async_trait]
impl CommitPoint for FileStore {
    async fn head(&self) -> Result<Checkpoint> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Head(reply)).await?;
        answer.await.unwrap_or_else(|_| Err(self.unanswered()))
    }

    fn event_bytes_max(&self) -> usize {
        self.shared.options.event_bytes_max
    }
}

impl Primary for FileStore {
    fn roster(&self) -> Arc<dyn CheckpointStore> {
        self.shared.roster.clone()
    }

    fn durability(&self) -> Durability {
        match self.shared.options.fsync {
            Fsync::Always => Durability::Durable,
            Fsync::Interval(_) | Fsync::Never => Durability::Accepted,
        }
    }
}
