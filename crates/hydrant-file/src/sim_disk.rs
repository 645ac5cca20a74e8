//! A disk in memory that a test can fail at any step and cut the power of.
//!
//! It is as unkind as POSIX allows: of what was written since the last sync, each 512-byte block survives a
//! power cut or not, in any of its versions, by a seed; so does each change of a directory, whatever came
//! before or after it; a length may survive without the bytes. A sync that fails leaves the cache as it is
//! and forgets that it was dirty: the next one succeeds and has saved nothing.

#![allow(dead_code, reason = "the tests of the store take what they need")]

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use fastrand::Rng;

use crate::disk::{Disk, DiskFile, Identity, Mode, Stat};

const BLOCK: usize = 512;

/// What goes wrong at a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The power goes while the step is under way; nothing works any more until [`SimDisk::reboot`].
    PowerCut,
    /// The step fails, and did nothing.
    Error(io::ErrorKind),
    /// A write fails half way; another step fails and did nothing.
    Short,
}

/// A handle; clones are the same disk.
#[derive(Clone, Debug)]
pub(crate) struct SimDisk(Arc<Mutex<World>>);

#[derive(Debug, Default)]
struct World {
    files: BTreeMap<u64, Inode>,
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    /// Changes of names since their directory was synced, in order; each survives as a whole or not.
    renames: Vec<Vec<(PathBuf, Option<u64>)>>,
    dirs: BTreeSet<PathBuf>,
    locks: BTreeMap<PathBuf, Weak<()>>,
    next_inode: u64,
    /// What changed the disk, or made it durable.
    steps: Vec<String>,
    planned: Option<(usize, Fault)>,
    /// How many times something was only looked at.
    looks: usize,
    planned_look: Option<usize>,
    is_off: bool,
}

#[derive(Clone, Debug, Default)]
struct Inode {
    cache: Vec<u8>,
    durable: Vec<u8>,
    /// Every version of each block since the last sync.
    dirty: BTreeMap<usize, Vec<Vec<u8>>>,
    /// Every length since the last sync.
    lengths: Vec<usize>,
}

impl Inode {
    fn write(&mut self, bytes: &[u8], offset: usize) {
        let end = offset + bytes.len();
        if end > self.cache.len() {
            self.cache.resize(end, 0);
            self.lengths.push(end);
        }
        self.cache[offset..end].copy_from_slice(bytes);
        self.mark(offset, end);
    }

    fn truncate(&mut self, len: usize) {
        let before = self.cache.len();
        self.cache.resize(len, 0);
        self.lengths.push(len);
        self.mark(len.min(before), len.max(before));
    }

    fn mark(&mut self, start: usize, end: usize) {
        for block in start / BLOCK..end.div_ceil(BLOCK) {
            let from = (block * BLOCK).min(self.cache.len());
            let to = ((block + 1) * BLOCK).min(self.cache.len());
            let mut version = self.cache[from..to].to_vec();
            version.resize(BLOCK, 0);
            self.dirty.entry(block).or_default().push(version);
        }
    }

    /// What is left of it with one version of each dirty block, chosen by index; `0` is the durable one.
    fn settle(&mut self, len: usize, mut choose: impl FnMut(usize) -> usize) {
        self.durable.resize(len, 0);
        for (block, versions) in std::mem::take(&mut self.dirty) {
            let start = block * BLOCK;
            let choice = choose(versions.len());
            if choice == 0 || start >= len {
                continue;
            }
            let end = (start + BLOCK).min(len);
            self.durable[start..end].copy_from_slice(&versions[choice - 1][..end - start]);
        }
        self.lengths.clear();
    }

    fn sync(&mut self) {
        self.settle(self.cache.len(), |versions| versions);
    }

    /// What a power cut, or a sync that fails, leaves on the disk.
    fn survive(&mut self, random: &mut Rng) {
        let mood = random.u8(..4); // everything, nothing, and twice anything
        let len = match mood {
            0 => self.cache.len(),
            1 => self.durable.len(),
            _ => {
                let known = random.usize(..=self.lengths.len());
                let len = known.checked_sub(1).map_or(self.durable.len(), |at| self.lengths[at]);
                // Files grow on disk by blocks, too.
                let grown = len.saturating_sub(self.durable.len());
                if random.bool() || grown < BLOCK { len } else { len - random.usize(..grown / BLOCK) * BLOCK }
            }
        };
        self.settle(len, |versions| match mood {
            0 => versions,
            1 => 0,
            _ => random.usize(..=versions),
        });
    }
}

/// How a step is made.
enum Step {
    Whole,
    /// Made, and then the power went.
    LastGasp,
    Half,
}

