//! What all handles of one simulated disk share.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use fastrand::Rng;
use tokio::sync::Notify;

use super::inode::Inode;
use crate::disk::{Identity, Stat};

/// What goes wrong at a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The power goes while the step is under way: every handle fails until [`SimDisk::reboot`](super::SimDisk::reboot).
    PowerCut,
    /// The process is killed right behind the step.
    Kill,
    /// The step fails without an effect. A failed sync forgets what was dirty, so that the next sync saves nothing.
    Error(io::ErrorKind),
    /// A write fails half way with `StorageFull`; another step fails without an effect.
    Short,
}

/// Which step or look a fault meets. Each is described by a line as `sync /log/state` or `read /log/lock`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum When {
    /// The step of this number, counted from 0.
    Step(usize),
    /// The look (a step that changes nothing: `open`, `stat`, `list`, `read`, `is_locked`) of this number.
    Look(usize),
    /// The next one whose description begins with this text.
    Next(String),
    /// The one of this number, counted from 0 and from now on, whose description begins with this text.
    Nth(String, usize),
    /// Every one whose description begins with this text, until [`SimDisk::heal`](super::SimDisk::heal).
    Every(String),
}

/// A process: the lifetime of its handles and locks.
#[derive(Debug, Default)]
pub(super) struct Process {
    is_killed: AtomicBool,
    /// Other processes may act before each of its steps and looks.
    pub(super) is_stepped: AtomicBool,
    pub(super) ended: Notify,
}

impl Process {
    pub(super) fn kill(&self) {
        self.is_killed.store(true, Ordering::SeqCst);
        self.ended.notify_waiters();
    }

    pub(super) fn is_killed(&self) -> bool {
        self.is_killed.load(Ordering::SeqCst)
    }
}

/// Something that happens in between.
pub(super) struct Interrupt(pub(super) usize, pub(super) Box<dyn FnOnce() + Send>);

impl fmt::Debug for Interrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Interrupt").field(&self.0).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
pub(super) struct World {
    pub(super) files: BTreeMap<u64, Inode>,
    pub(super) names: BTreeMap<PathBuf, u64>,
    pub(super) durable_names: BTreeMap<PathBuf, u64>,
    /// Changes of names since their directory was synced, in order; each survives as a whole or not.
    pub(super) renames: Vec<Changes>,
    pub(super) dirs: BTreeMap<PathBuf, u64>,
    /// The directories that were created since the one above was synced.
    pub(super) new_dirs: BTreeSet<PathBuf>,
    /// Locks by inode.
    pub(super) locks: BTreeMap<u64, (Weak<()>, Arc<Process>)>,
    pub(super) next_inode: u64,
    /// What changed the disk, or made it durable.
    pub(super) steps: Vec<String>,
    /// How many looks were made.
    pub(super) looks: usize,
    /// How many moments there were at which another process may act: each look, and each name of a listing.
    pub(super) moments: usize,
    /// Changes with everything that may change what a process sees, or what is durable.
    pub(super) version: u64,
    pub(super) planned: Vec<(When, Fault)>,
    /// The faults that struck, each with the step or look that it met.
    pub(super) struck: Vec<(String, Fault)>,
    /// Decides how long a stepped process waits between two steps.
    pub(super) pace: Option<Rng>,
    /// Wakes those that wait for the end of any process.
    pub(super) power: Arc<Notify>,
    pub(super) interrupt: Option<Interrupt>,
    /// How many bytes all files may have.
    pub(super) capacity: Option<usize>,
    pub(super) pause: Option<Duration>,
    pub(super) is_off: bool,
}

/// Names that change together.
type Changes = Vec<(PathBuf, Option<u64>)>;

/// How a step is made.
pub(super) enum Step {
    Whole,
    /// Made, and then the power went or the process was killed.
    LastGasp,
    Half,
}

impl World {
    /// Takes the fault that is planned for this step or look.
    fn meet(&mut self, index: &When, what: &str) -> Option<Fault> {
        let meets = |when: &mut When| match when {
            When::Next(prefix) | When::Every(prefix) => what.starts_with(prefix.as_str()),
            When::Nth(prefix, left) if what.starts_with(prefix.as_str()) => {
                let meets = *left == 0;
                *left = left.saturating_sub(1);
                meets
            }
            When::Nth(..) => false,
            numbered => numbered == index,
        };
        // Each fault counts what it sees, whether or not another one strikes.
        let met: Vec<usize> = (0..self.planned.len()).filter(|at| meets(&mut self.planned[*at].0)).collect();
        let at = *met.first()?;
        let fault = self.planned[at].1;
        if !matches!(self.planned[at].0, When::Every(_)) {
            self.planned.remove(at);
        }
        self.struck.push((what.to_owned(), fault));
        Some(fault)
    }

    /// Cuts the power.
    pub(super) fn turn_off(&mut self) {
        self.is_off = true;
        self.version += 1;
        self.power.notify_waiters();
    }

    fn check(&self, process: &Process) -> io::Result<()> {
        if self.is_off {
            return Err(io::Error::other("the power is off"));
        }
        if process.is_killed() { Err(io::Error::other("the process was killed")) } else { Ok(()) }
    }

