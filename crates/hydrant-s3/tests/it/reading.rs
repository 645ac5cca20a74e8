//! Who may only read opens a source.

use std::time::Duration;

use futures_util::StreamExt;
use hydrant::{Checkpoint, ErrorKind, Event, EventId, EventSource, EventSourceExt, ReadFrom, Retry};
use hydrant_s3::{Encoding, S3Source, S3Store, S3StoreOptions};

use crate::faults::{Fault, Faults, Kind};
use crate::support::{Scratch, append_all, log, or_skip};

/// What is fetched ahead is measured against the time of a request, not against the patience of who reads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_takes_its_time_gets_everything() {
    let scratch = or_skip!(Scratch::shared().await);
    let quick = Duration::from_secs(1);
    let options = S3StoreOptions::default().with_encoding(Encoding::Plain).with_prefetch(16, 64 << 20);
    let store = scratch.open(options.clone()).await;
    let events: Vec<_> =
        (0..3).map(|id| Event::new(EventId::new(id), &"x".repeat(2 << 20)).unwrap()).collect();
    append_all(&store, &events, 1).await;
    let store = scratch.open(options.with_request_timeout(quick)).await;
    let mut read = store.read(ReadFrom::Origin);
    for event in &events {
        assert!(read.next().await.unwrap().unwrap() == *event);
        // Longer than a request may take with all its attempts.
        tokio::time::sleep(quick * 4).await;
    }
    assert!(read.next().await.is_none());
    scratch.remove().await;
}

#[tokio::test]
async fn the_right_to_read_is_enough_for_a_source_and_not_for_a_store() {
    let scratch = or_skip!(Scratch::shared().await);
    let options = || S3StoreOptions::default().with_poll_interval(Duration::from_millis(5));
    let denied = Faults::new();
    denied.always(Kind::Put, Fault::Answer(403, "AccessDenied"));
    let client = denied.on(&scratch.client);
    let (bucket, prefix) = (scratch.place.bucket.clone(), scratch.place.prefix.clone());

    let source = S3Source::open(client.clone(), &bucket, &prefix, options()).await.unwrap();
    assert_eq!(source.checkpoint().await.unwrap(), Checkpoint::Empty);
    let mut followed = source.follow(ReadFrom::Origin);

    let store = scratch.open(options()).await;
    append_all(&store, &log(0..30), 7).await;
    assert_eq!(source.collect(ReadFrom::Origin).await.unwrap(), log(0..30));
    assert_eq!(source.checkpoint().await.unwrap(), Checkpoint::at(&log(29..30)[0]));
    for event in log(0..30) {
        assert_eq!(followed.next().await.unwrap().unwrap(), event);
    }

    let refused = S3Store::open(client, &bucket, &prefix, options()).await.unwrap_err();
    assert_eq!((refused.kind(), refused.retry()), (ErrorKind::Denied, Retry::Never));
    assert_eq!(denied.count(Kind::Put), 1, "the probe of the store, and nothing of the source");
    scratch.remove().await;
}
