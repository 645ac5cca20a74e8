//! Closing and dropping.

use std::time::Duration;

use futures_util::FutureExt;
use hydrant::{ErrorKind, Journal, Retry};

use super::{append_each, log, open, options, settle};
use crate::support::{Fault, Scripted, poll_once};

#[tokio::test(start_paused = true)]
async fn close_waits_for_everything_in_flight() {
    let slow = Some(Fault::Slow(Duration::from_secs(1)));
    let store = Scripted::new([slow, slow]);
    let journal = open(store.clone()).await;
    let first = tokio::spawn({
        let journal = journal.clone();
        async move { append_each(&journal, &["a"]).await }
    });
    settle().await;
    let second = tokio::spawn({
        let journal = journal.clone();
        async move { append_each(&journal, &["b", "c"]).await }
    });
    settle().await;
    journal.close().await.unwrap();
    assert_eq!(log(&store).await, ["0:a", "1:b", "2:c"]);
    assert!(first.await.unwrap().iter().chain(&second.await.unwrap()).all(Result::is_ok));
    let error = journal.append(&"late".to_owned()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
    journal.close().await.unwrap();
    assert_eq!(journal.hydrate(0, |count, _| *count += 1).await.unwrap().state, 3, "it still reads");
}

#[tokio::test(start_paused = true)]
async fn dropping_the_last_handle_commits_in_the_background() {
    let store = Scripted::new([Some(Fault::Slow(Duration::from_secs(1)))]);
    let journal = open(store.clone()).await;
    let text = "a".to_owned();
    assert!(journal.append(&text).now_or_never().is_none());
    drop(journal);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(log(&store).await, ["0:a"]);
}

#[test]
fn a_runtime_that_ends_answers_every_call() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    for options in [options(), options().with_in_flight_events_max(1), options().with_in_flight_bytes_max(1)]
    {
        let (first, second) = (runtime(), runtime());
        let store = Scripted::new([Some(Fault::Hang { applied: false })]);
        let journal = first.block_on(Journal::open(store, options)).unwrap();
        let text = "a".to_owned();
        let mut append = Box::pin(journal.append(&text));
        assert!(first.block_on(poll_once(&mut append)).is_pending());
        first.block_on(settle());
        let mut waiting = Box::pin(journal.append(&text));
        assert!(first.block_on(poll_once(&mut waiting)).is_pending());
        drop(first);
        let error = second.block_on(append).unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Closed, Retry::AfterCheckpoint));
        assert_eq!(second.block_on(waiting).unwrap_err().kind(), ErrorKind::Closed);
        assert_eq!(second.block_on(journal.close()).unwrap_err().kind(), ErrorKind::Bug);
    }
}
