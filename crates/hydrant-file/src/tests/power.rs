//! A scripted history on a disk that fails, or loses its power, at every single step.

use fastrand::Rng;
use futures_util::future::join_all;
use hydrant::{
    Batch, Checkpoint, CommitPoint, ErrorKind, EventSink, EventSource, EventStream, MemoryCheckpoints, Prune,
    ReadFrom, Result, Retry,
};

use super::*;
use crate::sim::{Fault, When};
use crate::{FileSource, FileSourceOptions, FileStore, FileStoreOptions, Fsync};

/// What happens to a log, in order.
#[derive(Clone, Debug)]
enum Op {
    /// Batches that are appended at the same time, by the indices of their events.
    Append(Vec<Range<usize>>),
    Sync,
    Reopen,
    Compress,
    Prune(EventId),
}

#[derive(Debug)]
struct History {
    seed: u64,
    events: Vec<Event>,
    ops: Vec<Op>,
}

impl History {
    fn new(seed: u64) -> Self {
        let mut random = Rng::with_seed(seed);
        let (mut events, mut ops) = (Vec::new(), Vec::new());
        let mut id = 0;
        for _ in 0..4 {
            let mut batches = Vec::new();
            // An empty log would take a later batch that begins with a snapshot, if the first one fails.
            let count = if events.is_empty() { 1 } else { random.usize(1..=3) };
            for _ in 0..count {
                let start = events.len();
                let opens = random.u8(..3) == 0;
                for at in 0..random.usize(1..=4) {
                    let size = if random.u8(..4) == 0 { random.usize(..3000) } else { random.usize(..200) };
                    let mut event =
                        Event::builder(EventId::new(id)).payload_json(format!("\"{}\"", "x".repeat(size)));
                    if opens && at == 0 {
                        event = event.snapshot();
                    }
                    events.push(event.build().unwrap());
                    id += random.u64(1..3);
                }
                batches.push(start..events.len());
            }
            ops.push(Op::Append(batches));
            match random.u8(..8) {
                0 | 1 => ops.push(Op::Sync),
                2 | 3 => ops.push(Op::Reopen),
                4 | 5 => ops.push(Op::Compress),
                6 => ops.push(Op::Prune(EventId::new(id * random.u64(0..3) / 2))),
                _ => {}
            }
        }
        Self { seed, events, ops }
    }

    /// Returns whether a log may end with this many events: with a whole batch.
    fn is_boundary(&self, count: usize) -> bool {
        let ends =
            |op: &Op| matches!(op, Op::Append(batches) if batches.iter().any(|batch| batch.end == count));
        count == 0 || self.ops.iter().any(ends)
    }

    fn count(&self, head: &Checkpoint) -> usize {
        head.id().map_or(0, |head| self.events.partition_point(|event| event.id() <= head))
    }
}

/// How far a history has come, in numbers of events.
#[derive(Clone, Debug, Default)]
struct Progress {
    /// Acknowledged as durable.
    durable: usize,
    /// Yielded to a reader.
    seen: usize,
    /// Handed over to an append.
    attempted: usize,
    /// Pruning was asked for up to here.
    pruned: Option<EventId>,
}

struct Run<'a> {
    history: &'a History,
    options: FileStoreOptions,
    /// Where the log is on its disk; on the real one, its roster.
    path: &'a Path,
    disk: SimDisk,
    /// Kept after a failure, so that a reader beside it finds its lock held.
    store: Option<FileStore>,
    progress: Progress,
    /// What was done to the disks before this one.
    trail: Vec<String>,
}

impl<'a> Run<'a> {
    fn new(history: &'a History, options: &FileStoreOptions, path: &'a Path) -> Self {
        let disk = SimDisk::new(path);
        Self {
            history,
            options: options.clone(),
            path,
            disk,
            store: None,
            progress: Progress::default(),
            trail: Vec::new(),
        }
    }

    /// The same as it would be on another disk.
    fn on(&self, disk: SimDisk) -> Self {
        let (options, progress) = (self.options.clone(), self.progress.clone());
        let mut trail = self.trail.clone();
        trail.extend(self.disk.steps());
        trail.push("=== another disk".to_owned());
        Self { history: self.history, options, path: self.path, disk, store: None, progress, trail }
    }

    async fn try_open(&self) -> Result<FileStore> {
        let (disk, roster) = (Arc::new(self.disk.clone()), Arc::new(MemoryCheckpoints::default()));
        FileStore::open_on(disk, self.path, roster, self.options.clone()).await
    }

    async fn open(&mut self) -> Result<FileStore> {
        let store = self.try_open().await?;
        self.store = Some(store.clone());
        Ok(store)
    }

    /// Plays the history to its end, from wherever the log stands.
    async fn play(&mut self) -> Result<()> {
        let mut store = self.open().await?;
        for op in &self.history.ops {
            match op {
                Op::Append(batches) => self.append(&store, batches).await?,
                Op::Sync => store.sync().await?,
                Op::Reopen => {
                    store.close().await?;
                    store = self.open().await?;
                }
                Op::Compress => store.compress().await?,
                Op::Prune(before) => {
                    self.progress.pruned = self.progress.pruned.max(Some(*before));
                    store.prune(*before).await?;
                }
            }
            self.look(&store).await?;
        }
        store.close().await?;
        self.progress.durable = self.history.events.len();
        Ok(())
    }

