//! A durable checkpoint for a sink without memory.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use hydrant::{
    Checkpoint, CheckpointEntry, CheckpointStore, Checkpointed, Error, ErrorKind, Event, EventSink,
    MemoryCheckpoints, MemoryStore, Result, Retry,
};

use super::{Forgetful, ids};
use crate::support::{Fault, Scripted, batch, events, id, poll_once, snapshot, unknown};

async fn open<S: EventSink>(sink: S, store: &MemoryCheckpoints) -> Checkpointed<S> {
    Checkpointed::open(sink, Arc::new(store.clone()), "listener", "udp://a").await.unwrap()
}

#[tokio::test]
async fn the_checkpoint_outlives_the_sink() {
    let (sink, store) = (Forgetful::default(), MemoryCheckpoints::default());
    let log = events(0..6);
    let wrapped = open(sink.clone(), &store).await;
    assert_eq!(wrapped.checkpoint().await.unwrap(), Checkpoint::Empty);
    wrapped.append(batch(&log[..3])).await.unwrap();
    drop(wrapped);

    let wrapped = open(sink.clone(), &store).await;
    assert_eq!(wrapped.checkpoint().await.unwrap(), Checkpoint::at(&log[2]));
    wrapped.append(batch(&log[1..2])).await.unwrap();
    wrapped.append(batch(&log[1..6])).await.unwrap();
    assert_eq!(sink.taken(), [0, 1, 2, 3, 4, 5], "what the checkpoint counts is not sent again");
}

#[tokio::test]
async fn it_compares_and_appends_as_a_sink_with_memory_does() {
    let (sink, store) = (Forgetful::default(), MemoryCheckpoints::default());
    let log = events(0..6);
    let wrapped = open(sink.clone(), &store).await;
    let kind = async |batch| wrapped.append(batch).await.unwrap_err().kind();
    assert_eq!(kind(batch(&log[2..])).await, ErrorKind::Gap);
    wrapped.append(batch(&log[..3])).await.unwrap();
    assert_eq!(kind(batch(&log[4..])).await, ErrorKind::Gap);
    let other = [log[0].clone(), log[1].clone(), Event::new(id(2), "other").unwrap(), log[3].clone()];
    assert_eq!(kind(batch(&other)).await, ErrorKind::Fenced);
    assert_eq!(sink.taken(), [0, 1, 2]);

    let wrapped = open(sink.clone(), &MemoryCheckpoints::default()).await;
    wrapped.append(batch(&[snapshot(7)])).await.unwrap();
    assert_eq!(wrapped.checkpoint().await.unwrap().id(), Some(id(7)), "a snapshot opens an empty sink");
}

#[tokio::test]
async fn the_checkpoint_of_another_target_is_refused() {
    let store = Arc::new(MemoryCheckpoints::default());
    let wrapped = open(Forgetful::default(), &store).await;
    wrapped.append(batch(&events(0..1))).await.unwrap();
    let opened = Checkpointed::open(Forgetful::default(), store.clone(), "listener", "udp://b").await;
    let error = opened.unwrap_err();
    assert_eq!((error.kind(), error.target()), (ErrorKind::Invalid, Some("listener")));
    assert!(error.message().contains("`udp://a`") && error.message().contains("`udp://b`"), "{error}");
}

#[tokio::test]
async fn two_runners_of_one_name_are_fenced() {
    let (sink, store) = (Forgetful::default(), MemoryCheckpoints::default());
    let (one, other) = (open(sink.clone(), &store).await, open(sink.clone(), &store).await);
    let log = events(0..3);
    one.append(batch(&log[..1])).await.unwrap();
    for _ in 0..2 {
        let error = other.append(batch(&log[..1])).await.unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Fenced, Retry::Never));
    }
    one.append(batch(&log[1..])).await.unwrap();
}

