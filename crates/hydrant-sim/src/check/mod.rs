//! The checkers. Each names itself, so that the minimiser keeps the failure that was found.
//!
//! `world/sink.rs` checks what a sink is given, where the sink takes it.

mod end;
mod lag;
mod quiet;

use std::ops::RangeInclusive;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hydrant::{Error, ErrorKind, Event, EventId, FanOutStatus, ReadFrom, Result, Retry, SecondaryState};

use tokio::time::Instant;

use crate::actors::system::{Folded, Up};
use crate::plan::{Broken, SinkKind, Store, Topology};
use crate::world::truth::{Fact, fact};
use crate::world::{State, World};

pub use end::settle;
pub use lag::{lag, stale};

/// How long a sink may be shown as live while an event waits for it.
const LIVE_LAG_MAX: Duration = Duration::from_secs(2);

/// What was acknowledged is in the primary, durably if the primary promises that.
pub fn acknowledged(world: &World, facts: impl IntoIterator<Item = Fact>) {
    world.with(|state| {
        let durable = state.config.accepts_ms.is_none();
        for fact in facts {
            if state.truth.lost.contains(&fact) {
                continue;
            }
            let is_overwritten = state.is_overwritten;
            if is_overwritten || (state.was_damaged && !durable) {
                continue;
            }
            if !state.truth.is_committed(fact) {
                state.fail(
                    "acknowledged",
                    format!("event n={fact} was acknowledged and is not in the primary"),
                );
            } else if durable && !state.truth.is_durable(fact) {
                state.fail("acknowledged", format!("event n={fact} was acknowledged and is not durable"));
            }
            state.truth.acknowledged.insert(fact);
            state.acknowledged_at.insert(fact, Instant::now());
        }
    });
}

/// What a log acknowledges follows what it acknowledged before. Once its primary lost that, the log takes no append.
///
/// `epoch` is that of the primary when the append began. The next append sees a copy that takes over during this one.
pub fn continues(world: &World, up: &Up, epoch: u64, facts: &[Fact]) {
    let (Some(first), Some(last)) = (facts.first(), facts.last()) else { return };
    world.with(|state| {
        let is_comparable = state.config.accepts_ms.is_none() && state.logs[&Store::Primary].epoch == epoch;
        if !is_comparable || state.is_contested() || state.was_damaged || state.truth.lost.contains(last) {
            return;
        }
        let before = up.replace_acknowledged(*last);
        if let Some(before) = before.filter(|before| state.truth.id(*before) > state.truth.id(*last)) {
            up.replace_acknowledged(before); // another caller's append came after it
        }
        let before = if state.config.broken == Some(Broken::IsAnotherHistory) {
            before.map(|_| Fact::MAX)
        } else {
            before.filter(|before| state.truth.id(*before) < state.truth.id(*first))
        };
        if let Some(before) = before.filter(|before| !state.truth.follows(*first, *before)) {
            let message =
                format!("n={first} was acknowledged, and does not follow n={before}, acknowledged before");
            state.fail("continues", message);
        }
    });
}

/// The ids that a journal returned belong to the events that were appended.
pub fn ids(world: &World, ids: &RangeInclusive<EventId>, facts: &[Fact]) {
    world.with(|state| {
        for (id, expected) in (ids.start().get()..=ids.end().get()).zip(facts) {
            let found = state.log(Store::Primary).event(EventId::new(id)).map(fact);
            // What was only accepted goes with files that are replaced.
            if state.was_damaged && state.config.accepts_ms.is_some() {
                continue;
            }
            if found.is_some_and(|found| found != *expected) && !state.truth.lost.contains(expected) {
                state.fail(
                    "ids",
                    format!("the journal returned id {id} for n={expected}, which is n={found:?}"),
                );
            }
        }
    });
}

