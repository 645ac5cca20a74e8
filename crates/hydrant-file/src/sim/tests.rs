//! The simulated disk itself.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use fastrand::Rng;

use super::*;
use crate::disk::{Disk, Mode};

const DIR: &str = "/log";

fn disk() -> (SimDisk, PathBuf) {
    (SimDisk::new(Path::new(DIR)), Path::new(DIR).join("state"))
}

#[test]
fn what_was_synced_survives_every_power_cut() {
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
fn a_sync_behind_a_failed_one_saves_nothing() {
    let (disk, path) = disk();
    let file = disk.open(&path, Mode::New).unwrap();
    disk.sync_dir(Path::new(DIR)).unwrap();
    file.write_at(&[1; 5120], 0).unwrap();
    disk.fail(When::Step(disk.steps().len()), Fault::Error(io::ErrorKind::Other));
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

#[test]
fn a_killed_process_has_no_lock_and_no_handle() {
    let (disk, path) = disk();
    let (first, second) = (disk.process(), disk.process());
    let lock = Path::new(DIR).join("lock");
    let held = first.lock(&lock).unwrap().unwrap();
    let file = first.open(&path, Mode::New).unwrap();
    file.write_at(b"kept", 0).unwrap();
    assert!(second.lock(&lock).unwrap().is_none());
    first.kill();
    file.write_at(b"lost", 0).unwrap_err();
    held.sync().unwrap_err();
    first.stat(&path).unwrap_err();
    let _held = second.lock(&lock).unwrap().expect("released");
    assert_eq!(disk.files()[&path], b"kept");
}

#[test]
fn a_process_killed_in_a_step_has_made_it() {
    let (disk, path) = disk();
    disk.fail(When::Next("write".to_owned()), Fault::Kill);
    let process = disk.process();
    let file = process.open(&path, Mode::New).unwrap();
    file.write_at(b"whole", 0).unwrap_err();
    assert_eq!(disk.process().files()[&path], b"whole");
    assert!(process.open(&path, Mode::Read).is_err() && disk.process().open(&path, Mode::Read).is_ok());
}

#[test]
fn a_moved_directory_keeps_its_files_and_identity() {
    let (disk, path) = disk();
    disk.put(&path, b"old");
    let before = disk.stat(Path::new(DIR)).unwrap().unwrap().identity;
    disk.move_tree(Path::new(DIR), Path::new("/old"));
    assert!(disk.stat(Path::new(DIR)).unwrap().is_none());
    disk.create_dir(Path::new(DIR)).unwrap();
    let stat = |dir: &str| disk.stat(Path::new(dir)).unwrap().unwrap().identity;
    assert_eq!(stat("/old"), before);
    assert_ne!(stat(DIR), before);
    assert_eq!(disk.take(Path::new("/old/state")).unwrap(), b"old");
    assert!(disk.reboot(&mut Rng::with_seed(3)).files().is_empty());
}

#[test]
fn a_new_directory_survives_once_its_parent_was_synced() {
    let lost = |syncs: bool| {
        let is_lost = |seed| {
            let (disk, _) = disk();
            let dir = Path::new("/log/new");
            disk.create_dir(dir).unwrap();
            disk.open(&dir.join("file"), Mode::New).unwrap();
            disk.sync_dir(dir).unwrap();
            if syncs {
                disk.sync_dir(Path::new(DIR)).unwrap();
            }
            let disk = disk.reboot(&mut Rng::with_seed(seed));
            assert_eq!(disk.stat(dir).unwrap().is_none(), disk.files().is_empty(), "seed {seed}");
            disk.files().is_empty()
        };
        (0..20).filter(|seed| is_lost(*seed)).count()
    };
    assert_eq!(lost(true), 0);
    assert!((1..20).contains(&lost(false)));
}
