//! Makes a plan from a seed.

use fastrand::Rng;

use super::{
    Act, Begin, Call, Config, Effect, Fault, Op, Patience, Plan, SinkConfig, SinkKind, Site, Start, Store,
    Topology,
};

/// A pause that never ends by itself.
const HUGE_MS: u64 = 1 << 40;

const KINDS: [SinkKind; 11] = [
    SinkKind::Plain,
    SinkKind::Buffered,
    SinkKind::Forgetful,
    SinkKind::Checkpointed,
    SinkKind::Filtered,
    SinkKind::Mapped,
    SinkKind::DeadLetter,
    SinkKind::Picky,
    SinkKind::DeadLetter,
    SinkKind::Nested,
    SinkKind::Nested,
];

/// Makes the plan of a seed.
pub fn generate(seed: u64) -> Plan {
    let mut rng = Rng::with_seed(seed);
    let config = config(&mut rng);
    // A run without a death shows that no task is left at its end.
    let dies = rng.u8(..3) > 0;
    let ops = ops(&mut rng, &config, dies);
    let faults = faults(&mut rng, &config, dies);
    let mut plan = Plan { seed, config, ops, faults, disk_faults: Vec::new() };
    super::files::move_to_disk(&mut plan);
    plan
}

fn pick<T: Copy>(rng: &mut Rng, choices: &[T]) -> T {
    choices[rng.usize(..choices.len())]
}

fn config(rng: &mut Rng) -> Config {
    let topology = pick(
        rng,
        &[Topology::FanOut, Topology::FanOut, Topology::Journal, Topology::Journal, Topology::Relay],
    );
    let latency = pick(rng, &[0, 0, 10, 40, 90]);
    // A call of the world takes up to 8 ms, if it takes time at all.
    let is_slow = latency > 0;
    let sinks = (0..rng.usize(1..=4)).map(|_| sink(rng, is_slow)).collect();
    Config {
        topology,
        accepts_ms: (topology != Topology::Relay && rng.u8(..4) == 0).then(|| pick(rng, &[0, 1, 20, 700])),
        ring_events: pick(rng, &[0, 1, 2, 5, 20, 1_000]),
        ring_bytes: pick(rng, &[0, 1, 200, 1 << 20, 1 << 20]),
        call_ms: pick(rng, &[if is_slow { 20 } else { 1 }, 20, 200, 1_000, 5_000]),
        resolve_ms: pick(rng, &[u64::from(is_slow), 1, 100, 3_000, 20_000]),
        sync_poll_ms: pick(rng, &[0, 1, 5, 50]),
        retain_bytes: (rng.u8(..8) == 0).then(|| pick(rng, &[0, 1, 300, 5_000])),
        in_flight_events: pick(rng, &[0, 1, 3, 20, 1_000]),
        latency,
        in_flight_bytes: (rng.u8(..3) == 0).then(|| pick(rng, &[0, 1, 100, 2_000, usize::MAX])),
        append_ms: (rng.u8(..6) == 0).then(|| pick(rng, &[1, 20, 500])),
        journal_backoff_ms: (rng.u8(..5) == 0).then(|| pick(rng, &[(0, 0), (1, 1), (2_000, HUGE_MS)])),
        stop_if_stale: rng.u8(..4) == 0,
        sinks,
        files: None,
        broken: None,
    }
}

fn sink(rng: &mut Rng, is_slow: bool) -> SinkConfig {
    let kind = if rng.u8(..5) < 2 { SinkKind::Plain } else { pick(rng, &KINDS) };
    let keeps_all = matches!(kind, SinkKind::Plain | SinkKind::Buffered | SinkKind::Nested);
    let tiny_ms = if is_slow { 20 } else { 1 };
    let starts = [Start::After(0), Start::After(3), Start::After(40), Start::After(100_000)];
    SinkConfig {
        kind,
        deferred: rng.u8(..6) == 0,
        batch_events: pick(rng, &[0, 1, 1, 2, 5, 50, 1_024, usize::MAX]),
        batch_bytes: pick(rng, &[0, 1, 100, 1 << 20, 1 << 20, usize::MAX]),
        linger_ms: pick(rng, &[0, 0, 0, 5, 300, 5_000]),
        // A batch of dead letters is many calls in one.
        call_ms: if kind == SinkKind::DeadLetter {
            5_000
        } else {
            pick(rng, &[tiny_ms, 20, 200, 1_000, 5_000])
        },
        backoff_ms: pick(
            rng,
            &[
                (0, 0),
                (1, 1),
                (1, 5),
                (10, 100),
                (10, 100),
                (100, 2_000),
                (100, 2_000),
                (0, HUGE_MS),
                (HUGE_MS, HUGE_MS),
            ],
        ),
        lag_events: (rng.u8(..4) == 0).then(|| pick(rng, &[0, 1, 5, 40, u64::MAX])),
        start: (kind == SinkKind::Forgetful && rng.u8(..4) > 0).then(|| match rng.u8(..4) {
            0 => Start::Head,
            1 => Start::OldestSnapshot,
            _ => pick(rng, &starts),
        }),
        oldest_snapshot: keeps_all && rng.bool(),
        on_disk: false,
    }
}

