//! Draws the faults of a plan.

use fastrand::Rng;

use super::generate::pick;
use super::{Call, Config, Effect, Fault, SinkKind, Site, Store, Topology};

pub(super) fn faults(rng: &mut Rng, config: &Config, dies: bool) -> Vec<Fault> {
    let count = if rng.u8(..10) == 0 { 0 } else { rng.u32(6..26) };
    // A run with every kind of loss at once shows little: most runs have one or two kinds.
    // With `retain_bytes`, the event that histories are compared by may be pruned.
    let disasters = if config.retain_bytes.is_some() { 0 } else { pick(rng, &[0_u8, 0, 8, 25]) };
    let mut faults: Vec<Fault> = (0..count)
        .map(|id| {
            let site = site(rng, config);
            let nth = match site.call {
                Call::Load | Call::List | Call::Prune | Call::Open | Call::Head => rng.u32(..14),
                _ => rng.u32(..70),
            };
            let effect = if rng.u8(..100) < disasters { disaster(rng, site, config) } else { None };
            let effect = effect.unwrap_or_else(|| ordinary(rng, site, dies));
            Fault { id, site, nth, effect }
        })
        .collect();
    for (site, effect) in themed(rng, config, dies) {
        let id = u32::try_from(faults.len()).unwrap_or(u32::MAX);
        let nth = rng.u32(
            ..match (site.store, site.call, effect) {
                (Store::Sink(_), _, Effect::Late { .. }) => 4,
                (_, Call::Checkpoint, _) => 12,
                _ => 40,
            },
        );
        faults.push(Fault { id, site, nth, effect });
    }
    faults
}

/// Adds faults of one kind in the seeds that have a theme, so that rare combinations become frequent.
fn themed(rng: &mut Rng, config: &Config, dies: bool) -> Vec<(Site, Effect)> {
    let primary = |call| Site { store: Store::Primary, call };
    let roster = |call| Site { store: Store::Roster, call };
    let calls: &[Call] = match config.topology {
        Topology::Relay => &[Call::Read],
        _ => &[Call::Append, Call::Append, Call::Checkpoint, Call::Read],
    };
    let events = pick(rng, &[1, 2, 5, 12]);
    let ms = pick(rng, &[20, 300, 2_000]);
    match rng.u8(..10) {
        // The primary fails over.
        0..2 if config.retain_bytes.is_none() => {
            let effects = [Effect::Lose { events }, Effect::Fork { events }, Effect::Restore];
            (0..rng.u8(1..4)).map(|_| (primary(pick(rng, calls)), pick(rng, &effects))).collect()
        }
        // Outcomes of writes are unknown, and refusals follow.
        2 if config.topology != Topology::Relay => {
            let effects = [
                Effect::Fail,
                Effect::FailAfter,
                Effect::Late { ms },
                Effect::Refuse,
                Effect::RefuseLate { ms },
                Effect::RefuseLate { ms },
                Effect::HangAfter,
            ];
            let writes = (0..12).map(|_| (primary(Call::Append), pick(rng, &effects))).collect::<Vec<_>>();
            // And the primary fails over before the outcome is known.
            let forks = if config.retain_bytes.is_none() { rng.usize(..4) } else { 0 };
            let fork = (primary(Call::Checkpoint), Effect::Fork { events });
            writes.into_iter().chain(std::iter::repeat_n(fork, forks)).collect()
        }
        // The roster is slow.
        3 => {
            let calls = [Call::Load, Call::Swap, Call::Swap];
            let effects = [Effect::Slow { ms }, Effect::SlowAfter { ms }, Effect::Hang, Effect::Late { ms }];
            (0..10).map(|_| (roster(pick(rng, &calls)), pick(rng, &effects))).collect()
        }
        // Reads fail, and end early.
        4 => {
            let effects = [Effect::End, Effect::End, Effect::Fail, Effect::Panic, Effect::Slow { ms }];
            (0..14).map(|_| (primary(Call::Read), pick(rng, &effects))).collect()
        }
        // Sinks fail in every way.
        5 => {
            let sink = u8::try_from(rng.usize(..config.sinks.len())).unwrap_or_default();
            let site = Site { store: Store::Sink(sink), call: Call::Append };
            (0..14).map(|_| (site, ordinary(rng, site, dies))).collect()
        }
        // A sink takes events late, after the log that had them is lost.
        6 if config.topology != Topology::Relay && config.retain_bytes.is_none() => {
            let late = Effect::Late { ms: 300 };
            let filtered = config.sinks.iter().position(|sink| sink.kind == SinkKind::Filtered);
            let Some(sink) = filtered.and_then(|index| u8::try_from(index).ok()) else { return vec![] };
            let site = Site { store: Store::Sink(sink), call: Call::Append };
            let effects = [Effect::Restore, Effect::Lose { events: 12 }];
            let losses = (0..6).map(|_| (primary(pick(rng, calls)), pick(rng, &effects))).collect::<Vec<_>>();
            std::iter::repeat_n((site, late), 12).chain(losses).collect()
        }
        _ => vec![],
    }
}

