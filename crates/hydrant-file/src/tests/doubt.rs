//! After a failed sync, the page cache shows what the disk may not hold: neither readers nor the next writer trust it.

use std::time::Duration;

use fastrand::Rng;
use hydrant::{Batch, ErrorKind, EventSink, EventSourceExt, MemoryCheckpoints, ReadFrom, Result};

use super::*;
use crate::disk::{Disk, Mode};
use crate::sim::{Fault, When};
use crate::{FileSource, FileSourceOptions, FileStore, FileStoreOptions};

const SEEDS: u64 = 60;
const BROKEN: Fault = Fault::Error(std::io::ErrorKind::Other);

async fn open(disk: &SimDisk) -> Result<FileStore> {
    let roster = Arc::new(MemoryCheckpoints::default());
    FileStore::open_on(Arc::new(disk.process()), &dir(), roster, FileStoreOptions::default()).await
}

async fn source(disk: &SimDisk) -> FileSource {
    FileSource::open_on(Arc::new(disk.process()), &dir(), FileSourceOptions::default()).await.unwrap()
}

/// An event of several disk blocks.
fn big(id: u64) -> Event {
    let text = format!("\"{}\"", "x".repeat(2000));
    Event::builder(EventId::new(id)).payload_json(text).build().unwrap()
}

async fn append(store: &FileStore, id: u64) -> Result<()> {
    store.append(Batch::new(EventId::new(id).prev(), &[big(id)]).unwrap()).await
}

fn foreign(id: u64) -> String {
    let text = "x".repeat(2000);
    format!("{{\"eventId\":{id},\"stateChanged\":{{\"tag\":\"T\",\"text\":\"{text}\"}}}}\n")
}

fn write_foreign(disk: &SimDisk, id: u64) {
    let state = disk.process().open(&dir().join("state"), Mode::Write).unwrap();
    state.write_at(foreign(id).as_bytes(), state.stat().unwrap().len).unwrap();
}

fn next(step: &str) -> When {
    When::Next(format!("{step} /log/state"))
}

/// A log of event 0 whose writer is killed between the write and the sync of event 1.
async fn killed_before_sync() -> SimDisk {
    let disk = SimDisk::new(&dir());
    let store = open(&disk).await.unwrap();
    append(&store, 0).await.unwrap();
    disk.fail(next("write"), Fault::Kill);
    drop(tokio::time::timeout(Duration::from_secs(1), append(&store, 1)).await);
    disk
}

/// The events that a log holds after a power cut.
async fn after_reboot(disk: &SimDisk, seed: u64) -> Vec<Event> {
    let disk = disk.reboot(&mut Rng::with_seed(seed));
    let read = source(&disk).await.collect(ReadFrom::Origin).await;
    read.unwrap_or_else(|error| panic!("seed {seed}: {error}"))
}

#[tokio::test(start_paused = true)]
async fn a_read_after_an_open_whose_sync_failed_is_durable() {
    for seed in 0..SEEDS {
        let disk = killed_before_sync().await;
        disk.fail(next("sync"), BROKEN);
        open(&disk).await.unwrap_err();
        let shown = source(&disk).await.collect(ReadFrom::Origin).await.unwrap();
        assert!(shown == [big(0)], "{} events, and the record vouches for one", shown.len());
        assert!(after_reboot(&disk, seed).await.starts_with(&shown), "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_open_after_one_whose_sync_failed_writes_again() {
    for (seed, is_foreign) in (0..SEEDS).flat_map(|seed| [(seed, false), (seed, true)]) {
        // The foreign log was never opened by Hydrant, so no record names it.
        let disk = if is_foreign { SimDisk::new(&dir()) } else { killed_before_sync().await };
        if is_foreign {
            let state = disk.process().open(&dir().join("state"), Mode::New).unwrap();
            state.write_at((0..2).map(foreign).collect::<String>().as_bytes(), 0).unwrap();
        }
        disk.fail(next("sync"), BROKEN);
        open(&disk).await.unwrap_err();
        let store = open(&disk).await.unwrap();
        append(&store, 2).await.unwrap();
        assert_eq!(after_reboot(&disk, seed).await.len(), 3, "seed {seed}, foreign {is_foreign}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_failed_sync_left_before_a_foreign_line_is_rewritten() {
    for (seed, renames) in (0..SEEDS).flat_map(|seed| [(seed, false), (seed, true)]) {
        let disk = SimDisk::new(&dir());
        let store = open(&disk).await.unwrap();
        append(&store, 0).await.unwrap();
        disk.fail(next("sync"), BROKEN);
        append(&store, 1).await.unwrap_err();
        drop(store);
        tokio::time::sleep(Duration::from_secs(1)).await;
        write_foreign(&disk, 2);
        if renames {
            disk.process().rename(&dir().join("state"), &dir().join("state-2")).unwrap();
        }
        let store = open(&disk).await.unwrap();
        append(&store, 3).await.unwrap();
        assert_eq!(after_reboot(&disk, seed).await.len(), 4, "seed {seed}, renames {renames}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_whose_sync_failed_shows_what_is_vouched_for() {
    for seed in 0..SEEDS {
        let disk = killed_before_sync().await;
        let source = source(&disk).await;
        disk.fail(next("sync"), BROKEN);
        source.collect(ReadFrom::Origin).await.unwrap_err();
        let shown = source.collect(ReadFrom::Origin).await.unwrap();
        assert!(shown == [big(0)], "{} events, and the record vouches for one", shown.len());
        if seed % 2 == 0 {
            // A writer that opens the log writes the rest again.
            let store = open(&disk).await.unwrap();
            append(&store, 2).await.unwrap();
            store.close().await.unwrap();
            write_foreign(&disk, 3);
            assert_eq!(source.collect(ReadFrom::Origin).await.unwrap().len(), 4);
            assert_eq!(after_reboot(&disk, seed).await.len(), 4, "seed {seed}");
        } else {
            assert!(after_reboot(&disk, seed).await.starts_with(&shown), "seed {seed}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_whose_sync_of_a_foreign_file_failed_stops() {
    for name in ["state", "state-1"] {
        let disk = SimDisk::new(&dir());
        let file = disk.process().open(&dir().join(name), Mode::New).unwrap();
        file.write_at((0..2).map(foreign).collect::<String>().as_bytes(), 0).unwrap();
        let source = source(&disk).await;
        disk.fail(next("sync"), BROKEN);
        for _ in 0..2 {
            let error = source.collect(ReadFrom::Origin).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{name}: {error}");
        }
    }
}
