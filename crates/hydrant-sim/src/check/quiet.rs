//! The end of a run, when nothing is left to do: no busy task, no old error, no task left.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::StreamExt;
use hydrant::{EventSource, ReadFrom, SecondaryState, SecondaryStatus};
use tokio::runtime::Handle;
use tokio::time::{sleep, timeout};

use crate::actors::System;
use crate::actors::system::{Engine, Up};
use crate::plan::{SinkKind, Store};
use crate::watchdog;
use crate::world::World;
use crate::world::truth::fact;

/// How long an idle log is observed.
const IDLE: Duration = Duration::from_secs(5);
/// How often an idle log may wake: it reports, and looks at its primary and its sinks, at most once a second.
const WAKES_MAX: u64 = 40;
const WAKES_OF_A_SINK_MAX: u64 = 8;

/// Checks a log that has delivered everything: tasks sleep, errors are cleared, watchers have seen the last status.
pub(super) async fn idle(world: &World, up: &Up) {
    let is_quiet = |one: &SecondaryStatus| {
        use SecondaryState::{Detached, Live, Parked};
        matches!(one.state, Live | Parked | Detached)
    };
    let (sinks, nested, crashes, was_lost) = {
        let state = world.lock();
        let sinks = &state.config.sinks;
        let nested = sinks.iter().filter(|sink| sink.kind == SinkKind::Nested).count();
        (sinks.len() as u64, nested as u64, u64::from(state.crashes), !state.truth.lost.is_empty())
    };
    let before = watchdog::parks();
    sleep(IDLE).await;
    let woken = watchdog::parks() - before;
    let status = up.engine.status();
    // A sink may wait for an event that its primary lost, also behind a fan-out of its own.
    let waits = !status.secondaries.iter().all(is_quiet) || nested > 0 && was_lost;
    // The tasks of a dead process retry for ever, as often as their time-outs are short.
    let waits = waits || crashes > 0;
    let woken_max = WAKES_MAX + WAKES_OF_A_SINK_MAX * (sinks + 2 * nested);
    // A relay of files looks at them all the time.
    let polls = world.lock().files.is_some();
    if woken > woken_max && !waits && !polls {
        world.fail(
            "idle",
            format!("nothing happens for {IDLE:?}, and tasks wake {woken} times, not {woken_max}"),
        );
    }
    for secondary in &status.secondaries {
        let has_all = secondary.lag_events == 0 && secondary.state == SecondaryState::Live;
        if let Some(error) = secondary.last_error.as_ref().filter(|_| has_all) {
            let name = &secondary.name;
            world.fail("status", format!("{name} has everything, and still shows the error: {error}"));
        }
    }
    let head = status.head.map_or(0, |head| head.get() + 1);
    for watcher in up.watchers.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        let seen = watcher.head.load(Ordering::Relaxed);
        if seen != head {
            world.fail("watch", format!("a watcher has seen {seen} events, the status shows {head}"));
        }
    }
}

/// Checks that a follower that waits at the head sees the last event.
pub(super) async fn follower(world: &World, up: &Up) {
    let Engine::FanOut(log) = &up.engine else { return };
    let Some(head) = log.status().head else { return };
    let mut events = log.follow(ReadFrom::At(head));
    let last = world.lock().log(Store::Primary).events.last().map(fact);
    let seen = timeout(Duration::from_secs(5), async {
        loop {
            match events.next().await {
                Some(Ok(event)) if Some(fact(&event)) == last => return Ok(()),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error.to_string()),
                None => return Err("it ended".to_owned()),
            }
        }
    });
    match seen.await {
        Ok(Ok(())) => {}
        Ok(Err(why)) => world.fail("follow", format!("a follower of a log that is well fails: {why}")),
        Err(_) => world.fail("follow", "a follower waits, and the log has a newer event"),
    }
}

/// Checks that no task is left once everything is closed and dropped.
pub(super) async fn no_task_left(system: &System, own: usize) {
    let world = &system.world;
    system.drop_all();
    // Late effects, calls that were slow, and journals of dead processes that resolve their last write.
    sleep(Duration::from_secs(150)).await;
    let alive = Handle::current().metrics().num_alive_tasks();
    // Work of a file log that died with its process never ends.
    if alive > own && world.lock().files.is_none() {
        world.fail("task", format!("closed and dropped, and {} tasks are alive", alive - own));
    }
    let held = system.process().held.events();
    if held > 0 {
        world.fail("memory", format!("closed and dropped, and {held} events are in memory"));
    }
}
