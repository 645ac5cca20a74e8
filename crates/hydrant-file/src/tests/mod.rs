//! Tests that need to see inside: logs byte for byte, and disks that fail.

mod append;
mod compress;
mod crowd;
mod doubt;
mod foreign;
mod laws;
mod meet;
mod opening;
mod power;
mod repair;
mod verify;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hydrant::{Event, EventId};

use crate::FileSourceOptions;
use crate::Finding;
use crate::directory::Directory;
use crate::sim::SimDisk;
use crate::wire::{Flags, Marks, Opens, Place, encode};

const EVENT_BYTES_MAX: usize = 1 << 20;

fn dir() -> PathBuf {
    PathBuf::from("/log")
}

fn event(id: u64) -> Event {
    let text = format!("\"{}\"", "x".repeat(usize::try_from(id * 37 % 200).unwrap()));
    Event::builder(EventId::new(id)).time("2026-01-05T09:00:00Z").payload_json(text).build().unwrap()
}

fn snapshot(id: u64) -> Event {
    Event::builder(EventId::new(id)).payload_json("{\"sum\":1}").snapshot().build().unwrap()
}

fn events(ids: Range<u64>) -> Vec<Event> {
    ids.map(event).collect()
}

/// A file of these commits.
fn segment(opens: Opens, commits: &[Vec<Event>]) -> Vec<u8> {
    let mut out = Vec::new();
    for commit in commits {
        let start = out.len() as u64;
        for (at, event) in commit.iter().enumerate() {
            let ends = at + 1 == commit.len();
            let place = Place {
                flags: if ends { Flags::ENDS } else { Flags::default() },
                marks: (ends || at == 0).then_some(Marks { start, synced: start }),
                opens: out.is_empty().then_some(opens),
            };
            encode(&mut out, event, place);
        }
    }
    out
}

fn behind(id: u64) -> Opens {
    Opens::Behind(EventId::new(id))
}

/// Three segments: events 0 to 9, 10 to 19, and 20 to 25 in `state`.
fn log() -> Vec<(&'static str, Vec<u8>)> {
    let opened = |first: u64, rest: Range<u64>| {
        let mut commit = vec![snapshot(first)];
        commit.extend(events(rest));
        commit
    };
    vec![
        ("state-9", segment(Opens::Root, &[events(0..3), events(3..4), events(4..10)])),
        ("state-19", segment(behind(9), &[opened(10, 11..13), events(13..20)])),
        ("state", segment(behind(19), &[opened(20, 21..22), events(22..25), events(25..26)])),
    ]
}

fn disk_of(files: &[(&str, Vec<u8>)]) -> SimDisk {
    let disk = SimDisk::new(&dir());
    for (name, bytes) in files {
        disk.put(&dir().join(name), bytes);
    }
    disk
}

fn directory(disk: &SimDisk) -> Directory {
    Directory::simulated(Arc::new(disk.clone()), &dir(), EVENT_BYTES_MAX)
}

fn findings(disk: &SimDisk) -> Vec<Finding> {
    findings_in(disk, &dir())
}

fn findings_in(disk: &SimDisk, dir: &Path) -> Vec<Finding> {
    crate::sim::verify(disk, dir, &FileSourceOptions::default()).unwrap()
}

fn text(disk: &SimDisk, name: &str) -> String {
    String::from_utf8(disk.files()[&dir().join(name)].clone()).unwrap()
}

/// The ids in a file of whole lines.
fn ids(disk: &SimDisk, name: &str) -> Vec<u64> {
    let id = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        line["eventId"].as_u64().unwrap()
    };
    text(disk, name).lines().map(id).collect()
}

fn file_name(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}
