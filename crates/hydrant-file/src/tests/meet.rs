//! A read, a follower and `verify` that meet a prune, a compression, a rotation or another directory, at each moment.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use futures_util::StreamExt;
use hydrant::{Error, ErrorKind, EventSource, EventStream, Prune, ReadFrom};

use super::*;
use crate::directory::Sealed;
use crate::disk::Mode;
use crate::lock::Lock;
use crate::options::TornTail;
use crate::recovery::{Known, recover};
use crate::rotation;
use crate::writer::Writer;
use crate::{FileSource, FileSourceOptions, FileStore, FileStoreOptions};

/// What another process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Prune,
    Compress,
    Rotate,
    RotateTwice,
    RotateAndPrune,
}

const ACTS: [Act; 5] = [Act::Prune, Act::Compress, Act::Rotate, Act::RotateTwice, Act::RotateAndPrune];

impl Act {
    /// Does it, with the code of the writer and in its order.
    fn run(self, disk: &SimDisk) {
        let directory = directory(&disk.process());
        match self {
            Self::Prune => prune(&directory),
            Self::Compress => {
                for sealed in directory.list().unwrap().sealed {
                    directory.compress(sealed, &AtomicBool::new(false)).unwrap();
                }
            }
            Self::Rotate => rotate(&directory, 25),
            Self::RotateTwice => {
                rotate(&directory, 25);
                rotate(&directory, 28);
            }
            Self::RotateAndPrune => {
                rotate(&directory, 25);
                rotate(&directory, 28);
                prune(&directory);
            }
        }
    }
}

fn prune(directory: &Directory) {
    for sealed in directory.list().unwrap().sealed {
        for compressed in [true, false] {
            drop(directory.disk.remove(&directory.file(&Sealed { compressed, ..sealed }.name())));
        }
        rotation::sync_dir(directory).unwrap();
    }
}

/// Opens a segment of three events behind `last`.
fn rotate(directory: &Directory, last: u64) {
    let file = directory.disk.open(&directory.next(EventId::new(last)), Mode::New).unwrap();
    let mut commit = vec![snapshot(last + 1)];
    commit.extend(events(last + 2..last + 4));
    file.write_at(&segment(behind(last), &[commit]), 0).unwrap();
    file.sync().unwrap();
    rotation::sync_dir(directory).unwrap();
    rotation::finish(directory, EventId::new(last)).unwrap();
}

async fn source(disk: &SimDisk) -> FileSource {
    FileSource::open_on(Arc::new(disk.process()), &dir(), FileSourceOptions::default()).await.unwrap()
}

/// Takes events up to `last`; returns the id of the last one and the error, if there is one.
async fn take(stream: &mut EventStream, from: u64, last: u64) -> (u64, Option<Error>) {
    let mut next = from;
    while next <= last {
        match stream.next().await {
            Some(Ok(event)) => {
                assert_eq!(event.id().get(), next, "in order, none missing");
                next += 1;
            }
            Some(Err(error)) => return (next, Some(error)),
            None => break,
        }
    }
    (next, None)
}

