//! The store in a fan-out: as a secondary that fails, as a primary, and opened a thousand times.

use std::time::Duration;

use futures_util::StreamExt;
use hydrant::{
    Batch, ErrorKind, EventSink, EventSource, EventSourceExt, FanOut, FanOutOptions, MemoryStore, Primary,
    ReadFrom, SecondaryOptions, SecondaryState, SecondaryStatus,
};
use hydrant_s3::S3StoreOptions;
use tokio::runtime::Handle;

use crate::faults::{Fault, Faults, Kind};
use crate::support::{Scratch, append_all, log, or_skip};

fn quick() -> SecondaryOptions {
    SecondaryOptions::default().with_backoff(Duration::from_millis(1), Duration::from_millis(20))
}

/// Waits until the status of a secondary is as it should be.
async fn until<P: Primary + 'static>(
    fan_out: &FanOut<P>,
    name: &str,
    is_so: impl Fn(&SecondaryStatus) -> bool,
) -> SecondaryStatus {
    for _ in 0..12_000 {
        let status = fan_out.status();
        let found = status.secondaries.into_iter().find(|secondary| secondary.name == name).unwrap();
        if is_so(&found) {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{:?}", fan_out.status());
}

#[tokio::test]
async fn a_failing_bucket_delays_no_other_and_is_named_in_the_status() {
    let scratch = or_skip!(Scratch::shared().await);
    let faults = Faults::new();
    let options = S3StoreOptions::default()
        .with_request_timeout(Duration::from_secs(1))
        .with_append_timeout(Duration::from_secs(1));
    let store = scratch.open_through(&faults, options).await;
    let (primary, beside) = (MemoryStore::default(), MemoryStore::default());
    let fan_out = FanOut::open(primary, FanOutOptions::default()).await.unwrap();
    fan_out.attach("archive", store, quick()).await.unwrap();
    fan_out.attach("beside", beside.clone(), quick()).await.unwrap();
    let events = log(0..50);
    let mut held = 0_usize;
    for (fault, kind, parks) in [
        (Fault::Cut, ErrorKind::Unavailable, false),
        (Fault::Answer(503, "SlowDown"), ErrorKind::Unavailable, false),
        (Fault::LoseAnswer, ErrorKind::Unavailable, false),
        (Fault::Hold, ErrorKind::Unavailable, false),
        (Fault::Answer(403, "AccessDenied"), ErrorKind::Denied, true),
    ] {
        let is_lost = matches!(fault, Fault::LoseAnswer);
        faults.always(Kind::Put, fault);
        if is_lost {
            // What is done is found to be done only by who may look.
            faults.always_also(Kind::List, Fault::Answer(500, "InternalError"));
        }
        let (held_before, after) = (held, held.checked_sub(1).map(|last| events[last].id()));
        held += 10;
        fan_out.append(Batch::new(after, &events[held_before..held]).unwrap()).await.unwrap();
        until(&fan_out, "beside", |status| status.checkpoint == Some(events[held - 1].id())).await;
        let failed = until(&fan_out, "archive", |status| {
            status.last_error.as_ref().is_some_and(|error| error.kind() == kind)
                && (status.state == SecondaryState::Parked) == parks
        })
        .await;
        assert!(failed.last_error.unwrap().target().unwrap().starts_with("s3://"));
        faults.clear();
        faults.land();
        if parks {
            fan_out.resume("archive").unwrap();
        }
        until(&fan_out, "archive", |status| status.checkpoint == Some(events[held - 1].id())).await;
    }
    assert_eq!(
        scratch.open(S3StoreOptions::default()).await.collect(ReadFrom::Origin).await.unwrap(),
        events
    );
    drop(fan_out.close(Duration::from_secs(5)).await);
    scratch.remove().await;
}

#[tokio::test]
async fn a_bucket_is_the_primary_and_keeps_its_roster() {
    let scratch = or_skip!(Scratch::shared().await);
    let events = log(0..20);
    let sink = MemoryStore::default();
    for half in [0, 10] {
        let store = scratch.open(S3StoreOptions::default()).await;
        let fan_out = FanOut::open(store, FanOutOptions::default()).await.unwrap();
        fan_out.attach("memory", sink.clone(), quick()).await.unwrap();
        let after = (half > 0).then(|| events[half - 1].id());
        fan_out.append(Batch::new(after, &events[half..half + 10]).unwrap()).await.unwrap();
        until(&fan_out, "memory", |status| status.checkpoint == Some(events[half + 9].id())).await;
        assert_eq!(fan_out.status().secondaries.len(), 1);
        drop(fan_out.close(Duration::from_secs(5)).await);
    }
    assert_eq!(sink.collect(ReadFrom::Origin).await.unwrap(), events);
    scratch.remove().await;
}

#[tokio::test]
async fn a_thousand_times_attached_and_detached_leaves_nothing() {
    let scratch = or_skip!(Scratch::shared().await);
    let client = scratch.place.client().await;
    let open = || {
        let place = &scratch.place;
        hydrant_s3::S3Store::open(client.clone(), &place.bucket, &place.prefix, S3StoreOptions::default())
    };
    let fan_out = FanOut::open(MemoryStore::default(), FanOutOptions::default()).await.unwrap();
    let events = log(0..1_010);
    let descriptors = || std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    let mut before = None;
    for round in 0_usize..1_010 {
        let after = round.checked_sub(1).map(|last| events[last].id());
        fan_out.append(Batch::new(after, &events[round..=round]).unwrap()).await.unwrap();
        fan_out.attach("archive", open().await.unwrap(), quick()).await.unwrap();
        if round % 10 == 0 {
            fan_out.delivered(events[round].id(), Duration::from_secs(20)).await.unwrap();
        }
        fan_out.detach("archive").await.unwrap();
        if round == 10 {
            before = Some((Handle::current().metrics().num_alive_tasks(), descriptors()));
        }
    }
    let (tasks, open_files) = before.unwrap();
    // A few of other tests, and connections that the client keeps.
    assert!(Handle::current().metrics().num_alive_tasks() <= tasks + 4);
    assert!(descriptors() <= open_files + 64);
    fan_out.attach("archive", open().await.unwrap(), quick()).await.unwrap();
    fan_out.delivered(events[1_009].id(), Duration::from_secs(20)).await.unwrap();
    drop(fan_out.close(Duration::from_secs(5)).await);
    assert_eq!(open().await.unwrap().collect(ReadFrom::Origin).await.unwrap(), events);
    scratch.remove().await;
}

/// A read that stands still holds what it may fetch ahead, and nothing more is asked for.
#[tokio::test]
async fn a_read_fetches_ahead_no_more_than_it_may() {
    let scratch = or_skip!(Scratch::shared().await);
    let store = scratch.open(S3StoreOptions::default()).await;
    append_all(&store, &log(0..100), 1).await;
    for (objects, bytes, most) in [(4, 1 << 20, 4), (16, 1, 1), (16, 300, 8)] {
        let faults = Faults::new();
        let options = S3StoreOptions::default().with_prefetch(objects, bytes);
        let store = scratch.open_through(&faults, options).await;
        let mut read = store.read(ReadFrom::Origin);
        read.next().await.unwrap().unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        let gets = faults.count(Kind::Get);
        assert!(
            (1..=most).contains(&gets),
            "{gets} objects fetched, {objects} objects and {bytes} bytes may be"
        );
        assert_eq!(read.count().await, 99);
    }
    // Of a follower that is up to date each look is one request of the cheapest kind.
    let faults = Faults::new();
    let options = S3StoreOptions::default().with_poll_interval(Duration::from_millis(5));
    let store = scratch.open_through(&faults, options).await;
    let mut follow = store.follow(ReadFrom::After(log(98..99)[0].id()));
    assert_eq!(follow.next().await.unwrap().unwrap(), log(99..100)[0]);
    faults.requests();
    drop(tokio::time::timeout(Duration::from_millis(200), follow.next()).await);
    let requests = faults.requests();
    assert!(requests.len() > 2 && requests.iter().all(|(kind, _)| *kind == Kind::Head), "{requests:?}");
    scratch.remove().await;
}
