//! A journal over a store that accepts events before they are durable.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use hydrant::{
    Batch, Checkpoint, CheckpointStore, CommitPoint, Durability, Error, ErrorKind, Event, EventId, EventSink,
    EventSource, EventSourceExt, EventStream, FanOut, FanOutOptions, Journal, MemoryStore, Primary, ReadFrom,
    Result, Retry,
};

use super::{append_each, open, options, settle};
use crate::fanout::rig;
use crate::support::poll_once;

/// Compare-and-append over everything accepted; durable and visible as far as `sync` was called.
#[derive(Clone, Default)]
struct Accepting {
    accepted: MemoryStore,
    durable: MemoryStore,
    /// Applies the next batch, and then calls it invalid.
    breaks_its_word: Arc<AtomicBool>,
}

impl Accepting {
    async fn sync(&self) {
        let durable = self.durable.checkpoint().await.unwrap().id();
        let fresh = self.accepted.collect(durable.into()).await.unwrap();
        for part in Batch::segments(&fresh) {
            let after = self.durable.checkpoint().await.unwrap().id();
            self.durable.append(Batch::new(after, part).unwrap()).await.unwrap();
        }
    }
}

#[async_trait]
impl EventSink for Accepting {
    async fn append(&self, batch: Batch<'_>) -> Result<()> {
        self.accepted.append(batch).await?;
        if self.breaks_its_word.swap(false, Ordering::Relaxed) {
            return Err(Error::invalid("applied all the same").at(batch.first().id()));
        }
        Ok(())
    }

    async fn checkpoint(&self) -> Result<Checkpoint> {
        self.durable.checkpoint().await
    }
}

impl EventSource for Accepting {
    fn read(&self, from: ReadFrom) -> EventStream {
        self.durable.read(from)
    }

    fn follow(&self, from: ReadFrom) -> EventStream {
        self.durable.follow(from)
    }
}

#[async_trait]
impl CommitPoint for Accepting {
    async fn head(&self) -> Result<Checkpoint> {
        self.accepted.checkpoint().await
    }

    fn event_bytes_max(&self) -> usize {
        self.accepted.event_bytes_max()
    }
}

impl Primary for Accepting {
    fn roster(&self) -> Arc<dyn CheckpointStore> {
        self.durable.roster()
    }

    fn durability(&self) -> Durability {
        Durability::Accepted
    }
}

/// What the journal folds, an event an entry.
async fn texts(journal: &Journal<String>) -> Result<Vec<String>> {
    Ok(journal.hydrate(Vec::new(), Vec::push).await?.state)
}

#[tokio::test(start_paused = true)]
async fn a_reopened_journal_begins_at_the_accepted_head() {
    let store = Accepting::default();
    let log = FanOut::open(store.clone(), FanOutOptions::default()).await.unwrap();
    let journal = open(log.clone()).await;
    assert!(append_each(&journal, &["a", "b"]).await.iter().all(Result::is_ok));
    journal.close().await.unwrap();
    drop(journal);
    let journal = open(log).await;
    assert_eq!(journal.head(), Some(EventId::new(1)));
    assert_eq!(*append_each(&journal, &["c"]).await[0].as_ref().unwrap(), 2);
    store.sync().await;
    assert_eq!(texts(&journal).await.unwrap(), ["a", "b", "c"]);
}

/// Also in the middle of a life: a caller whose commit failed hydrates again.
#[tokio::test(start_paused = true)]
async fn hydrate_waits_for_accepted_events() {
    for tasks in [0, 2, usize::MAX] {
        let store = Accepting::default();
        let options = options().with_hydrate_tasks(tasks);
        let journal: Journal<String> = Journal::open(store.clone(), options).await.unwrap();
        append_each(&journal, &["a", "b"]).await;
        store.sync().await;
        append_each(&journal, &["c", "d"]).await;
        let mut hydrate = Box::pin(texts(&journal));
        for _ in 0..5 {
            assert!(poll_once(&mut hydrate).await.is_pending());
            settle().await;
        }
        append_each(&journal, &["e"]).await;
        store.sync().await;
        assert_eq!(hydrate.await.unwrap()[..4], ["a", "b", "c", "d"]);
        assert_eq!(texts(&journal).await.unwrap().len(), 5);
        assert_eq!(journal.events_since_snapshot(), 5, "counted once");
    }
}

