use std::sync::atomic::AtomicBool;

use super::*;
use crate::directory::Sealed;
use crate::sim::{Fault, When};

const SEALED: Sealed = Sealed { last: EventId::new(9), compressed: false };

fn read(disk: &SimDisk) -> Vec<u8> {
    let directory = directory(disk);
    let sealed = directory.list().unwrap().sealed;
    assert_eq!(sealed.iter().filter(|sealed| sealed.last == SEALED.last).count(), 1);
    let (_, file, stat) = directory.open_sealed(SEALED).unwrap().unwrap();
    let mut bytes = vec![0; usize::try_from(stat.len).unwrap()];
    assert_eq!(file.read_at(&mut bytes, 0).unwrap(), bytes.len());
    bytes
}

#[test]
fn a_compressed_segment_reads_as_the_plain_one_and_checks() {
    let log = log();
    let disk = disk_of(&log);
    let directory = directory(&disk);
    assert!(directory.compress(SEALED, &AtomicBool::new(false)).unwrap());
    let files = disk.files();
    assert!(!files.contains_key(&dir().join("state-9")));
    let packed = &files[&dir().join("state-9.zst")];
    assert_eq!(zstd::stream::decode_all(&packed[..]).unwrap(), log[0].1);
    assert_eq!(read(&disk), log[0].1);
    assert_eq!(findings(&disk), []);
    assert!(directory.compress(SEALED, &AtomicBool::new(false)).unwrap(), "once more is harmless");
    assert_eq!(read(&disk), log[0].1);
}

#[test]
fn damage_in_a_compressed_segment_is_found() {
    let disk = disk_of(&log());
    directory(&disk).compress(SEALED, &AtomicBool::new(false)).unwrap();
    let path = dir().join("state-9.zst");
    let packed = disk.files()[&path].clone();
    for at in (0..packed.len()).step_by(7) {
        let mut bad = packed.clone();
        bad[at] ^= 0x10;
        disk.put(&path, &bad);
        let found = findings(&disk);
        // The header of the frame that holds the index is not read by us.
        assert!(!found.is_empty() || read(&disk) == log()[0].1, "byte {at} of {}", packed.len());
        assert!(found.iter().all(|finding| file_name(&finding.file) == "state-9.zst"), "{found:?}");
    }
}

#[test]
fn a_stopped_compression_leaves_the_plain_segment() {
    let disk = disk_of(&log());
    assert!(!directory(&disk).compress(SEALED, &AtomicBool::new(true)).unwrap());
    assert_eq!(read(&disk), log()[0].1);
    assert!(directory(&disk).compress(SEALED, &AtomicBool::new(false)).unwrap());
    assert_eq!(read(&disk), log()[0].1);
}

#[test]
fn a_compression_that_fails_anywhere_loses_nothing() {
    let whole = log()[0].1.clone();
    let disk = disk_of(&log());
    directory(&disk).compress(SEALED, &AtomicBool::new(false)).unwrap();
    for step in 0..disk.steps().len() {
        for fault in [Fault::PowerCut, Fault::Error(std::io::ErrorKind::Other), Fault::Short] {
            for seed in 0..16 {
                let disk = disk_of(&log());
                disk.fail(When::Step(step), fault);
                let first = directory(&disk).compress(SEALED, &AtomicBool::new(false));
                let disk = if fault == Fault::PowerCut || seed % 2 == 0 {
                    disk.reboot(&mut fastrand::Rng::with_seed(seed))
                } else {
                    disk.heal();
                    disk
                };
                assert_eq!(read(&disk), whole, "step {step}, {fault:?}, seed {seed}: {first:?}");
                directory(&disk).compress(SEALED, &AtomicBool::new(false)).unwrap();
                assert!(!disk.files().contains_key(&dir().join("state-9")));
                let disk = disk.reboot(&mut fastrand::Rng::with_seed(seed));
                assert_eq!(read(&disk), whole, "step {step}, {fault:?}, seed {seed}: {first:?}");
                assert_eq!(findings(&disk), []);
            }
        }
    }
}
