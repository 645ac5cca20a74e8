//! The disk as it is found after a power cut or a kill, and what is on it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use fastrand::Rng;

use super::SimDisk;
use crate::sim::world::{World, apply};

/// A file, as [`SimDisk::each_file`] shows it.
#[derive(Debug)]
pub struct Shown<'a> {
    /// Its name in the directory.
    pub name: &'a str,
    /// The number of its inode.
    pub inode: u64,
    /// The contents, as processes see them.
    pub cached: &'a [u8],
    /// The contents on the disk, without the changes that are only in the cache.
    pub durable: &'a [u8],
    /// Its names in the directory, as they are on the disk.
    pub durable_names: &'a [String],
}

impl SimDisk {
    /// Cuts the power and returns the disk as it is found afterwards: locks are gone, and a part of what was not synced
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
        let mut dirs = world.dirs.clone();
        for new in &world.new_dirs {
            if mood == 1 || (mood > 1 && random.bool()) {
                dirs.retain(|dir, _| !dir.starts_with(new));
                names.retain(|path, _| !path.starts_with(new));
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
            dirs,
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
            new_dirs: world.new_dirs.clone(),
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

    /// Calls `each` with every file of a directory, in the order of their names.
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
}