fn site(rng: &mut Rng, config: &Config) -> Site {
    let index = rng.usize(..config.sinks.len());
    let sink = u8::try_from(index).unwrap_or_default();
    let inner = match config.sinks[index].kind {
        SinkKind::Nested => pick(rng, &[Store::Inner(sink), Store::InnerRoster(sink)]),
        SinkKind::Checkpointed | SinkKind::Filtered | SinkKind::Mapped => Store::Cell(sink),
        SinkKind::DeadLetter => pick(rng, &[Store::Cell(sink), Store::Dead(sink)]),
        _ => Store::Sink(sink),
    };
    let store = match rng.u8(..20) {
        0..6 => Store::Primary,
        6..9 => Store::Roster,
        9..13 => Store::Sink(sink),
        _ => inner,
    };
    let call = match store {
        Store::Primary if config.topology == Topology::Relay => Call::Read,
        Store::Primary => pick(
            rng,
            &[
                Call::Append,
                Call::Append,
                Call::Append,
                Call::Checkpoint,
                Call::Head,
                Call::Read,
                Call::Read,
                Call::Prune,
            ],
        ),
        Store::Inner(_) => pick(rng, &[Call::Append, Call::Append, Call::Checkpoint, Call::Read]),
        Store::Sink(_) | Store::Dead(_) => pick(rng, &[Call::Append, Call::Append, Call::Checkpoint]),
        Store::Roster | Store::InnerRoster(_) => pick(rng, &[Call::Load, Call::List, Call::Swap, Call::Swap]),
        Store::Cell(_) => pick(rng, &[Call::Load, Call::Swap, Call::Swap]),
    };
    Site { store, call }
}

/// Draws the effects by which stores lose events, where the code under test has to notice the loss.
fn disaster(rng: &mut Rng, site: Site, config: &Config) -> Option<Effect> {
    let events = pick(rng, &[1, 3, 9]);
    match (site.store, site.call) {
        (Store::Primary, Call::Append | Call::Checkpoint | Call::Read) => Some(pick(
            rng,
            &[Effect::Lose { events }, Effect::Lose { events }, Effect::Fork { events }, Effect::Restore],
        )),
        (Store::Sink(sink), Call::Append | Call::Checkpoint) => match config.sinks[usize::from(sink)].kind {
            SinkKind::Plain | SinkKind::Buffered | SinkKind::Checkpointed => {
                Some(pick(rng, &[Effect::Lose { events }, Effect::Forget]))
            }
            _ => None,
        },
        _ => None,
    }
}

fn ordinary(rng: &mut Rng, site: Site, dies: bool) -> Effect {
    let ms = pick(rng, &[1, 30, 400, 3_000]);
    let effects = [
        Effect::Refuse,
        Effect::Deny,
        Effect::Fail,
        Effect::FailAfter,
        Effect::Hang,
        Effect::HangAfter,
        Effect::Slow { ms },
        Effect::SlowAfter { ms },
        Effect::Late { ms },
        Effect::Panic,
        Effect::PanicAfter,
        Effect::Crash,
        Effect::CrashAfter,
    ];
    match (site.store, site.call) {
        (_, Call::Read) if rng.u8(..4) == 0 => Effect::End,
        (Store::Sink(_), Call::Append) if rng.u8(..10) == 0 => Effect::Partial,
        _ if !dies => pick(rng, &effects[..effects.len() - 2]),
        _ => pick(rng, &effects),
    }
}
