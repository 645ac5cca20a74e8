//! The system calls that name a path: steps, which change the disk, and looks, which do not.

use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use super::SimDisk;
use super::file::SimFile;
use crate::disk::{Disk, DiskFile, Identity, Mode, Stat, Turn};
use crate::sim::inode::Inode;
use crate::sim::stepped;
use crate::sim::world::{Interrupt, Step, World};

impl SimDisk {
    /// Lets other processes act, if this one is stepped.
    pub(super) fn step(&self) -> MutexGuard<'_, World> {
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

    pub(super) fn look(&self, what: &str, path: &Path) -> io::Result<MutexGuard<'_, World>> {
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
        // Lists one name after the other, as `readdir` does: names may change in between.
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
                world.sync_names(dir);
                Ok(())
            }
            Step::LastGasp => Err(io::Error::other("the process ended")),
            Step::Half => Err(io::ErrorKind::StorageFull.into()),
        }
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.step()
            .whole(&self.process, format!("create_dir {}", dir.display()), |world| world.create_dir(dir))
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
