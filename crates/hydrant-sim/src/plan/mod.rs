//! The plan of one run: configuration, operations and faults, as plain data.
//!
//! A seed makes a plan, and the plan alone decides the run. So a plan can be minimised, printed, kept and replayed.

mod act;
mod broken;
mod faults;
mod files;
mod generate;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use act::{Act, Begin};
pub use broken::Broken;
pub use files::{Damage, DiskEffect, DiskFault, FILES_FROM, FileAct, FilesConfig, Moment, ReadAt};
pub use generate::generate;

/// Everything that decides a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Seeds the jitter of the code under test and the latency of the world.
    pub seed: u64,
    pub config: Config,
    pub ops: Vec<Op>,
    pub faults: Vec<Fault>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disk_faults: Vec<DiskFault>,
}

/// What is built at the start of the run and after each crash.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    pub topology: Topology,
    /// `Some`: the primary accepts first, and a batch is durable this many milliseconds later.
    pub accepts_ms: Option<u64>,
    pub ring_events: usize,
    pub ring_bytes: usize,
    pub call_ms: u64,
    pub resolve_ms: u64,
    pub sync_poll_ms: u64,
    pub retain_bytes: Option<u64>,
    pub in_flight_events: usize,
    /// How often a call of the world takes time, in percent.
    pub latency: u8,
    /// Bounds a journal in bytes; `None`: as in production.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_flight_bytes: Option<usize>,
    /// How long one append of a journal may take; `None`: as long as the fan-out below resolves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub append_ms: Option<u64>,
    /// The pauses of a journal between attempts; `None`: 10 to 500.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub journal_backoff_ms: Option<(u64, u64)>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stop_if_stale: bool,
    pub sinks: Vec<SinkConfig>,
    /// The primary is a file log on a simulated disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<FilesConfig>,
    /// Breaks a model or an actor on purpose, for the tests of the checkers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broken: Option<Broken>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Topology {
    /// Callers append batches to a fan-out.
    FanOut,
    /// Callers append through a journal over a fan-out.
    Journal,
    /// A foreign writer appends to a source that a relay follows.
    Relay,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SinkConfig {
    pub kind: SinkKind,
    /// Opened by a `Deferred`.
    pub deferred: bool,
    pub batch_events: usize,
    pub batch_bytes: usize,
    pub linger_ms: u64,
    pub call_ms: u64,
    pub backoff_ms: (u64, u64),
    pub lag_events: Option<u64>,
    /// Starts at the oldest snapshot if the origin was pruned.
    pub oldest_snapshot: bool,
    /// It is a file log of its own, on the simulated disk.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub on_disk: bool,
    /// Where a sink without a memory starts; `None`: at the origin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<Start>,
}

/// Where a sink without a memory starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Start {
    After(u64),
    Head,
    OldestSnapshot,
}

impl SinkConfig {
    /// Whether the sink gets every event from the origin or a snapshot on, under its own id.
    pub fn is_exact(&self) -> bool {
        let is_sparse = matches!(self.kind, SinkKind::Filtered | SinkKind::DeadLetter);
        !is_sparse && !matches!(self.start, Some(Start::After(_) | Start::Head))
    }
}

/// What a secondary is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SinkKind {
    /// A sink with a memory, durable at `Ok`.
    Plain,
    /// A sink with a memory that is durable later.
    Buffered,
    /// A sink without a memory.
    Forgetful,
    /// `Checkpointed` over a sink with a memory.
    Checkpointed,
    /// `Checkpointed` over `Filtered`.
    Filtered,
    /// `Checkpointed` over `Mapped`.
    Mapped,
    /// `Checkpointed` over `DeadLetter`, whose sink refuses some events.
    DeadLetter,
    /// A sink with a memory that refuses some events until an operator has cured it. Nothing skips them.
    Picky,
    /// A fan-out of its own with a plain sink behind it.
    Nested,
}

/// One step of one actor. Actors run side by side, the steps of one actor in order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Op {
    pub id: u32,
    pub actor: u8,
    pub act: Act,
    /// When the caller drops the future.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patience: Option<Patience>,
}

/// Drops a future after this many polls or milliseconds, whichever comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Patience {
    pub polls: u32,
    pub ms: u64,
}

/// What happens at the call number `nth` (from 0) of a site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    pub id: u32,
    pub site: Site,
    pub nth: u32,
    pub effect: Effect,
}

