//! What a log costs in requests: the figures of docs/s3.md.

use std::sync::{Arc, Mutex};

use hydrant::{Event, EventId, EventSink, EventSourceExt, Prune, ReadFrom};
use hydrant_s3::{CompactOptions, S3StoreOptions};

use crate::faulty::{Fault, Place};
use crate::logs::{append, open};

/// Requests as they are billed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Requests {
    /// PUT, POST and LIST.
    writes: u64,
    /// GET and HEAD.
    reads: u64,
    /// DELETE, which is free.
    deletes: u64,
}

/// Counts from here on.
fn count(place: &Place) -> Arc<Mutex<Requests>> {
    let requests = Arc::new(Mutex::new(Requests::default()));
    let counted = requests.clone();
    place.faults.plan(move |_, request| {
        let mut counted = counted.lock().unwrap();
        match request.method() {
            "GET" | "HEAD" if !request.uri().contains("list-type") => counted.reads += 1,
            "POST" if request.uri().contains("?delete") => counted.deletes += 1,
            _ => counted.writes += 1,
        }
        Fault::None
    });
    requests
}

fn take(requests: &Mutex<Requests>) -> Requests {
    std::mem::take(&mut *requests.lock().unwrap())
}

#[tokio::test]
async fn requests_grow_with_objects_and_not_with_events() {
    let Some(place) = Place::find().await else { return };
    println!("events an object: open, append, checkpoint, read, compact, read, open, prune");
    for (batch, objects) in [(1, 1_200), (100, 120), (10_000, 2)] {
        let place = place.beside();
        let event = |id: usize| {
            let event = Event::builder(EventId::new(id as u64)).payload_json(format!("{{\"n\":{id}}}"));
            if id == batch * (objects - 1) { event.snapshot().build() } else { event.build() }
        };
        let events: Vec<Event> = (0..batch * objects).map(|id| event(id).unwrap()).collect();
        let requests = count(&place);
        let log = open(&place, S3StoreOptions::default()).await;
        let opened = take(&requests);
        append(&log, None, &events, batch).await;
        let appended = take(&requests);
        log.checkpoint().await.unwrap();
        let checkpoint = take(&requests);
        assert_eq!(log.collect(ReadFrom::Origin).await.unwrap().len(), events.len());
        let read = take(&requests);
        log.compact(&CompactOptions::default()).await.unwrap();
        let compacted = take(&requests);
        assert_eq!(log.collect(ReadFrom::Origin).await.unwrap().len(), events.len());
        let read_compacted = take(&requests);
        open(&place, S3StoreOptions::default()).await;
        let opened_again = take(&requests);
        log.prune(EventId::new(u64::MAX)).await.unwrap();
        let pruned = take(&requests);
        println!(
            "{batch}: {opened:?} {appended:?} {checkpoint:?} {read:?} {compacted:?} {read_compacted:?} {opened_again:?} {pruned:?}"
        );
        let (objects, pages) = (objects as u64, objects as u64 / 1_000 + 1);
        assert_eq!(appended, Requests { writes: objects, reads: 0, deletes: 0 });
        assert!(read.reads <= objects + 3 && read.writes <= pages + 2, "{read:?}");
        assert!(compacted.reads <= objects + 2 && compacted.writes <= objects + pages + 2, "{compacted:?}");
        assert!(read_compacted.reads <= 6 && read_compacted.writes <= pages + 2, "{read_compacted:?}");
        assert!(opened_again.reads <= 1 && opened_again.writes <= 8, "{opened_again:?}");
        place.faults.heal();
        place.remove().await;
    }
}
