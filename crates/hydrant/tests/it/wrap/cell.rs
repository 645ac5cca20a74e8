//! An entry that is moved by swaps whose outcome may be unknown.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures_util::FutureExt as _;
use hydrant::store::CheckpointCell;
use hydrant::{
    Checkpoint, CheckpointEntry, CheckpointStore, Error, ErrorKind, MemoryCheckpoints, Result, Retry,
};

use crate::support::{event, seeds, unknown};

/// What a swap does instead of its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meets {
    Nothing,
    /// Nothing is written, and the store knows it.
    Full,
    /// Nothing is written, and the store does not know.
    Lost,
    /// It is written, and no reply arrives.
    Unanswered,
    /// The reply never arrives, and the swap is made when the test says so.
    InFlight,
}

type Sent = (Option<CheckpointEntry>, Option<CheckpointEntry>);

/// A store that follows a script, a swap an entry; beyond it, it works.
#[derive(Clone, Default)]
struct Scripted {
    store: MemoryCheckpoints,
    script: Arc<Mutex<VecDeque<Meets>>>,
    /// Swaps on their way.
    in_flight: Arc<Mutex<Vec<Sent>>>,
    /// Loads fail that often.
    load_failures: Arc<Mutex<u32>>,
    swaps: Arc<Mutex<usize>>,
}

impl Scripted {
    fn new(script: impl IntoIterator<Item = Meets>) -> Self {
        let this = Self::default();
        this.script.lock().unwrap().extend(script);
        this
    }

    fn cell(&self) -> CheckpointCell {
        CheckpointCell::new(Arc::new(self.clone()), "sink", "udp://a")
    }

    /// A swap on its way arrives. It compares, as any swap.
    async fn land(&self, at: usize) {
        let (expected, new) = self.in_flight.lock().unwrap().remove(at);
        drop(self.store.swap("sink", expected.as_ref(), new.as_ref()).await);
    }

    async fn held(&self) -> Option<CheckpointEntry> {
        self.store.load("sink").await.unwrap()
    }

    /// Another runner moves the entry.
    async fn move_to(&self, id: u64) {
        let held = self.held().await;
        self.store.swap("sink", held.as_ref(), Some(&entry(id))).await.unwrap();
    }

    fn swaps(&self) -> usize {
        *self.swaps.lock().unwrap()
    }
}

#[async_trait]
impl CheckpointStore for Scripted {
    async fn load(&self, name: &str) -> Result<Option<CheckpointEntry>> {
        {
            let mut failures = self.load_failures.lock().unwrap();
            if *failures > 0 {
                *failures -= 1;
                return Err(Error::new(ErrorKind::Unavailable, Retry::Safe, "not now"));
            }
        }
        self.store.load(name).await
    }

    async fn list(&self) -> Result<Vec<CheckpointEntry>> {
        self.store.list().await
    }

    async fn swap(
        &self,
        name: &str,
        expected: Option<&CheckpointEntry>,
        new: Option<&CheckpointEntry>,
    ) -> Result<()> {
        *self.swaps.lock().unwrap() += 1;
        let meets = self.script.lock().unwrap().pop_front().unwrap_or(Meets::Nothing);
        match meets {
            Meets::Nothing => self.store.swap(name, expected, new).await,
            Meets::Full => Err(Error::new(ErrorKind::Full, Retry::Safe, "no space for a checkpoint")),
            Meets::Lost => Err(unknown()),
            Meets::Unanswered => {
                self.store.swap(name, expected, new).await?;
                Err(unknown())
            }
            Meets::InFlight => {
                self.in_flight.lock().unwrap().push((expected.cloned(), new.cloned()));
                std::future::pending().await
            }
        }
    }
}

fn at(id: u64) -> Checkpoint {
    Checkpoint::at(&event(id))
}

fn entry(id: u64) -> CheckpointEntry {
    CheckpointEntry::new("sink", "udp://a", at(id))
}

/// Polls a swap once and drops it.
fn swap_dropped(cell: &mut CheckpointCell, id: u64) {
    assert!(cell.swap(at(id), None).now_or_never().is_none(), "it hangs");
}