/// A place where the code under test calls the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Site {
    pub store: Store,
    pub call: Call,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Store {
    /// The primary, or the source of a relay.
    Primary,
    /// The roster beside the primary.
    Roster,
    Sink(u8),
    /// The dead letters of a sink.
    Dead(u8),
    /// The checkpoint that a `Checkpointed` keeps.
    Cell(u8),
    /// The primary of a nested fan-out.
    Inner(u8),
    /// The roster of a nested fan-out.
    InnerRoster(u8),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Call {
    Append,
    Checkpoint,
    Head,
    Read,
    Prune,
    Load,
    List,
    Swap,
    Open,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Effect {
    /// Fails, and nothing was applied.
    Refuse,
    /// Fails later, and nothing was applied.
    RefuseLate {
        ms: u64,
    },
    /// Fails in a way that retrying does not help, until an operator resumes.
    Deny,
    /// Fails with an unknown outcome before the effect.
    Fail,
    /// Fails with an unknown outcome after the effect.
    FailAfter,
    Hang,
    HangAfter,
    Slow {
        ms: u64,
    },
    /// Takes effect at once, and replies late.
    SlowAfter {
        ms: u64,
    },
    /// Fails with an unknown outcome, and takes effect later.
    Late {
        ms: u64,
    },
    /// Applies a prefix of the batch, then fails.
    Partial,
    Panic,
    PanicAfter,
    /// The process dies before or after the effect.
    Crash,
    CrashAfter,
    /// Before the call, the store fails over to a copy without the newest events.
    Lose {
        events: u8,
    },
    /// Before the call, the store fails over to a copy with other newest events.
    Fork {
        events: u8,
    },
    /// Before the call, the store and what is kept beside it are restored from a backup.
    Restore,
    /// Before the call, the store is emptied.
    Forget,
    /// The read ends early, as if the log ended there.
    End,
}

impl Effect {
    /// Whether a store loses or changes what it held.
    pub fn loses(self) -> bool {
        matches!(self, Self::Lose { .. } | Self::Fork { .. } | Self::Restore | Self::Forget)
    }

    /// The name of the column in the table of coverage.
    pub fn name(self) -> &'static str {
        match self {
            Self::Refuse => "refuse",
            Self::RefuseLate { .. } => "refuse-late",
            Self::Deny => "deny",
            Self::Fail => "fail",
            Self::FailAfter => "fail-after",
            Self::Hang => "hang",
            Self::HangAfter => "hang-after",
            Self::Slow { .. } => "slow",
            Self::SlowAfter { .. } => "slow-after",
            Self::Late { .. } => "late",
            Self::Partial => "partial",
            Self::Panic => "panic",
            Self::PanicAfter => "panic-after",
            Self::Crash => "crash",
            Self::CrashAfter => "crash-after",
            Self::Lose { .. } => "lose",
            Self::Fork { .. } => "fork",
            Self::Restore => "restore",
            Self::Forget => "forget",
            Self::End => "end",
        }
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.store {
            Store::Primary => write!(f, "primary.{:?}", self.call),
            Store::Roster => write!(f, "roster.{:?}", self.call),
            Store::Sink(i) => write!(f, "sink{i}.{:?}", self.call),
            Store::Dead(i) => write!(f, "dead{i}.{:?}", self.call),
            Store::Cell(i) => write!(f, "cell{i}.{:?}", self.call),
            Store::Inner(i) => write!(f, "inner{i}.{:?}", self.call),
            Store::InnerRoster(i) => write!(f, "innerRoster{i}.{:?}", self.call),
        }
    }
}

impl Store {
    /// The names of all places.
    pub const NAMES: [&'static str; 7] =
        ["primary", "roster", "sink", "dead letters", "cell", "inner primary", "inner roster"];

    /// The sink that this store belongs to.
    pub fn sink(self) -> Option<u8> {
        match self {
            Self::Primary | Self::Roster => None,
            Self::Sink(i) | Self::Dead(i) | Self::Cell(i) | Self::Inner(i) | Self::InnerRoster(i) => Some(i),
        }
    }
    /// The name of the row in the table of coverage.
    pub fn name(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Roster => "roster",
            Self::Sink(_) => "sink",
            Self::Dead(_) => "dead letters",
            Self::Cell(_) => "cell",
            Self::Inner(_) => "inner primary",
            Self::InnerRoster(_) => "inner roster",
        }
    }
}
