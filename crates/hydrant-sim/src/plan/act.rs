//! The steps of actors.

use serde::{Deserialize, Serialize};

use super::FileAct;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Act {
    /// Appends events, with holes between their ids if `gaps` is set (only callers of a fan-out choose ids).
    Append {
        events: u8,
        bytes: u16,
        gaps: bool,
    },
    /// Appends after the head that this caller knows, without asking for the head first.
    AppendBlind {
        events: u8,
    },
    Snapshot,
    /// Appends with a deadline in the batch, and resolves the outcome itself.
    AppendBefore {
        events: u8,
        ms: u64,
    },
    /// Reserves room in the journal, submits `count` times, and waits for the outcomes or drops them.
    Submit {
        events: u8,
        count: u8,
        /// Takes room only if some is free, without waiting.
        tries: bool,
        /// How long each slot is held before it is used.
        hold_ms: u64,
        waits: bool,
    },
    /// Takes a slot of the journal, holds it, and drops it.
    Slot {
        ms: u64,
    },
    Pause {
        ms: u64,
    },
    /// Lets the system clock jump.
    Clock {
        seconds: i64,
    },
    /// Lets a sink take from now on what it refused, and resumes it.
    Cure {
        sink: u8,
    },
    Attach {
        sink: u8,
    },
    Detach {
        sink: u8,
    },
    Park {
        sink: u8,
    },
    Resume {
        sink: u8,
    },
    ResumeAll,
    /// Prunes up to `behind` events before the head.
    Prune {
        behind: u64,
    },
    Delivered {
        ms: u64,
    },
    Close {
        ms: u64,
    },
    /// Closes, or only drops, all handles, and opens the program again.
    Reopen {
        close: bool,
    },
    ReopenJournal,
    /// Holds a handle of the log, whatever the program opens meanwhile.
    Cling {
        ms: u64,
    },
    /// Follows from behind what this reader has.
    Follow {
        events: u8,
        ms: u64,
    },
    /// Opens a follower, of the log or of its primary from another process, and keeps it.
    Open {
        from: Begin,
        outside: bool,
    },
    /// Takes events from the follower that is kept.
    Take {
        events: u8,
        ms: u64,
    },
    /// Drops the follower that is kept.
    LetGo,
    /// Watches the status from now on.
    Watch,
    Read,
    Hydrate,
    Finished {
        ms: u64,
    },
    Status,
    Crash,
    /// What another process does with the files of the log.
    Files(FileAct),
}

impl Act {
    /// The sink that the operation names.
    pub fn sink(&self) -> Option<u8> {
        match *self {
            Self::Cure { sink }
            | Self::Attach { sink }
            | Self::Detach { sink }
            | Self::Park { sink }
            | Self::Resume { sink } => Some(sink),
            _ => None,
        }
    }

    /// The name of the row in the table of coverage.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Append { .. } => "append",
            Self::AppendBlind { .. } => "append blind",
            Self::AppendBefore { .. } => "append before",
            Self::Submit { .. } => "submit",
            Self::Slot { .. } => "slot",
            Self::Clock { .. } => "clock",
            Self::Cure { .. } => "cure",
            Self::Open { .. } => "open follower",
            Self::Take { .. } => "take",
            Self::LetGo => "let go",
            Self::Watch => "watch",
            Self::Snapshot => "snapshot",
            Self::Pause { .. } => "pause",
            Self::Attach { .. } => "attach",
            Self::Detach { .. } => "detach",
            Self::Park { .. } => "park",
            Self::Resume { .. } | Self::ResumeAll => "resume",
            Self::Prune { .. } => "prune",
            Self::Delivered { .. } => "delivered",
            Self::Close { .. } => "close",
            Self::Reopen { .. } => "reopen",
            Self::ReopenJournal => "reopen journal",
            Self::Cling { .. } => "cling",
            Self::Follow { .. } => "follow",
            Self::Read => "read",
            Self::Hydrate => "hydrate",
            Self::Finished { .. } => "finished",
            Self::Status => "status",
            Self::Crash => "crash",
            Self::Files(act) => act.name(),
        }
    }

    /// Whether the operation takes time in which a fault can strike.
    pub fn waits(&self) -> bool {
        !matches!(
            self,
            Self::Pause { .. }
                | Self::Cling { .. }
                | Self::Clock { .. }
                | Self::Cure { .. }
                | Self::Open { .. }
                | Self::LetGo
                | Self::Watch
                | Self::Park { .. }
                | Self::Resume { .. }
                | Self::ResumeAll
                | Self::Status
                | Self::Crash
        )
    }
}

/// Where a follower begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Begin {
    Origin,
    Snapshot,
    /// At the id this far before the head; with gaps in ids, the log may not have it.
    At(u64),
    After(u64),
}
