//! Ids, times, groups, metadata.

use std::time::Duration;

use hydrant::{EventId, EventSourceExt, MemoryStore, Metadata, ReadFrom};

use super::{append_each, log, open};
use crate::support::{Fault, Scripted};

#[tokio::test]
async fn ids_continue_after_the_head_and_times_are_the_clocks() {
    let store = MemoryStore::default();
    let journal = open(store.clone()).await;
    assert_eq!(journal.head(), None);
    assert_eq!(journal.append(&"a".to_owned()).await.unwrap(), EventId::ZERO);
    drop(journal);
    let journal = open(store.clone()).await;
    assert_eq!(journal.append(&"b".to_owned()).await.unwrap(), EventId::new(1));
    assert_eq!(journal.head(), Some(EventId::new(1)));
    let events = store.collect(ReadFrom::Origin).await.unwrap();
    assert_eq!(
        events[1].to_string(),
        r#"{"eventId":1,"stateChanged":"b","time":"1970-01-01T00:00:00.000000000Z"}"#
    );
}

#[tokio::test(start_paused = true)]
async fn appends_during_a_write_share_the_next_one() {
    let store = Scripted::new([Some(Fault::Slow(Duration::from_secs(1)))]);
    let journal = open(store.clone()).await;
    let first = tokio::spawn({
        let journal = journal.clone();
        async move { journal.append(&"first".to_owned()).await }
    });
    super::settle().await;
    let ids: Vec<u64> =
        append_each(&journal, &["a", "b", "c", "d"]).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(ids, [1, 2, 3, 4]);
    first.await.unwrap().unwrap();
    let sizes: Vec<usize> = store.sent().iter().map(Vec::len).collect();
    assert_eq!(sizes, [1, 4]);
}

#[tokio::test]
async fn events_appended_together_stay_together() {
    let store = MemoryStore::default();
    let journal = open(store.clone()).await;
    let callers = (0..20).map(|caller| {
        let journal = journal.clone();
        async move {
            let texts: Vec<String> = (0..5).map(|n| format!("{caller}-{n}")).collect();
            let ids = journal.append_all(&texts).await.unwrap();
            assert_eq!(ids.end().get() - ids.start().get(), 4);
            (ids.start().get(), texts)
        }
    });
    let callers = futures_util::future::join_all(callers).await;
    let log = log(&store).await;
    assert_eq!(log.len(), 100);
    for (first, texts) in callers {
        for (id, text) in (first..).zip(texts) {
            assert_eq!(log[usize::try_from(id).unwrap()], format!("{id}:{text}"));
        }
    }
}

#[tokio::test]
async fn an_append_without_events_is_refused() {
    let journal = open(MemoryStore::default()).await;
    assert!(journal.append_all(&[]).await.is_err());
}

#[tokio::test]
async fn metadata_is_kept_beside_each_event() {
    let journal = open(MemoryStore::default()).await;
    let metadata = Metadata::default().with_correlation("order-17").with_causation("126");
    journal.append_with(&["a".to_owned(), "b".to_owned()], &metadata).await.unwrap();
    journal.append(&"c".to_owned()).await.unwrap();
    let mut saved = journal.read(ReadFrom::Origin);
    let mut found = Vec::new();
    while let Some(saved) = futures_util::StreamExt::next(&mut saved).await {
        let saved = saved.unwrap();
        found.push((saved.value.clone(), saved.metadata().unwrap()));
    }
    assert_eq!(
        found,
        [("a".to_owned(), Some(metadata.clone())), ("b".to_owned(), Some(metadata)), ("c".to_owned(), None)]
    );
}
