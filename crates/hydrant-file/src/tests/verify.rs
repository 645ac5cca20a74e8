use super::*;

#[test]
fn a_sound_log_gives_no_findings() {
    assert_eq!(findings(&disk_of(&log())), []);
    assert_eq!(findings(&disk_of(&log()[1..])), [], "a pruned log begins behind an event");
    assert_eq!(findings(&disk_of(&[])), []);
    let foreign = |ids: Range<u64>| -> Vec<u8> {
        ids.flat_map(|id| format!("{{\"eventId\":{id},\"stateChanged\":{{\"tag\":\"T\"}}}}\n").into_bytes())
            .collect()
    };
    let reused = b"{\"eventId\":9,\"stateChanged\":{\"tag\":\"Checkpoint\",\"state\":{}}}\n".to_vec();
    let files = [("state-9", foreign(0..10)), ("state", [reused, foreign(10..12)].concat())];
    assert_eq!(findings(&disk_of(&files)), []);
}

#[test]
fn every_flipped_bit_is_found_with_its_file_and_line() {
    let log = log();
    for (at, (name, bytes)) in log.iter().enumerate() {
        for byte in 0..bytes.len() {
            let mut log = log.clone();
            log[at].1[byte] ^= 1 << (byte % 8);
            let found = findings(&disk_of(&log));
            let first = found.first().unwrap_or_else(|| panic!("byte {byte} of {name}"));
            assert_eq!(file_name(&first.file), *name);
            let line = memchr::memchr_iter(b'\n', &bytes[..byte]).count() as u64 + 1;
            assert!(first.line <= line && line <= first.line + 7, "byte {byte} of {name}: {first}");
            if !first.is_torn_tail {
                assert!(line == first.line, "byte {byte} of {name}: {first}");
            }
        }
    }
}

#[test]
fn a_missing_line_and_a_line_twice_are_found() {
    let log = log();
    for (at, (name, bytes)) in log.iter().enumerate() {
        let lines: Vec<&[u8]> = bytes.split_inclusive(|&byte| byte == b'\n').collect();
        for line in 0..lines.len() {
            let mut files = log.clone();
            files[at].1 = [&lines[..line], &lines[line + 1..]].concat().concat();
            // What stands behind it is not where it was written for; behind a file's last commit stands nothing.
            let is_followed = line < lines.len() - [6, 7, 1][at];
            let is_found = !findings(&disk_of(&files)).is_empty();
            assert!(is_found || !is_followed, "{name} without line {}", line + 1);
            files[at].1 = [&lines[..=line], &lines[line..]].concat().concat();
            assert!(!findings(&disk_of(&files)).is_empty(), "{name} with line {} twice", line + 1);
        }
    }
}

#[test]
fn a_missing_or_misnamed_segment_is_found() {
    let mut log = log();
    log.remove(1);
    let found = findings(&disk_of(&log));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].what.contains("a segment is missing"), "{}", found[0]);
    assert_eq!((file_name(&found[0].file), found[0].line), ("state", 1));

    let mut log = super::log();
    log[1].0 = "state-18";
    let found = findings(&disk_of(&log));
    assert!(found[0].to_string().contains("its name says 18"), "{}", found[0]);
}

#[test]
fn a_torn_tail_is_distinguished_from_damage() {
    let (log, whole) = (log(), log()[2].1.len());
    for cut in [1, 10, 100] {
        let mut log = log.clone();
        log[2].1.truncate(whole - cut);
        let found = findings(&disk_of(&log));
        assert!(found.len() == 1 && found[0].is_torn_tail, "{found:?}");
        let sealed = log[1].1.len() - cut;
        log[1].1.truncate(sealed);
        assert!(!findings(&disk_of(&log))[0].is_torn_tail, "a sealed segment cannot be torn");
    }
}

#[test]
fn one_flaw_is_reported_once() {
    let mut log = log();
    let at = log[0].1.iter().position(|&byte| byte == b'\n').unwrap() - 20;
    log[0].1[at] ^= 4;
    let found = findings(&disk_of(&log));
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].to_string(), "/log/state-9:1: byte 0: the checksum differs");
}

#[tokio::test(start_paused = true)]
async fn a_missing_state_that_was_synced_is_found() {
    let disk = disk_of(&[]);
    let roster = Arc::new(hydrant::MemoryCheckpoints::default());
    let options = crate::FileStoreOptions::default();
    let store = crate::FileStore::open_on(Arc::new(disk.process()), &dir(), roster, options).await.unwrap();
    assert_eq!(findings(&disk), [], "nothing was written");
    hydrant::EventSink::append(&store, hydrant::Batch::new(None, &events(0..5)).unwrap()).await.unwrap();
    store.close().await.unwrap();
    assert_eq!(findings(&disk), []);
    let state = disk.take(&dir().join("state")).unwrap();
    let found = findings(&disk);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!((file_name(&found[0].file), found[0].line, found[0].is_torn_tail), ("state", 0, false));
    assert!(found[0].what.contains("`state` is missing, and was synced"), "{}", found[0]);
    disk.put(&dir().join("state"), &state);
    assert_eq!(findings(&disk), []);
}