fn ops(rng: &mut Rng, config: &Config, dies: bool) -> Vec<Op> {
    let mut ops = Vec::new();
    let mut add = |rng: &mut Rng, actor: u8, count: usize, act: &dyn Fn(&mut Rng) -> Act, dropped: u8| {
        for _ in 0..count {
            let id = u32::try_from(ops.len()).unwrap_or(u32::MAX);
            let patience = (rng.u8(..100) < dropped)
                .then(|| Patience { polls: rng.u32(1..8), ms: pick(rng, &[0, 1, 10, 100, 600]) });
            ops.push(Op { id, actor, act: act(rng), patience });
        }
    };
    let callers = rng.u8(1..=3);
    let bursts = config.topology == Topology::Relay;
    for actor in 0..callers {
        add(rng, actor, 170 / usize::from(callers), &|rng| caller(rng, bursts), 12);
    }
    let sinks = u8::try_from(config.sinks.len()).unwrap_or(1);
    for actor in 10..10 + rng.u8(1..=2) {
        add(rng, actor, 34, &|rng| operator(rng, sinks), 20);
    }
    add(rng, 20, 40, &reader, 20);
    add(rng, 22, 30, &keeper, 20);
    add(rng, 21, 12, &|rng| janitor(rng, dies), 10);
    ops
}

fn caller(rng: &mut Rng, bursts: bool) -> Act {
    match rng.u8(..100) {
        // Another program writes faster than a relay reads.
        0..4 if bursts => Act::Append { events: 90, bytes: 200, gaps: false },
        0..48 => {
            Act::Append { events: rng.u8(1..8), bytes: pick(rng, &[0, 10, 200]), gaps: rng.u8(..4) == 0 }
        }
        48..52 => Act::AppendBlind { events: 1 },
        52..57 => Act::Snapshot,
        57..65 => Act::AppendBefore { events: rng.u8(1..6), ms: pick(rng, &[0, 1, 8, 50, 2_000]) },
        65..76 => Act::Submit {
            events: rng.u8(1..6),
            count: rng.u8(1..5),
            tries: rng.bool(),
            hold_ms: pick(rng, &[0, 0, 0, 1, 300]),
            waits: rng.u8(..3) > 0,
        },
        76..78 => Act::Slot { ms: pick(rng, &[0, 5, 400]) },
        _ => Act::Pause { ms: pick(rng, &[0, 1, 5, 50, 400, 2_000]) },
    }
}

fn operator(rng: &mut Rng, sinks: u8) -> Act {
    let sink = rng.u8(..sinks);
    match rng.u8(..100) {
        0..14 => Act::Attach { sink },
        14..24 => Act::Detach { sink },
        24..32 => Act::Park { sink },
        32..40 => Act::Resume { sink },
        40..48 => Act::ResumeAll,
        48..52 => Act::Cure { sink },
        52..62 => Act::Prune { behind: pick(rng, &[0, 5, 30]) },
        62..70 => Act::Delivered { ms: pick(rng, &[0, 50, 3_000]) },
        _ => Act::Pause { ms: pick(rng, &[1, 20, 300, 2_000, 8_000]) },
    }
}

fn reader(rng: &mut Rng) -> Act {
    match rng.u8(..100) {
        0..35 => Act::Follow { events: rng.u8(1..40), ms: pick(rng, &[1, 200, 3_000]) },
        35..45 => Act::Read,
        45..55 => Act::Hydrate,
        55..60 => Act::Finished { ms: pick(rng, &[10, 3_000, 20_000]) },
        60..75 => Act::Status,
        _ => Act::Pause { ms: pick(rng, &[1, 30, 500, 4_000]) },
    }
}

/// A reader that keeps its follower, across whatever happens to the log.
fn keeper(rng: &mut Rng) -> Act {
    let behind = pick(rng, &[0, 1, 7, 50]);
    match rng.u8(..100) {
        0..16 => Act::Open {
            from: pick(rng, &[Begin::Origin, Begin::Snapshot, Begin::At(behind), Begin::After(behind)]),
            outside: rng.u8(..3) == 0,
        },
        16..60 => Act::Take { events: rng.u8(1..60), ms: pick(rng, &[0, 1, 300, 3_000]) },
        60..66 => Act::LetGo,
        66..70 => Act::Watch,
        70..76 => Act::Status,
        _ => Act::Pause { ms: pick(rng, &[1, 100, 2_000, 9_000]) },
    }
}

fn janitor(rng: &mut Rng, dies: bool) -> Act {
    match rng.u8(..100) {
        0..14 => Act::Close { ms: pick(rng, &[0, 20, 1_000]) },
        14..24 => Act::Reopen { close: rng.bool() },
        24..36 => Act::ReopenJournal,
        36..42 if dies => Act::Crash,
        42..52 => {
            Act::Clock { seconds: pick(rng, &[-1, 1, 3_600, -86_400 * 400, 1 << 36, -(1 << 37), i64::MIN]) }
        }
        _ => Act::Pause { ms: pick(rng, &[10, 500, 3_000, 10_000]) },
    }
}

fn faults(rng: &mut Rng, config: &Config, dies: bool) -> Vec<Fault> {
    let count = if rng.u8(..10) == 0 { 0 } else { rng.u32(6..26) };
    // A run with every disaster at once shows little: most have one sort or two.
    // With `retain_bytes`, the event that histories are compared by may be pruned.
    let disasters = if config.retain_bytes.is_some() { 0 } else { pick(rng, &[0_u8, 0, 8, 25]) };
    (0..count)
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
        .collect()
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

/// What stores may do that lose something, where the code under test has to notice it.
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