    pub(super) fn step(&mut self, process: &Process, what: String) -> io::Result<Step> {
        self.check(process)?;
        self.version += 1;
        let index = self.steps.len();
        let fault = self.meet(&When::Step(index), &what);
        self.steps.push(what);
        match fault {
            None => Ok(Step::Whole),
            Some(Fault::PowerCut) => {
                self.turn_off();
                Ok(Step::LastGasp)
            }
            Some(Fault::Kill) => {
                process.kill();
                Ok(Step::LastGasp)
            }
            Some(Fault::Error(kind)) => Err(io::Error::new(kind, format!("planned at step {index}"))),
            Some(Fault::Short) => Ok(Step::Half),
        }
    }

    pub(super) fn look(&mut self, process: &Process, what: &str, path: &Path) -> io::Result<()> {
        self.check(process)?;
        let index = self.looks;
        self.looks += 1;
        let fault = if self.planned.is_empty() {
            None
        } else {
            self.meet(&When::Look(index), &format!("{what} {}", path.display()))
        };
        match fault {
            None => return Ok(()),
            Some(Fault::PowerCut) => self.turn_off(),
            Some(Fault::Kill) => process.kill(),
            Some(Fault::Error(kind)) => return Err(io::Error::new(kind, format!("planned at look {index}"))),
            Some(Fault::Short) => {}
        }
        Err(io::Error::other(format!("planned at look {index}")))
    }

    /// A step that is made as a whole, or fails.
    pub(super) fn whole(
        &mut self,
        process: &Process,
        what: String,
        make: impl FnOnce(&mut Self) -> io::Result<()>,
    ) -> io::Result<()> {
        match self.step(process, what)? {
            Step::Whole => make(self),
            Step::LastGasp => {
                make(self)?;
                Err(io::Error::other("the process ended"))
            }
            Step::Half => Err(io::ErrorKind::StorageFull.into()),
        }
    }

    pub(super) fn rename(&mut self, changes: Changes) {
        apply(&mut self.names, &changes);
        self.renames.push(changes);
    }

    /// Creates a file without a name.
    pub(super) fn create(&mut self, file: Inode) -> u64 {
        let inode = self.next_inode;
        self.next_inode += 1;
        self.files.insert(inode, file);
        inode
    }

    /// Creates a directory in one that exists.
    pub(super) fn create_dir(&mut self, dir: &Path) -> io::Result<()> {
        if self.dirs.contains_key(dir) || self.names.contains_key(dir) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if !dir.parent().is_some_and(|parent| self.dirs.contains_key(parent)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.create_dirs(dir);
        self.new_dirs.insert(dir.to_owned());
        Ok(())
    }

    /// Creates a directory with all above it, durably.
    pub(super) fn create_dirs(&mut self, dir: &Path) {
        for dir in dir.ancestors() {
            if !self.dirs.contains_key(dir) {
                self.next_inode += 1;
                self.dirs.insert(dir.to_owned(), self.next_inode - 1);
            }
        }
    }

    pub(super) fn found(&self, path: &Path) -> io::Result<u64> {
        self.names.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    pub(super) fn stat(&self, inode: u64) -> Stat {
        let len = self.files[&inode].cache.len() as u64;
        Stat { identity: Identity { device: 0, inode }, is_file: true, len }
    }

    pub(super) fn is_locked(&self, inode: u64) -> bool {
        self.locks.get(&inode).is_some_and(|(held, by)| held.strong_count() > 0 && !by.is_killed())
    }

    /// How many of `wanted` more bytes the disk has space for.
    pub(super) fn space_for(&self, wanted: usize) -> usize {
        let Some(capacity) = self.capacity else { return wanted };
        let named: BTreeSet<_> = self.names.values().collect();
        let used: usize = named.iter().map(|inode| self.files[inode].cache.len()).sum();
        wanted.min(capacity.saturating_sub(used))
    }

    /// Makes the names in a directory durable.
    pub(super) fn sync_names(&mut self, dir: &Path) {
        let is_inside = |path: &Path| path.parent() == Some(dir);
        let (synced, rest) = std::mem::take(&mut self.renames)
            .into_iter()
            .partition(|changes: &Changes| changes.iter().any(|(path, _)| is_inside(path)));
        self.renames = rest;
        for changes in synced {
            apply(&mut self.durable_names, &changes);
        }
        self.new_dirs.retain(|dir| !is_inside(dir));
    }

    /// Makes all names durable.
    pub(super) fn sync_all_names(&mut self) {
        for changes in std::mem::take(&mut self.renames) {
            apply(&mut self.durable_names, &changes);
        }
        self.new_dirs.clear();
    }
}

pub(super) fn apply(names: &mut BTreeMap<PathBuf, u64>, changes: &[(PathBuf, Option<u64>)]) {
    for (path, inode) in changes {
        match inode {
            Some(inode) => drop(names.insert(path.clone(), *inode)),
            None => drop(names.remove(path)),
        }
    }
}