#[tokio::test]
async fn the_checkpoint_waits_for_the_sink() {
    let (sink, store) = (Scripted::new([Some(Fault::Lost)]), MemoryCheckpoints::default());
    let wrapped = open(sink.clone(), &store).await;
    let log = events(0..2);
    assert!(wrapped.append(batch(&log)).await.is_err());
    assert_eq!(store.load("listener").await.unwrap(), None);
    sink.script([Some(Fault::After)]);
    assert!(wrapped.append(batch(&log)).await.is_err());
    assert_eq!(wrapped.checkpoint().await.unwrap(), Checkpoint::Empty, "held, but not known to be");
    wrapped.append(batch(&log)).await.unwrap();
    assert_eq!(ids(&sink).await, [0, 1]);
    assert_eq!(wrapped.checkpoint().await.unwrap().id(), Some(id(1)));
}

#[tokio::test]
async fn a_sink_that_lost_events_is_diverged() {
    let (sink, store) = (MemoryStore::default(), MemoryCheckpoints::default());
    let log = events(0..4);
    open(sink, &store).await.append(batch(&log[..3])).await.unwrap();
    let emptied = open(MemoryStore::default(), &store).await;
    let error = emptied.append(batch(&log[3..])).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Diverged, Retry::Never));
    assert_eq!((error.event(), error.target()), (Some(id(3)), Some("listener")));
}

/// Swaps, and then fails, or hangs, or does nothing at all.
#[derive(Clone, Default)]
struct Shaky {
    store: MemoryCheckpoints,
    swaps: Arc<AtomicUsize>,
}

#[async_trait]
impl CheckpointStore for Shaky {
    async fn load(&self, name: &str) -> Result<Option<CheckpointEntry>> {
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
        let swap = self.swaps.fetch_add(1, Ordering::Relaxed) % 5;
        if swap != 0 {
            self.store.swap(name, expected, new).await?;
        }
        match swap {
            0 | 1 => Err(unknown()),
            2 => std::future::pending().await,
            _ => Ok(()),
        }
    }
}

#[tokio::test]
async fn a_swap_of_unknown_outcome_does_not_fence_its_own_runner() {
    let (sink, store) = (Forgetful::default(), Shaky::default());
    let wrapped =
        Checkpointed::open(sink.clone(), Arc::new(store.clone()), "listener", "udp://a").await.unwrap();
    let log = events(0..40);
    for next in 0..log.len() {
        while wrapped.checkpoint().await.unwrap().id() < Some(log[next].id()) {
            // Polled once and dropped, or done.
            drop(poll_once(&mut pin!(wrapped.append(batch(&log[next..=next])))).await);
        }
    }
    let mut taken = sink.taken();
    assert!(taken.len() > log.len(), "what was not known to be counted was sent again");
    taken.dedup();
    assert!(taken.into_iter().eq(0..40));
}

#[tokio::test]
async fn what_another_version_keeps_beside_the_checkpoint_stays() {
    let store = MemoryCheckpoints::default();
    let log = events(0..3);
    let entry = |at| {
        let theirs = serde_json::json!({"added": ["by", "a newer version"]});
        CheckpointEntry::new("listener", "udp://a", Checkpoint::at(&log[at])).with_beside(theirs)
    };
    store.swap("listener", None, Some(&entry(0))).await.unwrap();
    open(Forgetful::default(), &store).await.append(batch(&log)).await.unwrap();
    assert_eq!(store.load("listener").await.unwrap(), Some(entry(2)));
}

#[tokio::test]
async fn an_unknown_swap_is_fenced_if_another_runner_moved_the_entry() {
    let store = Shaky::default(); // its first swap is lost
    let open = || Checkpointed::open(Forgetful::default(), Arc::new(store.clone()), "listener", "udp://a");
    let wrapped = open().await.unwrap();
    let log = events(0..3);
    assert_eq!(wrapped.append(batch(&log[..1])).await.unwrap_err().kind(), ErrorKind::Unavailable);
    let other = CheckpointEntry::new("listener", "udp://a", Checkpoint::at(&log[1]));
    store.store.swap("listener", None, Some(&other)).await.unwrap();
    assert_eq!(wrapped.checkpoint().await.unwrap_err().kind(), ErrorKind::Fenced);
    assert_eq!(wrapped.append(batch(&log[..1])).await.unwrap_err().kind(), ErrorKind::Fenced);
}

