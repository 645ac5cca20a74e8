//! Makes a plan from a seed.

use fastrand::Rng;

use super::{Act, Begin, Config, Op, Patience, Plan, SinkConfig, SinkKind, Start, Topology};

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
    // Only a run without a crash can show that no task is left at its end.
    let dies = rng.u8(..3) > 0;
    let ops = ops(&mut rng, &config, dies);
    let faults = super::faults::faults(&mut rng, &config, dies);
    let mut config = config;
    if faults.iter().any(|fault| fault.effect.loses()) {
        slow_down(&mut config);
    }
    let mut plan = Plan { seed, config, ops, faults, disk_faults: Vec::new() };
    super::files::move_to_disk(&mut plan);
    plan
}

/// Lengthens short pauses. A sink may wait for a lost event until the end: with pauses of a millisecond, that would be
/// millions of calls.
fn slow_down(config: &mut Config) {
    for sink in &mut config.sinks {
        if sink.backoff_ms.1 < 100 {
            sink.backoff_ms = (10, 100);
        }
    }
}

pub(super) fn pick<T: Copy>(rng: &mut Rng, choices: &[T]) -> T {
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
    let lag_events = (rng.u8(..4) == 0).then(|| pick(rng, &[0, 1, 5, 40, u64::MAX]));
    // An open journal waits for back-pressure as long as its sink pauses.
    let huge_ms = if lag_events.is_some() { 3_000 } else { HUGE_MS };
    SinkConfig {
        kind,
        deferred: rng.u8(..6) == 0,
        batch_events: pick(rng, &[0, 1, 1, 2, 5, 50, 1_024, usize::MAX]),
        batch_bytes: pick(rng, &[0, 1, 100, 1 << 20, 1 << 20, usize::MAX]),
        // A sink that holds back every append never lingers.
        linger_ms: match pick(rng, &[0, 0, 0, 5, 300, 5_000]) {
            5_000 if lag_events == Some(0) => 3_600_000,
            linger => linger,
        },
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
                (0, huge_ms),
                (huge_ms, huge_ms),
            ],
        ),
        lag_events,
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
        add(rng, actor, 152 / usize::from(callers), &|rng| caller(rng, bursts), 12);
    }
    let sinks = u8::try_from(config.sinks.len()).unwrap_or(1);
    for actor in 10..10 + rng.u8(1..=2) {
        add(rng, actor, 34, &|rng| operator(rng, sinks), 20);
    }
    add(rng, 20, 40, &reader, 20);
    add(rng, 22, 30, &keeper, 20);
    if rng.u8(..6) == 0 {
        for actor in 24..27 {
            add(rng, actor, 14, &|rng| racer(rng, sinks), 25);
        }
    }
    if !dies && rng.u8(..3) == 0 {
        twins(rng, &mut add);
        return ops;
    }
    add(rng, 21, 12, &|rng| janitor(rng, dies), 10);
    ops
}

fn caller(rng: &mut Rng, bursts: bool) -> Act {
    match rng.u8(..100) {
        // Another program writes faster than a relay reads.
        0..2 if bursts => Act::Append { events: 90, bytes: 200, gaps: false },
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
        0..30 => Act::Follow { events: rng.u8(1..40), ms: pick(rng, &[1, 200, 3_000]) },
        30..46 => Act::Read,
        46..52 => Act::Hydrate,
        52..55 => Act::Cling { ms: pick(rng, &[900, 9_000]) },
        55..60 => Act::Finished { ms: pick(rng, &[10, 3_000, 20_000]) },
        60..75 => Act::Status,
        _ => Act::Pause { ms: pick(rng, &[1, 30, 500, 4_000]) },
    }
}

/// Leaves one opening of the program open beside the next one. Their pumps share sinks and roster.
fn twins(rng: &mut Rng, add: &mut impl FnMut(&mut Rng, u8, usize, &dyn Fn(&mut Rng) -> Act, u8)) {
    let ms = pick(rng, &[100, 700, 2_500, 6_000]);
    add(rng, 27, 1, &|_| Act::Cling { ms: ms + 9_000 }, 0);
    add(rng, 28, 1, &|_| Act::Pause { ms }, 0);
    add(rng, 28, 1, &|_| Act::Reopen { close: false }, 0);
}

/// Operators who attach, detach and close at once.
fn racer(rng: &mut Rng, sinks: u8) -> Act {
    let sink = rng.u8(..sinks);
    match rng.u8(..100) {
        0..25 => Act::Attach { sink },
        25..45 => Act::Detach { sink },
        45..55 => Act::Close { ms: pick(rng, &[0, 1, 200]) },
        55..62 => Act::Reopen { close: rng.bool() },
        62..70 => Act::ReopenJournal,
        70..76 => Act::Cling { ms: pick(rng, &[20, 900, 9_000]) },
        _ => Act::Pause { ms: pick(rng, &[0, 1, 15, 120, 900]) },
    }
}

/// A reader that keeps its follower while other actors change the log.
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
        24..37 => Act::ReopenJournal,
        37..42 if dies => Act::Crash,
        42..52 => {
            Act::Clock { seconds: pick(rng, &[-1, 1, 3_600, -86_400 * 400, 1 << 36, -(1 << 37), i64::MIN]) }
        }
        _ => Act::Pause { ms: pick(rng, &[10, 500, 3_000, 10_000]) },
    }
}
