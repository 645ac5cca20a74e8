//! The end of a run: faults stop, operators resume what can be resumed, and everything must arrive.

use std::sync::Arc;
use std::time::Duration;

use hydrant::{ErrorKind, EventId, FanOutStatus, SecondaryState, SecondaryStatus};
use tokio::time::{Instant, sleep};

use crate::actors::system::{Engine, Up, name};
use crate::actors::{Actor, System};
use crate::plan::{Act, Op, SinkKind, Start, Store, Topology};
use crate::world::sink::keeps;
use crate::world::truth::fact;
use crate::world::{State, World};

/// The id of the operations that the end makes.
const LAST_OP: u32 = 9_000;
/// The id of the append just before the last `close`.
const CLOSE_OP: u32 = LAST_OP + LAST_APPENDS_MAX;
/// The id of the append before a relay to the end.
const RELAY_OP: u32 = CLOSE_OP + 1;
/// The time-out of the last `close`: more than healthy sinks need, and less than the longest linger time.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(4);
/// Tasks of the simulator: the one that opens the program again.
const OWN_TASKS: usize = 1;
/// More events than a failover loses, so that a log that lost some grows past its old head.
const LAST_EVENTS: u8 = 12;
/// Appends of the end, at most: more than a source needs that was emptied.
const LAST_APPENDS_MAX: u32 = 500;
/// How many of them may fail.
const LAST_FAILURES_MAX: u32 = 6;

/// Heals the world, lets the program recover, and checks what has arrived.
pub async fn settle(system: Arc<System>) {
    let world = system.world.clone();
    world.heal();
    sleep(Duration::from_secs(1)).await;
    system.bury();
    let up = system.up().await;
    if system.topology != Topology::Relay {
        sleep(Duration::from_secs(30)).await;
        crate::check::is_published(&world, &system.shown(up.engine.status()));
    }
    // The secondary of a nested fan-out that parked is resumed by opening it again.
    let is_nested = world.lock().config.sinks.iter().any(|sink| sink.kind == SinkKind::Nested);
    if is_nested || up.engine.status().stopped.is_some() {
        system.reopen(up, true).await;
    } else {
        drop(up);
    }
    let sinks = u8::try_from(world.lock().config.sinks.len()).unwrap_or(u8::MAX);
    if !append_last(&system).await {
        return;
    }
    let until = Instant::now() + system.bounds.recovery;
    let mut reopens = u32::from(is_nested);
    loop {
        let up = system.up().await;
        if let Some(stopped) = up.engine.status().stopped {
            crate::check::stopped(&world, &up, &stopped);
            if Instant::now() > until {
                // Files that were damaged are so for all who read them, also for a relay.
                if !world.lock().was_damaged {
                    world.fail("deliver", format!("the log stops each time it is opened: {stopped}"));
                }
                return;
            }
            system.reopen(up, true).await;
            sleep(Duration::from_secs(1)).await;
            continue;
        }
        attach_and_resume(&system, &up, sinks).await;
        sleep(Duration::from_secs(2)).await;
        let missing = missing(&world, &up.engine.status());
        if missing.is_empty() {
            break;
        }
        if reopens > 0 && Instant::now() + system.bounds.recovery / 2 > until {
            reopens -= 1;
            system.reopen(up, true).await;
            continue;
        }
        if Instant::now() > until {
            let status = up.engine.status();
            world.fail(
                "deliver",
                format!("{}; head {:?}, {:?}", named(&missing), status.head, status.secondaries),
            );
            return;
        }
    }
    let up = system.up().await;
    super::quiet::idle(&world, &up).await;
    super::quiet::follower(&world, &up).await;
    drop(up);
    if system.topology == Topology::Relay {
        relay_to_the_end(&system).await;
    }
    close_with_work_left(&system).await;
    super::quiet::no_task_left(&system, OWN_TASKS).await;
}

