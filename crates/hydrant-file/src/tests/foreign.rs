//! hydra-node never syncs. What Hydrant shows of its files survives a power cut all the same.

use fastrand::Rng;
use futures_util::StreamExt;
use hydrant::{
    Batch, Checkpoint, EventSink, EventSource, EventSourceExt, EventStream, MemoryCheckpoints, ReadFrom,
};

use super::*;
use crate::disk::{Disk, Mode};
use crate::{FileSource, FileSourceOptions, FileStore, FileStoreOptions, Fsync};

const SEEDS: u64 = 60;

/// Lines of hydra-node, of several disk blocks each two.
fn lines(ids: Range<u64>) -> String {
    let line = |id| {
        let text = "x".repeat(300);
        format!(
            "{{\"eventId\":{id},\"stateChanged\":{{\"tag\":\"T\",\"text\":\"{text}\"}},\"time\":\"2025-04-03T10:11:12Z\"}}\n"
        )
    };
    ids.map(line).collect()
}

fn checkpoint(id: u64) -> String {
    format!(
        "{{\"eventId\":{id},\"stateChanged\":{{\"state\":{{}},\"tag\":\"Checkpoint\"}},\"time\":\"2025-04-03T10:11:12Z\"}}\n"
    )
}

/// Where hydra-node is in its rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Renamed,
    Created,
    Written,
}

const STAGES: [Stage; 3] = [Stage::Renamed, Stage::Created, Stage::Written];

impl Stage {
    /// Appends events 4 to 9 behind `len` bytes, and rotates up to this stage.
    fn run(self, disk: &SimDisk) {
        let node = disk.process();
        let state = node.open(&dir().join("state"), Mode::Write).unwrap();
        state.write_at(lines(4..10).as_bytes(), state.stat().unwrap().len).unwrap();
        node.rename(&dir().join("state"), &dir().join("state-9")).unwrap();
        if self == Self::Renamed {
            return;
        }
        let state = node.open(&dir().join("state"), Mode::New).unwrap();
        if self == Self::Written {
            state.write_at(checkpoint(10).as_bytes(), 0).unwrap();
        }
    }

    /// The last event that is written.
    fn last(self) -> u64 {
        if self == Self::Written { 10 } else { 9 }
    }
}

async fn source(disk: &SimDisk) -> FileSource {
    FileSource::open_on(Arc::new(disk.process()), &dir(), FileSourceOptions::default()).await.unwrap()
}

async fn store(disk: &SimDisk) -> FileStore {
    let (disk, roster) = (Arc::new(disk.process()), Arc::new(MemoryCheckpoints::default()));
    FileStore::open_on(disk, &dir(), roster, FileStoreOptions::default()).await.unwrap()
}

async fn take(stream: &mut EventStream, ids: std::ops::RangeInclusive<u64>) {
    for id in ids {
        assert_eq!(stream.next().await.unwrap().unwrap().id().get(), id);
    }
}

/// Returns a disk after a power cut, whose log must hold the events up to `last`.
async fn survives(disk: &SimDisk, seed: u64, last: u64, what: &str) {
    let disk = disk.reboot(&mut Rng::with_seed(seed));
    let read = source(&disk).await.collect(ReadFrom::Origin).await;
    let read = read.unwrap_or_else(|error| panic!("{what}, seed {seed}: {error}"));
    let ids: Vec<u64> = read.iter().map(|event| event.id().get()).collect();
    assert!(ids.len() as u64 > last, "{what}, seed {seed}: {ids:?}");
    assert!(ids.iter().copied().eq(0..ids.len() as u64), "{what}, seed {seed}: {ids:?}");
}