/// Runs `check` with the act at each moment, until it is over before the act.
async fn at_each_moment(act: Act, mut check: impl AsyncFnMut(SimDisk, &AtomicBool, String)) {
    for moment in 0.. {
        let disk = disk_of(&log());
        let done = Arc::new(AtomicBool::new(false));
        let (other, acted) = (disk.process(), done.clone());
        disk.interrupt_at(moment, move || {
            acted.store(true, SeqCst);
            act.run(&other);
        });
        check(disk, &done, format!("{act:?} at moment {moment}")).await;
        if !done.load(SeqCst) {
            assert!(moment > 5, "{act:?} was met at {moment} moments");
            return;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_read_that_meets_another_process_is_whole_or_pruned() {
    for act in ACTS {
        for from in [0, 5, 10, 13, 20, 24] {
            at_each_moment(act, async |disk, _, what| {
                let from_id = EventId::new(from).prev().into();
                let (next, error) = take(&mut source(&disk).await.read(from_id), from, 25).await;
                match error.as_ref().map(Error::kind) {
                    None => assert_eq!(next, 26, "{what}, from {from}"),
                    Some(ErrorKind::Pruned { oldest }) if oldest.get() > next => {
                        assert!(matches!(act, Act::Prune | Act::RotateAndPrune), "{what}, from {from}");
                    }
                    Some(_) => panic!("{what}, from {from}, at {next}: {error:?}"),
                }
            })
            .await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_follower_that_meets_another_process_continues() {
    for act in ACTS {
        let last = match act {
            Act::Prune | Act::Compress => 25,
            Act::Rotate => 28,
            Act::RotateTwice | Act::RotateAndPrune => 31,
        };
        for from in [0, 12, 20] {
            at_each_moment(act, async |disk, done, what| {
                let mut follower = source(&disk).await.follow(EventId::new(from).prev().into());
                let waits = |_| panic!("{what}, from {from}: it waits");
                let mut taken = take(&mut follower, from, 25).await;
                if taken.1.is_none() && done.load(SeqCst) {
                    let rest = take(&mut follower, taken.0, last);
                    taken = tokio::time::timeout(Duration::from_secs(60), rest).await.unwrap_or_else(waits);
                }
                let end = if done.load(SeqCst) { last } else { 25 };
                match taken.1.as_ref().map(Error::kind) {
                    None => assert_eq!(taken.0, end + 1, "{what}, from {from}"),
                    Some(ErrorKind::Pruned { oldest }) if oldest.get() > taken.0 => {}
                    Some(_) => panic!("{what}, from {from}: {taken:?}"),
                }
            })
            .await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_read_that_meets_another_process_begins_at_one() {
    for act in ACTS {
        at_each_moment(act, async |disk, _, what| {
            let first = source(&disk).await.read(ReadFrom::Snapshot).next().await;
            let first = first.unwrap_or_else(|| panic!("{what}: nothing")).unwrap();
            assert!(first.is_snapshot() && first.id().get() >= 20, "{what}: {}", first.id());
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn verify_that_meets_another_process_finds_nothing() {
    for act in ACTS {
        at_each_moment(act, async |disk, _, what| assert_eq!(findings(&disk), [], "{what}")).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_that_meets_another_process_is_one_of_the_log() {
    for act in ACTS {
        for empty in [false, true] {
            at_each_moment(act, async |disk, _, what| {
                if empty && matches!(act, Act::Prune | Act::Compress) {
                    // As hydra-node leaves it between two files, and a power cut.
                    let last = disk.files()[&dir().join("state")].clone();
                    disk.put(&dir().join("state-25"), &last);
                    disk.put(&dir().join("state"), b"");
                }
                let checkpoint = source(&disk).await.checkpoint().await;
                let head = checkpoint.map(|checkpoint| checkpoint.id().map(EventId::get));
                let is_pruned = empty && act == Act::Prune;
                assert!(
                    matches!(head, Ok(Some(25 | 28 | 31))) || is_pruned && matches!(head, Ok(None)),
                    "{what}: {head:?}"
                );
            })
            .await;
        }
    }
}

/// What a crash leaves behind the last commit.
fn torn_tails() -> Vec<Vec<u8>> {
    let commit = segment(Opens::Root, &[events(26..90)]);
    let lines: Vec<&[u8]> = commit.split_inclusive(|&byte| byte == b'\n').collect();
    vec![b"{\"eventId\":26,".to_vec(), lines[1].to_vec(), lines[1..40].concat(), vec![0; 700]]
}

/// Opens a log for writing as a program does: takes the lock, recovers, and publishes a record.
fn open_for_writing(disk: &SimDisk) -> Writer {
    let dir = Arc::new(directory(disk));
    let (lock, record) = Lock::take(&dir).unwrap().unwrap();
    let known = Known { record, torn_tail: TornTail::default(), delivered: None };
    let ready = recover(&dir, &lock, &known).unwrap();
    assert_eq!(ready.recovered.len(), 1, "the tail is torn");
    Writer::new(dir, FileStoreOptions::default(), lock, ready, Arc::default()).unwrap()
}

/// Runs `check` while another process opens a log with a torn tail, at each moment.
async fn while_a_torn_tail_is_cut(mut check: impl AsyncFnMut(&SimDisk, String)) {
    for (number, tail) in torn_tails().iter().enumerate() {
        for moment in 0.. {
            let mut files = log();
            files[2].1.extend_from_slice(tail);
            let disk = disk_of(&files);
            let opened = Arc::new(std::sync::Mutex::new(None));
            let (other, kept) = (disk.process(), opened.clone());
            disk.interrupt_at(moment, move || *kept.lock().unwrap() = Some(open_for_writing(&other)));
            check(&disk, format!("tail {number} at moment {moment}")).await;
            if opened.lock().unwrap().is_none() {
                assert!(moment > 5, "met at {moment} moments");
                break;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn verify_that_meets_a_cut_of_a_torn_tail_finds_no_damage() {
    while_a_torn_tail_is_cut(async |disk, what| {
        let found = crate::sim::verify(disk, &dir(), &FileSourceOptions::default());
        let found = found.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(found.iter().all(|finding| finding.is_torn_tail), "{what}: {found:?}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_read_that_meets_a_cut_of_a_torn_tail_is_whole() {
    while_a_torn_tail_is_cut(async |disk, what| {
        let (next, error) = take(&mut source(disk).await.read(ReadFrom::Origin), 0, 25).await;
        assert!(error.is_none() && next == 26, "{what}, at {next}: {error:?}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_that_meets_a_cut_of_a_torn_tail_is_the_head() {
    while_a_torn_tail_is_cut(async |disk, what| {
        let head = source(disk).await.checkpoint().await.map(|head| head.id().map(EventId::get));
        assert!(matches!(head, Ok(Some(25))), "{what}: {head:?}");
    })
    .await;
}

/// A log with the segments and ids of `log()`, and other events.
fn other_log() -> Vec<(&'static str, Vec<u8>)> {
    let commit = |ids: Range<u64>| {
        let build = |id: u64| {
            let event = Event::builder(EventId::new(id)).payload_json("\"other\"");
            if matches!(id, 10 | 20) { event.snapshot().build() } else { event.build() }
        };
        [ids.map(|id| build(id).unwrap()).collect::<Vec<_>>()]
    };
    vec![
        ("state-9", segment(Opens::Root, &commit(0..10))),
        ("state-19", segment(behind(9), &commit(10..20))),
        ("state", segment(behind(19), &commit(20..31))),
    ]
}

/// Puts the other log in the place of the directory.
fn replace_directory(disk: &SimDisk) {
    let other = Path::new("/other");
    for (name, bytes) in other_log() {
        disk.put(&other.join(name), &bytes);
    }
    disk.move_tree(&dir(), Path::new("/old"));
    disk.copy_dir(other, &dir());
}

const STARTS: [ReadFrom; 5] = [
    ReadFrom::Origin,
    ReadFrom::After(EventId::new(4)),
    ReadFrom::After(EventId::new(12)),
    ReadFrom::After(EventId::new(19)),
    ReadFrom::Snapshot,
];

#[tokio::test(start_paused = true)]
async fn a_read_that_meets_another_directory_shows_one_log() {
    for (from, follows) in STARTS.into_iter().flat_map(|from| [(from, false), (from, true)]) {
        for moment in 0.. {
            let disk = disk_of(&log());
            let done = Arc::new(AtomicBool::new(false));
            let (other, acted) = (disk.process(), done.clone());
            disk.interrupt_at(moment, move || {
                acted.store(true, SeqCst);
                replace_directory(&other);
            });
            let what = format!("{from:?}, follows {follows}, at moment {moment}");
            let source = source(&disk).await;
            let mut events = if follows { source.follow(from) } else { source.read(from) };
            let mut is_other = None;
            let looks = 3 * FileSourceOptions::default().poll_interval;
            while let Ok(Some(next)) = tokio::time::timeout(looks, events.next()).await {
                match next {
                    Ok(event) => {
                        let is = event.payload() == b"\"other\"";
                        assert_eq!(*is_other.get_or_insert(is), is, "{what}: event {}", event.id());
                    }
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Diverged, "{what}: {error}"),
                }
            }
            if !done.load(SeqCst) {
                assert!(moment > 5, "met at {moment} moments");
                break;
            }
        }
    }
}

/// The writer's handle reads `state` from the file that it has open, and sealed segments by their names.
#[tokio::test(start_paused = true)]
async fn a_writer_reads_no_event_of_another_directory() {
    let disk = disk_of(&log());
    let roster = Arc::new(hydrant::MemoryCheckpoints::default());
    let process = Arc::new(disk.process());
    let store = FileStore::open_on(process, &dir(), roster, FileStoreOptions::default()).await.unwrap();
    store.prune(EventId::new(20)).await.unwrap();
    replace_directory(&disk);
    for from in STARTS {
        for mut events in [store.read(from), store.follow(from)] {
            let error = events.next().await.unwrap().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{from:?}: {error}");
        }
    }
}