/// Checks that a relay that does not follow delivers what was written while its sinks were parked, and ends by itself.
async fn relay_to_the_end(system: &Arc<System>) {
    let (world, up) = (&system.world, system.up().await);
    for secondary in up.engine.status().secondaries {
        drop(up.engine.park(&secondary.name));
    }
    let act = Act::Append { events: LAST_EVENTS, bytes: 1, gaps: true };
    Actor::new(system.clone()).step(&Op { id: RELAY_OP, actor: 99, act, patience: None }).await;
    world.lock().relay_ends = true;
    system.reopen(up, true).await;
    world.lock().relay_ends = false;
    let up = system.up().await;
    let Engine::Relay(relay) = &up.engine else { return };
    let finished = system.bounds.within(world, "finished", system.bounds.recovery, relay.finished()).await;
    let missing = missing(world, &up.engine.status());
    // What a nested fan-out took is on its way to its secondary.
    let is_nested = |sink: u8| world.lock().kind(sink) == SinkKind::Nested;
    let missing: Vec<_> = missing.into_iter().filter(|sink| !is_nested(*sink)).collect();
    let is_damaged = world.lock().was_damaged;
    match finished {
        Some(Ok(_)) if !missing.is_empty() => {
            world.fail("deliver", format!("a relay to the end has finished, and {}", named(&missing)));
        }
        Some(Err(error)) if !is_damaged => {
            world.fail("deliver", format!("a relay to the end of a whole log fails: {error}"));
        }
        _ => {}
    }
    system.reopen(up, true).await;
    let up = system.up().await;
    let sinks = u8::try_from(world.lock().config.sinks.len()).unwrap_or(u8::MAX);
    attach_and_resume(system, &up, sinks).await;
    sleep(Duration::from_secs(2)).await;
}

/// Checks that a `close` with enough time delivers what was just acknowledged.
async fn close_with_work_left(system: &Arc<System>) {
    let up = system.up().await;
    crate::check::status(&system.world, &up.engine.status());
    let act = Act::Append { events: LAST_EVENTS, bytes: 1, gaps: false };
    Actor::new(system.clone()).step(&Op { id: CLOSE_OP, actor: 99, act, patience: None }).await;
    let head = up.engine.status().head;
    let laggards = system.close(&up, CLOSE_TIMEOUT).await;
    // A nested fan-out may wait for a secondary of its own.
    let state = system.world.lock();
    // All wait for the rest of a log that was replaced by a shorter one.
    if state.was_damaged && head > state.logs[&Store::Primary].head().id() {
        return;
    }
    let is_excused = |laggard: &hydrant::Laggard| {
        let kind = crate::world::sink_of(&laggard.name).map(|sink| state.kind(sink));
        laggard.state == SecondaryState::Parked || kind == Some(SinkKind::Nested)
    };
    let late = laggards.iter().find(|laggard| !is_excused(laggard)).cloned();
    drop(state);
    if let Some(laggard) = late {
        system.world.fail("close", format!("{CLOSE_TIMEOUT:?} were enough, and {laggard}"));
    }
}

/// Appends the last events, which must be acknowledged once the log that stopped is open again.
async fn append_last(system: &Arc<System>) -> bool {
    let mut actor = Actor::new(system.clone());
    let mut failures = 0;
    for attempt in 0..LAST_APPENDS_MAX {
        let id = LAST_OP + attempt;
        actor
            .step(&Op {
                id,
                actor: 99,
                act: Act::Append { events: LAST_EVENTS, bytes: 1, gaps: false },
                patience: None,
            })
            .await;
        let last = crate::actors::facts(id, LAST_EVENTS)[0];
        if system.world.with(|state| state.truth.is_committed(last)) {
            // A source that was restored from a backup grows past what it had: until then it may be a standby.
            let is_short = |state: &mut State| state.logs[&Store::Primary].durable_id() < state.durable_max;
            if system.topology == Topology::Relay && system.world.with(is_short) {
                continue;
            }
            return true;
        }
        failures += 1;
        if failures == LAST_FAILURES_MAX {
            break;
        }
        // A sink that waits for what the primary lost may hold back appends: its operator parks it.
        let up = system.up().await;
        let status = up.engine.status();
        for secondary in status.secondaries {
            drop(up.engine.park(&secondary.name));
            // Or it belongs to the history that the primary lost.
            if status.stale.is_some() && system.world.lock().config.stop_if_stale {
                drop(up.engine.detach(&secondary.name).await);
            }
        }
        sleep(Duration::from_secs(1)).await;
    }
    system.world.fail("append", "no append succeeds once the faults have stopped");
    false
}

