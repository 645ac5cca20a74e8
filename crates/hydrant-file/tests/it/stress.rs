//! A writer that rotates, prunes, compresses, closes, drops and reopens, while other processes read and follow.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use hydrant::{Batch, ErrorKind, Event, EventId, EventSink, EventSource, Prune, Retry};
use hydrant_file::{FileSource, FileSourceOptions, FileStore, FileStoreOptions, Fsync, verify};

use crate::common::{event, head, snapshot};

const SEEDS: u64 = 2;
const LIVES: u32 = 4;

/// What the writer and its readers share.
#[derive(Clone)]
struct Shared {
    seed: u64,
    dir: PathBuf,
    /// Events below this are durable.
    durable: Arc<AtomicU64>,
    is_done: Arc<AtomicBool>,
}

impl Shared {
    fn is_done(&self) -> bool {
        self.is_done.load(Ordering::SeqCst)
    }
}

/// Reads or follows again and again, each time from where it stopped. Returns the last event.
async fn read(shared: Shared, follows: bool, mut random: fastrand::Rng) -> Option<EventId> {
    let options = FileSourceOptions::default().with_poll_interval(Duration::from_millis(1));
    let source = FileSource::open(&shared.dir, options).await.unwrap();
    let seed = shared.seed;
    let mut position: Option<EventId> = None;
    loop {
        let is_last = shared.is_done();
        let durable = shared.durable.load(Ordering::SeqCst);
        let mut events = if follows { source.follow(position.into()) } else { source.read(position.into()) };
        let mut left = if is_last { u64::MAX } else { random.u64(1..200) };
        while left > 0 {
            let patience = Duration::from_millis(if is_last { 500 } else { 20 });
            match tokio::time::timeout(patience, events.next()).await {
                Err(_) => break,
                Ok(None) => {
                    assert!(!follows, "seed {seed}: a follower ended");
                    let last = durable.checked_sub(1).map(EventId::new);
                    assert!(position >= last, "seed {seed}: a read ended at {position:?}, not at {last:?}");
                    break;
                }
                Ok(Some(Ok(event))) => {
                    let id = position.map_or(0, |position| position.get() + 1);
                    let expected = if event.is_snapshot() { snapshot(id) } else { self::event(id) };
                    assert_eq!(event, expected, "seed {seed}");
                    position = Some(event.id());
                    left -= 1;
                }
                Ok(Some(Err(error))) => {
                    match error.kind() {
                        ErrorKind::Pruned { oldest } => position = oldest.prev(),
                        ErrorKind::Unavailable => {}
                        _ => panic!("seed {seed}, follows: {follows}, at {position:?}: {error}"),
                    }
                    left = 0;
                }
            }
        }
        if is_last && (follows || left > 0) {
            return position;
        }
    }
}

/// Verifies again and again.
async fn check(shared: Shared) {
    while !shared.is_done() {
        let mut findings = verify(&shared.dir, &FileSourceOptions::default());
        while let Some(found) = findings.next().await {
            let found = found.unwrap_or_else(|error| panic!("seed {}: {error}", shared.seed));
            assert!(found.is_torn_tail, "seed {}: {found}", shared.seed);
        }
    }
}

async fn open(dir: &Path, options: &FileStoreOptions) -> FileStore {
    loop {
        match FileStore::open(dir, options.clone()).await {
            Ok(store) => return store,
            Err(error) => assert_eq!(error.retry(), Retry::Safe, "{error}"),
        }
    }
}

/// Opens the log, writes on from `at`, and closes or drops it. Returns where it ends.
async fn live(shared: &Shared, mut at: u64, random: &mut fastrand::Rng) -> u64 {
    let mut options = FileStoreOptions::default().with_compress(random.bool());
    if random.u8(..3) == 0 {
        options = options.with_preallocate_bytes(1 << 16);
    }
    let is_lazy = random.u8(..3) == 0;
    if is_lazy {
        options = options.with_fsync(Fsync::Interval(Duration::from_millis(2)));
    }
    let store = open(&shared.dir, &options).await;
    assert_eq!(head(&store).await.map_or(0, |head| head + 1), at, "seed {}", shared.seed);
    for _ in 0..random.u64(1..60) {
        let to = at + random.u64(1..40);
        let opens = random.u8(..4) == 0;
        let events: Vec<Event> =
            (at..to).map(|id| if opens && id == at { snapshot(id) } else { event(id) }).collect();
        store.append(Batch::new(EventId::new(at).prev(), &events).unwrap()).await.unwrap();
        at = to;
        if is_lazy && random.bool() {
            store.sync().await.unwrap();
        }
        if let Some(head) = head(&store).await {
            shared.durable.fetch_max(head + 1, Ordering::SeqCst);
        }
        if random.u8(..20) == 0 {
            store.prune(EventId::new(random.u64(..=at))).await.unwrap();
        }
    }
    if random.bool() {
        store.close().await.unwrap();
    } else {
        store.sync().await.unwrap();
    }
    shared.durable.fetch_max(at, Ordering::SeqCst);
    at
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn readers_of_a_busy_writer_miss_nothing() {
    for seed in 0..SEEDS {
        let mut random = fastrand::Rng::with_seed(seed);
        let root = tempfile::tempdir().unwrap();
        let shared =
            Shared { seed, dir: root.path().to_owned(), durable: Arc::default(), is_done: Arc::default() };
        let checker = tokio::spawn(check(shared.clone()));
        let readers: Vec<_> = (0..4_u8)
            .map(|reader| tokio::spawn(read(shared.clone(), reader % 2 == 0, random.fork())))
            .collect();
        let mut at = 0;
        for _ in 0..LIVES {
            at = live(&shared, at, &mut random).await;
        }
        shared.is_done.store(true, Ordering::SeqCst);
        for reader in readers {
            assert_eq!(reader.await.unwrap(), EventId::new(at).prev(), "seed {seed}");
        }
        checker.await.unwrap();
    }
}
