//! Changes of files from outside: durable at once, and no step of any process.

use std::path::{Path, PathBuf};

use super::SimDisk;
use crate::sim::inode::Inode;

impl SimDisk {
    /// Copies all files of a directory into another one, durably, each as a new file: from outside, without a step.
    pub fn copy_dir(&self, from: &Path, to: &Path) {
        let mut world = self.world();
        world.version += 1;
        world.create_dirs(to);
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
        world.sync_all_names();
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
        world.sync_all_names();
        world.durable_names.remove(path);
        let inode = world.names.remove(path)?;
        Some(world.files[&inode].cache.clone())
    }

    /// Renames a file, or a directory with all that is in it, durably: from outside, without a step.
    pub fn move_tree(&self, from: &Path, to: &Path) {
        let mut world = self.world();
        world.version += 1;
        world.sync_all_names();
        let moved = |path: &Path| match path.strip_prefix(from) {
            Ok(rest) if rest.as_os_str().is_empty() => to.to_owned(),
            Ok(rest) => to.join(rest),
            Err(_) => path.to_owned(),
        };
        world.names = world.names.iter().map(|(path, inode)| (moved(path), *inode)).collect();
        world.dirs = world.dirs.iter().map(|(dir, inode)| (moved(dir), *inode)).collect();
        world.durable_names = world.names.clone();
    }
}
