//! Hydrating, rotating, following.

use futures_util::StreamExt;
use hydrant::{Batch, ErrorKind, Event, EventId, EventSink, EventSourceExt, Journal, MemoryStore, ReadFrom};
use serde::{Deserialize, Serialize};

use super::options;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Change {
    Added(u64),
    Snapshot(Sum),
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Sum {
    total: u64,
    /// Depends on the order of the fold.
    ordered: u64,
    /// How many changes this value was folded from: few, if the fold begins at a snapshot.
    #[serde(skip)]
    seen: u64,
}

impl Sum {
    fn apply(&mut self, change: Change) {
        let seen = self.seen + 1;
        match change {
            Change::Added(amount) => {
                self.total += amount;
                self.ordered = self.ordered.wrapping_mul(31).wrapping_add(amount);
            }
            Change::Snapshot(sum) => *self = sum,
        }
        self.seen = seen;
    }
}

async fn open(store: &MemoryStore, tasks: usize) -> Journal<Change> {
    let options = options().with_hydrate_tasks(tasks).with_rotate_every(3);
    Journal::open(store.clone(), options).await.unwrap()
}

#[tokio::test]
async fn hydrate_folds_from_the_newest_snapshot() {
    for tasks in [0, 1, 2, 3] {
        let store = MemoryStore::default();
        let journal = open(&store, tasks).await;
        let empty = journal.hydrate(Sum::default(), Sum::apply).await.unwrap();
        assert_eq!((empty.head, empty.events, empty.state.total), (None, 0, 0));

        let changes: Vec<Change> = (0..5_000).map(Change::Added).collect();
        journal.append_all(&changes).await.unwrap();
        let all = journal.hydrate(Sum::default(), Sum::apply).await.unwrap();
        assert_eq!((all.head, all.events), (Some(EventId::new(4_999)), 5_000));
        let mut expected = Sum::default();
        changes.iter().cloned().for_each(|change| expected.apply(change));
        assert_eq!((&all.state, all.state.seen), (&expected, 5_000));

        let id = journal.snapshot(all.head, &Change::Snapshot(all.state)).await.unwrap();
        assert_eq!(id, EventId::new(5_000));
        journal.append(&Change::Added(1)).await.unwrap();
        let some = open(&store, tasks).await.hydrate(Sum::default(), Sum::apply).await.unwrap();
        assert_eq!((some.head, some.events), (Some(EventId::new(5_001)), 2));
        assert_eq!((some.state.total, some.state.seen), (4_999 * 2_500 + 1, 2));
    }
}

#[tokio::test]
async fn a_snapshot_of_an_outdated_state_is_fenced() {
    let store = MemoryStore::default();
    let journal = open(&store, 0).await;
    let at = journal.append(&Change::Added(1)).await.unwrap();
    let now = journal.append(&Change::Added(2)).await.unwrap();
    for of in [None, Some(at), Some(EventId::new(99))] {
        let error = journal.snapshot(of, &Change::Snapshot(Sum::default())).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Fenced);
        assert!(error.message().contains("the log is at event 1"), "{error}");
    }
    journal.snapshot(Some(now), &Change::Snapshot(Sum { total: 3, ..Sum::default() })).await.unwrap();
    journal.append(&Change::Added(3)).await.unwrap();
    let snapshots: Vec<bool> =
        store.collect(ReadFrom::Origin).await.unwrap().iter().map(Event::is_snapshot).collect();
    assert_eq!(snapshots, [false, false, true, false]);
}

/// An append beside a snapshot, in the same group, makes it outdated or comes after it.
#[tokio::test]
async fn a_snapshot_is_an_append_of_its_own() {
    let store = MemoryStore::default();
    let journal = open(&store, 0).await;
    let (change, snapshot) = (Change::Added(1), Change::Snapshot(Sum::default()));
    let (first, before, rotated, behind) = tokio::join!(
        journal.snapshot(None, &snapshot),
        journal.append(&change),
        journal.snapshot(Some(EventId::ZERO), &snapshot),
        journal.append(&change)
    );
    assert_eq!(first.unwrap(), EventId::ZERO);
    assert_eq!(before.unwrap(), EventId::new(1));
    assert_eq!(rotated.unwrap_err().kind(), ErrorKind::Fenced);
    assert_eq!(behind.unwrap(), EventId::new(2));
}

#[tokio::test]
async fn a_rotation_is_due_after_its_events_across_restarts() {
    let store = MemoryStore::default();
    let journal = open(&store, 0).await;
    let mut head = None;
    for _ in 0..2 {
        head = Some(journal.append(&Change::Added(1)).await.unwrap());
        assert!(!journal.rotation_due());
    }
    let journal = open(&store, 1).await;
    let hydrated = journal.hydrate(Sum::default(), Sum::apply).await.unwrap();
    assert_eq!((hydrated.head, journal.events_since_snapshot()), (head, 2));
    journal.hydrate(Sum::default(), Sum::apply).await.unwrap();
    assert_eq!(journal.events_since_snapshot(), 2, "counted once");
    let head = journal.append(&Change::Added(1)).await.unwrap();
    assert!(journal.rotation_due());
    journal.snapshot(Some(head), &Change::Snapshot(Sum::default())).await.unwrap();
    assert_eq!(journal.events_since_snapshot(), 0);
    journal.append(&Change::Added(1)).await.unwrap();
    let journal = open(&store, 0).await;
    journal.hydrate(Sum::default(), Sum::apply).await.unwrap();
    assert_eq!(journal.events_since_snapshot(), 1);
}

#[tokio::test]
async fn follow_yields_history_and_then_new_events() {
    let store = MemoryStore::default();
    let journal = open(&store, 0).await;
    journal.append_all(&[Change::Added(0), Change::Added(1)]).await.unwrap();
    let mut follow = journal.follow(ReadFrom::After(EventId::ZERO));
    let writer = journal.clone();
    let writes = tokio::spawn(async move {
        for amount in 2..500 {
            writer.append(&Change::Added(amount)).await.unwrap();
        }
    });
    for expected in 1..500 {
        let saved = follow.next().await.unwrap().unwrap();
        assert_eq!((saved.id().get(), saved.value), (expected, Change::Added(expected)));
    }
    writes.await.unwrap();
}

#[tokio::test]
async fn a_payload_of_another_type_is_an_error_that_names_the_event() {
    let store = MemoryStore::default();
    let events: Vec<Event> =
        (0..3).map(|id| Event::new(EventId::new(id), &Change::Added(id)).unwrap()).collect();
    let foreign = Event::new(EventId::new(3), "foreign").unwrap();
    store.append(Batch::new(None, &events).unwrap()).await.unwrap();
    store.append(Batch::new(Some(EventId::new(2)), &[foreign]).unwrap()).await.unwrap();
    for tasks in [0, 2] {
        let error = open(&store, tasks).await.hydrate(Sum::default(), Sum::apply).await.unwrap_err();
        assert_eq!((error.kind(), error.event()), (ErrorKind::Invalid, Some(EventId::new(3))));
    }
    let read: Vec<_> = open(&store, 0).await.follow(ReadFrom::Origin).collect().await;
    assert_eq!(read.len(), 4, "the error is the last item, also of a follow");
    assert_eq!(read[3].as_ref().unwrap_err().event(), Some(EventId::new(3)));
}
