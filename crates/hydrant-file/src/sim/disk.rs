//! A disk in memory that fails at any step, and loses its power.
//!
//! It is as unkind as POSIX allows: of what was written since the last sync, each 512-byte block survives a
//! power cut or not, in any of its versions, by a seed; so does each change of a directory, whatever came
//! before or after it; a length may survive without the bytes. A sync that fails leaves the cache as it is
//! and forgets that it was dirty: the next one succeeds and has saved nothing.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use fastrand::Rng;

use super::inode::Inode;
use super::stepped;
use super::world::{Fault, Interrupt, Process, Step, When, World, apply};
use crate::disk::{Disk, DiskFile, Identity, Mode, Stat, Turn};

/// A file, as [`SimDisk::each_file`] shows it.
#[derive(Debug)]
pub struct Shown<'a> {
    /// Its name in the directory.
    pub name: &'a str,
    /// The number of its inode.
    pub inode: u64,
    /// Its contents, as processes see them.
    pub cached: &'a [u8],
    /// Its contents, as a power cut leaves them at least.
    pub durable: &'a [u8],
    /// The names in the directory by which a power cut leaves it.
    pub durable_names: &'a [String],
}

/// A process's handle of a disk. Clones belong to the same process.
#[derive(Clone, Debug)]
pub struct SimDisk {
    world: Arc<Mutex<World>>,
    process: Arc<Process>,
}

impl SimDisk {
    /// An empty disk that has this directory.
    pub fn new(dir: &Path) -> Self {
        let mut world = World::default();
        world.create_dir(dir);
        Self::of(world)
    }

