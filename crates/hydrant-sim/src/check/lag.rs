//! The numbers of a status, compared with the log that they are about.

use std::time::Duration;

use hydrant::{Error, ErrorKind, EventId, FanOutStatus, SecondaryState, SecondaryStatus};
use tokio::time::Instant;

use crate::actors::system::Up;
use crate::plan::{SinkKind, Store, Topology};
use crate::world::truth::fact;
use crate::world::{State, World};

/// Times of publication are kept in steps of a few milliseconds.
const TOLERANCE: Duration = Duration::from_millis(20);

/// Checks the lag in events and in time, and the states that follow from it.
pub fn lag(world: &World, up: &Up, topology: Topology, status: &FanOutStatus) {
    world.with(|state| {
        let was_lost = state.truth.has_ever_lost();
        for secondary in &status.secondaries {
            let is_attached = secondary.state != SecondaryState::Detached;
            if let Some(wrong) = wrong_count(state, status.head, secondary).filter(|_| !was_lost) {
                state.fail("lag", wrong);
            }
            if let Some(wrong) =
                wrong_age(state, up, topology, secondary).filter(|_| !was_lost && is_attached)
            {
                state.fail("lag", wrong);
            }
            if let Some(sink) = crate::world::sink_of(&secondary.name) {
                check_state(state, up, sink, secondary);
            }
        }
    });
}

/// Checks the count: exact within the ring, and below it an upper bound by ids.
fn wrong_count(state: &State, head: Option<EventId>, secondary: &SecondaryStatus) -> Option<String> {
    let log = &state.logs[&Store::Primary];
    let lag = secondary.lag_events;
    let (from, to) = (log.behind(secondary.checkpoint), log.behind(head));
    let least = to.saturating_sub(from) as u64;
    let ids = |id: Option<EventId>| id.map_or(0, |id| id.get() + 1);
    let most = ids(head).saturating_sub(ids(secondary.checkpoint));
    (lag < least || lag > most).then(|| {
        format!(
            "{} at {:?} is shown to lag by {lag} events of {head:?}, it misses {least} to {most}",
            secondary.name, secondary.checkpoint
        )
    })
}

/// Checks the age of the oldest event that is missing.
fn wrong_age(state: &State, up: &Up, topology: Topology, secondary: &SecondaryStatus) -> Option<String> {
    let log = &state.logs[&Store::Primary];
    // An event that was pruned is missing too.
    if secondary.lag_events == 0 || secondary.checkpoint < log.after {
        return None;
    }
    let missing = log.events.get(log.behind(secondary.checkpoint))?;
    let now = Instant::now();
    let age = state.durable_at(missing.id()).map(|at| now.duration_since(at));
    let oldest = age.map_or(Duration::MAX, |age| age + TOLERANCE);
    // An opening that acknowledged the event has published it; a foreign writer has not.
    let acknowledged = state
        .acknowledged_at
        .get(&fact(missing))
        .filter(|at| **at >= up.opened_at && !state.roster_is_unsure);
    let youngest = acknowledged.filter(|_| topology != Topology::Relay && state.config.accepts_ms.is_none());
    let youngest = youngest.map_or(Duration::ZERO, |at| now.duration_since(*at));
    (secondary.lag > oldest || secondary.lag + TOLERANCE < youngest).then(|| {
        format!(
            "{} misses event {} for {youngest:?} to {oldest:?}, and is shown to lag by {:?}",
            secondary.name,
            missing.id(),
            secondary.lag
        )
    })
}

fn check_state(state: &mut State, up: &Up, sink: u8, secondary: &SecondaryStatus) {
    let config = &state.config.sinks[usize::from(sink)];
    let batch = config.batch_events.max(1) as u64;
    if secondary.state == SecondaryState::Live && secondary.lag_events > batch {
        let lag = secondary.lag_events;
        state.fail("live", format!("{} is shown as live, and lags by {lag} events", secondary.name));
    }
    if let Some(wrong) = false_alarm(state, up, sink, secondary) {
        state.fail("alarm", wrong);
    }
    let parked = secondary.last_error.as_ref().filter(|_| secondary.state == SecondaryState::Parked);
    if let Some(wrong) = parked.and_then(|error| before_poison(state, sink, error)) {
        state.fail("poison", wrong);
    }
}

/// A secondary parks as `Diverged` only if it or the primary lost something.
fn false_alarm(state: &State, up: &Up, sink: u8, secondary: &SecondaryStatus) -> Option<String> {
    let error = secondary.last_error.as_ref().filter(|error| error.kind() == ErrorKind::Diverged)?;
    // A source that ends early is a log that is shorter than it was.
    let ended = state.has_ended_early();
    let is_relay = state.config.topology == Topology::Relay || state.roster_is_unsure;
    let shaken = state.sinks[usize::from(sink)].shaken || state.truth.has_lost_since(up.opened_at);
    let has_reason = shaken || is_relay && ended || state.kind(sink) == SinkKind::Nested;
    (!has_reason && secondary.state == SecondaryState::Parked)
        .then(|| format!("{} has diverged, and nothing was lost: {error}", secondary.name))
}

/// A sink that parks at an event has everything before it.
fn before_poison(state: &State, sink: u8, error: &Error) -> Option<String> {
    let facts = &state.sinks[usize::from(sink)];
    let is_sure = !facts.shaken && state.truth.lost.is_empty() && state.kind(sink) == SinkKind::Picky;
    let id = error.event().filter(|_| is_sure && error.kind() == ErrorKind::Invalid)?;
    let poison = state.logs[&Store::Primary].event(id).map(fact)?;
    let newest = state.logs[&Store::Sink(sink)].events.last().map(fact);
    let before = state.truth.parent(poison, |_| true);
    // It was cured and took the event: from this pump, which was parked before it heard the reply, or from the pump of
    // another fan-out.
    let took_it = |newest| newest == poison || state.truth.follows(newest, poison);
    let has_it = facts.cured && newest.is_some_and(took_it);
    (newest != before && !has_it).then(|| {
        format!("sink{sink} is parked at event {id} (n={poison}), and its newest is n={newest:?}, not n={before:?}")
    })
}

/// A primary that every sink contradicts is shown as stale.
pub fn stale(world: &World, up: &Up, status: &FanOutStatus) {
    let mut attached =
        status.secondaries.iter().filter(|one| one.state != SecondaryState::Detached).peekable();
    let is_diverged = |one: &SecondaryStatus| {
        let error = one.last_error.as_ref().map(Error::kind);
        one.state == SecondaryState::Parked && error == Some(ErrorKind::Diverged)
    };
    // A sink that lost events may be the one at fault.
    let has_forgotten = world.lock().sinks.iter().any(|sink| sink.shaken);
    if attached.peek().is_some() && attached.all(is_diverged) && status.stale.is_none() && !has_forgotten {
        world.fail("stale", "every sink contradicts the primary, and the status does not say so");
    }
    if status.stale.is_some() && !has_forgotten {
        let state = world.lock();
        // A source that ends early is a log that is shorter than it was.
        let has_changed = state.truth.has_lost_since(up.opened_at) || state.has_ended_early();
        drop(state);
        if !has_changed {
            world.fail("stale", "the status says that the primary is stale, and nothing was lost");
        }
    }
}
