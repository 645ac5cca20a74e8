//! Logs to keep up, and what must hold of them whatever happened.

use std::time::Duration;

use futures_util::StreamExt;
use hydrant::{Batch, Event, EventId, EventSink, EventSourceExt, ReadFrom};
use hydrant_s3::{Finding, S3Store, S3StoreOptions};

use crate::faulty::{PATIENCE, Place};

/// Events of some ids, those of them that end with a zero as snapshots.
pub(crate) fn events(ids: impl IntoIterator<Item = u64>) -> Vec<Event> {
    let event = |id: u64| {
        let event = Event::builder(EventId::new(id)).payload_json(format!("{{\"n\":{id}}}")).time("t");
        if id.is_multiple_of(10) { event.snapshot().build().unwrap() } else { event.build().unwrap() }
    };
    ids.into_iter().map(event).collect()
}

/// Ids with gaps: 1, 3, 4, 6, 7, 9, 10, 12 ...
pub(crate) fn ids(end: u64) -> impl Iterator<Item = u64> {
    (1..end).filter(|id| id % 3 != 2)
}

/// Short bounds, and small pages, so that there are many.
pub(crate) fn options() -> S3StoreOptions {
    S3StoreOptions::default()
        .with_list_keys(4)
        .with_append_timeout(Duration::from_millis(150))
        .with_view_age_max(Duration::from_millis(500))
        .with_tombstones_kept(Duration::from_secs(2))
        .with_seed(7)
}

/// Opens a log with patience: a request to a server that all tests share takes as long as the machine is busy.
pub(crate) async fn open(place: &Place, options: S3StoreOptions) -> S3Store {
    let options = options.with_request_timeout(PATIENCE);
    S3Store::open(place.client.clone(), &place.bucket, &place.prefix, options).await.unwrap()
}

/// Appends events behind others, so many at a time.
pub(crate) async fn append(log: &S3Store, after: Option<&Event>, events: &[Event], batch: usize) {
    let mut after = after.map(Event::id);
    for events in Batch::segments(events).flat_map(|segment| segment.chunks(batch)) {
        log.append(Batch::new(after, events).unwrap()).await.unwrap();
        after = events.last().map(Event::id);
    }
}

/// A log of one object an event, under a prefix of its own.
pub(crate) async fn small_segments(place: &Place, end: u64) -> (S3Store, Vec<Event>) {
    let log = open(place, S3StoreOptions::default().with_list_keys(4)).await;
    let events = events(ids(end));
    append(&log, None, &events, 1).await;
    (log, events)
}

/// Reads from everywhere, and finds the same.
pub(crate) async fn must_hold(place: &Place, events: &[Event]) {
    let log = open(place, S3StoreOptions::default().with_list_keys(4)).await;
    assert_eq!(log.collect(ReadFrom::Origin).await.unwrap(), events);
    let last = events.last().unwrap().id().get();
    for id in [0, 1, 2, 5, 6, 9, last / 2, last - 2, last - 1, last, last + 1] {
        let behind = events.partition_point(|event| event.id().get() <= id);
        let read = log.collect(ReadFrom::After(EventId::new(id))).await.unwrap();
        assert_eq!(read, events[behind..], "after {id}");
        let at = events.partition_point(|event| event.id().get() < id);
        let read = log.collect(ReadFrom::At(EventId::new(id))).await.unwrap();
        assert_eq!(read, events[at..], "at {id}");
    }
    let newest = events.iter().rposition(Event::is_snapshot).unwrap_or(0);
    assert_eq!(log.collect(ReadFrom::Snapshot).await.unwrap(), events[newest..]);
    assert_eq!(log.checkpoint().await.unwrap(), hydrant::Checkpoint::at(events.last().unwrap()));
}

pub(crate) async fn findings(place: &Place) -> Vec<Finding> {
    findings_of(place, S3StoreOptions::default().with_list_keys(4)).await
}

pub(crate) async fn findings_of(place: &Place, options: S3StoreOptions) -> Vec<Finding> {
    let found = hydrant_s3::verify(place.client.clone(), &place.bucket, &place.prefix, options);
    found.map(|finding| finding.unwrap()).collect().await
}

/// Nothing is wrong, but for what a crash may leave.
pub(crate) async fn must_verify(place: &Place) -> usize {
    let findings = findings(place).await;
    assert!(findings.iter().all(|finding| finding.is_leftover), "{findings:#?}");
    findings.len()
}

/// Each snapshot event begins an object of its own.
pub(crate) async fn must_begin_objects(place: &Place, events: &[Event]) {
    for pair in events.windows(2).filter(|pair| pair[1].is_snapshot()) {
        let key = format!("{}/log/{:020}", place.prefix, pair[0].id().get());
        let head = place.client.head_object().bucket(&place.bucket).key(key).send().await.unwrap();
        assert_eq!(head.metadata().unwrap()["first"], pair[1].id().to_string());
    }
}

/// How many objects of the log have bytes, and how many are tombstones.
pub(crate) async fn objects(place: &Place) -> (usize, usize) {
    let prefix = format!("{}/log/", place.prefix);
    let list = place.client.list_objects_v2().bucket(&place.bucket).prefix(prefix);
    let mut pages = list.into_paginator().send();
    let (mut whole, mut empty) = (0, 0);
    while let Some(page) = pages.next().await {
        for object in page.unwrap().contents() {
            if object.size() == Some(0) { empty += 1 } else { whole += 1 }
        }
    }
    (whole, empty)
}