/// An event that a follower sees is durable, and comes right after the one that it saw last.
pub fn seen(world: &World, before: Option<Option<Fact>>, event: &Event) {
    world.with(|state| {
        let fact = fact(event);
        if !state.truth.is_durable(fact) && !state.is_below_lost_floor(event) {
            state.fail(
                "early",
                format!("a follower sees event {} (n={fact}) before it is durable", event.id()),
            );
        }
        let parent = state.truth.parent(fact, |_| true);
        let joins = |before: Option<Fact>| {
            state.is_contested() || state.is_overwritten && state.truth.have_one_id(before, parent)
        };
        if let Some(before) = before.filter(|before| *before != parent && !joins(*before)) {
            let message = format!(
                "a follower sees n={fact} behind n={before:?}, the primary has it behind n={parent:?}"
            );
            state.fail("follow", message);
        }
    });
}

/// A follower of a log that no longer has the event it returned last ends with an error, and does not wait in silence.
pub fn not_silent(world: &World, seen: Option<Fact>) {
    world.with(|state| {
        let (Some(files), Some(seen)) = (&state.files, seen) else { return };
        // A segment that goes behind a follower is no matter of its place.
        let gone = state.gone.get(&seen).filter(|_| !files.misses_segment).map(Instant::elapsed);
        if let Some(gone) = gone.filter(|gone| *gone > files.silence_max()) {
            state.fail(
                "follow",
                format!("n={seen} is gone for {gone:?}, and a follower that returned it waits"),
            );
        }
    });
}

/// The first event that a follower yields is the one right behind where it begins.
pub fn seen_first(world: &World, from: ReadFrom, event: &Event) {
    seen(world, None, event);
    world.with(|state| {
        let fact = fact(event);
        let parent = state.truth.parent(fact, |_| true);
        let before = parent.and_then(|parent| state.truth.id(parent));
        let begins = match from.exclusive() {
            ReadFrom::Origin | ReadFrom::At(_) => parent.is_none(),
            ReadFrom::Snapshot => parent.is_none() || event.is_snapshot(),
            ReadFrom::After(id) => before <= Some(id) && Some(event.id()) > Some(id),
        };
        if !begins && state.truth.lost.is_empty() {
            state.fail(
                "follow",
                format!("a follower from {from:?} begins with n={fact}, behind n={parent:?}"),
            );
        }
    });
}

/// After an error that says that nothing was applied, the events are never in the log.
pub fn refused<T>(world: &World, result: &Result<T>, facts: impl IntoIterator<Item = Fact>) {
    if !matches!(result, Err(error) if error.retry() == Retry::Safe) {
        return;
    }
    world.with(|state| {
        for fact in facts {
            if state.truth.is_committed(fact) {
                state.fail(
                    "refused",
                    format!("event n={fact} is in the log, and its caller heard that it is not"),
                );
            }
            state.truth.refused.insert(fact);
        }
    });
}

/// A log takes no other event in the place of one that it has published, or of the one that it acknowledged last. Its
/// primary has lost that one.
pub fn is_new<T>(world: &World, published: Option<EventId>, first: EventId, appended: &Result<T>) {
    let is_broken = world.is_broken(Broken::IdsComeAgain);
    if appended.is_ok() && Some(first) <= published.or(is_broken.then_some(first)) {
        world.fail(
            "new",
            format!("event {first} was appended, and the log had acknowledged up to {published:?}"),
        );
    }
}

/// An append without a deadline has a known outcome, or the log has stopped.
pub fn resolved(world: &World, result: &Result<()>, has_stopped: bool) {
    let Err(error) = result else { return };
    let is_open = error.retry() == Retry::AfterCheckpoint && error.kind() != ErrorKind::Gap;
    if is_open && !has_stopped {
        world.fail("resolved", format!("the outcome of an append is open, and the log takes more: {error}"));
    }
}