/// A store that is full: nothing was swapped, and it says so.
#[derive(Clone, Default)]
struct Full;

#[async_trait]
impl CheckpointStore for Full {
    async fn load(&self, _name: &str) -> Result<Option<CheckpointEntry>> {
        Ok(None)
    }

    async fn list(&self) -> Result<Vec<CheckpointEntry>> {
        Ok(vec![])
    }

    async fn swap(
        &self,
        _name: &str,
        _expected: Option<&CheckpointEntry>,
        _new: Option<&CheckpointEntry>,
    ) -> Result<()> {
        Err(Error::new(ErrorKind::Full, Retry::Safe, "no space for a checkpoint"))
    }
}

/// That the swap may safely be made again says nothing of the append: the sink took it.
#[tokio::test]
async fn an_append_is_not_safe_if_its_checkpoint_is_not_written() {
    let sink = Forgetful::default();
    let wrapped = Checkpointed::open(sink.clone(), Arc::new(Full), "listener", "udp://a").await.unwrap();
    let error = wrapped.append(batch(&events(0..2))).await.unwrap_err();
    assert_eq!((sink.taken(), error.retry()), (vec![0, 1], Retry::AfterCheckpoint));
    assert_eq!(wrapped.checkpoint().await.unwrap(), Checkpoint::Empty);
}

/// Fault and remedy: another runner moved the entry; an operator ends it, and resumes this one.
#[tokio::test]
async fn a_fenced_runner_continues_once_it_is_resumed() {
    let (sink, store) = (Forgetful::default(), MemoryCheckpoints::default());
    let (one, other) = (open(sink.clone(), &store).await, open(sink.clone(), &store).await);
    let log = events(0..6);
    one.append(batch(&log[..1])).await.unwrap();
    other.checkpoint().await.unwrap(); // as it was read at open
    other.append(batch(&log[..2])).await.unwrap_err();
    for _ in 0..2 {
        assert_eq!(other.append(batch(&log[..2])).await.unwrap_err().kind(), ErrorKind::Fenced);
    }
    assert_eq!(other.checkpoint().await.unwrap().id(), Some(id(0)), "read again");
    other.append(batch(&log[1..4])).await.unwrap();
    assert_eq!(one.append(batch(&log[1..4])).await.unwrap_err().kind(), ErrorKind::Fenced);
    assert_eq!(one.checkpoint().await.unwrap().id(), Some(id(3)));
    one.append(batch(&log[4..])).await.unwrap();
    assert_eq!(store.load("listener").await.unwrap().unwrap().checkpoint, Checkpoint::at(&log[5]));
}

/// A secondary that parks asks for the checkpoint too, and the other runner continues until an operator ends it.
#[tokio::test]
async fn a_resumed_runner_reads_an_entry_that_moved_since() {
    let (sink, store) = (Forgetful::default(), MemoryCheckpoints::default());
    let (one, other) = (open(sink.clone(), &store).await, open(sink.clone(), &store).await);
    let log = events(0..6);
    one.append(batch(&log[..1])).await.unwrap();
    other.append(batch(&log[..2])).await.unwrap_err();
    for next in 1..4 {
        assert_eq!(other.checkpoint().await.unwrap(), one.checkpoint().await.unwrap());
        one.append(batch(&log[next..=next])).await.unwrap();
    }
    assert_eq!(other.checkpoint().await.unwrap().id(), Some(id(3)));
    other.append(batch(&log[4..5])).await.unwrap();
    // From then on, it is one runner of two again.
    assert_eq!(one.append(batch(&log[4..5])).await.unwrap_err().kind(), ErrorKind::Fenced);
    one.checkpoint().await.unwrap();
    one.append(batch(&log[5..])).await.unwrap();
    assert_eq!(other.checkpoint().await.unwrap().id(), Some(id(4)), "as this runner wrote it");
    assert_eq!(other.append(batch(&log[5..])).await.unwrap_err().kind(), ErrorKind::Fenced);
}
