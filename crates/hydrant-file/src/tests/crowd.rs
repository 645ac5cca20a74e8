//! Appends that wait together, while a step of the disk fails: what is Ok is held, and there is no hole.

use std::io::ErrorKind;
use std::sync::Arc;

use fastrand::Rng;
use futures_util::future::join_all;
use hydrant::{Batch, Event, EventSink, EventSourceExt, MemoryCheckpoints, ReadFrom};

use super::{dir, event, snapshot};
use crate::sim::{Fault, SimDisk, When};
use crate::{FileStore, FileStoreOptions};

/// Batches behind each other, some of which rotate.
fn pieces(random: &mut Rng) -> Vec<Vec<Event>> {
    let mut next = 0;
    let mut piece = || {
        let ids = next..next + random.u64(1..5);
        next = ids.end;
        let opens = random.u8(..3) == 0;
        ids.clone().map(|id| if opens && id == ids.start { snapshot(id) } else { event(id) }).collect()
    };
    (0..12).map(|_| piece()).collect()
}

async fn run(seed: u64, step: usize, fault: Fault) -> bool {
    let mut random = Rng::with_seed(seed);
    let disk = SimDisk::new(&dir());
    let open = async || {
        let roster = Arc::new(MemoryCheckpoints::default());
        FileStore::open_on(Arc::new(disk.clone()), &dir(), roster, FileStoreOptions::default()).await
    };
    let log = open().await.unwrap();
    let pieces = pieces(&mut random);
    // An empty log may begin at any snapshot, so it holds something first.
    log.append(Batch::new(None, &pieces[0]).unwrap()).await.unwrap();
    let before = disk.steps().len();
    disk.fail(When::Step(before + step), fault);
    let appends = pieces[1..].iter().map(|piece| {
        let after = piece[0].id().prev();
        log.append(Batch::new(after, piece).unwrap())
    });
    let answers = join_all(appends).await;
    let was_reached = disk.steps().len() > before + step;
    drop(log.close().await); // it may have stopped
    disk.heal();

    let log = open().await.unwrap();
    let held = log.collect(ReadFrom::Origin).await.unwrap();
    let all: Vec<_> = pieces.concat();
    let context = |what| format!("{what}: seed {seed}, {fault:?} at step {step}");
    assert!(held == all[..held.len()], "{}", context("a hole"));
    let mut end = pieces[0].len();
    let mut ends = vec![end];
    for (piece, answer) in pieces[1..].iter().zip(&answers) {
        end += piece.len();
        ends.push(end);
        assert!(answer.is_err() || held.len() >= end, "{}", context("acknowledged, and lost"));
        let safe = answer.as_ref().is_err_and(|error| error.retry() == hydrant::Retry::Safe);
        assert!(!safe || held.len() < end, "{}", context("safe, and applied"));
    }
    assert!(ends.contains(&held.len()), "{}", context("half a batch"));
    log.close().await.unwrap();
    was_reached
}

#[tokio::test]
async fn appends_behind_a_failed_write_leave_no_hole() {
    for seed in 0..12 {
        for fault in [Fault::Error(ErrorKind::StorageFull), Fault::Short, Fault::Error(ErrorKind::Other)] {
            let mut step = 0;
            while run(seed, step, fault).await {
                step += 1;
            }
            assert!(step > 5, "the fault was never met");
        }
    }
}