/// A journal is fenced only by another writer.
pub fn is_the_only_writer<T>(world: &World, up: &Up, result: &Result<T>) {
    let Err(error) = result else { return };
    let is_unsure = up.journal_is_unsure.load(Ordering::SeqCst);
    world.with(|state| {
        // The store takes damage from outside for another writer.
        let is_intact = !state.truth.has_lost_since(up.opened_at) && !state.was_damaged;
        let was_alone = is_intact && !state.roster_is_unsure && !is_unsure;
        if error.kind() == ErrorKind::Fenced && was_alone {
            state.fail("alarm", format!("the journal was fenced, and no other writer wrote: {error}"));
        }
    });
}

/// A read yields one history, in order, without a hole.
pub fn read(world: &World, events: &[Event]) {
    world.with(|state| {
        for pair in events.windows(2) {
            let parent = state.truth.parent(fact(&pair[1]), |_| true);
            if parent != Some(fact(&pair[0])) {
                let message = format!(
                    "a read yields n={} behind n={}, not behind n={parent:?}",
                    fact(&pair[1]),
                    fact(&pair[0])
                );
                state.fail("read", message);
            }
        }
    });
}

/// A fold from the newest snapshot gives the same state as one over the whole history.
pub fn hydrated(world: &World, folded: Folded, head: Option<EventId>) {
    world.with(|state| {
        let newest = head.and_then(|head| state.log(Store::Primary).event(head).map(fact));
        let mut expected = Folded::default();
        if let Some(newest) = newest {
            state.truth.history(newest).into_iter().for_each(|n| expected.count(n));
        }
        // A copy may replace accepted events, or those of a rival, while the snapshot of their state is on its way.
        let was_accepted = state.config.accepts_ms.is_some() && !state.truth.lost.is_empty();
        let was_replaced = was_accepted || state.is_contested();
        if (newest.is_some() || head.is_none()) && !was_replaced && !state.was_damaged && folded != expected {
            state.fail("fold", format!("hydrate gives {folded:?} at {head:?}, the whole log {expected:?}"));
        }
    });
}

/// What the primary has is shown, also after an unknown outcome and without another append.
pub fn is_published(world: &World, status: &FanOutStatus) {
    world.with(|state| {
        let durable = state.log(Store::Primary).durable_id();
        if status.stopped.is_none() && !state.was_damaged && !state.roster_is_unsure && status.head < durable
        {
            let head = status.head;
            state.fail("publish", format!("the primary has {durable:?}, and the head is shown as {head:?}"));
        }
    });
}

/// A log stops as `Diverged` only if its primary lost something.
pub fn stopped(world: &World, up: &Up, error: &Error) {
    world.with(|state| {
        if error.kind() == ErrorKind::Diverged && !state.truth.has_lost_since(up.opened_at) {
            state.fail("alarm", format!("the log stopped, and nothing was lost: {error}"));
        }
    });
}

/// `delivered` returns `Ok` only if each attached sink has the event.
pub fn delivered(world: &World, status: &FanOutStatus, head: EventId) {
    world.with(|state| {
        for secondary in &status.secondaries {
            let Some(sink) = crate::world::sink_of(&secondary.name) else { continue };
            let facts = &state.sinks[usize::from(sink)];
            let is_whole = state.is_exact(sink);
            let is_attached = is_whole && secondary.state != SecondaryState::Detached;
            if is_attached && !facts.shaken && !facts.left && facts.acknowledged < Some(head) {
                let message = format!(
                    "event {head} counts as delivered, and {} is at {:?}",
                    secondary.name, facts.acknowledged
                );
                state.fail("delivered", message);
            }
        }
    });
}

/// Every name in the roster is to be seen, also after a `detach` that failed.
pub fn roster_is_shown(world: &World, up: &Up, status: &FanOutStatus) {
    if up.busy.load(Ordering::SeqCst) > 0 {
        return;
    }
    world.with(|state| {
        let names: Vec<String> = state.rosters[&Store::Roster].keys().cloned().collect();
        for name in names {
            let is_shown = status.secondaries.iter().any(|secondary| secondary.name == name);
            if !is_shown && !state.roster_is_unsure {
                state.fail("status", format!("{name} is in the roster and not in the status"));
            }
        }
    });
}

