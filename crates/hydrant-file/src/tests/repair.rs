use hydrant::Result;

use super::*;
use crate::FileStoreOptions;
use crate::RepairReport;
use crate::disk::Disk;
use crate::sim::{Fault, When};

fn repair(disk: &SimDisk) -> Result<RepairReport> {
    let options = FileStoreOptions::default().with_event_bytes_max(EVENT_BYTES_MAX);
    crate::sim::repair(disk, &dir(), &options)
}

/// Every byte that was there is still there, in some file.
fn nothing_is_lost(before: &[(&str, Vec<u8>)], disk: &SimDisk) {
    let after = disk.files();
    for (name, bytes) in before {
        for line in bytes.split(|&byte| byte == b'\n') {
            let kept = |file: &Vec<u8>| line.is_empty() || memchr::memmem::find(file, line).is_some();
            assert!(after.values().any(kept), "{name} lost {:?}", String::from_utf8_lossy(line));
        }
    }
}

fn foreign(id: u64) -> String {
    format!("{{\"eventId\":{id},\"stateChanged\":{{\"tag\":\"T\"}}}}\n")
}

#[test]
fn a_sound_log_is_left_alone() {
    let disk = disk_of(&log());
    let before = disk.files();
    assert_eq!(repair(&disk).unwrap(), RepairReport::default());
    let mut after = disk.files();
    after.remove(&dir().join("lock"));
    assert_eq!(after, before);
}

#[test]
fn glued_lines_are_taken_apart() {
    let whole: String = (0..6).map(foreign).collect();
    for (glue, text) in [
        ("half an event", whole.replace("{\"eventId\":3", "{\"eventId\":3,\"stateCha{\"eventId\":3")),
        ("NUL bytes", whole.replace("{\"eventId\":3", "\0\0\0\0{\"eventId\":3")),
        ("no line break", whole.replace("}\n{\"eventId\":3", "}{\"eventId\":3")),
        ("a line of garbage", whole.replace("{\"eventId\":3", "#!%\n{\"eventId\":3")),
        ("an empty line", whole.replace("{\"eventId\":3", "\n{\"eventId\":3")),
    ] {
        let files = [("state", text.into_bytes())];
        let disk = disk_of(&files);
        assert!(!findings(&disk).is_empty(), "{glue}");
        let report = repair(&disk).unwrap();
        assert_eq!((report.repaired.len(), report.remaining.len()), (1, 0), "{glue}: {report:?}");
        assert_eq!(super::text(&disk, "state"), whole, "{glue}");
        assert_eq!(findings(&disk), [], "{glue}");
        nothing_is_lost(&files, &disk);
    }
}

#[test]
fn where_an_event_is_missing_the_log_ends_before_it() {
    let text: String = (0..6).map(foreign).collect::<String>().replace("{\"eventId\":3,", "{\"eventI");
    let files = [("state", text.into_bytes())];
    let disk = disk_of(&files);
    let report = repair(&disk).unwrap();
    assert_eq!((report.repaired.len(), report.remaining.len()), (1, 0), "{report:?}");
    assert_eq!(ids(&disk, "state"), [0, 1, 2]);
    assert_eq!(findings(&disk), []);
    nothing_is_lost(&files, &disk);
}