#[tokio::test(start_paused = true)]
async fn hydrate_fails_retryable_if_events_stay_unreadable() {
    let store = Accepting::default();
    let journal = open(store.clone()).await;
    append_each(&journal, &["a"]).await;
    let started = tokio::time::Instant::now();
    let error = texts(&journal).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::Safe));
    assert_eq!(error.event(), Some(EventId::ZERO));
    assert_eq!(started.elapsed(), Duration::from_secs(30));
    store.sync().await;
    assert_eq!(texts(&journal).await.unwrap(), ["a"]);
}

/// What the durable checkpoint does not show is held nevertheless: its ids are not issued again.
#[tokio::test(start_paused = true)]
async fn ids_of_accepted_events_are_never_issued_again() {
    let store = Accepting::default();
    let journal = open(store.clone()).await;
    store.breaks_its_word.store(true, Ordering::Relaxed);
    let answers = append_each(&journal, &["a"]).await;
    assert_eq!(answers[0].as_ref().unwrap_err().retry(), Retry::AfterCheckpoint);
    assert_eq!(append_each(&journal, &["b"]).await[0].as_ref().unwrap_err().kind(), ErrorKind::Closed);
    store.sync().await;
    assert_eq!(store.durable.collect(ReadFrom::Origin).await.unwrap().len(), 1);
}

/// A head that never comes, or panics, neither hangs nor unwinds `open`.
#[tokio::test(start_paused = true)]
async fn open_is_bounded_and_catches_a_panic() {
    #[derive(Clone)]
    struct Broken(bool);
    #[async_trait]
    impl EventSink for Broken {
        async fn append(&self, _: Batch<'_>) -> Result<()> {
            unreachable!()
        }

        async fn checkpoint(&self) -> Result<Checkpoint> {
            unreachable!()
        }
    }
    impl EventSource for Broken {
        fn read(&self, _: ReadFrom) -> EventStream {
            unreachable!()
        }

        fn follow(&self, _: ReadFrom) -> EventStream {
            unreachable!()
        }
    }
    #[async_trait]
    impl CommitPoint for Broken {
        async fn head(&self) -> Result<Checkpoint> {
            assert!(!self.0, "the store is broken");
            std::future::pending().await
        }

        fn event_bytes_max(&self) -> usize {
            usize::MAX
        }
    }
    let error = Journal::<String>::open(Broken(false), options()).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::Safe));
    let error = Journal::<String>::open(Broken(true), options()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Bug);
}

/// The store fails over while `hydrate` waits, with two events folded.
#[tokio::test(start_paused = true)]
async fn hydrate_never_folds_two_histories() {
    let event = |at: u64, text: &str| Event::new(EventId::new(at), text).unwrap();
    let other = [event(1, "other"), event(2, "x"), event(3, "y")];
    let cases = [
        (2, &other[1..], None),
        (1, &other[..], Some(ErrorKind::Diverged)),
        (1, &other[1..], Some(ErrorKind::Diverged)),
        (1, &[], Some(ErrorKind::Unavailable)),
    ];
    for (kept, others, expected) in cases {
        for tasks in [0, 2] {
            let store = rig::Accepting::default();
            let options = options().with_hydrate_tasks(tasks);
            let journal: Journal<String> = Journal::open(store.clone(), options).await.unwrap();
            append_each(&journal, &["a", "b"]).await;
            store.sync().await;
            append_each(&journal, &["c", "d"]).await;
            let mut hydrate = Box::pin(texts(&journal));
            for _ in 0..5 {
                assert!(poll_once(&mut hydrate).await.is_pending());
                settle().await;
            }
            let held = store.collect(ReadFrom::Origin).await.unwrap();
            store.restore(&[&held[..kept], others].concat()).await;
            match (hydrate.await, expected) {
                (Ok(state), None) => assert_eq!(state, ["a", "b", "x", "y"]),
                (Err(error), Some(kind)) => assert_eq!(error.kind(), kind, "{error}"),
                (hydrated, expected) => panic!("{hydrated:?}, not {expected:?}"),
            }
        }
    }
}
