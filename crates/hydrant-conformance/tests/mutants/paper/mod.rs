//! A store on paper: right in every law, or broken in exactly one way.
//!
//! It keeps accepted events apart from durable ones, so that a test can crash it, and yields at each step of an
//! append, so that a test can drop it there. Each file has the laws that it keeps or breaks.

mod append;
mod checkpoint;
mod compare;
mod errors;
mod prune;
mod read;
mod roster;
mod write;

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hydrant::{Checkpoint, CheckpointEntry, Event, EventId};
use tokio::sync::RwLock;

pub(crate) use self::roster::Roster;
use crate::bugs::Bug;

/// What the store holds, and what of it survives a crash.
#[derive(Clone, Debug, Default)]
pub(crate) struct Page {
    pub(crate) events: Vec<Event>,
    pub(crate) durable: usize,
    pub(crate) floor_after: Option<EventId>,
    pub(crate) damaged: Option<EventId>,
    /// Makes the next append fail: after it was applied (0), or before (1).
    pub(crate) fail_next: Option<usize>,
    /// How long each answer takes.
    pub(crate) delay: Duration,
    /// The checkpoints that the roster keeps.
    pub(crate) entries: BTreeMap<String, CheckpointEntry>,
    /// Set by a bug that moves it without events.
    pub(crate) claims: Option<Checkpoint>,
    pub(crate) locked: bool,
    /// Something is under way that a bug lets others notice.
    pub(crate) busy: bool,
    /// A segment is being pruned.
    pub(crate) pruning: bool,
}

#[derive(Debug)]
pub(crate) struct Shared {
    page: Mutex<Page>,
    /// One append at a time, across handles.
    turn: tokio::sync::Mutex<()>,
    /// Held by readers, where a bug makes them block the writer.
    readers: Arc<RwLock<()>>,
    pub(crate) bug: Bug,
    weak: bool,
    event_bytes_max: usize,
}

impl Shared {
    pub(crate) fn new(page: Page, bug: Bug, weak: bool, event_bytes_max: usize) -> Arc<Self> {
        let (turn, readers) = (tokio::sync::Mutex::default(), Arc::default());
        Arc::new(Self { page: Mutex::new(page), turn, readers, bug, weak, event_bytes_max })
    }

    pub(crate) fn page(&self) -> MutexGuard<'_, Page> {
        self.page.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn sync(&self) {
        let mut page = self.page();
        page.durable = page.events.len();
    }

    fn has(&self, bug: Bug) -> bool {
        self.bug == bug
    }
}

/// A handle on a page.
#[derive(Clone, Debug)]
pub(crate) struct Paper {
    pub(crate) shared: Arc<Shared>,
    /// What this handle believes the head to be, where a bug makes it trust that.
    pub(crate) own_head: Arc<Mutex<Checkpoint>>,
    /// The connection broke, and a bug keeps it.
    pub(crate) broken: Arc<AtomicBool>,
}

impl Page {
    fn head(&self) -> Checkpoint {
        self.events.last().map_or(Checkpoint::Empty, Checkpoint::at)
    }

    fn behind(&self, after: Option<EventId>) -> usize {
        after.map_or(0, |after| self.events.partition_point(|event| event.id() <= after))
    }
}