impl World {
    fn step(&mut self, what: String) -> io::Result<Step> {
        if self.is_off {
            return Err(io::Error::other("the power is off"));
        }
        let index = self.steps.len();
        self.steps.push(what);
        match self.planned {
            Some((planned, fault)) if planned == index => match fault {
                Fault::PowerCut => {
                    self.is_off = true;
                    Ok(Step::LastGasp)
                }
                Fault::Error(kind) => Err(io::Error::new(kind, format!("planned at step {index}"))),
                Fault::Short => Ok(Step::Half),
            },
            _ => Ok(Step::Whole),
        }
    }

    fn look(&mut self) -> io::Result<()> {
        if self.is_off {
            return Err(io::Error::other("the power is off"));
        }
        self.looks += 1;
        if self.planned_look == Some(self.looks - 1) {
            return Err(io::Error::other(format!("planned at look {}", self.looks - 1)));
        }
        Ok(())
    }

    /// A step that is made as a whole, or fails.
    fn whole(&mut self, what: String, make: impl FnOnce(&mut Self) -> io::Result<()>) -> io::Result<()> {
        match self.step(what)? {
            Step::Whole => make(self),
            Step::LastGasp => {
                make(self)?;
                Err(io::Error::other("the power went"))
            }
            Step::Half => Err(io::ErrorKind::StorageFull.into()),
        }
    }

    fn rename(&mut self, changes: Vec<(PathBuf, Option<u64>)>) {
        apply(&mut self.names, &changes);
        self.renames.push(changes);
    }

    fn found(&self, path: &Path) -> io::Result<u64> {
        self.names.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn stat(&self, inode: u64) -> Stat {
        let len = self.files[&inode].cache.len() as u64;
        Stat { identity: Identity { device: 0, inode }, is_file: true, len }
    }
}

fn apply(names: &mut BTreeMap<PathBuf, u64>, changes: &[(PathBuf, Option<u64>)]) {
    for (path, inode) in changes {
        match inode {
            Some(inode) => drop(names.insert(path.clone(), *inode)),
            None => drop(names.remove(path)),
        }
    }
}

impl SimDisk {
    /// An empty disk that holds this directory.
    pub(crate) fn new(dir: &Path) -> Self {
        let mut world = World::default();
        world.dirs.insert(dir.to_owned());
        Self(Arc::new(Mutex::new(world)))
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap()
    }

    /// Plans a fault at a step, counted from the beginning (or the reboot) of this disk.
    pub(crate) fn fail_at(&self, step: usize, fault: Fault) {
        self.world().planned = Some((step, fault));
    }

    /// Plans a read, or another look that changes nothing, to fail.
    pub(crate) fn fail_look_at(&self, look: usize) {
        self.world().planned_look = Some(look);
    }

    /// Plans no fault any more.
    pub(crate) fn heal(&self) {
        let mut world = self.world();
        (world.planned, world.planned_look) = (None, None);
    }

    /// How many times something was only looked at.
    pub(crate) fn looks(&self) -> usize {
        self.world().looks
    }

    /// What was changed or synced so far, a line each.
    pub(crate) fn steps(&self) -> Vec<String> {
        self.world().steps.clone()
    }

    /// The disk as it is found after a power cut now: locks are gone, and of what was not synced a part
    /// survives, by chance.
    pub(crate) fn reboot(&self, random: &mut Rng) -> Self {
        let mut world = self.world();
        world.is_off = true;
        let mut names = world.durable_names.clone();
        let mood = random.u8(..4);
        for changes in &world.renames {
            if mood == 0 || (mood > 1 && random.bool()) {
                apply(&mut names, changes);
            }
        }
        let mut files = world.files.clone();
        for inode in files.values_mut() {
            inode.survive(random);
            inode.cache.clone_from(&inode.durable);
        }
        let durable_names = names.clone();
        let (dirs, next_inode) = (world.dirs.clone(), world.next_inode);
        let world = World { files, names, durable_names, dirs, next_inode, ..World::default() };
        Self(Arc::new(Mutex::new(world)))
    }

    /// The disk as the next process finds it after a kill now: everything that was written, no lock.
    pub(crate) fn restart(&self) -> Self {
        let disk = self.beside();
        disk.world().locks.clear();
        disk
    }

    /// A copy of the disk as another process sees it now, locks included; works even when the power is off.
    pub(crate) fn beside(&self) -> Self {
        let world = self.world();
        let world = World {
            files: world.files.clone(),
            names: world.names.clone(),
            durable_names: world.durable_names.clone(),
            renames: world.renames.clone(),
            dirs: world.dirs.clone(),
            locks: world.locks.clone(),
            next_inode: world.next_inode,
            ..World::default()
        };
        Self(Arc::new(Mutex::new(world)))
    }

