//! The part of a plan that is about a file log on a simulated disk.

use fastrand::Rng;
use serde::{Deserialize, Serialize};

use super::{Act, Call, Op, Patience, Plan, SinkKind, Store};

/// The primary, or the source of a relay, is a real file log on a simulated disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "each is one fact of its own")]
pub struct FilesConfig {
    pub preallocate_bytes: u64,
    pub compress: bool,
    pub commit_bytes: usize,
    /// How many bytes the disk has until the faults stop.
    pub capacity: Option<usize>,
    /// How long each piece of work waits for its turn: a slow disk.
    pub pause_ms: u64,
    /// How often a reader in another process looks.
    pub poll_ms: u64,
    /// Other processes act between two steps of a reader, and of the writer.
    pub readers_stepped: bool,
    pub writer_stepped: bool,
    /// Damage to `state` is repaired by the program of that name, and else put back from a copy.
    pub repairs: bool,
}

/// What happens at the step or look number `nth` (from 0) whose description begins with `at`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskFault {
    pub id: u32,
    pub at: String,
    pub nth: usize,
    pub effect: DiskEffect,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DiskEffect {
    PowerCut,
    Kill,
    /// `EIO`. After a failed sync, the next one succeeds and has saved nothing.
    Error,
    /// `ENOSPC`.
    Full,
    /// A write that fails half way.
    Short,
}

/// What other processes do with the directory of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FileAct {
    /// Follows from behind what this reader has.
    Follow {
        events: u8,
        ms: u64,
    },
    Read {
        from: ReadAt,
    },
    Verify,
    /// Waits until the program begins something, so that the next step of this actor meets it.
    Await(Moment),
    Checkpoint,
    /// Copies the directory, as a backup does.
    BackUp,
    Damage(Damage),
}

/// What the program begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Moment {
    Prune,
    /// Opens its log for writing.
    Opening,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReadAt {
    Origin,
    Snapshot,
    /// Behind what this reader has.
    Seen,
}

/// What befalls the files from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Damage {
    /// `state` is cut in place, by so many bytes.
    Truncate { bytes: u16 },
    /// `state` is emptied in place.
    Empty,
    /// `state` is removed.
    Remove,
    /// `state` is replaced by a copy of itself under another inode: by all of it, or by the whole lines of its first half.
    RenameOver { is_older: bool },
    /// `state` is overwritten in place with that of another log.
    CopyOver,
    /// A sealed segment is gone.
    SealedMissing { nth: u8 },
    /// The directory is replaced by one with another log.
    OtherLog,
    /// The directory is replaced by a backup.
    Backup,
}

impl FileAct {
    /// The name of the row in the table of coverage.
    pub fn name(self) -> &'static str {
        match self {
            Self::Follow { .. } => "file follow",
            Self::Read { .. } => "file read",
            Self::Verify => "file verify",
            Self::Await(_) => "file await",
            Self::Checkpoint => "file checkpoint",
            Self::BackUp => "file backup",
            Self::Damage(_) => "file damage",
        }
    }
}

impl Damage {
    /// The name of the column in the table of coverage.
    pub fn name(self) -> &'static str {
        match self {
            Self::Truncate { .. } => "truncate",
            Self::Empty => "empty",
            Self::Remove => "remove",
            Self::RenameOver { .. } => "rename-over",
            Self::CopyOver => "copy-over",
            Self::SealedMissing { .. } => "no-segment",
            Self::OtherLog => "other-log",
            Self::Backup => "backup",
        }
    }
}

impl DiskEffect {
    /// The name of the column in the table of coverage.
    pub fn name(self) -> &'static str {
        match self {
            Self::PowerCut => "power-cut",
            Self::Kill => "kill",
            Self::Error => "EIO",
            Self::Full => "ENOSPC",
            Self::Short => "short",
        }
    }
}

fn pick<T: Copy>(rng: &mut Rng, choices: &[T]) -> T {
    choices[rng.usize(..choices.len())]
}

/// Seeds from this one on make plans with file logs.
pub const FILES_FROM: u64 = 1 << 32;