    async fn append(&mut self, store: &FileStore, batches: &[Range<usize>]) -> Result<()> {
        let events = &self.history.events;
        let held = self.history.count(&store.checkpoint().await?);
        let before = self.history.count(&store.head().await?);
        let deadline = Some(tokio::time::Instant::now() + std::time::Duration::from_secs(3600));
        let appends = batches.iter().filter(|batch| batch.end > held).map(|batch| {
            self.progress.attempted = self.progress.attempted.max(batch.end);
            let after = batch.start.checked_sub(1).map(|before| events[before].id());
            let batch = batch.clone();
            async move {
                let events = Batch::new(after, &events[batch.clone()]).unwrap().with_deadline(deadline);
                let mut done = store.append(events).await;
                if done.as_ref().is_err_and(|error| error.retry() == Retry::Safe) {
                    done = store.append(events).await;
                }
                done.map(|()| batch.end)
            }
        });
        let all_done = join_all(appends.collect::<Vec<_>>()).await;
        // Unless the log stopped, the head is the last event accepted: what failed is taken back.
        if let Ok(head) = store.head().await {
            let accepted = all_done.iter().flatten().copied().max();
            assert_eq!(self.history.count(&head), before.max(accepted.unwrap_or(0)));
        }
        for done in all_done {
            let end = done?;
            if self.options.fsync == Fsync::Always {
                self.progress.durable = self.progress.durable.max(end);
            }
        }
        Ok(())
    }

    /// What can be read is what is durable, no more and no less.
    async fn look(&mut self, store: &FileStore) -> Result<()> {
        let durable = self.history.count(&store.checkpoint().await?);
        let (seen, error) = self.read(store).await;
        self.progress.seen = self.progress.seen.max(seen);
        if let Some(error) = error {
            return Err(error);
        }
        assert_eq!(seen, durable, "reads end at the checkpoint");
        assert!(seen >= self.progress.durable, "reads are complete: {seen}, {:?}", self.progress);
        self.progress.durable = self.progress.durable.max(durable);
        Ok(())
    }

    /// How far a read comes; every event is the one that was appended there, none is missing.
    async fn read(&self, source: &impl EventSource) -> (usize, Option<hydrant::Error>) {
        let (count, error) = self.read_on(source.read(ReadFrom::Origin), 0).await;
        let Some(ErrorKind::Pruned { oldest }) = error.as_ref().map(hydrant::Error::kind) else {
            return (count, error);
        };
        let floor = self.history.events.partition_point(|event| event.id() < oldest);
        assert!(self.history.events[floor].id() == oldest && self.history.events[floor].is_snapshot());
        let before = self.history.events[floor - 1].id();
        assert!(
            Some(before) < self.progress.pruned,
            "{before} was not to be pruned: {:?} {}",
            self.progress,
            [&self.trail[..], &self.disk.steps()].concat().join(
                "
"
            )
        );
        self.read_on(source.read(ReadFrom::After(before)), floor).await
    }

    async fn read_on(&self, mut read: EventStream, mut at: usize) -> (usize, Option<hydrant::Error>) {
        use futures_util::StreamExt;
        while let Some(event) = read.next().await {
            match event {
                Ok(event) => {
                    let expected = self.history.events.get(at);
                    assert_eq!(Some(event.id()), expected.map(Event::id), "in order, without a hole");
                    assert!(Some(&event) == expected, "event {} is another one", event.id());
                    at += 1;
                }
                Err(error) => return (at, Some(error)),
            }
        }
        (at, None)
    }

    /// Another process looks at the log, now.
    async fn look_beside(&mut self) {
        let disk = self.disk.beside();
        // It waits for a writer that will never say how far it is.
        let options = FileSourceOptions::default().with_poll_interval(std::time::Duration::ZERO);
        let source = FileSource::open_on(Arc::new(disk.clone()), self.path, options).await.unwrap();
        let (seen, _) = self.read(&source).await;
        self.progress.seen = self.progress.seen.max(seen);
        self.trail.extend(self.disk.steps());
        self.trail.push("=== another process looks".to_owned());
        self.disk = disk;
    }

    /// The log opens, holds what it must and nothing else, and is written on.
    async fn check(&mut self, what: &str) {
        let context = || {
            let steps = [&self.trail[..], &self.disk.steps()].concat().join("\n");
            format!("{what}, seed {}, {:?}\n{steps}", self.history.seed, self.progress)
        };
        let opened = self.try_open().await;
        let store = opened.unwrap_or_else(|error| panic!("{error}: {}", context()));
        let (count, error) = self.read(&store).await;
        assert!(error.is_none(), "{error:?}: {}", context());
        let Progress { durable, seen, attempted, .. } = self.progress;
        assert!(count >= durable && count >= seen && count <= attempted, "{count} events: {}", context());
        assert!(self.history.is_boundary(count), "{count} events are no whole batches: {}", context());
        assert_eq!(self.history.count(&store.checkpoint().await.unwrap()), count, "{}", context());
        store.close().await.unwrap_or_else(|error| panic!("{error}: {}", context()));
        if let Err(error) = self.play().await {
            panic!("playing on: {error}: {what}, seed {}", self.history.seed);
        }
        let found = findings_in(&self.disk, self.path);
        assert_eq!(found, [], "{what}, seed {}", self.history.seed);
    }
}