async fn attach_and_resume(system: &System, up: &Up, sinks: u8) {
    let status = up.engine.status();
    for sink in 0..sinks {
        let name = name(sink);
        let shown = status.secondaries.iter().find(|secondary| secondary.name == name);
        match shown.map(|secondary| secondary.state) {
            None | Some(SecondaryState::Detached) => {
                system.want(sink, true);
                if let Err(error) = system.attach(up, sink).await {
                    system.world.note(|| format!("     cannot attach {name}: {error}"));
                }
            }
            Some(SecondaryState::Parked) => drop(up.engine.resume(&name)),
            // An operator cuts short a pause that is too long.
            Some(SecondaryState::Retrying) => {
                drop(up.engine.park(&name));
                tokio::task::yield_now().await;
                drop(up.engine.resume(&name));
            }
            Some(_) => {}
        }
    }
}

fn named(missing: &[u8]) -> String {
    let names: Vec<_> =
        missing.iter().map(|sink| format!("{} does not have everything", name(*sink))).collect();
    names.join("; ")
}

/// The sinks that do not have everything, and have no excuse.
fn missing(world: &World, status: &FanOutStatus) -> Vec<u8> {
    let mut state = world.lock();
    let mut missing = Vec::new();
    for sink in 0..state.sinks.len() {
        let sink = u8::try_from(sink).unwrap_or(u8::MAX);
        let name = name(sink);
        let shown = status.secondaries.iter().find(|secondary| secondary.name == name);
        let position = shown.and_then(|shown| shown.checkpoint);
        if !has_all(&mut state, sink, position)
            && !shown.is_some_and(|shown| is_excused(&state, sink, shown, status.head))
        {
            missing.push(sink);
        }
    }
    missing
}

fn has_all(state: &mut State, sink: u8, position: Option<EventId>) -> bool {
    let kind = state.kind(sink);
    let head = state.logs[&Store::Primary].head().id();
    match state.config.sinks[usize::from(sink)].start {
        Some(Start::After(id)) if head <= Some(EventId::new(id)) => return true,
        // Where it began is known only to the log.
        Some(Start::Head) => return position >= head,
        _ => {}
    }
    let last = state.logs[&Store::Primary].events.iter().rev().map(fact).find(|fact| keeps(kind, *fact));
    let newest = match kind {
        SinkKind::Forgetful => {
            return last.is_none_or(|last| state.sinks[usize::from(sink)].held.contains(&last));
        }
        _ => state.logs[&Store::Sink(sink)].events.last().map(fact),
    };
    newest == last
}

/// A sink that an operator has to rebuild, and that says so.
fn is_excused(state: &State, sink: u8, shown: &SecondaryStatus, head: Option<EventId>) -> bool {
    let facts = &state.sinks[usize::from(sink)];
    let lost = !state.truth.lost.is_empty();
    if state.kind(sink) == SinkKind::Nested && (lost || facts.forgot) {
        return true; // its own secondary diverged, which the outer status does not show
    }
    // It waits for the rest of a log that was replaced by a shorter one.
    if state.was_damaged && shown.checkpoint.max(head) > state.logs[&Store::Primary].head().id() {
        return true;
    }
    let Some(error) = shown.last_error.as_ref().filter(|_| shown.state == SecondaryState::Parked) else {
        return false;
    };
    let forgetful = state.kind(sink) == SinkKind::Forgetful;
    match error.kind() {
        // Files that were damaged are so for all who read them.
        ErrorKind::Corrupt => state.was_damaged,
        ErrorKind::Diverged | ErrorKind::Fenced => lost || facts.forgot,
        // A sink without a memory begins at the origin each time.
        ErrorKind::Pruned { .. } => {
            let may_be_pruned = state.config.retain_bytes.is_some() || state.was_damaged;
            forgetful || facts.left || facts.forgot || lost || may_be_pruned
        }
        _ => false,
    }
}
