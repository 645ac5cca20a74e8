//! Changes of the roster that land late: after their call has failed, and after later calls.

use std::time::Duration;

use hydrant::{
    Checkpoint, CheckpointEntry, CheckpointStore, EventSink, EventSourceExt, FanOut, FanOutOptions,
    MemoryStore, Prune, ReadFrom, SecondaryOptions, SecondaryState,
};

use super::rig::{Act, Server};
use super::{SOON, status, until};
use crate::support::{batch, event, events, id, safe, snapshot};

const LIMIT: Duration = Duration::from_secs(30);
const SECOND: Duration = Duration::from_secs(1);

async fn open(primary: &Server) -> FanOut<Server> {
    FanOut::open(primary.clone(), FanOutOptions::default().with_seed(1)).await.unwrap()
}

/// A log of three segments, of which only the last is left if all is pruned that may be.
async fn with_segments(primary: &Server) -> FanOut<Server> {
    let log = open(primary).await;
    for segment in 0..3 {
        let piece = [vec![snapshot(segment * 10)], events(segment * 10 + 1..segment * 10 + 10)].concat();
        log.append(batch(&piece)).await.unwrap();
    }
    log
}

async fn is_whole(primary: &Server) -> bool {
    primary.copy().collect(ReadFrom::Origin).await.is_ok()
}

fn names(log: &FanOut<Server>) -> Vec<(String, SecondaryState)> {
    log.status().secondaries.into_iter().map(|secondary| (secondary.name, secondary.state)).collect()
}

async fn listed(primary: &Server) -> Vec<CheckpointEntry> {
    primary.roster.inner.list().await.unwrap()
}

/// From now on swaps are applied this much later, also if their callers are gone by then.
fn set_delay(primary: &Server, delay: impl Into<Option<Duration>>) {
    *primary.roster.delay.lock().unwrap() = delay.into();
}

/// `attach` fails, `detach` removes the name from the status, and then the entry is created.
async fn with_late_attach(primary: &Server) -> FanOut<Server> {
    let log = with_segments(primary).await;
    set_delay(primary, LIMIT * 2);
    log.attach("sink", MemoryStore::default(), SecondaryOptions::default()).await.unwrap_err();
    set_delay(primary, None);
    assert_eq!(names(&log), [("sink".to_owned(), SecondaryState::Detached)]);
    log.detach("sink").await.expect("the status shows the name");
    assert_eq!(names(&log), []);
    assert_eq!(listed(primary).await, []);
    tokio::time::sleep(LIMIT * 2).await;
    assert_eq!(listed(primary).await.len(), 1, "the entry is created late");
    log
}

#[tokio::test(start_paused = true)]
async fn a_late_attach_is_shown_once_it_holds_back_prune() {
    let primary = Server::default();
    let log = with_late_attach(&primary).await;
    log.prune(id(29)).await.unwrap();
    assert!(is_whole(&primary).await, "the roster has a sink that needs everything");
    assert_eq!(names(&log), [("sink".to_owned(), SecondaryState::Detached)]);
    log.detach("sink").await.unwrap();
    assert_eq!((names(&log), listed(&primary).await), (vec![], vec![]));
    log.prune(id(29)).await.unwrap();
    assert!(!is_whole(&primary).await);
}

#[tokio::test(start_paused = true)]
async fn a_late_attach_is_shown_after_a_restart() {
    let primary = Server::default();
    drop(with_late_attach(&primary).await.close(SOON).await);
    let log = open(&primary).await;
    assert_eq!(names(&log), [("sink".to_owned(), SecondaryState::Detached)]);
    log.detach("sink").await.unwrap();
    assert_eq!(listed(&primary).await, []);
}

#[tokio::test(start_paused = true)]
async fn a_name_that_only_the_roster_has_can_be_detached() {
    let primary = Server::default();
    let log = with_late_attach(&primary).await;
    log.detach("sink").await.unwrap();
    assert_eq!(listed(&primary).await, []);
    log.detach("sink").await.expect_err("neither status nor roster has the name");
}

/// What a prune has listed before a `detach` is old by the time that it knows the list.
#[tokio::test(start_paused = true)]
async fn a_prune_brings_no_detached_name_back() {
    let primary = Server::default();
    let log = with_late_attach(&primary).await;
    primary.roster.load.set(Act::Late(SECOND));
    let pruning = log.prune(id(29));
    let detaching = async {
        tokio::time::sleep(SECOND / 2).await;
        primary.roster.load.set(Act::Fine);
        log.detach("sink").await.unwrap();
    };
    let (pruned, ()) = tokio::join!(pruning, detaching);
    pruned.unwrap();
    assert_eq!((names(&log), listed(&primary).await), (vec![], vec![]));
}

#[tokio::test(start_paused = true)]
async fn a_late_detach_does_not_remove_a_later_attach() {
    for (delivers, failures) in [(false, 1), (false, 2), (true, 1), (true, 2)] {
        let case = format!("delivers: {delivers}, {failures} failures");
        let primary = Server::default();
        let log = with_segments(&primary).await;
        let sink = Server::default();
        if !delivers {
            sink.append.set(Act::Fail(safe()));
        }
        log.attach("sink", sink.clone(), SecondaryOptions::default()).await.unwrap();
        tokio::time::sleep(SECOND * 3).await;
        let before = listed(&primary).await;
        for failure in 0..failures {
            // The first removal lands last.
            set_delay(&primary, LIMIT * (5 - 2 * failure));
            log.detach("sink").await.unwrap_err();
        }
        set_delay(&primary, None);
        assert_eq!(listed(&primary).await, before, "{case}");
        log.attach("sink", sink.clone(), SecondaryOptions::default()).await.unwrap();
        tokio::time::sleep(LIMIT * 6).await;
        let after = listed(&primary).await;
        assert_eq!(after.len(), 1, "the late removal hit the new entry: {case}");
        assert_eq!(after[0].checkpoint, before[0].checkpoint, "{case}");
        log.prune(id(29)).await.unwrap();
        assert_eq!(is_whole(&primary).await, !delivers, "{case}");
        sink.append.set(Act::Fine);
        log.append(batch(&[event(30)])).await.unwrap();
        log.delivered(id(30), LIMIT).await.unwrap();
        tokio::time::sleep(SECOND * 3).await;
        assert_eq!(status(&log, "sink").state, SecondaryState::Live, "{case}");
        assert_eq!(listed(&primary).await[0].checkpoint.id(), Some(id(30)), "{case}");
        log.detach("sink").await.unwrap();
        assert_eq!((names(&log), listed(&primary).await), (vec![], vec![]), "{case}");
    }
}

