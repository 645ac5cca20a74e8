//! What the simulator found in the opening of a log.

use std::io::ErrorKind as Io;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use futures_util::StreamExt;
use hydrant::{Batch, EventSink, EventSource, MemoryCheckpoints, ReadFrom};

use super::*;
use crate::sim::{Fault, When};
use crate::{FileSource, FileStore, FileStoreOptions};

async fn open(disk: &SimDisk) -> hydrant::Result<FileStore> {
    let roster = Arc::new(MemoryCheckpoints::default());
    FileStore::open_on(Arc::new(disk.process()), &dir(), roster, FileStoreOptions::default()).await
}

async fn count(disk: &SimDisk) -> hydrant::Result<u64> {
    let source = FileSource::open_on(Arc::new(disk.clone()), &dir(), FileSourceOptions::default()).await?;
    let mut events = source.read(ReadFrom::Origin);
    let mut count = 0;
    while let Some(event) = events.next().await {
        event?;
        count += 1;
    }
    Ok(count)
}

/// A power cut took back the record in `lock`, which is written after each sync and not synced itself. So the record of
/// a writer that is gone is no record of the one that holds the lock.
#[tokio::test(start_paused = true)]
async fn a_reader_waits_for_a_writer_that_opens_a_log() {
    let disk = disk_of(&[]);
    let store = open(&disk).await.unwrap();
    let record = disk.files()[&dir().join("lock")].clone();
    store.append(Batch::new(None, &events(0..5)).unwrap()).await.unwrap();
    let disk = disk.restart();
    disk.write_over(&dir().join("lock"), &record);
    let (lock, last) = crate::lock::Lock::take(&directory(&disk)).unwrap().unwrap();
    assert_eq!(last.map(|last| last.synced), Some(0), "as the power cut left it");
    let reading = tokio::time::timeout(Duration::from_secs(1), count(&disk)).await;
    assert!(reading.is_err(), "it waits: {reading:?}");
    drop(lock);
    assert_eq!(count(&disk).await.unwrap(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_leaves_no_half_copy_of_a_torn_tail() {
    let (mut files, torn) = (log(), b"{\"eventId\":26,".to_vec());
    files.last_mut().unwrap().1.extend_from_slice(&torn);
    let disk = disk_of(&files);
    disk.fail(When::Every("write /log/state.torn-".to_owned()), Fault::Error(Io::StorageFull));
    for _ in 0..3 {
        open(&disk).await.unwrap_err();
    }
    let asides =
        |disk: &SimDisk| disk.files().into_keys().filter(|path| file_name(path).contains("torn")).count();
    assert_eq!(asides(&disk), 0);
    disk.heal();
    let store = open(&disk).await.unwrap();
    assert_eq!((asides(&disk), store.recovered().len()), (1, 1));
    assert_eq!(text(&disk, "state.torn-1").as_bytes(), torn);
}

/// Lets another process create a log of five events at each moment of a check.
async fn while_a_log_is_created(mut check: impl AsyncFnMut(&SimDisk, usize)) {
    let written = disk_of(&[]);
    let store = open(&written).await.unwrap();
    store.append(Batch::new(None, &events(0..5)).unwrap()).await.unwrap();
    for moment in 0.. {
        let disk = disk_of(&[]);
        let done = Arc::new(AtomicBool::new(false));
        let (other, acted, files) = (disk.process(), done.clone(), written.files());
        disk.interrupt_at(moment, move || {
            acted.store(true, SeqCst);
            for (path, bytes) in &files {
                other.put(path, bytes);
            }
        });
        check(&disk, moment).await;
        if !done.load(SeqCst) {
            assert!(moment > 3, "met at {moment} moments");
            return;
        }
    }
}

/// A `state` that is created between a look and the look at the record is not missing.
#[tokio::test(start_paused = true)]
async fn a_read_meets_the_first_append_of_a_log() {
    while_a_log_is_created(async |disk, moment| {
        let read = count(disk).await;
        assert!(matches!(read, Ok(0 | 5)), "at moment {moment}: {read:?}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn verify_meets_the_first_append_of_a_log() {
    while_a_log_is_created(async |disk, moment| assert_eq!(findings(disk), [], "at moment {moment}")).await;
}

/// The space that a writer preallocated is written over by the next one, so that the file keeps its length.
#[tokio::test(start_paused = true)]
async fn a_follower_sees_what_is_written_over_preallocated_space() {
    let disk = disk_of(&[]);
    let open = async |disk: &SimDisk| {
        let options = FileStoreOptions::default().with_preallocate_bytes(4096);
        let roster = Arc::new(MemoryCheckpoints::default());
        FileStore::open_on(Arc::new(disk.clone()), &dir(), roster, options).await.unwrap()
    };
    let len = || disk.files()[&dir().join("state")].len();
    let first = disk.process();
    let store = open(&first).await;
    store.append(Batch::new(None, &events(0..3)).unwrap()).await.unwrap();
    let len_before = len();
    first.kill();
    let reader = Arc::new(disk.process());
    let source = FileSource::open_on(reader, &dir(), FileSourceOptions::default()).await.unwrap();
    let mut events_read = source.follow(ReadFrom::Origin);
    for _ in 0..3 {
        events_read.next().await.unwrap().unwrap();
    }
    let waiting = tokio::time::timeout(Duration::from_secs(5), events_read.next()).await;
    assert!(waiting.is_err(), "it waits: {waiting:?}");
    let store = open(&disk.process()).await;
    store.append(Batch::new(Some(EventId::new(2)), &events(3..5)).unwrap()).await.unwrap();
    assert_eq!(len(), len_before);
    let next = tokio::time::timeout(Duration::from_secs(60), events_read.next()).await;
    assert_eq!(next.expect("it sees the next event").unwrap().unwrap().id(), EventId::new(3));
}

/// A log that begins behind an event may be copied into a directory whose `state` is empty.
#[tokio::test(start_paused = true)]
async fn a_follower_of_an_empty_log_compares_its_first_event() {
    let disk = disk_of(&[("state", Vec::new())]);
    let reader = Arc::new(disk.process());
    let source = FileSource::open_on(reader, &dir(), FileSourceOptions::default()).await.unwrap();
    let starts = [ReadFrom::Origin, ReadFrom::After(EventId::new(4)), ReadFrom::After(EventId::new(9))];
    let mut followers = starts.map(|from| source.follow(from));
    for follower in &mut followers {
        let waiting = tokio::time::timeout(Duration::from_secs(5), follower.next()).await;
        assert!(waiting.is_err(), "it waits: {waiting:?}");
    }
    disk.write_over(&dir().join("state"), &segment(behind(9), &[events(10..12)]));
    let [from_origin, from_before, from_behind] = &mut followers;
    for follower in [from_origin, from_before] {
        let error = follower.next().await.unwrap().unwrap_err();
        assert_eq!(error.kind(), hydrant::ErrorKind::Pruned { oldest: EventId::new(10) }, "{error}");
    }
    assert_eq!(from_behind.next().await.unwrap().unwrap().id(), EventId::new(10));
}

/// An empty `state` was sealed before its follower looked again, and has more lines than one block.
#[tokio::test(start_paused = true)]
async fn a_follower_of_an_empty_log_meets_a_rotation() {
    const LAST: u64 = 7999;
    let disk = disk_of(&[]);
    let store = open(&disk).await.unwrap();
    let reader = Arc::new(disk.process());
    let source = FileSource::open_on(reader, &dir(), FileSourceOptions::default()).await.unwrap();
    let mut followers = [source.follow(ReadFrom::Origin), store.follow(ReadFrom::Origin)];
    for follower in &mut followers {
        let waiting = tokio::time::timeout(Duration::from_secs(5), follower.next()).await;
        assert!(waiting.is_err(), "it waits: {waiting:?}");
    }
    store.append(Batch::new(None, &events(0..LAST + 1)).unwrap()).await.unwrap();
    let sealed = disk.files()[&dir().join("state")].len();
    assert!(sealed > 2 * crate::lines::BLOCK_BYTES, "{sealed} bytes");
    store.append(Batch::new(Some(EventId::new(LAST)), &[snapshot(LAST + 1)]).unwrap()).await.unwrap();
    for follower in &mut followers {
        for id in 0..=LAST + 1 {
            assert_eq!(follower.next().await.unwrap().unwrap().id(), EventId::new(id));
        }
    }
}

/// The lines of hydra-node before 0.16 have no ids, and an empty file does not show that.
#[tokio::test(start_paused = true)]
async fn a_follower_of_an_empty_log_counts_bare_changes() {
    let disk = disk_of(&[("state", Vec::new())]);
    let reader = Arc::new(disk.process());
    let source = FileSource::open_on(reader, &dir(), FileSourceOptions::default()).await.unwrap();
    let mut follower = source.follow(ReadFrom::Origin);
    let waiting = tokio::time::timeout(Duration::from_secs(5), follower.next()).await;
    assert!(waiting.is_err(), "it waits: {waiting:?}");
    disk.write_over(&dir().join("state"), b"{\"tag\":\"A\"}\n{\"tag\":\"B\"}\n");
    for id in 0..2 {
        assert_eq!(follower.next().await.unwrap().unwrap().id(), EventId::new(id));
    }
}

/// A reader that has opened `state` and then looks at the lock of another directory finds no writer there.
#[tokio::test(start_paused = true)]
async fn a_read_that_meets_a_replaced_directory_shows_nothing_early() {
    let (old, backup) = (Path::new("/old"), Path::new("/backup"));
    for moment in 0.. {
        let disk = disk_of(&[]);
        let options =
            FileStoreOptions::default().with_fsync(crate::Fsync::Interval(Duration::from_secs(3600)));
        let roster = Arc::new(MemoryCheckpoints::default());
        let store = FileStore::open_on(Arc::new(disk.process()), &dir(), roster, options).await.unwrap();
        store.append(Batch::new(None, &events(0..3)).unwrap()).await.unwrap();
        store.sync().await.unwrap();
        disk.copy_dir(&dir(), backup);
        store.append(Batch::new(Some(EventId::new(2)), &events(3..5)).unwrap()).await.unwrap();
        let (other, done) = (disk.process(), Arc::new(AtomicBool::new(false)));
        let acted = done.clone();
        disk.interrupt_at(disk.moments() + moment, move || {
            acted.store(true, SeqCst);
            other.move_tree(&dir(), old);
            other.copy_dir(backup, &dir());
        });
        let read = count(&disk).await;
        assert!(!matches!(read, Ok(4..)), "at moment {moment}: {read:?}");
        if !done.load(SeqCst) {
            assert!(moment > 5, "met at {moment} moments");
            return;
        }
    }
}

/// Opens a log once for each read of its files, which fails there, and then again.
async fn while_a_read_fails(files: &[(&str, Vec<u8>)], read: &str, held: u64) {
    for nth in 0.. {
        let disk = disk_of(files);
        disk.fail(When::Nth(format!("read {read}"), nth), Fault::Error(Io::Other));
        match open(&disk).await {
            Ok(store) => store.close().await.unwrap(),
            Err(error) => assert_eq!(error.kind(), hydrant::ErrorKind::Unavailable, "read {nth}: {error}"),
        }
        let is_over = disk.planned().len() == 1;
        disk.heal();
        let store = open(&disk).await.unwrap();
        assert_eq!((store.recovered(), count(&disk).await.unwrap()), (&[][..], held), "read {nth}");
        if is_over {
            assert!(nth > 1, "{nth} reads failed");
            return;
        }
    }
}

/// A rotation that cannot be read may be one that counts.
#[tokio::test(start_paused = true)]
async fn a_rotation_that_cannot_be_read_is_not_set_aside() {
    let mut files = log();
    files.push(("state.next-25", segment(behind(25), &[vec![snapshot(26), event(27)]])));
    while_a_read_fails(&files, "/log/state.next-25", 28).await;
}

/// Whether the lines of a file have ids is known only from its first line.
#[tokio::test(start_paused = true)]
async fn bare_changes_that_cannot_be_read_are_no_torn_tail() {
    let bare = b"{\"tag\":\"A\"}\n{\"tag\":\"B\"}\n{\"tag\":\"C\"}\n".to_vec();
    while_a_read_fails(&[("state", bare)], "/log/state", 3).await;
}

/// An older `state` is damage. So its torn tail, and a rotation behind its last event, stay where they are.
#[tokio::test(start_paused = true)]
async fn a_state_that_ends_before_a_sealed_segment_is_left_alone() {
    let mut files = log();
    files[2].1 = segment(behind(9), &[vec![snapshot(10), event(11)]]);
    files[2].1.extend_from_slice(b"{\"eventId\":12,");
    files.push(("state.next-5", segment(behind(5), &[vec![snapshot(6)]])));
    let disk = disk_of(&files);
    let mut before = disk.files();
    let error = open(&disk).await.unwrap_err();
    assert_eq!(error.kind(), hydrant::ErrorKind::Corrupt, "{error}");
    let lock = dir().join("lock");
    before.extend(disk.files().remove_entry(&lock));
    assert_eq!(disk.files(), before);
}

/// Nothing says that they were synced: there is no record, and this version cannot read their marks.
#[tokio::test(start_paused = true)]
async fn lines_of_a_newer_format_are_no_torn_tail() {
    let newer = b"{\"eventId\":26,\"stateChanged\":{},\"_hydrant\":\"h2000102030405\"}\n";
    let mut continued = log();
    continued[2].1.extend_from_slice(newer);
    let mut rotated = log();
    rotated.push(("state.next-25", newer.to_vec()));
    for files in [continued, rotated] {
        let disk = disk_of(&files);
        let before = disk.files();
        let error = open(&disk).await.unwrap_err();
        assert_eq!(error.kind(), hydrant::ErrorKind::Unsupported, "{error}");
        let mut after = disk.files();
        after.remove(&dir().join("lock"));
        assert_eq!(after, before);
    }
    let mut files = log();
    files[2].1.extend_from_slice(newer);
    let disk = disk_of(&files);
    assert_eq!(count(&disk).await.unwrap_err().kind(), hydrant::ErrorKind::Unsupported);
}

/// Opens a log in a directory that is to be created, and ends early at this step.
async fn begin(path: &Path, fault: Option<(usize, Fault)>) -> SimDisk {
    let disk = SimDisk::new(Path::new("/data"));
    if let Some((step, fault)) = fault {
        disk.fail(When::Step(step), fault);
    }
    let (process, roster) = (Arc::new(disk.process()), Arc::new(MemoryCheckpoints::default()));
    let opened = FileStore::open_on(process.clone(), path, roster, FileStoreOptions::default());
    drop(tokio::time::timeout(Duration::from_secs(1), opened).await);
    process.kill();
    disk
}

#[tokio::test(start_paused = true)]
async fn the_name_of_a_new_log_survives_an_open_that_ended_early() {
    for path in ["/data/log", "/data/a/b/log"].map(Path::new) {
        let steps = begin(path, None).await.steps().len();
        for (step, fault) in
            (0..steps).flat_map(|step| [(step, Fault::Kill), (step, Fault::Error(Io::Other))])
        {
            let disk = begin(path, Some((step, fault))).await;
            let (process, roster) = (Arc::new(disk.process()), Arc::new(MemoryCheckpoints::default()));
            let store = FileStore::open_on(process, path, roster, FileStoreOptions::default()).await.unwrap();
            store.append(Batch::new(None, &events(0..1)).unwrap()).await.unwrap();
            for seed in 0..20 {
                let disk = disk.beside().reboot(&mut fastrand::Rng::with_seed(seed));
                let is_there = disk.files().contains_key(&path.join("state"));
                assert!(is_there, "{fault:?} at step {step}, seed {seed}");
            }
        }
    }
}