    fn of(world: World) -> Self {
        Self { world: Arc::new(Mutex::new(world)), process: Arc::default() }
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins another process on the same disk.
    #[must_use]
    pub fn process(&self) -> Self {
        Self { world: self.world.clone(), process: Arc::default() }
    }

    /// Kills the process of this handle: its locks are released, its handles fail, and it never gets another turn.
    pub fn kill(&self) {
        self.process.kill();
    }

    /// Lets other tasks run before each step and look of this process, as processes of a machine run beside each other.
    /// Without it, a piece of work and a command of the writer are made at once. The seed decides how long it waits.
    pub fn set_stepped(&self, seed: u64) {
        self.process.is_stepped.store(true, Ordering::SeqCst);
        self.world().pace.get_or_insert_with(|| Rng::with_seed(seed));
    }

    /// Returns whether the power is off, or the process of this handle was killed.
    pub fn has_ended(&self) -> bool {
        self.process.is_killed() || self.is_off()
    }

    /// Returns whether the power is off.
    pub fn is_off(&self) -> bool {
        self.world().is_off
    }

    /// Waits until the process of this handle is killed, or the power is cut.
    pub async fn ended(&self) {
        let power = self.world().power.clone();
        let (mut off, mut killed) = (pin!(power.notified()), pin!(self.process.ended.notified()));
        off.as_mut().enable();
        killed.as_mut().enable();
        if !self.has_ended() {
            poll_fn(|context| {
                let is_over =
                    off.as_mut().poll(context).is_ready() || killed.as_mut().poll(context).is_ready();
                if is_over { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
        }
    }

    /// Returns a number that changes with each step, and with each change from outside.
    pub fn version(&self) -> u64 {
        self.world().version
    }

    /// Returns the faults that struck since the last call, each with the step or look that it met.
    pub fn take_struck(&self) -> Vec<(String, Fault)> {
        std::mem::take(&mut self.world().struck)
    }

    /// Plans a fault.
    pub fn fail(&self, when: When, fault: Fault) {
        self.world().planned.push((when, fault));
    }

    /// Plans something that another process does at a moment of this number, counted from 0.
    ///
    /// It runs at once and must not wait for anything.
    pub fn interrupt_at(&self, moment: usize, act: impl FnOnce() + Send + 'static) {
        self.world().interrupt = Some(Interrupt(moment, Box::new(act)));
    }

    /// Returns how many moments there were so far: one before each look, and one before each name of a listing.
    pub fn moments(&self) -> usize {
        self.world().moments
    }

    /// Returns the planned faults that have not happened.
    pub fn planned(&self) -> Vec<(When, Fault)> {
        self.world().planned.clone()
    }

    /// Removes all planned faults. No process is stepped any more.
    pub fn heal(&self) {
        let mut world = self.world();
        (world.planned, world.interrupt, world.pace) = (Vec::new(), None, None);
    }

    /// Sets how many bytes all files together may have. Writes that need more are short and fail with `StorageFull`.
    pub fn set_capacity(&self, bytes: Option<usize>) {
        self.world().capacity = bytes;
    }

    /// Sets how long each piece of work and each command waits for its turn. A very long pause is a disk that hangs.
    pub fn set_pause(&self, pause: Option<Duration>) {
        self.world().pause = pause;
    }

    /// Returns how many looks were made so far.
    pub fn looks(&self) -> usize {
        self.world().looks
    }

    /// Returns what was changed or synced so far, a line each.
    pub fn steps(&self) -> Vec<String> {
        self.steps_from(0)
    }

    /// Returns what happened so far, without the first `from` steps.
    pub fn steps_from(&self, from: usize) -> Vec<String> {
        self.world().steps.get(from..).unwrap_or_default().to_vec()
    }

    /// Cuts the power and returns the disk as it is found afterwards: locks are gone, and of what was not synced a part
    /// survives, by chance. Handles of the old disk fail.
    #[must_use]
    pub fn reboot(&self, random: &mut Rng) -> Self {
        let mut world = self.world();
        world.turn_off();
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
        Self::of(World {
            files,
            names,
            durable_names,
            dirs: world.dirs.clone(),
            next_inode: world.next_inode,
            capacity: world.capacity,
            pause: world.pause,
            pace: world.pace.clone(),
            planned: std::mem::take(&mut world.planned),
            struck: std::mem::take(&mut world.struck),
            version: world.version + 1,
            ..World::default()
        })
    }

    /// Returns a copy of the disk as the next process finds it after a kill now: everything that was written, no lock.
    #[must_use]
    pub fn restart(&self) -> Self {
        let disk = self.beside();
        disk.world().locks.clear();
        disk
    }

    /// Returns a copy of the disk as another process sees it now, locks included. Works even if the power is off.
    #[must_use]
    pub fn beside(&self) -> Self {
        let world = self.world();
        Self::of(World {
            files: world.files.clone(),
            names: world.names.clone(),
            durable_names: world.durable_names.clone(),
            renames: world.renames.clone(),
            dirs: world.dirs.clone(),
            locks: world.locks.clone(),
            next_inode: world.next_inode,
            capacity: world.capacity,
            ..World::default()
        })
    }

    /// Returns all files, as a reader sees them now.
    pub fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let world = self.world();
        world.names.iter().map(|(path, inode)| (path.clone(), world.files[inode].cache.clone())).collect()
    }

    /// Shows each file of a directory, in the order of their names: as its processes see it, and what of it is durable.
    pub fn each_file(&self, dir: &Path, mut each: impl FnMut(Shown<'_>)) {
        let world = self.world();
        let name = |path: &Path| -> Option<String> {
            let inside = path.parent() == Some(dir);
            inside.then(|| path.file_name()?.to_str().map(str::to_owned)).flatten()
        };
        let mut durable: BTreeMap<u64, Vec<String>> = BTreeMap::new();
        for (path, inode) in &world.durable_names {
            durable.entry(*inode).or_default().extend(name(path));
        }
        for (path, inode) in &world.names {
            let Some(name) = name(path) else { continue };
            each(Shown {
                name: &name,
                inode: *inode,
                cached: &world.files[inode].cache,
                durable: &world.files[inode].durable,
                durable_names: durable.get(inode).map_or(&[], Vec::as_slice),
            });
        }
    }

    /// Copies all files of a directory into another one, durably, each as a new file: from outside, without a step.
    pub fn copy_dir(&self, from: &Path, to: &Path) {
        let mut world = self.world();
        world.version += 1;
        world.create_dir(to);
        let inside = |path: &&PathBuf| path.parent() == Some(from);
        let paths: Vec<PathBuf> = world.names.keys().filter(inside).cloned().collect();
        for path in paths {
            let bytes = world.files[&world.names[&path]].cache.clone();
            let inode = world.create(Inode::durable(&bytes));
            let copy = to.join(path.file_name().unwrap_or_default());
            world.names.insert(copy.clone(), inode);
            world.durable_names.insert(copy, inode);
        }
    }

    /// Removes a directory with all files in it, durably: from outside, without a step.
    pub fn remove_dir(&self, dir: &Path) {
        let mut world = self.world();
        world.version += 1;
        world.sync_names();
        world.names.retain(|path, _| !path.starts_with(dir));
        world.dirs.retain(|path, _| !path.starts_with(dir));
        world.durable_names = world.names.clone();
    }

    /// Puts a new file under a name, durably: from outside, without a step.
    pub fn put(&self, path: &Path, bytes: &[u8]) {
        let mut world = self.world();
        world.version += 1;
        let inode = world.create(Inode::durable(bytes));
        world.names.insert(path.to_owned(), inode);
        world.durable_names.insert(path.to_owned(), inode);
    }

    /// Replaces the contents of a file in place, durably: from outside, without a step. Does nothing if it is absent.
    pub fn write_over(&self, path: &Path, bytes: &[u8]) {
        let mut world = self.world();
        world.version += 1;
        if let Ok(inode) = world.found(path) {
            world.files.insert(inode, Inode::durable(bytes));
        }
    }

    /// Removes a file and returns its contents, durably: from outside, without a step.
    pub fn take(&self, path: &Path) -> Option<Vec<u8>> {
        let mut world = self.world();
        world.version += 1;
        world.sync_names();
        world.durable_names.remove(path);
        let inode = world.names.remove(path)?;
        Some(world.files[&inode].cache.clone())
    }

    /// Renames a file, or a directory with all that is in it, durably: from outside, without a step.
    pub fn move_tree(&self, from: &Path, to: &Path) {
        let mut world = self.world();
        world.version += 1;
        world.sync_names();
        let moved = |path: &Path| match path.strip_prefix(from) {
            Ok(rest) if rest.as_os_str().is_empty() => to.to_owned(),
            Ok(rest) => to.join(rest),
            Err(_) => path.to_owned(),
        };
        world.names = world.names.iter().map(|(path, inode)| (moved(path), *inode)).collect();
        world.dirs = world.dirs.iter().map(|(dir, inode)| (moved(dir), *inode)).collect();
        world.durable_names = world.names.clone();
    }

    /// Lets other processes act, if this one is stepped.
    fn step(&self) -> MutexGuard<'_, World> {
        stepped::pause();
        self.world()
    }

    /// Lets another process do what was planned for this moment.
    fn moment(&self) -> MutexGuard<'_, World> {
        stepped::pause();
        let mut world = self.world();
        let moment = world.moments;
        world.moments += 1;
        if let Some(Interrupt(_, act)) = world.interrupt.take_if(|Interrupt(at, _)| *at == moment) {
            drop(world);
            act();
            world = self.world();
        }
        world
    }

    fn look(&self, what: &str, path: &Path) -> io::Result<MutexGuard<'_, World>> {
        let mut world = self.moment();
        world.look(&self.process, what, path)?;
        Ok(world)
    }

    fn file(&self, path: &Path, inode: u64, lock: Option<Arc<()>>) -> Arc<dyn DiskFile> {
        Arc::new(SimFile { disk: self.clone(), inode, path: path.to_owned(), _lock: lock })
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path, mode: Mode) -> io::Result<Arc<dyn DiskFile>> {
        if mode != Mode::New {
            let inode = self.look("open", path)?.found(path)?;
            return Ok(self.file(path, inode, None));
        }
        let mut world = self.step();
        world.whole(&self.process, format!("create {}", path.display()), |world| {
            if world.names.contains_key(path) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            let inode = world.create(Inode::default());
            world.rename(vec![(path.to_owned(), Some(inode))]);
            Ok(())
        })?;
        let inode = world.found(path)?;
        Ok(self.file(path, inode, None))
    }

    fn stat(&self, path: &Path) -> io::Result<Option<Stat>> {
        let world = self.look("stat", path)?;
        if let Some(inode) = world.dirs.get(path) {
            let identity = Identity { device: 0, inode: *inode };
            return Ok(Some(Stat { identity, is_file: false, len: 0 }));
        }
        Ok(world.names.get(path).map(|inode| world.stat(*inode)))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let world = self.look("list", dir)?;
        if !world.dirs.contains_key(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        drop(world);
        // As `readdir` does, one name after the other, whatever happens to names in between.
        let mut names = Vec::new();
        let mut before: Option<PathBuf> = None;
        loop {
            let world = self.moment();
            let end = before.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
            let mut rest = world.names.range::<PathBuf, _>((Bound::Unbounded, end)).rev();
            let Some((path, _)) = rest.find(|(path, _)| path.parent() == Some(dir)) else { return Ok(names) };
            names.extend(path.file_name().and_then(|name| Some(name.to_str()?.to_owned())));
            before = Some(path.clone());
        }
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let what = format!("link {} {}", from.display(), to.display());
        self.step().whole(&self.process, what, |world| {
            let inode = world.found(from)?;
            if world.names.contains_key(to) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            world.rename(vec![(to.to_owned(), Some(inode))]);
            Ok(())
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let what = format!("rename {} {}", from.display(), to.display());
        self.step().whole(&self.process, what, |world| {
            let inode = world.found(from)?;
            if world.names.get(to) != Some(&inode) {
                world.rename(vec![(from.to_owned(), None), (to.to_owned(), Some(inode))]);
            }
            Ok(())
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.step().whole(&self.process, format!("remove {}", path.display()), |world| {
            world.found(path)?;
            world.rename(vec![(path.to_owned(), None)]);
            Ok(())
        })
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut world = self.step();
        match world.step(&self.process, format!("sync_dir {}", dir.display()))? {
            Step::Whole => {
                world.sync_names();
                Ok(())
            }
            Step::LastGasp => Err(io::Error::other("the process ended")),
            Step::Half => Err(io::ErrorKind::StorageFull.into()),
        }
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.step().whole(&self.process, format!("create_dir {}", dir.display()), |world| {
            world.create_dir(dir);
            Ok(())
        })
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Arc<dyn DiskFile>>> {
        let mut world = self.step();
        world.whole(&self.process, format!("lock {}", path.display()), |world| {
            if !world.names.contains_key(path) {
                let inode = world.create(Inode::default());
                world.rename(vec![(path.to_owned(), Some(inode))]);
            }
            Ok(())
        })?;
        let inode = world.found(path)?;
        if world.is_locked(inode) {
            return Ok(None);
        }
        let lock = Arc::new(());
        world.locks.insert(inode, (Arc::downgrade(&lock), self.process.clone()));
        Ok(Some(self.file(path, inode, Some(lock))))
    }

    fn is_locked(&self, path: &Path) -> io::Result<bool> {
        let world = self.look("is_locked", path)?;
        Ok(world.found(path).is_ok_and(|inode| world.is_locked(inode)))
    }

    fn is_stepped(&self) -> bool {
        self.process.is_stepped.load(Ordering::SeqCst) && self.world().pace.is_some()
    }

    fn pace(&self) -> Turn {
        let chance = self.world().pace.as_mut().map_or(0, |pace| pace.u8(..16));
        Box::pin(async move {
            match chance {
                0..10 => {}
                10..15 => tokio::task::yield_now().await,
                _ => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        })
    }

    fn turn(&self) -> Turn {
        let (disk, pause) = (self.clone(), self.world().pause);
        Box::pin(async move {
            tokio::task::yield_now().await;
            if let Some(pause) = pause {
                tokio::time::sleep(pause).await;
            }
            if disk.process.is_killed() {
                std::future::pending::<()>().await;
            }
        })
    }
}

struct SimFile {
    disk: SimDisk,
    inode: u64,
    path: PathBuf,
    _lock: Option<Arc<()>>,
}

impl SimFile {
    fn inode<'w>(&self, world: &'w mut World) -> &'w mut Inode {
        world.files.get_mut(&self.inode).expect("files are kept as long as their disk")
    }
}

fn at(offset: u64) -> usize {
    usize::try_from(offset).expect("a simulated file fits into memory")
}

impl DiskFile for SimFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let world = self.disk.look("read", &self.path)?;
        let rest = world.files[&self.inode].cache.get(at(offset)..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut world = self.disk.step();
        let what = format!("write {} of {} bytes at {offset}", self.path.display(), bytes.len());
        let step = world.step(&self.disk.process, what)?;
        let len = self.inode(&mut world).cache.len();
        let grows = (at(offset) + bytes.len()).saturating_sub(len);
        let fits = bytes.len() - (grows - world.space_for(grows));
        let file = self.inode(&mut world);
        match step {
            Step::Half => file.write(&bytes[..bytes.len() / 2], at(offset)),
            _ => file.write(&bytes[..fits], at(offset)),
        }
        match step {
            Step::Whole if fits == bytes.len() => Ok(()),
            Step::LastGasp => Err(io::Error::other("the process ended")),
            _ => Err(io::ErrorKind::StorageFull.into()),
        }
    }

    fn sync(&self) -> io::Result<()> {
        let mut world = self.disk.step();
        let step = world.step(&self.disk.process, format!("sync {}", self.path.display()));
        let is_gone = world.is_off || self.disk.process.is_killed();
        let mut random = Rng::with_seed(world.steps.len() as u64);
        let file = self.inode(&mut world);
        match step {
            Ok(Step::Whole) => {
                file.sync();
                Ok(())
            }
            Ok(Step::LastGasp) => Err(io::Error::other("the process ended")),
            Ok(Step::Half) => {
                file.survive(&mut random);
                Err(io::Error::other("planned"))
            }
            Err(cause) => {
                if !is_gone {
                    file.survive(&mut random);
                }
                Err(cause)
            }
        }
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        let mut world = self.disk.step();
        let step = world.step(&self.disk.process, format!("truncate {} to {len}", self.path.display()))?;
        if !matches!(step, Step::Half) {
            self.inode(&mut world).truncate(at(len));
        }
        match step {
            Step::Whole => Ok(()),
            Step::LastGasp => Err(io::Error::other("the process ended")),
            Step::Half => Err(io::Error::other("planned")),
        }
    }

    fn stat(&self) -> io::Result<Stat> {
        Ok(self.disk.look("fstat", &self.path)?.stat(self.inode))
    }
}