/// One removal lands, and a second one that is still under way would fit the entry of the next `attach`.
#[tokio::test(start_paused = true)]
async fn a_second_late_removal_spares_the_next_entry() {
    let primary = Server::default();
    let log = with_segments(&primary).await;
    log.attach("sink", MemoryStore::default(), SecondaryOptions::default()).await.unwrap();
    log.park("sink").unwrap();
    for delay in [LIMIT * 4, LIMIT * 2] {
        set_delay(&primary, delay);
        log.detach("sink").await.unwrap_err();
    }
    set_delay(&primary, None);
    tokio::time::sleep(LIMIT * 3 / 2).await;
    assert_eq!(listed(&primary).await, [], "one of the two has landed");
    let hung = Server::default();
    hung.checkpoint.set(Act::Hang);
    log.attach("sink", hung, SecondaryOptions::default()).await.unwrap();
    tokio::time::sleep(LIMIT * 2).await;
    assert_eq!(listed(&primary).await.len(), 1);
}

/// What the pump of another sink recorded under this name lands after both had begun with an empty entry.
#[tokio::test(start_paused = true)]
async fn a_late_record_does_not_move_the_next_entry() {
    let primary = Server::default();
    let log = open(&primary).await;
    log.attach("sink", MemoryStore::default(), SecondaryOptions::default()).await.unwrap();
    set_delay(&primary, LIMIT);
    log.append(batch(&[event(0)])).await.unwrap();
    log.delivered(id(0), SOON).await.unwrap();
    tokio::time::sleep(SECOND * 2).await;
    set_delay(&primary, None);
    log.detach("sink").await.unwrap();
    let sink = Server::default();
    sink.append.set(Act::Fail(safe()));
    log.attach("sink", sink.clone(), SecondaryOptions::default()).await.unwrap();
    tokio::time::sleep(LIMIT * 2).await;
    assert_eq!(listed(&primary).await[0].checkpoint, Checkpoint::Empty, "the new sink has nothing");
    sink.append.set(Act::Fine);
    log.delivered(id(0), LIMIT).await.unwrap();
    tokio::time::sleep(SECOND * 2).await;
    assert_eq!(status(&log, "sink").state, SecondaryState::Live);
    assert_eq!(listed(&primary).await[0].checkpoint, Checkpoint::at(&event(0)));
}

/// Also while the roster does not have its name: another runner, or a process that was killed, has removed it.
#[tokio::test(start_paused = true)]
async fn prune_keeps_what_an_attached_sink_without_entry_needs() {
    for reports in [false, true] {
        let primary = Server::default();
        let log = with_segments(&primary).await;
        let held = [vec![snapshot(0)], events(1..10), vec![snapshot(10)], events(11..15)].concat();
        let sink = Server::holding(&held).await;
        sink.append.set(Act::Fail(safe()));
        if !reports {
            sink.checkpoint.set(Act::Hang);
        }
        log.attach("sink", sink.clone(), SecondaryOptions::default()).await.unwrap();
        tokio::time::sleep(SECOND * 3).await;
        let entry = listed(&primary).await.remove(0);
        primary.roster.inner.swap("sink", Some(&entry), None).await.unwrap();
        log.prune(id(29)).await.unwrap();
        let oldest = if reports { id(10) } else { id(0) };
        let kept = primary.copy().collect(ReadFrom::At(oldest)).await.unwrap();
        assert_eq!(kept[0].id(), oldest);
        assert_eq!(is_whole(&primary).await, !reports);
        log.detach("sink").await.unwrap();
        log.prune(id(29)).await.unwrap();
        assert!(primary.copy().collect(ReadFrom::At(oldest)).await.is_err());
    }
}

/// The record of a pump lands after it was parked and resumed, and longer ago than a handover takes.
#[tokio::test(start_paused = true)]
async fn a_record_that_lands_late_parks_no_resumed_pump() {
    for delay in [SECOND, SECOND * 8, LIMIT] {
        let primary = Server::default();
        let log = open(&primary).await;
        let sink = MemoryStore::default();
        log.attach("sink", sink.clone(), SecondaryOptions::default()).await.unwrap();
        for round in 0..3 {
            set_delay(&primary, delay);
            log.append(batch(&[event(round)])).await.unwrap();
            log.delivered(id(round), SOON).await.unwrap();
            tokio::time::sleep(SECOND * 2).await;
            log.park("sink").unwrap();
            until(&log, "sink", SecondaryState::Parked).await;
            set_delay(&primary, None);
            log.resume("sink").unwrap();
            tokio::time::sleep(delay + SECOND * 3).await;
            assert_eq!(status(&log, "sink").state, SecondaryState::Live, "{delay:?}, round {round}");
            assert_eq!(listed(&primary).await[0].checkpoint.id(), Some(id(round)), "{delay:?}");
        }
    }
}