/// Moves the plan of a seed from [`FILES_FROM`] on onto a disk.
pub(super) fn move_to_disk(plan: &mut Plan) {
    if plan.seed < FILES_FROM {
        return;
    }
    let mut rng = Rng::with_seed(plan.seed);
    let rng = &mut rng;
    plan.config.files = Some(FilesConfig {
        preallocate_bytes: pick(rng, &[0, 0, 1, 4096]),
        compress: rng.u8(..3) == 0,
        commit_bytes: pick(rng, &[1, 500, 8 << 20, 8 << 20]),
        capacity: (rng.u8(..6) == 0).then(|| pick(rng, &[4_000, 12_000, 40_000])),
        pause_ms: pick(rng, &[0, 0, 0, 0, 1, 7]),
        poll_ms: pick(rng, &[20, 200, 1_000]),
        readers_stepped: rng.u8(..3) > 0,
        writer_stepped: rng.u8(..3) == 0,
        repairs: rng.bool(),
    });
    // A real file takes time: with less, no call could succeed.
    let config = &mut plan.config;
    (config.call_ms, config.resolve_ms) = (config.call_ms.max(200), config.resolve_ms.max(100));
    config.append_ms = config.append_ms.map(|ms| ms.max(500));
    config.sinks.iter_mut().for_each(|sink| sink.call_ms = sink.call_ms.max(200));
    // What models of a primary do and files do not: that is in the faults of the disk.
    plan.faults.retain(|fault| {
        !(fault.site.store == Store::Primary && fault.effect.loses()) && fault.site.call != Call::Open
    });
    if rng.bool() {
        // Half of the plans leave the store alone, so that what happens is the disk's doing.
        plan.faults.retain(|fault| fault.site.store != Store::Primary);
    }
    more_segments(rng, plan);
    let is_damaged = plan.config.retain_bytes.is_none() && rng.u8(..3) == 0;
    others(rng, plan, is_damaged);
    disk_faults(rng, plan);
    encounters(plan);
    for sink in &mut plan.config.sinks {
        if sink.kind == SinkKind::Plain && rng.u8(..4) == 0 {
            sink.on_disk = true;
        }
    }
}

/// Sealed segments are what most faults of files are about: more snapshots, and more prunes.
fn more_segments(rng: &mut Rng, plan: &mut Plan) {
    for op in &mut plan.ops {
        match op.act {
            Act::Append { .. } if rng.u8(..100) < 12 => op.act = Act::Snapshot,
            Act::Pause { .. } if op.actor >= 10 && op.actor < 20 && rng.u8(..100) < 20 => {
                op.act = Act::Prune { behind: pick(rng, &[0, 5, 30]) };
            }
            _ => {}
        }
    }
}

fn others(rng: &mut Rng, plan: &mut Plan, is_damaged: bool) {
    let mut ops = Vec::new();
    let mut next = 5_000;
    let mut add = |rng: &mut Rng, actor: u8, count: usize, act: &dyn Fn(&mut Rng) -> Act| {
        for _ in 0..count {
            let patience = (rng.u8(..100) < 15)
                .then(|| Patience { polls: rng.u32(1..30), ms: pick(rng, &[0, 1, 10, 100, 600]) });
            ops.push(Op { id: next, actor, act: act(rng), patience });
            next += 1;
        }
    };
    for actor in 30..30 + rng.u8(1..=2) {
        add(rng, actor, 25, &|rng| match rng.u8(..100) {
            0..30 => Act::Files(FileAct::Follow {
                events: rng.u8(1..60),
                ms: pick(rng, if is_damaged { &[200, 3_000, 3_000, 40_000] } else { &[1, 200, 3_000] }),
            }),
            30..48 => Act::Files(FileAct::Read {
                from: pick(rng, &[ReadAt::Origin, ReadAt::Snapshot, ReadAt::Seen]),
            }),
            48..65 => Act::Files(FileAct::Verify),
            65..72 => Act::Files(FileAct::Checkpoint),
            _ => Act::Pause { ms: pick(rng, &[1, 30, 500, 4_000]) },
        });
    }
    if is_damaged {
        let damages = rng.u8(1..3);
        add(rng, 40, 3, &|rng| Act::Pause { ms: pick(rng, &[1, 100, 2_000, 6_000]) });
        add(rng, 40, 1, &|_| Act::Files(FileAct::BackUp));
        for _ in 0..damages {
            add(rng, 40, 1, &|rng| Act::Pause { ms: pick(rng, &[1, 300, 4_000]) });
            add(rng, 40, 1, &|rng| {
                let damage = [
                    Damage::Truncate { bytes: pick(rng, &[1, 90, 700]) },
                    Damage::Empty,
                    Damage::Remove,
                    Damage::SealedMissing { nth: rng.u8(..4) },
                    Damage::RenameOver { is_older: rng.bool() },
                    Damage::CopyOver,
                    Damage::OtherLog,
                    Damage::Backup,
                ];
                Act::Files(FileAct::Damage(pick(rng, &damage)))
            });
        }
        for op in ops.iter_mut().filter(|op| op.actor == 40) {
            op.patience = None;
        }
    }
    plan.ops.extend(ops);
}