#[tokio::test]
async fn it_reads_once_and_keeps_what_stands_beside() {
    let store = Scripted::default();
    let mut cell = store.cell();
    assert_eq!(cell.load().await.unwrap(), None);
    let beside = serde_json::json!({"shard-0": "49"});
    cell.swap(at(0), Some(beside.clone())).await.unwrap();
    assert_eq!(cell.load().await.unwrap(), Some(&entry(0).with_beside(beside.clone())));
    assert_eq!(cell.entry().cloned(), store.held().await);
    cell.advance(at(1)).await.unwrap();
    assert_eq!(store.held().await, Some(entry(1).with_beside(beside)), "what is beside stays");
    cell.swap(at(1), None).await.unwrap();
    assert_eq!((store.held().await, store.swaps()), (Some(entry(1)), 3));
    cell.swap(at(1), None).await.unwrap();
    assert_eq!(store.swaps(), 3, "nothing changed, so nothing was written");
    *store.load_failures.lock().unwrap() = 1;
    assert_eq!(cell.load().await.unwrap(), Some(&entry(1)), "known, so not read");
    cell.remove().await.unwrap();
    cell.remove().await.unwrap();
    assert_eq!((store.held().await, store.swaps()), (None, 4));
}

#[tokio::test]
async fn a_swap_of_unknown_outcome_is_settled_by_the_next_call() {
    for (meets, held) in [(Meets::Lost, 1), (Meets::Unanswered, 2), (Meets::Full, 1)] {
        let store = Scripted::new([Meets::Nothing, meets]);
        let mut cell = store.cell();
        cell.swap(at(1), None).await.unwrap();
        cell.swap(at(2), None).await.unwrap_err();
        assert_eq!(cell.load().await.unwrap(), Some(&entry(held)), "{meets:?}");
        cell.swap(at(3), None).await.unwrap();
        assert_eq!(store.held().await, Some(entry(3)));
    }
}

#[tokio::test]
async fn a_failed_read_leaves_the_swap_open() {
    let store = Scripted::new([Meets::Unanswered]);
    let mut cell = store.cell();
    cell.swap(at(1), None).await.unwrap_err();
    *store.load_failures.lock().unwrap() = 2;
    assert_eq!(cell.load().await.unwrap_err().retry(), Retry::Safe);
    assert_eq!(cell.swap(at(2), None).await.unwrap_err().retry(), Retry::Safe);
    assert_eq!(store.swaps(), 1);
    cell.swap(at(2), None).await.unwrap();
    assert_eq!(store.held().await, Some(entry(2)));
}

#[tokio::test]
async fn a_dropped_swap_that_lands_late_fences_nothing() {
    let store = Scripted::new([Meets::Nothing, Meets::InFlight]);
    let mut cell = store.cell();
    cell.swap(at(1), None).await.unwrap();
    swap_dropped(&mut cell, 2);
    assert_eq!(cell.load().await.unwrap(), Some(&entry(1)), "not landed yet");
    store.land(0).await;
    cell.swap(at(3), None).await.unwrap();
    assert_eq!(store.held().await, Some(entry(3)));
}

#[tokio::test]
async fn a_chain_of_late_swaps_is_followed() {
    let store = Scripted::new([Meets::InFlight; 4]);
    let mut cell = store.cell();
    swap_dropped(&mut cell, 1); // nothing -> 1
    swap_dropped(&mut cell, 2); // nothing -> 2
    store.land(0).await;
    assert_eq!(cell.load().await.unwrap(), Some(&entry(1)));
    swap_dropped(&mut cell, 5); // 1 -> 5
    swap_dropped(&mut cell, 4); // 1 -> 4
    store.land(2).await;
    cell.swap(at(6), None).await.unwrap();
    store.land(0).await; // expects nothing: too late
    store.land(0).await; // expects 1: too late
    assert_eq!(store.held().await, Some(entry(6)));
    cell.swap(at(7), None).await.unwrap();
}

#[tokio::test]
async fn a_removal_that_lands_late_is_its_own() {
    let store = Scripted::new([Meets::Nothing, Meets::InFlight]);
    let mut cell = store.cell();
    cell.swap(at(1), None).await.unwrap();
    assert!(cell.remove().now_or_never().is_none());
    cell.forget();
    assert_eq!(cell.load().await.unwrap(), Some(&entry(1)));
    store.land(0).await;
    cell.swap(at(2), None).await.unwrap();
    assert_eq!(store.held().await, Some(entry(2)));
}

