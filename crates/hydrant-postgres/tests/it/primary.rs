//! A log in Postgres as the commit point of a fan-out.

use std::time::Duration;

use hydrant::{
    Batch, Durability, ErrorKind, EventSink, EventSourceExt, FanOut, FanOutOptions, MemoryStore, Primary,
    Prune, ReadFrom, SecondaryOptions,
};

use crate::support::{append, event, events, id, in_a_schema, snapshot};

#[test]
fn a_log_feeds_another_and_its_roster_outlives_the_process() {
    in_a_schema(async |place| {
        let primary = place.open("primary").await;
        assert_eq!(primary.durability(), Durability::Durable);
        let log = FanOut::open(primary, FanOutOptions::default()).await.unwrap();
        log.attach("copy", place.open("copy").await, SecondaryOptions::default()).await.unwrap();
        let first: Vec<_> = (0..40).map(|at| if at % 10 == 0 { snapshot(at) } else { event(at) }).collect();
        append(&log, None, &first).await.unwrap();
        log.delivered(id(39), Duration::from_secs(30)).await.unwrap();
        drop(log.close(Duration::from_secs(30)).await);
        assert_eq!(place.open("copy").await.collect(ReadFrom::Origin).await.unwrap(), first);

        // Another process: it knows who must not be pruned away from, before that one is attached again.
        let log = FanOut::open(place.open("primary").await, FanOutOptions::default()).await.unwrap();
        let names: Vec<_> = log.status().secondaries.into_iter().map(|known| known.name).collect();
        assert_eq!(names, ["copy"]);
        let next: Vec<_> = (40..60).map(|at| if at % 10 == 0 { snapshot(at) } else { event(at) }).collect();
        append(&log, Some(39), &next).await.unwrap();
        log.prune(id(60)).await.unwrap();
        let kept = log.primary().collect(ReadFrom::After(id(39))).await.unwrap();
        assert_eq!(kept, next, "the secondary still needs all of it");
        log.attach("copy", place.open("copy").await, SecondaryOptions::default()).await.unwrap();
        log.delivered(id(59), Duration::from_secs(30)).await.unwrap();
        drop(log.close(Duration::from_secs(30)).await);
        let all: Vec<_> = first.into_iter().chain(next).collect();
        assert_eq!(place.open("copy").await.collect(ReadFrom::Origin).await.unwrap(), all);
    });
}

#[test]
fn of_two_processes_that_fan_out_one_log_one_is_fenced() {
    in_a_schema(async |place| {
        let one = FanOut::open(place.open("log").await, FanOutOptions::default()).await.unwrap();
        one.append(Batch::new(None, &events(0..3)).unwrap()).await.unwrap();
        let other = FanOut::open(place.open("log").await, FanOutOptions::default()).await.unwrap();
        other.attach("seen", MemoryStore::default(), SecondaryOptions::default()).await.unwrap();
        one.append(Batch::new(Some(id(2)), &events(3..4)).unwrap()).await.unwrap();
        let theirs = [hydrant::Event::new(id(3), "another").unwrap()];
        let error = other.append(Batch::new(Some(id(2)), &theirs).unwrap()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
        let store = place.open("log").await;
        append(&store, Some(3), &events(4..5)).await.unwrap();
        assert_eq!(store.collect(ReadFrom::Origin).await.unwrap(), events(0..5));
    });
}