    /// All files, as a reader sees them now.
    pub(crate) fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let world = self.world();
        world.names.iter().map(|(path, inode)| (path.clone(), world.files[inode].cache.clone())).collect()
    }

    /// Puts a file there, durably, without a step.
    pub(crate) fn put(&self, path: &Path, bytes: &[u8]) {
        let mut world = self.world();
        let inode = world.next_inode;
        world.next_inode += 1;
        let file = Inode { cache: bytes.to_vec(), durable: bytes.to_vec(), ..Inode::default() };
        world.files.insert(inode, file);
        world.names.insert(path.to_owned(), inode);
        world.durable_names.insert(path.to_owned(), inode);
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path, mode: Mode) -> io::Result<Arc<dyn DiskFile>> {
        let mut world = self.world();
        if mode == Mode::New {
            world.whole(format!("create {}", path.display()), |world| {
                if world.names.contains_key(path) {
                    return Err(io::ErrorKind::AlreadyExists.into());
                }
                let inode = world.next_inode;
                world.next_inode += 1;
                world.files.insert(inode, Inode::default());
                world.rename(vec![(path.to_owned(), Some(inode))]);
                Ok(())
            })?;
        } else {
            world.look()?;
        }
        let inode = world.found(path)?;
        Ok(Arc::new(SimFile { disk: self.clone(), inode, name: path.display().to_string(), _lock: None }))
    }