#[tokio::test]
async fn another_runner_is_fenced_and_read_again_afterwards() {
    for meets in [Meets::Nothing, Meets::Lost, Meets::InFlight] {
        let store = Scripted::new([Meets::Nothing, meets]);
        let mut cell = store.cell();
        cell.swap(at(1), None).await.unwrap();
        drop(cell.swap(at(2), None).now_or_never());
        store.move_to(9).await;
        assert_eq!(cell.swap(at(3), None).await.unwrap_err().kind(), ErrorKind::Fenced, "{meets:?}");
        assert_eq!(store.held().await, Some(entry(9)), "nothing was overwritten");
        assert_eq!(cell.load().await.unwrap(), Some(&entry(9)));
        cell.swap(at(10), None).await.unwrap();
    }
}

/// Both runners follow the same log, so they may want the same entry.
#[tokio::test]
async fn an_entry_that_this_swap_did_not_write_is_not_its_own() {
    let store = Scripted::default();
    let mut cell = store.cell();
    cell.swap(at(1), None).await.unwrap();
    store.move_to(2).await;
    assert_eq!(cell.swap(at(2), None).await.unwrap_err().kind(), ErrorKind::Fenced);
}

#[tokio::test]
async fn a_late_swap_behind_another_runner_is_fenced() {
    let store = Scripted::new([Meets::Nothing, Meets::InFlight, Meets::Nothing]);
    let mut cell = store.cell();
    cell.swap(at(1), None).await.unwrap();
    swap_dropped(&mut cell, 2); // 1 -> 2
    cell.swap(at(3), None).await.unwrap();
    store.move_to(1).await; // another runner restores an old entry
    store.land(0).await;
    assert_eq!(store.held().await, Some(entry(2)));
    assert_eq!(cell.swap(at(4), None).await.unwrap_err().kind(), ErrorKind::Fenced);
}

#[tokio::test]
async fn forget_accepts_what_the_store_holds() {
    let store = Scripted::default();
    let mut cell = store.cell();
    cell.swap(at(1), None).await.unwrap();
    store.move_to(5).await;
    cell.forget();
    assert_eq!(cell.load().await.unwrap(), Some(&entry(5)));
}

#[tokio::test]
async fn an_entry_of_another_target_is_refused_and_removable() {
    let store = Scripted::default();
    let other = CheckpointEntry::new("sink", "udp://b", at(1));
    store.store.swap("sink", None, Some(&other)).await.unwrap();
    let mut cell = store.cell();
    for _ in 0..2 {
        let error = cell.load().await.unwrap_err();
        assert_eq!((error.kind(), error.target()), (ErrorKind::Invalid, Some("sink")));
        assert!(error.message().contains("belongs to `udp://b`"), "{error}");
        assert_eq!(cell.swap(at(2), None).await.unwrap_err().kind(), ErrorKind::Invalid);
    }
    assert_eq!(store.held().await, Some(other));
    cell.remove().await.unwrap();
    cell.swap(at(2), None).await.unwrap();
    assert_eq!(store.held().await, Some(entry(2)));
}

/// One runner, whatever its swaps meet, is never fenced. A second one always is.
#[tokio::test]
async fn one_runner_is_never_fenced_by_itself() {
    for seed in seeds(200) {
        println!("HYDRANT_SEED={seed}");
        let mut rng = fastrand::Rng::with_seed(seed);
        let store = Scripted::default();
        let mut cell = store.cell();
        let mut id = 0;
        for _ in 0..60 {
            let meets = [Meets::Nothing, Meets::Full, Meets::Lost, Meets::Unanswered, Meets::InFlight];
            store.script.lock().unwrap().push_back(meets[rng.usize(..meets.len())]);
            *store.load_failures.lock().unwrap() = u32::from(rng.u8(..8) == 0);
            let flying = store.in_flight.lock().unwrap().len();
            if flying > 0 && rng.bool() {
                store.land(rng.usize(..flying)).await;
            }
            id += rng.u64(..3);
            let moved = match rng.u8(..12) {
                0 => cell.remove().now_or_never(),
                1 => async { cell.load().await.map(drop) }.now_or_never(),
                2 => {
                    cell.forget();
                    None
                }
                _ => cell.swap(at(id), None).now_or_never(),
            };
            if let Some(Err(error)) = moved {
                assert_ne!(error.kind(), ErrorKind::Fenced, "{error}");
            }
        }
        store.script.lock().unwrap().clear();
        *store.load_failures.lock().unwrap() = 0;
        cell.swap(at(id + 1), None).await.unwrap();
        assert_eq!(store.held().await, Some(entry(id + 1)));
        store.move_to(id + 100).await;
        assert_eq!(cell.swap(at(id + 2), None).await.unwrap_err().kind(), ErrorKind::Fenced);
    }
}
