//! A thousand attaches and detaches leave no task, connection or descriptor.
#![cfg(target_os = "linux")] // descriptors are counted in /proc

use std::time::Duration;

use hydrant::{Batch, Event, EventId, EventSink, FanOut, FanOutOptions, SecondaryOptions};
use hydrant_file::{FileStore, FileStoreOptions};
use integration_tests::places::Place;
use test_servers::Service;

const CYCLES: u64 = 1000;

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn tasks() -> usize {
    tokio::runtime::Handle::current().metrics().num_alive_tasks()
}

/// Waits until the condition holds: sockets close a moment after they were dropped.
async fn until(what: &str, is_so: impl Fn() -> bool) {
    for _ in 0..24_000 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{what}: {} descriptors, {} tasks", descriptors(), tasks());
}

/// Returns how many descriptors and tasks remain: sockets close a moment after they were dropped.
async fn settled() -> (usize, usize) {
    let mut least = (usize::MAX, usize::MAX);
    for _ in 0..200 {
        least = (least.0.min(descriptors()), least.1.min(tasks()));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    least
}

async fn append(log: &FanOut<FileStore>, id: u64) -> EventId {
    let after = id.checked_sub(1).map(EventId::new);
    let event = Event::new(EventId::new(id), &id).unwrap();
    log.append(Batch::new(after, &[event]).unwrap()).await.unwrap();
    EventId::new(id)
}

/// Attaches a new handle, waits until it has all events, detaches and closes it.
async fn cycle(log: &FanOut<FileStore>, place: &Place, last: EventId) {
    async fn through<S: EventSink + 'static>(log: &FanOut<FileStore>, sink: S, last: EventId) {
        log.attach("secondary", sink, SecondaryOptions::default()).await.unwrap();
        log.delivered(last, Duration::from_mins(1)).await.unwrap_or_else(|laggards| panic!("{laggards}"));
        log.detach("secondary").await.unwrap();
    }
    match place.service() {
        Service::Postgres => {
            let store = place.postgres_store("log").await.unwrap();
            through(log, store.clone(), last).await;
            store.close().await.unwrap();
        }
        Service::S3 => through(log, place.s3_store("log").await.unwrap(), last).await,
        Service::Kinesis => through(log, place.kinesis_sink("log").await.unwrap(), last).await,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_times_attached_and_detached_leave_nothing_behind() {
    let mut places = Vec::new();
    for service in Service::ALL {
        places.extend(Place::on(service).await);
    }
    if places.is_empty() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = FileStore::open(dir.path(), FileStoreOptions::default()).await.unwrap();
    let log = FanOut::open(store, FanOutOptions::default()).await.unwrap();
    let mut before = None;
    for id in 0..CYCLES {
        let last = append(&log, id).await;
        let place = &places[usize::try_from(id).unwrap() % places.len()];
        cycle(&log, place, last).await;
        // After one round, everything permanent is open.
        if id + 1 == places.len() as u64 {
            before = Some(settled().await);
        }
    }
    let (open, alive) = before.unwrap();
    until("something is left", || descriptors() <= open && tasks() <= alive).await;
    assert!(log.close(Duration::from_secs(5)).await.is_empty());
    for place in places {
        place.remove().await;
    }
}
