//! Two runners that deliver one secondary over one roster.

use std::sync::Arc;
use std::time::Duration;

use hydrant::{
    Checkpoint, CheckpointEntry, CheckpointStore, ErrorKind, EventSink, EventSourceExt, MemoryStore,
    ReadFrom, Relay, RelayOptions, SecondaryOptions, SecondaryState, SecondaryStatus,
};

use super::rig::{Act, Roster};
use crate::support::{batch, event, events, id};

const SECOND: Duration = Duration::from_secs(1);

async fn relay(source: &MemoryStore, roster: &Roster, sink: &MemoryStore, seed: u64) -> Relay {
    let options = RelayOptions::default().with_seed(seed);
    let relay = Relay::open(source.clone(), Arc::new(roster.clone()), options).await.unwrap();
    relay.attach("sink", sink.clone(), SecondaryOptions::default()).await.unwrap();
    relay
}

fn status(relay: &Relay) -> SecondaryStatus {
    relay.status().secondaries.remove(0)
}

fn is_parked(relay: &Relay) -> bool {
    status(relay).state == SecondaryState::Parked
}

async fn entry(roster: &Roster) -> CheckpointEntry {
    roster.inner.load("sink").await.unwrap().unwrap()
}

/// Returns the log, its roster, the sink, and two runners of which one was fenced and parked: the second one.
async fn of_two_runners() -> (MemoryStore, Roster, MemoryStore, [Relay; 2]) {
    let (log, roster, sink) = (MemoryStore::default(), Roster::default(), MemoryStore::default());
    roster.load.set(Act::Slow(SECOND / 20));
    roster.swap.set(Act::Slow(SECOND / 20));
    let mut relays = [relay(&log, &roster, &sink, 1).await, relay(&log, &roster, &sink, 2).await];
    tokio::time::sleep(SECOND * 10).await;
    for at in 0..500 {
        log.append(batch(&[event(at)])).await.unwrap();
        tokio::time::sleep(SECOND / 100).await;
    }
    tokio::time::sleep(SECOND * 5).await;
    relays.sort_by_key(is_parked);
    (log, roster, sink, relays)
}

#[tokio::test(start_paused = true)]
async fn of_two_runners_exactly_one_parks() {
    let (_, roster, sink, [runs, parked]) = of_two_runners().await;
    assert_eq!(status(&parked).last_error.unwrap().kind(), ErrorKind::Fenced);
    assert_eq!(status(&runs).state, SecondaryState::Live);
    assert_eq!(sink.collect(ReadFrom::Origin).await.unwrap(), events(0..500));
    assert_eq!(entry(&roster).await.checkpoint, sink.checkpoint().await.unwrap());
}

/// A runner that was fenced and is ended much later leaves the entry of the other one as it is.
#[tokio::test(start_paused = true)]
async fn a_fenced_runner_that_ends_moves_no_entry() {
    for closes in [true, false] {
        let (log, roster, sink, [runs, parked]) = of_two_runners().await;
        log.append(batch(&[event(500)])).await.unwrap();
        tokio::time::sleep(SECOND * 5).await;
        let before = entry(&roster).await;
        if closes {
            drop(parked.close(SECOND).await);
        }
        drop(parked);
        tokio::time::sleep(SECOND * 5).await;
        assert_eq!(entry(&roster).await, before);
        log.append(batch(&[event(501)])).await.unwrap();
        tokio::time::sleep(SECOND * 5).await;
        assert_eq!(status(&runs).state, SecondaryState::Live, "closes: {closes}");
        assert_eq!(entry(&roster).await.checkpoint, sink.checkpoint().await.unwrap());
    }
}

/// The last record of a parked runner is fenced within the time of a handover, and the runner ends much later.
#[tokio::test(start_paused = true)]
async fn a_runner_fenced_as_it_parks_moves_no_entry_later() {
    let (log, roster, sink) = (MemoryStore::default(), Roster::default(), MemoryStore::default());
    let parks = relay(&log, &roster, &sink, 1).await;
    log.append(batch(&[event(0)])).await.unwrap();
    parks.delivered(id(0), SECOND / 2).await.unwrap();
    let moved = CheckpointEntry::new("sink", "sink", Checkpoint::at(&event(7)));
    roster.inner.swap("sink", Some(&entry(&roster).await), Some(&moved)).await.unwrap();
    parks.park("sink").unwrap();
    tokio::time::sleep(SECOND * 60).await;
    assert_eq!(entry(&roster).await, moved);
    drop(parks);
    tokio::time::sleep(SECOND * 5).await;
    assert_eq!(entry(&roster).await, moved);
}

/// An operator ends the other runner and resumes the fenced one, which records again.
#[tokio::test(start_paused = true)]
async fn a_fenced_runner_records_again_once_it_is_resumed() {
    let (log, roster, sink, [runs, parked]) = of_two_runners().await;
    drop(runs.close(SECOND).await);
    parked.resume("sink").unwrap();
    log.append(batch(&[event(500)])).await.unwrap();
    parked.delivered(id(500), SECOND * 5).await.unwrap();
    tokio::time::sleep(SECOND * 20).await;
    assert_eq!(status(&parked).state, SecondaryState::Live);
    assert_eq!(entry(&roster).await.checkpoint, sink.checkpoint().await.unwrap());
}