    fn stat(&self, path: &Path) -> io::Result<Option<Stat>> {
        let mut world = self.world();
        world.look()?;
        if world.dirs.contains(path) {
            return Ok(Some(Stat {
                identity: Identity { device: 0, inode: u64::MAX },
                is_file: false,
                len: 0,
            }));
        }
        Ok(world.names.get(path).map(|inode| world.stat(*inode)))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut world = self.world();
        world.look()?;
        let inside = world.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(inside.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect())
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.world().whole(format!("link {} {}", from.display(), to.display()), |world| {
            let inode = world.found(from)?;
            if world.names.contains_key(to) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            world.rename(vec![(to.to_owned(), Some(inode))]);
            Ok(())
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.world().whole(format!("rename {} {}", from.display(), to.display()), |world| {
            let inode = world.found(from)?;
            if world.names.get(to) != Some(&inode) {
                world.rename(vec![(from.to_owned(), None), (to.to_owned(), Some(inode))]);
            }
            Ok(())
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.world().whole(format!("remove {}", path.display()), |world| {
            world.found(path)?;
            world.rename(vec![(path.to_owned(), None)]);
            Ok(())
        })
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut world = self.world();
        match world.step(format!("sync_dir {}", dir.display()))? {
            Step::Whole => {
                let renames = std::mem::take(&mut world.renames);
                for changes in renames {
                    apply(&mut world.durable_names, &changes);
                }
                Ok(())
            }
            Step::LastGasp => Err(io::Error::other("the power went")),
            Step::Half => Err(io::ErrorKind::StorageFull.into()),
        }
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.world().whole(format!("create_dir {}", dir.display()), |world| {
            world.dirs.extend(dir.ancestors().map(Path::to_owned));
            Ok(())
        })
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Arc<dyn DiskFile>>> {
        let mut world = self.world();
        let lock = Arc::new(());
        let mut is_held = false;
        world.whole(format!("lock {}", path.display()), |world| {
            is_held = world.locks.get(path).is_some_and(|held| held.strong_count() > 0);
            if !world.names.contains_key(path) {
                let inode = world.next_inode;
                world.next_inode += 1;
                world.files.insert(inode, Inode::default());
                world.rename(vec![(path.to_owned(), Some(inode))]);
            }
            Ok(())
        })?;
        if is_held {
            return Ok(None);
        }
        world.locks.insert(path.to_owned(), Arc::downgrade(&lock));
        let inode = world.found(path)?;
        let name = path.display().to_string();
        Ok(Some(Arc::new(SimFile { disk: self.clone(), inode, name, _lock: Some(lock) })))
    }

    fn is_locked(&self, path: &Path) -> io::Result<bool> {
        let mut world = self.world();
        world.look()?;
        Ok(world.locks.get(path).is_some_and(|held| held.strong_count() > 0))
    }
}

struct SimFile {
    disk: SimDisk,
    inode: u64,
    name: String,
    _lock: Option<Arc<()>>,
}

impl SimFile {
    fn with<T>(&self, act: impl FnOnce(&mut Inode, Step) -> io::Result<T>, what: String) -> io::Result<T> {
        let mut world = self.disk.world();
        let step = world.step(what)?;
        act(world.files.get_mut(&self.inode).expect("files are kept as long as their disk"), step)
    }
}

fn at(offset: u64) -> usize {
    usize::try_from(offset).unwrap()
}

impl DiskFile for SimFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut world = self.disk.world();
        world.look()?;
        let rest = world.files[&self.inode].cache.get(at(offset)..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let write = |file: &mut Inode, step: Step| match step {
            Step::Whole => {
                file.write(bytes, at(offset));
                Ok(())
            }
            Step::LastGasp => {
                file.write(bytes, at(offset));
                Err(io::Error::other("the power went"))
            }
            Step::Half => {
                file.write(&bytes[..bytes.len() / 2], at(offset));
                Err(io::ErrorKind::StorageFull.into())
            }
        };
        self.with(write, format!("write {} bytes to {} at {offset}", bytes.len(), self.name))
    }

    fn sync(&self) -> io::Result<()> {
        let mut world = self.disk.world();
        let step = world.step(format!("sync {}", self.name));
        let seed = world.steps.len() as u64;
        let is_off = world.is_off;
        let file = world.files.get_mut(&self.inode).expect("files are kept as long as their disk");
        match step {
            Ok(Step::Whole) => {
                file.sync();
                Ok(())
            }
            Ok(Step::LastGasp) => Err(io::Error::other("the power went")),
            Ok(Step::Half) => {
                file.survive(&mut Rng::with_seed(seed));
                Err(io::Error::other("planned"))
            }
            Err(cause) => {
                if !is_off {
                    file.survive(&mut Rng::with_seed(seed));
                }
                Err(cause)
            }
        }
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        let truncate = |file: &mut Inode, step: Step| {
            if matches!(step, Step::Half) {
                return Err(io::Error::other("planned"));
            }
            file.truncate(at(len));
            if matches!(step, Step::LastGasp) { Err(io::Error::other("the power went")) } else { Ok(()) }
        };
        self.with(truncate, format!("truncate {} to {len}", self.name))
    }

    fn stat(&self) -> io::Result<Stat> {
        let mut world = self.disk.world();
        world.look()?;
        Ok(world.stat(self.inode))
    }
}

mod tests {
    use super::*;

    const DIR: &str = "/log";

    fn disk() -> (SimDisk, PathBuf) {
        (SimDisk::new(Path::new(DIR)), Path::new(DIR).join("state"))
    }

    #[test]
    fn what_was_synced_survives_every_power_cut_and_what_was_not_may_not() {
        let (disk, path) = disk();
        let file = disk.open(&path, Mode::New).unwrap();
        disk.sync_dir(Path::new(DIR)).unwrap();
        file.write_at(&[1; 3000], 0).unwrap();
        file.sync().unwrap();
        file.write_at(&[2; 3000], 2500).unwrap();
        disk.rename(&path, &path.with_file_name("state-9")).unwrap();
        let mut seen = BTreeSet::new();
        for seed in 0..200 {
            let files = disk.reboot(&mut Rng::with_seed(seed)).files();
            assert_eq!(files.len(), 1, "a rename is made as a whole, or not");
            let (name, bytes) = files.first_key_value().unwrap();
            assert!(bytes[..2500].iter().all(|&byte| byte == 1));
            seen.insert((name.clone(), bytes.len(), bytes.contains(&2), bytes.contains(&0)));
        }
        assert!(seen.len() > 8, "{seen:?}");
    }

    #[test]
    fn a_sync_that_failed_has_saved_nothing_even_when_the_next_one_succeeds() {
        let (disk, path) = disk();
        let file = disk.open(&path, Mode::New).unwrap();
        disk.sync_dir(Path::new(DIR)).unwrap();
        file.write_at(&[1; 5120], 0).unwrap();
        disk.fail_at(disk.steps().len(), Fault::Error(io::ErrorKind::Other));
        file.sync().unwrap_err();
        file.sync().unwrap();
        assert_eq!(disk.files()[&path], [1; 5120], "the cache shows it");
        let after = &disk.reboot(&mut Rng::with_seed(1)).files()[&path];
        assert!(after.len() < 5120 || after.contains(&0), "the disk does not");
    }

    #[test]
    fn a_lock_ends_with_its_handle_and_with_the_power() {
        let (disk, _) = disk();
        let path = Path::new(DIR).join("lock");
        let held = disk.lock(&path).unwrap().unwrap();
        assert!(disk.lock(&path).unwrap().is_none() && disk.is_locked(&path).unwrap());
        drop(held);
        let _held = disk.lock(&path).unwrap().unwrap();
        assert!(!disk.reboot(&mut Rng::with_seed(0)).is_locked(&path).unwrap());
        assert!(disk.lock(&path).is_err(), "the power is off");
    }
}
