//! A roster that fails, hangs, panics, replies late or applies late; and callers that do not wait.

use std::time::Duration;

use hydrant::{
    CheckpointStore, ErrorKind, EventSink, EventSourceExt, FanOut, FanOutOptions, MemoryStore, ReadFrom,
    SecondaryOptions, SecondaryState,
};
use tokio::time::Instant;

use super::rig::{Act, Server};
use super::{SOON, status, until};
use crate::support::{batch, event, events, id, poll_once, safe, unknown};

const LIMIT: Duration = Duration::from_secs(30);
const SECOND: Duration = Duration::from_secs(1);

async fn open(primary: &Server) -> FanOut<Server> {
    FanOut::open(primary.clone(), FanOutOptions::default().with_seed(1)).await.unwrap()
}

fn names(log: &FanOut<Server>) -> Vec<(String, SecondaryState)> {
    log.status().secondaries.into_iter().map(|secondary| (secondary.name, secondary.state)).collect()
}

#[tokio::test(start_paused = true)]
async fn a_hung_roster_fails_attach_and_detach_in_time() {
    for (load, swap) in [(Act::Hang, Act::Fine), (Act::Fine, Act::Hang), (Act::PanicOnDrop, Act::Fine)] {
        let primary = Server::default();
        let log = open(&primary).await;
        log.attach("old", MemoryStore::default(), SecondaryOptions::default()).await.unwrap();
        primary.roster.load.set(load);
        primary.roster.swap.set(swap);
        let begun = Instant::now();
        log.attach("new", MemoryStore::default(), SecondaryOptions::default()).await.unwrap_err();
        assert_eq!(begun.elapsed(), LIMIT);
        log.detach("old").await.unwrap_err();
        assert_eq!(begun.elapsed(), LIMIT * 2);
        // Delivery does not need the roster.
        log.append(batch(&events(0..1))).await.unwrap();
        primary.roster.load.set(Act::Fine);
        primary.roster.swap.set(Act::Fine);
        log.attach("new", MemoryStore::default(), SecondaryOptions::default()).await.unwrap();
        log.detach("old").await.unwrap();
        assert_eq!(names(&log).len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_detach_still_shows_the_secondary() {
    let acts = [Act::Fail(safe()), Act::Fail(unknown()), Act::Hang, Act::Panic];
    for (load, act) in acts.into_iter().flat_map(|act| [(true, act.clone()), (false, act)]) {
        let primary = Server::default();
        let log = open(&primary).await;
        let sink = MemoryStore::default();
        log.attach("sink", sink.clone(), SecondaryOptions::default()).await.unwrap();
        log.append(batch(&events(0..3))).await.unwrap();
        log.delivered(id(2), SOON).await.unwrap();
        let switch = if load { &primary.roster.load } else { &primary.roster.swap };
        switch.set(act.clone());
        log.detach("sink").await.unwrap_err();
        let shown = status(&log, "sink");
        assert_eq!((shown.state, shown.checkpoint), (SecondaryState::Detached, Some(id(2))), "{act:?}");
        switch.set(Act::Fine);
        log.detach("sink").await.unwrap();
        assert_eq!(names(&log), []);
        assert!(primary.roster.inner.list().await.unwrap().is_empty());
    }
}

/// As long as the roster has the name, it holds back `prune`, and the status shows it.
#[tokio::test(start_paused = true)]
async fn a_failed_attach_shows_what_it_left_in_the_roster() {
    for act in [Act::Lose(unknown()), Act::Late(LIMIT * 2)] {
        let primary = Server::default();
        let log = open(&primary).await;
        primary.roster.swap.set(act);
        log.attach("sink", MemoryStore::default(), SecondaryOptions::default()).await.unwrap_err();
        assert_eq!(primary.roster.inner.list().await.unwrap().len(), 1);
        assert_eq!(names(&log), [("sink".to_owned(), SecondaryState::Detached)]);
        primary.roster.swap.set(Act::Fine);
        log.attach("sink", MemoryStore::default(), SecondaryOptions::default()).await.unwrap();
    }
    let primary = Server::default();
    let log = open(&primary).await;
    primary.roster.swap.set(Act::Fail(safe()));
    log.attach("sink", MemoryStore::default(), SecondaryOptions::default()).await.unwrap_err();
    assert_eq!(names(&log), [], "nothing is in the roster");
}

/// Status and roster agree wherever a caller drops its call, and the next call of the same kind completes it.
#[tokio::test(start_paused = true)]
async fn attach_and_detach_can_be_dropped_at_every_await() {
    for act in [Act::Slow(SECOND), Act::Late(SECOND), Act::Fail(unknown()), Act::Panic, Act::Hang] {
        for polls in 0..12 {
            let case = format!("{act:?} after {polls} polls");
            let primary = Server::default();
            let log = open(&primary).await;
            log.append(batch(&events(0..3))).await.unwrap();
            let sink = MemoryStore::default();
            for _ in 0..2 {
                primary.roster.load.set(act.clone());
                primary.roster.swap.set(act.clone());
                drop_after(polls, log.attach("sink", sink.clone(), SecondaryOptions::default())).await;
                primary.roster.load.set(Act::Fine);
                primary.roster.swap.set(Act::Fine);
                let in_roster = !primary.roster.inner.list().await.unwrap().is_empty();
                assert!(!in_roster || !names(&log).is_empty(), "not to be seen: {case}");
                let again = log.attach("sink", sink.clone(), SecondaryOptions::default()).await;
                assert!(again.is_ok() || again.unwrap_err().kind() == ErrorKind::Invalid, "{case}");
                log.delivered(id(2), SOON).await.unwrap_or_else(|late| panic!("{late}: {case}"));

                primary.roster.load.set(act.clone());
                primary.roster.swap.set(act.clone());
                drop_after(polls, log.detach("sink")).await;
                primary.roster.load.set(Act::Fine);
                primary.roster.swap.set(Act::Fine);
                let in_roster = !primary.roster.inner.list().await.unwrap().is_empty();
                assert!(!in_roster || !names(&log).is_empty(), "not to be seen: {case}");
                let again = log.detach("sink").await;
                assert!(again.is_ok() || again.unwrap_err().kind() == ErrorKind::Invalid, "{case}");
                assert_eq!(names(&log), [], "{case}");
                assert!(primary.roster.inner.list().await.unwrap().is_empty(), "{case}");
            }
            assert!(log.close(SOON).await.is_empty());
        }
    }
}

/// Polls a future this many times, and drops it.
async fn drop_after<F: Future>(polls: u32, future: F) {
    let mut future = Box::pin(future);
    for _ in 0..polls {
        if poll_once(&mut future).await.is_ready() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

/// The last report of a pump that ended lands while another pump of this name runs, or while the name is removed.
#[tokio::test(start_paused = true)]
async fn a_swap_that_lands_late_fences_no_later_pump() {
    for delay in [50, 400, 1_500, 4_000].map(Duration::from_millis) {
        let primary = Server::default();
        let log = open(&primary).await;
        let sink = MemoryStore::default();
        log.attach("sink", sink.clone(), SecondaryOptions::default()).await.unwrap();
        for round in 0..4 {
            log.append(batch(&events(round..round + 1))).await.unwrap();
            log.delivered(id(round), SOON).await.unwrap();
            // The pump records its progress after a second; that is under way as it ends.
            *primary.roster.delay.lock().unwrap() = Some(delay);
            tokio::time::sleep(SECOND).await;
            let detaching = tokio::spawn({
                let log = log.clone();
                async move { log.detach("sink").await }
            });
            tokio::time::sleep(Duration::from_millis(10)).await;
            *primary.roster.delay.lock().unwrap() = None;
            assert!(!detaching.is_finished(), "it took no time");
            let attached = log.attach("sink", sink.clone(), SecondaryOptions::default()).await;
            attached.unwrap_or_else(|error| panic!("{error}: round {round}, {delay:?}"));
            detaching.await.unwrap().unwrap_or_else(|error| panic!("{error}: round {round}, {delay:?}"));
        }
        tokio::time::sleep(Duration::from_secs(20)).await;
        log.append(batch(&events(4..5))).await.unwrap();
        log.delivered(id(4), SOON).await.unwrap();
        assert_eq!(sink.collect(ReadFrom::Origin).await.unwrap(), events(0..5));
        assert_eq!(status(&log, "sink").state, SecondaryState::Live, "{delay:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_dropped_attach_that_lands_late_is_no_other_runner() {
    for delay in [50, 150, 250].map(Duration::from_millis) {
        let primary = Server::default();
        let log = open(&primary).await;
        *primary.roster.delay.lock().unwrap() = Some(delay);
        let attach = || log.attach("sink", MemoryStore::default(), SecondaryOptions::default());
        tokio::time::timeout(Duration::from_millis(10), attach()).await.unwrap_err();
        attach().await.unwrap_or_else(|error| panic!("{error}: {delay:?}"));
        log.append(batch(&events(0..1))).await.unwrap();
        log.delivered(id(0), SOON).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn resume_continues_after_the_other_runner_ended() {
    let primary = Server::default();
    let sink = MemoryStore::default();
    let logs = [open(&primary).await, open(&primary).await];
    for log in &logs {
        log.attach("sink", sink.clone(), SecondaryOptions::default()).await.unwrap();
    }
    let is_parked = |log: &FanOut<Server>| status(log, "sink").state == SecondaryState::Parked;
    let mut next = 0;
    while !logs.iter().any(is_parked) {
        assert!(next < 20, "two runners are never noticed: {:?}", logs[0].status());
        for log in &logs {
            log.append(batch(&[event(next)])).await.unwrap();
        }
        next += 1;
        tokio::time::sleep(SECOND * 2).await;
    }
    let (parked, other): (Vec<_>, Vec<_>) = logs.into_iter().partition(is_parked);
    assert_eq!(status(&parked[0], "sink").last_error.unwrap().kind(), ErrorKind::Fenced);
    drop(other[0].close(SOON).await);
    for _ in 0..3 {
        parked[0].resume("sink").unwrap();
        parked[0].append(batch(&[event(next)])).await.unwrap();
        parked[0].delivered(id(next), SOON).await.unwrap();
        tokio::time::sleep(SECOND * 20).await;
        assert_eq!(status(&parked[0], "sink").state, SecondaryState::Live);
        let entry = primary.roster.inner.load("sink").await.unwrap().unwrap();
        assert_eq!(entry.checkpoint.id(), Some(id(next)));
        next += 1;
    }
}

/// As after a time in which another process ran the secondary.
#[tokio::test(start_paused = true)]
async fn resume_continues_from_what_the_roster_has_by_then() {
    let primary = Server::default();
    let log = open(&primary).await;
    let sink = MemoryStore::default();
    log.attach("sink", sink.clone(), SecondaryOptions::default()).await.unwrap();
    for at in 0..3 {
        log.append(batch(&[event(at)])).await.unwrap();
        log.delivered(id(at), SOON).await.unwrap();
        tokio::time::sleep(SECOND * 10).await;
        assert_eq!(status(&log, "sink").state, SecondaryState::Live, "round {at}");
        log.park("sink").unwrap();
        until(&log, "sink", SecondaryState::Parked).await;
        let now = primary.roster.inner.load("sink").await.unwrap().unwrap();
        assert_eq!(now.checkpoint.id(), Some(id(at)));
        let moved = hydrant::CheckpointEntry::new("sink", "sink", hydrant::Checkpoint::at(&event(90 + at)));
        primary.roster.inner.swap("sink", Some(&now), Some(&moved)).await.unwrap();
        log.resume("sink").unwrap();
        tokio::time::sleep(SECOND * 10).await;
    }
}

#[tokio::test(start_paused = true)]
async fn of_two_attaches_at_once_one_is_refused() {
    let primary = Server::default();
    let log = open(&primary).await;
    primary.roster.swap.set(Act::Slow(SECOND));
    let sinks = [MemoryStore::default(), MemoryStore::default()];
    let attach = |sink: &MemoryStore| log.attach("sink", sink.clone(), SecondaryOptions::default());
    let (first, second) = tokio::join!(attach(&sinks[0]), attach(&sinks[1]));
    first.unwrap();
    assert!(second.unwrap_err().to_string().contains("attached already"));
    log.append(batch(&events(0..1))).await.unwrap();
    log.delivered(id(0), SOON).await.unwrap();
    assert!(sinks[1].collect(ReadFrom::Origin).await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn park_and_resume_do_not_wait_for_sink_and_roster() {
    let primary = Server::default();
    let log = open(&primary).await;
    let sink = Server::default();
    log.attach("sink", sink.clone(), SecondaryOptions::default()).await.unwrap();
    for at in 0..5 {
        log.append(batch(&[event(at)])).await.unwrap();
        log.delivered(id(at), SOON).await.unwrap();
        primary.roster.swap.set(Act::Hang);
        sink.checkpoint.set(Act::Hang);
        let begun = Instant::now();
        log.park("sink").unwrap();
        until(&log, "sink", SecondaryState::Parked).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
        primary.roster.swap.set(Act::Fine);
        sink.checkpoint.set(Act::Fine);
        log.resume("sink").unwrap();
        until(&log, "sink", SecondaryState::Live).await;
        assert!(begun.elapsed() < SECOND, "{:?}", begun.elapsed());
    }
}

/// A prune does not hold the roster's turn.
#[tokio::test(start_paused = true)]
async fn prune_asks_all_sinks_at_once_and_delays_no_attach() {
    let primary = Server::default();
    let log = open(&primary).await;
    log.append(batch(&events(0..3))).await.unwrap();
    for name in 0..20 {
        let sink = Server::default();
        log.attach(&name.to_string(), sink.clone(), SecondaryOptions::default()).await.unwrap();
        log.delivered(id(2), SOON).await.unwrap();
        sink.checkpoint.set(Act::Hang);
    }
    let begun = Instant::now();
    let (pruned, attached) = tokio::join!(hydrant::Prune::prune(&log, id(2)), async {
        log.attach("new", MemoryStore::default(), SecondaryOptions::default()).await.unwrap();
        begun.elapsed()
    });
    pruned.unwrap();
    assert_eq!(attached, Duration::ZERO);
    assert!(begun.elapsed() <= SECOND * 2, "{:?}", begun.elapsed());
}

/// The checkpoint of a sink that lost its memory moves the entry back, and `prune` respects that.
#[tokio::test(start_paused = true)]
async fn a_sink_that_lost_its_events_is_filled_again() {
    let primary = Server::default();
    let log = open(&primary).await;
    let sink = Server::default();
    log.attach("sink", sink.clone(), SecondaryOptions::default()).await.unwrap();
    log.append(batch(&events(0..5))).await.unwrap();
    log.delivered(id(4), SOON).await.unwrap();
    tokio::time::sleep(SECOND * 3).await;
    sink.fail_over(&[]).await;
    log.append(batch(&events(5..7))).await.unwrap();
    log.delivered(id(6), SOON).await.unwrap();
    assert_eq!(sink.copy().collect(ReadFrom::Origin).await.unwrap(), events(0..7));
    assert_eq!(sink.checkpoint().await.unwrap().id(), Some(id(6)));
}

/// Runner `b` still delivers after `a` has detached the sink: what it records must not bring the entry back.
#[tokio::test(start_paused = true)]
async fn a_detached_name_is_not_entered_by_another_runner() {
    for age in [SECOND, SECOND * 20] {
        let primary = Server::default();
        let sink = MemoryStore::default();
        let (a, b) = (open(&primary).await, open(&primary).await);
        for log in [&a, &b] {
            log.attach("sink", sink.clone(), SecondaryOptions::default()).await.unwrap();
        }
        tokio::time::sleep(age).await;
        a.detach("sink").await.unwrap();
        assert!(primary.roster.inner.list().await.unwrap().is_empty());
        for at in 0..3 {
            b.append(batch(&[event(at)])).await.unwrap();
            tokio::time::sleep(SECOND * 2).await;
            assert!(primary.roster.inner.list().await.unwrap().is_empty(), "{age:?}, event {at}");
        }
        let error = until(&b, "sink", SecondaryState::Parked).await.last_error.unwrap();
        assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
        // An operator who resumes it wants it in the roster.
        b.resume("sink").unwrap();
        b.delivered(id(2), SOON).await.unwrap();
        tokio::time::sleep(SECOND * 2).await;
        assert_eq!(primary.roster.inner.list().await.unwrap()[0].checkpoint.id(), Some(id(2)));
        assert_eq!(status(&b, "sink").state, SecondaryState::Live);
    }
}

/// The next program reads the roster once `close` has returned.
#[tokio::test(start_paused = true)]
async fn after_close_no_attach_or_detach_changes_the_roster() {
    for attaches in [true, false] {
        let primary = Server::default();
        let log = open(&primary).await;
        log.attach("old", MemoryStore::default(), SecondaryOptions::default()).await.unwrap();
        primary.roster.swap.set(Act::Slow(SECOND));
        let changing = tokio::spawn({
            let log = log.clone();
            async move {
                if attaches {
                    log.attach("new", MemoryStore::default(), SecondaryOptions::default()).await
                } else {
                    log.detach("old").await
                }
            }
        });
        tokio::time::sleep(SECOND / 2).await;
        drop(log.close(SOON).await);
        let listed = primary.roster.inner.list().await.unwrap();
        tokio::time::sleep(SECOND * 10).await;
        assert_eq!(primary.roster.inner.list().await.unwrap(), listed, "attaches: {attaches}");
        assert_eq!(changing.await.unwrap().is_ok(), !attaches);
    }
}

#[tokio::test(start_paused = true)]
async fn a_hung_roster_delays_no_delivery() {
    for act in [Act::Hang, Act::Slow(SECOND * 3), Act::Fail(unknown())] {
        let primary = Server::default();
        let log = open(&primary).await;
        let sink = MemoryStore::default();
        log.append(batch(&events(0..3))).await.unwrap();
        sink.append(batch(&events(0..2))).await.unwrap();
        log.attach("sink", sink.clone(), SecondaryOptions::default()).await.unwrap();
        primary.roster.swap.set(act.clone());
        primary.roster.load.set(act.clone());
        for at in 3..40 {
            let begun = Instant::now();
            log.append(batch(&[event(at)])).await.unwrap();
            log.delivered(id(at), SOON).await.unwrap();
            assert_eq!(begun.elapsed(), Duration::ZERO, "{act:?}, event {at}");
            tokio::time::sleep(SECOND / 3 * 2).await;
        }
        primary.roster.swap.set(Act::Fine);
        primary.roster.load.set(Act::Fine);
        tokio::time::sleep(LIMIT + SECOND * 3).await;
        let entry = primary.roster.inner.load("sink").await.unwrap().unwrap();
        assert_eq!(entry.checkpoint.id(), Some(id(39)), "{act:?}");
    }
}