#[tokio::test(start_paused = true)]
async fn what_a_follower_shows_of_a_sealed_foreign_file_is_durable() {
    for (stage, seed) in STAGES.into_iter().flat_map(|stage| (0..SEEDS).map(move |seed| (stage, seed))) {
        let disk = disk_of(&[("state", lines(0..4).into_bytes())]);
        let mut follower = source(&disk).await.follow(ReadFrom::Origin);
        take(&mut follower, 0..=3).await;
        stage.run(&disk);
        take(&mut follower, 4..=stage.last()).await;
        survives(&disk, seed, stage.last(), &format!("followed, {stage:?}")).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_read_shows_of_a_sealed_foreign_file_is_durable() {
    for (stage, seed) in STAGES.into_iter().flat_map(|stage| (0..SEEDS).map(move |seed| (stage, seed))) {
        let disk = disk_of(&[("state", lines(0..4).into_bytes())]);
        stage.run(&disk);
        take(&mut source(&disk).await.read(ReadFrom::Origin), 0..=stage.last()).await;
        survives(&disk, seed, stage.last(), &format!("read, {stage:?}")).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_of_a_sealed_foreign_file_is_durable() {
    for (stage, seed) in STAGES.into_iter().flat_map(|stage| (0..SEEDS).map(move |seed| (stage, seed))) {
        let disk = disk_of(&[("state", lines(0..4).into_bytes())]);
        stage.run(&disk);
        let Checkpoint::At { id, .. } = source(&disk).await.checkpoint().await.unwrap() else {
            panic!("the log is not empty");
        };
        assert_eq!(id.get(), stage.last());
        if stage != Stage::Written {
            survives(&disk, seed, stage.last(), &format!("checkpoint, {stage:?}")).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_append_behind_sealed_foreign_files_is_durable() {
    for (stage, seed) in STAGES.into_iter().flat_map(|stage| (0..SEEDS).map(move |seed| (stage, seed))) {
        let disk = disk_of(&[("state", lines(0..4).into_bytes())]);
        stage.run(&disk);
        let (next, store) = (stage.last() + 1, store(&disk).await);
        let after = Some(EventId::new(stage.last()));
        store.append(Batch::new(after, &events(next..next + 1)).unwrap()).await.unwrap();
        survives(&disk, seed, next, &format!("appended, {stage:?}")).await;
    }
}

/// hydra-node creates `state`, and syncs neither the file nor its name.
#[tokio::test(start_paused = true)]
async fn what_is_shown_of_a_new_foreign_file_is_durable() {
    for seed in 0..SEEDS {
        for appends in [false, true] {
            let disk = SimDisk::new(&dir());
            let state = disk.process().open(&dir().join("state"), Mode::New).unwrap();
            state.write_at(lines(0..4).as_bytes(), 0).unwrap();
            if appends {
                let after = Some(EventId::new(3));
                store(&disk).await.append(Batch::new(after, &events(4..5)).unwrap()).await.unwrap();
            } else {
                take(&mut source(&disk).await.read(ReadFrom::Origin), 0..=3).await;
            }
            survives(&disk, seed, 3 + u64::from(appends), "a new file").await;
        }
    }
}

/// A writer of Hydrant is killed before it syncs, and hydra-node seals the file, with or without lines of its own.
#[tokio::test(start_paused = true)]
async fn unsynced_lines_of_ours_in_a_foreign_seal_become_durable() {
    for (stage, seed) in STAGES.into_iter().flat_map(|stage| (0..SEEDS / 12).map(move |seed| (stage, seed))) {
        for (adds, appends) in [(false, false), (false, true), (true, false), (true, true)] {
            let disk = SimDisk::new(&dir());
            let process = disk.process();
            let options = FileStoreOptions::default().with_fsync(Fsync::Never);
            let roster = Arc::new(MemoryCheckpoints::default());
            let ours = FileStore::open_on(Arc::new(process.clone()), &dir(), roster, options).await.unwrap();
            ours.append(Batch::new(None, &big_events(0..4)).unwrap()).await.unwrap();
            process.kill();
            let node = disk.process();
            let state = node.open(&dir().join("state"), Mode::Write).unwrap();
            let mut last = 3;
            if adds {
                state.write_at(lines(4..5).as_bytes(), state.stat().unwrap().len).unwrap();
                last = 4;
            }
            node.rename(&dir().join("state"), &dir().join(format!("state-{last}"))).unwrap();
            if stage != Stage::Renamed {
                let state = node.open(&dir().join("state"), Mode::New).unwrap();
                if stage == Stage::Written {
                    last += 1;
                    state.write_at(checkpoint(last).as_bytes(), 0).unwrap();
                }
            }
            if appends {
                let after = Some(EventId::new(last));
                last += 1;
                store(&disk).await.append(Batch::new(after, &events(last..last + 1)).unwrap()).await.unwrap();
            } else if adds {
                // The blocks of Hydrant's lines are yielded before the foreign line is read.
                take(&mut source(&disk).await.read(ReadFrom::Origin), 0..=3).await;
                last = 3;
            } else {
                take(&mut source(&disk).await.read(ReadFrom::Origin), 0..=last).await;
            }
            survives(&disk, seed, last, &format!("{stage:?}, adds {adds}, appends {appends}")).await;
        }
    }
}

/// Events of which each block of a read holds one.
fn big_events(ids: Range<u64>) -> Vec<Event> {
    let text = format!("\"{}\"", "x".repeat(200 << 10));
    ids.map(|id| Event::builder(EventId::new(id)).payload_json(text.clone()).build().unwrap()).collect()
}

fn syncs(disk: &SimDisk, name: &str) -> usize {
    let file = format!("sync {}", dir().join(name).display());
    disk.steps().iter().filter(|step| **step == file).count()
}

#[tokio::test(start_paused = true)]
async fn a_sealed_file_is_synced_once_if_it_is_foreign() {
    let disk = disk_of(&log());
    take(&mut source(&disk).await.read(ReadFrom::Origin), 0..=25).await;
    assert_eq!((syncs(&disk, "state-9"), syncs(&disk, "state-19")), (0, 0), "{:?}", disk.steps());

    // A file of Hydrant that hydra-node continued, of several blocks.
    let foreign = segment(Opens::Root, &[events(0..4)]);
    let mut sealed = foreign.clone();
    sealed.extend_from_slice(lines(4..3000).as_bytes());
    let files = [("state-2999", sealed), ("state", checkpoint(3000).into_bytes())];
    let disk = disk_of(&files);
    take(&mut source(&disk).await.read(ReadFrom::Origin), 0..=3000).await;
    assert_eq!(syncs(&disk, "state-2999"), 1);
}