/// The status is true.
pub fn status(world: &World, status: &FanOutStatus) {
    world.with(|state| {
        if status.head > state.durable_max {
            let (head, durable) = (status.head, state.durable_max);
            state.fail("status", format!("the head is shown as {head:?}, durable is {durable:?}"));
        }
        state.see(status);
        for secondary in &status.secondaries {
            let Some(sink) = crate::world::sink_of(&secondary.name) else { continue };
            let config = state.config.sinks[usize::from(sink)].clone();
            let facts = &state.sinks[usize::from(sink)];
            // At its floor, a sink has acknowledged nothing yet.
            let has_begun = secondary.floor <= secondary.checkpoint;
            let ahead = has_begun && secondary.checkpoint > facts.acknowledged;
            let is_live = secondary.state == SecondaryState::Live;
            // Events that a wrapper does not give its sink count as delivered.
            let is_whole = config.is_exact();
            let acknowledged = facts.acknowledged;
            let is_known = !facts.shaken && is_whole;
            if ahead && is_known && secondary.state != SecondaryState::Detached {
                let message = format!(
                    "{} is shown at {:?}, it has {acknowledged:?}",
                    secondary.name, secondary.checkpoint
                );
                state.fail("status", message);
            }
            // A relay that has read nothing yet has its head right before the floor of its sink.
            let begins = !has_begun && secondary.checkpoint == status.head;
            if is_live && secondary.lag_events == 0 && is_known && !begins && acknowledged < status.head {
                let message = format!(
                    "{} is shown as live without lag, it has {acknowledged:?} of {:?}",
                    secondary.name, status.head
                );
                state.fail("status", message);
            }
            let end = state.logs[&Store::Primary].events.last().map(Event::id);
            let is_ahead = secondary.checkpoint > end && status.head <= end && config.is_exact();
            // While an append hangs, the primary is not compared.
            let is_unseen = state.truth.has_just_lost(Duration::from_millis(2 * state.config.call_ms));
            if is_live && is_ahead && !is_unseen && !state.roster_is_unsure && is_durable_fan_out(state) {
                let (name, at, head) = (&secondary.name, secondary.checkpoint, status.head);
                state
                    .fail("live", format!("{name} is shown as live at {at:?}, and the log ends at {head:?}"));
            }
            let slow = LIVE_LAG_MAX + Duration::from_millis(config.linger_ms);
            if is_live && secondary.lag > slow {
                let message = format!("{} is shown as live, and lags by {:?}", secondary.name, secondary.lag);
                state.fail("live", message);
            }
        }
    });
}

/// The head of a relay is the newest event that it has read, which a sink may have from before. A pump that reads a primary that accepts
/// first may be ahead of what is published.
fn is_durable_fan_out(state: &State) -> bool {
    state.config.topology != Topology::Relay && state.config.accepts_ms.is_none()
}

/// After `detach`, no pump holds a sink that was attached before it.
pub fn no_handle_left(world: &World, up: &Up, sink: u8, round: u32) {
    let is_nested = world.lock().kind(sink) == SinkKind::Nested;
    let handles = up.tokens.alive(sink, round);
    if up.busy.load(Ordering::SeqCst) == 0 && !is_nested && handles > 0 {
        world.fail("leak", format!("detached, and {handles} handles of sink{sink} are alive"));
    }
}

/// After `close`, no pump holds a sink. (What a nested fan-out holds ends a moment later.)
pub fn no_handles_left(world: &World, up: &Up) {
    for (sink, handles) in up.tokens.all_alive() {
        let is_nested = world.lock().kind(sink) == SinkKind::Nested;
        let is_busy = up.busy.load(Ordering::SeqCst) > 0;
        if !is_busy && handles > 0 && !is_nested {
            world.fail("leak", format!("closed, and {handles} handles of sink{sink} are alive"));
        }
    }
}