/// Some plans verify beside each prune, and prune much. Some read while a log is opened, and cut the power often.
fn encounters(plan: &mut Plan) {
    let mut rng = Rng::with_seed(plan.seed ^ 0x5eed);
    let moment = match rng.u8(..8) {
        0 => Moment::Prune,
        1 => Moment::Opening,
        _ => return,
    };
    for op in &mut plan.ops {
        match op.act {
            Act::Append { .. } if moment == Moment::Prune && rng.u8(..100) < 15 => op.act = Act::Snapshot,
            Act::Pause { .. }
                if moment == Moment::Prune && (10..20).contains(&op.actor) && rng.u8(..100) < 30 =>
            {
                op.act = Act::Prune { behind: pick(&mut rng, &[0, 0, 5]) };
            }
            _ => {}
        }
    }
    for id in (6_000..6_024).step_by(2) {
        let act = match rng.u8(..4) {
            0 if moment == Moment::Opening => FileAct::Checkpoint,
            1 if moment == Moment::Opening => FileAct::Read { from: ReadAt::Origin },
            _ => FileAct::Verify,
        };
        for (id, act) in [(id, FileAct::Await(moment)), (id + 1, act)] {
            plan.ops.push(Op { id, actor: 33, act: Act::Files(act), patience: None });
        }
    }
    if moment == Moment::Opening {
        plan.disk_faults.retain(|fault| fault.effect != DiskEffect::Kill);
        plan.disk_faults.extend((20..26).map(|id| DiskFault {
            id,
            at: pick(&mut rng, &["sync /log/state", "write /log/state of"]).to_owned(),
            nth: rng.usize(..40),
            effect: DiskEffect::PowerCut,
        }));
    }
    if let Some(files) = &mut plan.config.files {
        files.readers_stepped = true;
    }
}

const SITES: [&str; 21] = [
    "write /log/state of",
    "write /log/state of",
    "sync /log/state",
    "sync /log/state",
    "write /log/state.next-",
    "sync /log/state.next-",
    "write /log/lock",
    "sync /log/lock",
    "sync_dir /log",
    "sync_dir /log",
    "link /log/state",
    "rename /log/state",
    "remove /log/",
    "truncate /log/",
    "create /log/",
    "read /log/",
    "stat /log/",
    "open /log/",
    "list /log",
    "write /log/state.zst",
    "lock /log",
];

fn disk_faults(rng: &mut Rng, plan: &mut Plan) {
    let count = if rng.u8(..8) == 0 { 0 } else { rng.u32(1..10) };
    // Half of the plans have no failing disk, so that nothing is excused by one.
    let is_failing = rng.bool();
    plan.disk_faults = (0..count)
        .map(|id| {
            let at = pick(rng, &SITES);
            let is_look = ["read", "stat", "open", "list"].iter().any(|look| at.starts_with(look));
            let steps = match at {
                _ if is_look => pick(rng, &[50, 2_000]),
                _ if at.starts_with("write /log/state of") || at.starts_with("sync /log/state") => 60,
                _ => 12,
            };
            let nth = rng.usize(..steps);
            let effect = match rng.u8(..10) {
                0..4 => DiskEffect::Kill,
                4..7 => DiskEffect::PowerCut,
                _ if !is_failing => DiskEffect::Kill,
                7 => DiskEffect::Error,
                8 => DiskEffect::Full,
                _ => DiskEffect::Short,
            };
            DiskFault { id, at: at.to_owned(), nth, effect }
        })
        .collect();
}