/// The kinds of stores that are cut.
fn stores() -> [FileStoreOptions; 3] {
    let options = FileStoreOptions::default;
    [options(), options().with_preallocate_bytes(4096), options().with_fsync(Fsync::Never)]
}

const DIR: &str = "/log";
const HISTORIES: u64 = 1;
const SURVIVALS: u64 = 3;

#[tokio::test]
async fn every_history_runs_to_its_end_on_a_sound_disk() {
    for seed in 0..20 {
        let history = History::new(seed);
        for options in stores() {
            let mut run = Run::new(&history, &options, Path::new(DIR));
            run.play().await.unwrap();
            run.check("sound").await;
        }
    }
}

#[tokio::test]
async fn a_power_cut_at_any_step_loses_nothing_acknowledged() {
    for (seed, options) in (0..HISTORIES).flat_map(|seed| stores().map(|options| (seed, options))) {
        let history = History::new(seed);
        let mut dry = Run::new(&history, &options, Path::new(DIR));
        dry.play().await.unwrap();
        for step in 0..dry.disk.steps().len() {
            let mut run = Run::new(&history, &options, Path::new(DIR));
            run.disk.fail(When::Step(step), Fault::PowerCut);
            drop(run.play().await);
            run.look_beside().await;
            for survival in 0..SURVIVALS {
                let mut next = run.on(run.disk.reboot(&mut Rng::with_seed(survival)));
                next.check(&format!("power cut at step {step}, survival {survival}")).await;
            }
        }
    }
}

#[tokio::test]
async fn a_fault_at_any_step_loses_nothing_acknowledged() {
    let faults = [
        Fault::Error(std::io::ErrorKind::Other),
        Fault::Error(std::io::ErrorKind::StorageFull),
        Fault::Short,
    ];
    for (seed, options) in (0..HISTORIES).flat_map(|seed| stores().map(|options| (seed, options))) {
        let history = History::new(seed);
        let mut dry = Run::new(&history, &options, Path::new(DIR));
        dry.play().await.unwrap();
        for (step, fault) in (0..dry.disk.steps().len()).flat_map(|step| faults.map(|fault| (step, fault))) {
            let mut run = Run::new(&history, &options, Path::new(DIR));
            run.disk.fail(When::Step(step), fault);
            drop(run.play().await);
            run.look_beside().await;
            let mut random = Rng::with_seed(step as u64);
            // Another process opens the log at once, or after a power cut.
            let disk = if random.bool() { run.disk.restart() } else { run.disk.reboot(&mut random) };
            let mut next = run.on(disk);
            next.check(&format!("{fault:?} at step {step}")).await;
            let mut last = next.on(next.disk.reboot(&mut random));
            last.check(&format!("{fault:?} at step {step}, and then a power cut")).await;
        }
    }
}

#[tokio::test]
async fn a_read_that_fails_anywhere_loses_nothing() {
    let history = History::new(1);
    for options in stores() {
        let mut dry = Run::new(&history, &options, Path::new(DIR));
        dry.play().await.unwrap();
        for look in 0..dry.disk.looks() {
            let mut run = Run::new(&history, &options, Path::new(DIR));
            run.disk.fail(When::Look(look), Fault::Error(std::io::ErrorKind::Other));
            drop(run.play().await);
            let mut next = run.on(run.disk.restart());
            next.check(&format!("a failure of look {look}")).await;
        }
    }
}

/// The blocks that the disk lost are longer than an event may be.
#[tokio::test(start_paused = true)]
async fn a_hole_above_the_limit_of_events_is_a_torn_tail() {
    let options = || FileStoreOptions::default().with_event_bytes_max(300);
    let open = async |disk: &SimDisk| {
        let roster = Arc::new(MemoryCheckpoints::default());
        FileStore::open_on(Arc::new(disk.clone()), &dir(), roster, options()).await
    };
    let mut torn = 0;
    for seed in 0..100 {
        let disk = SimDisk::new(&dir());
        let store = open(&disk).await.unwrap();
        store.append(Batch::new(None, &events(0..3)).unwrap()).await.unwrap();
        disk.fail(When::Next("sync /log/state".to_owned()), Fault::PowerCut);
        store.append(Batch::new(Some(EventId::new(2)), &events(3..40)).unwrap()).await.unwrap_err();
        drop(store);
        let disk = disk.reboot(&mut Rng::with_seed(seed));
        let store = open(&disk).await.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        torn += usize::from(!store.recovered().is_empty());
        assert!(store.checkpoint().await.unwrap().id() >= Some(EventId::new(2)), "seed {seed}");
    }
    assert!(torn > 10, "{torn} torn tails");
}
