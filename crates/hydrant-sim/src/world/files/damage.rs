//! What befalls the files of a log from outside, and what its operator does about it.

use std::path::{Path, PathBuf};

use hydrant::{Error, ErrorKind};
use hydrant_file::sim::SimDisk;

use super::{BACKUP, DIR, Files, OTHER};
use crate::plan::Damage;
use crate::world::State;

/// How many times a program fails to open its log before its operator looks.
const PATIENCE: u32 = 5;

/// How many times a program may fail to open its log in a row once the faults have stopped.
const HOPELESS: u32 = 100;

/// How many events a file holds at least whose loss is certain to be seen.
const VISIBLE_LINES: usize = 16;

/// Damage that an operator can make good.
pub struct Damaged {
    pub how: Damage,
    path: PathBuf,
    /// What the file held.
    before: Vec<u8>,
    /// What it holds now; `None` if it is gone.
    after: Option<Vec<u8>>,
}

impl State {
    pub fn back_up_files(&mut self) {
        // A backup of a log that misses a file would be of no use to its operator.
        if let Some(files) = self.files.as_mut().filter(|files| files.damage.is_none()) {
            files.disk.remove_dir(Path::new(BACKUP));
            files.disk.copy_dir(Path::new(DIR), Path::new(BACKUP));
            files.has_backup = true;
        }
    }

    /// Damages the files of the primary, if they can be.
    pub fn damage_files(&mut self, how: Damage) {
        self.look_at_files();
        let Some(files) = &mut self.files else { return };
        if self.healed || files.damage.is_some() {
            return;
        }
        let done = files.inflict(how);
        if done {
            files.was_damaged = true;
            self.is_overwritten |= how == Damage::CopyOver;
            files.is_replaced |= matches!(how, Damage::RenameOver { .. } | Damage::OtherLog | Damage::Backup);
            files.misses_segment |= matches!(how, Damage::SealedMissing { .. });
            for shadow in files.shadows.values_mut() {
                (shadow.acknowledged, shadow.shown) = (None, None);
            }
            *files.struck.entry(("disk outside", how.name())).or_default() += 1;
            self.note(|| format!("**   {how:?} befalls the log"));
            for name in self.names_under_way() {
                *self.covered.entry((name, how.name())).or_default() += 1;
            }
        }
        self.look_at_files();
    }

    /// What an operator does about a log that cannot be opened, or when the faults stop.
    pub fn operate_on_files(&mut self, error: Option<&Error>) {
        let Some(mut files) = self.files.take() else { return };
        files.failed_opens += u32::from(error.is_some());
        let is_time = error.is_none() || files.failed_opens > PATIENCE || self.healed;
        if is_time && files.was_damaged {
            let dir = Path::new(DIR);
            let is_corrupt = error.is_some_and(|error| error.kind() == ErrorKind::Corrupt);
            if is_corrupt && files.config.repairs {
                let options = files.options(crate::plan::Store::Primary);
                let repaired = hydrant_file::sim::repair(&files.disk.process(), dir, &options);
                self.note(|| format!("##   the operator repairs: {repaired:?}"));
            }
            let is_back = files.put_back();
            self.note(|| format!("##   the operator puts back what was lost: {is_back}"));
            // At the end only a few appends are tried.
            let tries_max = if self.healed { 2 } else { 3 * PATIENCE };
            if !is_back && files.failed_opens > tries_max {
                self.note(|| "##   the operator begins anew".to_owned());
                files.disk.move_tree(dir, Path::new("/broken"));
                files.disk.remove_dir(Path::new("/broken"));
                // A relay opens a directory that is there; its writer fills it.
                files.disk.copy_dir(Path::new("/broken"), dir);
            }
        }
        // The log is not opened before there is space, and the faults do not stop before the log was opened.
        if is_time && error.is_some_and(|error| error.kind() == ErrorKind::Full) {
            self.note(|| "##   the operator makes space".to_owned());
            files.disk.set_capacity(None);
        }
        let is_hopeless = self.healed && files.failed_opens > HOPELESS;
        self.files = Some(files);
        self.look_at_files();
        if let Some(error) = error.filter(|_| is_hopeless) {
            self.fail("open", format!("the log cannot be opened once the faults have stopped: {error}"));
        }
    }
}

impl Files {
    fn inflict(&mut self, how: Damage) -> bool {
        let (dir, state) = (Path::new(DIR), Path::new(DIR).join("state"));
        let disk = self.disk.clone();
        let Some(before) = content(&disk, &state) else { return false };
        match how {
            Damage::Truncate { bytes } => {
                let keep = before.len().saturating_sub(usize::from(bytes));
                self.rewrite(how, state, before, |before| before[..keep].to_vec())
            }
            Damage::Empty => self.rewrite(how, state, before, |_| Vec::new()),
            Damage::Remove => {
                disk.take(&state);
                self.damage = Some(Damaged { how, path: state, before, after: None });
                true
            }
            Damage::RenameOver { is_older } => {
                let half = &before[..before.len() / 2];
                let older = half.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
                let keep = if is_older { older } else { before.len() };
                disk.put(&state, &before[..keep]);
                true
            }
            Damage::CopyOver => {
                let Some(other) = content(&disk, &Path::new(OTHER).join("state")) else { return false };
                disk.write_over(&state, &other);
                true
            }
            Damage::SealedMissing { nth } => {
                let mut sealed: Vec<PathBuf> = disk.files().into_keys().collect();
                sealed.retain(|path| path.parent() == Some(dir) && is_sealed(path));
                let Some(path) = sealed.get(usize::from(nth) % sealed.len().max(1)).cloned() else {
                    return false;
                };
                let before = disk.take(&path).unwrap_or_default();
                self.damage = Some(Damaged { how, path, before, after: None });
                true
            }
            Damage::OtherLog | Damage::Backup => {
                let from = if how == Damage::OtherLog { OTHER } else { BACKUP };
                if how == Damage::Backup && !self.has_backup {
                    return false;
                }
                disk.move_tree(dir, Path::new("/old"));
                disk.remove_dir(Path::new("/old"));
                disk.copy_dir(Path::new(from), dir);
                true
            }
        }
    }

    /// Whether damage that is still there is one that every look must see.
    pub(super) fn is_visible(&self) -> bool {
        let Some(Damaged { how, path, before, after }) = &self.damage else { return false };
        let lines = before.split(|byte| *byte == b'\n').count();
        let is_still = content(&self.disk, path) == *after;
        // The record vouches for no other file, and misses a file that is absent.
        (*how == Damage::Remove || *how == Damage::Empty && !self.is_replaced)
            && lines >= VISIBLE_LINES
            && is_still
            && !self.lock_failed
    }

    fn rewrite(
        &mut self,
        how: Damage,
        path: PathBuf,
        before: Vec<u8>,
        change: impl Fn(&[u8]) -> Vec<u8>,
    ) -> bool {
        let after = change(&before);
        if after == before {
            return false;
        }
        self.disk.write_over(&path, &after);
        self.damage = Some(Damaged { how, path, before, after: Some(after) });
        true
    }

    /// Makes good what can be: only where nothing was written since.
    fn put_back(&mut self) -> bool {
        let Some(Damaged { path, before, after, .. }) = self.damage.take() else { return false };
        let now = content(&self.disk, &path);
        if now != after {
            return false;
        }
        if now.is_some() {
            self.disk.write_over(&path, &before);
        } else {
            self.disk.put(&path, &before);
        }
        true
    }
}

fn content(disk: &SimDisk, path: &Path) -> Option<Vec<u8>> {
    disk.files().remove(path)
}

fn is_sealed(path: &Path) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("state-"))
}