#[test]
fn our_lines_behind_glued_ones_are_moved_with_their_marks() {
    let mut ours = segment(Opens::Root, &[events(0..2), events(2..4)]);
    ours.extend(b"{\"eventId\":4,\"stateCha");
    ours.extend(foreign(4).into_bytes());
    let start = ours.len() as u64;
    for (at, event) in events(5..8).iter().enumerate() {
        let marks = (at != 1).then_some(Marks { start, synced: start });
        let flags = [Flags::AFTER_FOREIGN, Flags::default(), Flags::ENDS][at];
        encode(&mut ours, event, Place { flags, marks, opens: None });
    }
    let files = [("state", ours)];
    let disk = disk_of(&files);
    let found = findings(&disk);
    assert_eq!((found.len(), found[0].line), (1, 5), "{found:?}");
    let report = repair(&disk).unwrap();
    assert_eq!((report.repaired.len(), report.remaining.len()), (1, 0), "{report:?}");
    assert_eq!(ids(&disk, "state"), [0, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(findings(&disk), []);
    nothing_is_lost(&[("state", files[0].1[..100].to_vec())], &disk);
}

#[test]
fn damage_in_state_cuts_it_behind_the_last_whole_commit() {
    let log = log();
    let lines: Vec<usize> = memchr::memchr_iter(b'\n', &log[2].1).collect();
    // The line that is damaged, and what is left then: commits are 20 21, 22 23 24, 25.
    for (line, left) in [(1, 0), (2, 2), (3, 2), (4, 2)] {
        let mut log = log.clone();
        log[2].1[lines[line] - 30] ^= 1;
        let disk = disk_of(&log);
        let report = repair(&disk).unwrap();
        assert_eq!((report.repaired.len(), report.remaining.len()), (1, 0), "{report:?}");
        assert_eq!(ids(&disk, "state").len(), left);
        assert_eq!(ids(&disk, "state-19").len(), 10);
        assert_eq!(findings(&disk), []);
        nothing_is_lost(&log, &disk);
    }
}

#[test]
fn damage_in_a_sealed_segment_raises_the_floor_behind_it() {
    for damaged in [0, 1] {
        let mut log = log();
        log[damaged].1[100] ^= 1;
        let disk = disk_of(&log);
        let report = repair(&disk).unwrap();
        assert_eq!((report.repaired.len(), report.remaining.len()), (damaged + 1, 0), "{report:?}");
        assert_eq!(findings(&disk), []);
        assert_eq!(ids(&disk, "state").len(), 6);
        assert_eq!(disk.files().contains_key(&dir().join("state-19")), damaged == 0);
        assert!(disk.files().contains_key(&dir().join("damaged-1.state-9")));
        nothing_is_lost(&log, &disk);
    }
}

/// Everything that a report says, as text.
fn described(report: &RepairReport) -> String {
    report.repaired.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// The log, and a fourth segment of events 26 to 29 in `state`.
fn longer_log() -> Vec<(&'static str, Vec<u8>)> {
    let mut log = log();
    log[2].0 = "state-25";
    log.push(("state", segment(behind(25), &[vec![snapshot(26)], events(27..30)])));
    log
}

#[test]
fn a_hole_raises_the_floor_and_no_sound_file_is_cut() {
    // The segment that is missing, and the events that are missing with it.
    for (missing, first, last) in [(1, 9, 19), (2, 19, 25)] {
        let mut log = longer_log();
        log.remove(missing);
        let disk = disk_of(&log);
        let report = repair(&disk).unwrap();
        assert_eq!((report.repaired.len(), report.remaining.len()), (missing, 0), "{report:?}");
        let hole = format!("the events behind event {first}, up to event {last}, are missing");
        assert!(described(&report).contains(&hole), "{report:?}");
        assert_eq!(findings(&disk), []);
        for (at, (name, bytes)) in log.iter().enumerate() {
            let kept = if at < missing { format!("damaged-1.{name}") } else { (*name).to_owned() };
            assert_eq!(&disk.files()[&dir().join(kept)], bytes, "{name}");
        }
        assert_eq!(repair(&disk).unwrap(), RepairReport::default());
    }
    let mut log = log();
    log.remove(1);
    let disk = disk_of(&log);
    repair(&disk).unwrap();
    assert_eq!(ids(&disk, "state").len(), 6);
}

#[test]
fn damage_behind_a_hole_is_cut_where_it_is() {
    let mut log = log();
    log.remove(1);
    let third_line = memchr::memchr_iter(b'\n', &log[1].1).nth(2).unwrap();
    log[1].1[third_line - 30] ^= 1;
    let disk = disk_of(&log);
    let report = repair(&disk).unwrap();
    assert_eq!((report.repaired.len(), report.remaining.len()), (2, 0), "{report:?}");
    assert_eq!((ids(&disk, "state"), findings(&disk)), (vec![20, 21], vec![]));
    nothing_is_lost(&log, &disk);
}

#[test]
fn a_hole_before_a_file_without_snapshot_is_left() {
    let state = segment(behind(19), &[events(20..23)]);
    let disk = disk_of(&[log()[0].clone(), ("state", state.clone())]);
    let report = repair(&disk).unwrap();
    assert_eq!((report.repaired.len(), report.remaining.len()), (0, 1), "{report:?}");
    assert_eq!(disk.files()[&dir().join("state")], state);
}

/// The log after a kill between the two last steps of a compression of `state-9`.
fn half_compressed(log: &[(&'static str, Vec<u8>)]) -> SimDisk {
    let disk = disk_of(&super::log());
    let sealed = crate::directory::Sealed { last: EventId::new(9), compressed: false };
    directory(&disk).compress(sealed, &std::sync::atomic::AtomicBool::new(false)).unwrap();
    for (name, bytes) in log {
        disk.put(&dir().join(name), bytes);
    }
    disk
}

#[test]
fn both_forms_of_a_segment_are_set_aside_together() {
    let mut log = log();
    log[1].1[100] ^= 1;
    let disk = half_compressed(&log);
    let report = repair(&disk).unwrap();
    assert_eq!((report.repaired.len(), report.remaining.len()), (3, 0), "{report:?}");
    assert_eq!((ids(&disk, "state").len(), findings(&disk)), (6, vec![]));
    for kept in ["damaged-1.state-9", "damaged-1.state-9.zst", "damaged-1.state-19"] {
        assert!(disk.files().contains_key(&dir().join(kept)), "{kept}");
    }
    nothing_is_lost(&log, &disk);
}

#[test]
fn a_sound_compressed_form_replaces_a_damaged_plain_one() {
    let mut log = log();
    log[0].1[100] ^= 1;
    let disk = half_compressed(&log);
    let report = repair(&disk).unwrap();
    assert_eq!((report.repaired.len(), report.remaining.len()), (1, 0), "{report:?}");
    assert_eq!(findings(&disk), []);
    assert!(disk.files().contains_key(&dir().join("state-9.zst")));
    assert!(disk.files().contains_key(&dir().join("damaged-1.state-9")));
    // Where the compressed form is damaged too, the log begins behind both.
    let disk = half_compressed(&log);
    disk.put(&dir().join("state-9.zst"), b"garbage");
    let report = repair(&disk).unwrap();
    assert_eq!((report.repaired.len(), report.remaining.len()), (2, 0), "{report:?}");
    assert_eq!((ids(&disk, "state-19").len(), findings(&disk)), (10, vec![]));
}

/// A log after a kill of a rotation between its two last steps: `state` has a sealed name too.
fn half_rotated(log: &[(&str, Vec<u8>)], last: u64, next: &[u8]) -> SimDisk {
    let disk = disk_of(log);
    disk.link(&dir().join("state"), &dir().join(format!("state-{last}"))).unwrap();
    disk.sync_dir(&dir()).unwrap();
    disk.put(&dir().join(format!("state.next-{last}")), next);
    disk
}

async fn opens_after_repair(disk: &SimDisk, expected: &[u64]) {
    let disk = disk.restart();
    let roster = Arc::new(hydrant::MemoryCheckpoints::default());
    let options = FileStoreOptions::default();
    let store = crate::FileStore::open_on(Arc::new(disk.process()), &dir(), roster, options).await.unwrap();
    store.close().await.unwrap();
    assert_eq!((ids(&disk, "state"), findings(&disk)), (expected.to_vec(), vec![]));
}

#[tokio::test(start_paused = true)]
async fn an_unfinished_rotation_is_settled_before_a_repair() {
    let next = segment(behind(25), &[vec![snapshot(26)], events(27..29)]);
    // Damage inside of `state`, also in its last line: the second name says that the rotation counts.
    for damaged in [&[2][..], &[1, 5]] {
        let mut log = log();
        let ends: Vec<usize> = memchr::memchr_iter(b'\n', &log[2].1).collect();
        for line in damaged {
            log[2].1[ends[*line] - 30] ^= 1;
        }
        let disk = half_rotated(&log, 25, &next);
        let report = repair(&disk).unwrap();
        assert_eq!((report.repaired.len(), report.remaining.len()), (3, 0), "{report:?}");
        assert!(described(&report).contains("damaged-1.state-25"), "{report:?}");
        assert_eq!(disk.files()[&dir().join("damaged-1.state-25")], log[2].1);
        nothing_is_lost(&log, &disk);
        opens_after_repair(&disk, &[26, 27, 28]).await;
    }
    // A rotation that does not count: the second name goes, and `state` is cut.
    let mut log = log();
    let end = memchr::memchr_iter(b'\n', &log[2].1).nth(2).unwrap();
    log[2].1[end - 30] ^= 1;
    let disk = half_rotated(&log, 25, &next[..next.len() - 1]);
    let report = repair(&disk).unwrap();
    assert_eq!((report.repaired.len(), report.remaining.len()), (1, 0), "{report:?}");
    assert!(described(&report).contains("damaged-1.state.from-byte-"), "{report:?}");
    nothing_is_lost(&log, &disk);
    opens_after_repair(&disk, &[20, 21]).await;
}

#[tokio::test(start_paused = true)]
async fn an_unfinished_rotation_of_glued_lines_is_settled() {
    let whole: String = (0..6).map(foreign).collect();
    let glued = whole.replace("{\"eventId\":3", "\0\0{\"eventId\":3").into_bytes();
    let next = segment(behind(5), &[vec![snapshot(6)], events(7..9)]);
    for (next, state, left) in [(&next[..], "state-5", &[6, 7, 8][..]), (b"", "state", &[0, 1, 2, 3, 4, 5])] {
        let files = [("state", glued.clone())];
        let disk = half_rotated(&files, 5, next);
        let report = repair(&disk).unwrap();
        assert_eq!((report.repaired.len(), report.remaining.len()), (1, 0), "{report:?}");
        assert_eq!(super::text(&disk, state), whole);
        assert_eq!(disk.files()[&dir().join(format!("damaged-1.{state}"))], glued);
        opens_after_repair(&disk, left).await;
    }
}

#[test]
fn an_interrupted_repair_of_a_half_rotated_log_is_finished() {
    let mut log = log();
    let end = memchr::memchr_iter(b'\n', &log[2].1).nth(2).unwrap();
    log[2].1[end - 30] ^= 1;
    let next = segment(behind(25), &[vec![snapshot(26)], events(27..29)]);
    for (next, expected) in [(&next[..], vec![26, 27, 28]), (&next[..next.len() - 1], vec![20, 21])] {
        let disk = half_rotated(&log, 25, next);
        let begin = disk.steps().len();
        repair(&disk).unwrap();
        for (step, seed) in (begin..disk.steps().len()).flat_map(|step| (0..4).map(move |seed| (step, seed)))
        {
            let disk = half_rotated(&log, 25, next);
            disk.fail(When::Step(step), Fault::PowerCut);
            let first = repair(&disk);
            let disk = disk.reboot(&mut fastrand::Rng::with_seed(seed));
            nothing_is_lost(&log, &disk);
            repair(&disk).unwrap();
            let found = findings(&disk);
            let what = format!("step {step}, seed {seed}: {first:?}, {found:?}");
            assert!(found.iter().all(|finding| finding.is_torn_tail), "{what}");
            if found.is_empty() {
                assert_eq!(ids(&disk, "state"), expected, "{what}");
            }
            nothing_is_lost(&log, &disk);
        }
    }
}

/// The second name says that `state` was synced up to its event. So its end is damage, and no torn tail.
#[tokio::test(start_paused = true)]
async fn a_state_that_ends_before_its_second_name_is_damaged() {
    let mut log = log();
    let end = memchr::memchr_iter(b'\n', &log[2].1).nth(1).unwrap();
    log[2].1.truncate(end + 1);
    let disk = half_rotated(&log, 25, &segment(behind(25), &[vec![snapshot(26)]]));
    let roster = Arc::new(hydrant::MemoryCheckpoints::default());
    let options = FileStoreOptions::default();
    let opened = crate::FileStore::open_on(Arc::new(disk.process()), &dir(), roster, options).await;
    assert_eq!(opened.unwrap_err().kind(), hydrant::ErrorKind::Corrupt);
    repair(&disk).unwrap();
    assert_eq!(findings(&disk), []);
    opens_after_repair(&disk, &[26]).await;
}

#[test]
fn a_repair_beside_a_writer_is_fenced() {
    let disk = disk_of(&log());
    let _held = disk.lock(&dir().join("lock")).unwrap().unwrap();
    let error = repair(&disk).unwrap_err();
    assert_eq!(error.kind(), hydrant::ErrorKind::Fenced, "{error}");
}

#[test]
fn an_interrupted_repair_is_finished_by_the_next() {
    let mut damaged = log();
    damaged[0].1[100] ^= 1;
    let third_line = memchr::memchr_iter(b'\n', &damaged[2].1).nth(2).unwrap();
    damaged[2].1[third_line - 30] ^= 1;
    let glued: String = (0..6).map(foreign).collect::<String>().replace("{\"eventId\":3", "\0{\"eventId\":3");
    let mut hole = longer_log();
    hole.remove(1);
    for files in [damaged, hole, vec![("state", glued.into_bytes())]] {
        let disk = disk_of(&files);
        let report = repair(&disk).unwrap();
        assert!(report.remaining.is_empty(), "{report:?}");
        let expected = ids(&disk, "state");
        for step in 0..disk.steps().len() {
            for fault in [Fault::PowerCut, Fault::Error(std::io::ErrorKind::Other), Fault::Short] {
                for seed in 0..4 {
                    let disk = disk_of(&files);
                    disk.fail(When::Step(step), fault);
                    let first = repair(&disk);
                    let mut random = fastrand::Rng::with_seed(seed);
                    let disk = disk.reboot(&mut random);
                    nothing_is_lost(&files, &disk);
                    repair(&disk).unwrap();
                    let what = format!("step {step}, {fault:?}, seed {seed}: {first:?}");
                    // Of a cut that the power interrupted, a torn tail may be left to the next open.
                    let state = disk.files()[&dir().join("state")].clone();
                    let found = findings(&disk);
                    assert!(found.iter().all(|finding| finding.is_torn_tail), "{what}: {found:?}");
                    let end = found.first().map_or(state.len(), |torn| usize::try_from(torn.offset).unwrap());
                    disk.put(&dir().join("state"), &state[..end]);
                    assert_eq!(ids(&disk, "state"), expected, "{what}");
                    disk.put(&dir().join("state"), &state);
                    nothing_is_lost(&files, &disk);
                }
            }
        }
    }
}
