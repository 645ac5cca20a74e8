//! Reads the files of a log without the code under test: which events are there, and which survive any power cut.
//!
//! It knows of the format only what it needs: lines, their checksum, where a commit ends, what a name says. See
//! `FORMAT.md` of `hydrant-file`.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use hydrant::{Event, EventId};
use hydrant_file::sim::SimDisk;

/// The flags of a line.
const ENDS: u8 = 1;
const OPENS: u8 = 16;
const ROOT: u8 = 32;

/// One event in the files.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub event: Event,
    /// Whether a power cut now leaves it.
    pub is_durable: bool,
}

/// A log as its files hold it.
#[derive(Debug, Default)]
pub(super) struct Content {
    pub events: Vec<Held>,
    /// The event before the first one, as its line says.
    pub after: Option<EventId>,
}

/// The whole commits at the beginning of a file, and where each of their events ends.
#[derive(Debug, Default)]
struct Parsed {
    text: Vec<u8>,
    events: Vec<(Event, usize)>,
    after: Option<EventId>,
}

/// What is known of one directory from looks before.
#[derive(Debug, Default)]
pub(super) struct Oracle {
    files: BTreeMap<u64, Parsed>,
}

/// A file of the log.
struct File {
    inode: u64,
    /// How many bytes at its beginning survive a power cut.
    durable: usize,
    len: usize,
}

impl Oracle {
    /// What the directory holds now.
    pub(super) fn look(&mut self, disk: &SimDisk, dir: &Path) -> Content {
        let mut sealed: BTreeMap<u64, File> = BTreeMap::new();
        let mut compressed: BTreeMap<u64, File> = BTreeMap::new();
        let (mut next, mut state) = (BTreeMap::new(), None);
        disk.each_file(dir, |shown| {
            let is_log =
                |name: &str| name == "state" || name.starts_with("state-") || name.starts_with("state.next-");
            if !is_log(shown.name) {
                return;
            }
            let is_named = shown.durable_names.iter().any(|name| is_log(name));
            if let Some(last) = shown.name.strip_prefix("state-").and_then(|name| name.strip_suffix(".zst")) {
                let is_durable = is_named && shown.cached == shown.durable;
                if !self.files.contains_key(&shown.inode) || !is_durable {
                    let plain = zstd::stream::decode_all(shown.cached).unwrap_or_default();
                    self.files.insert(shown.inode, Parsed::default());
                    self.parse(shown.inode, &plain);
                }
                let durable = if is_durable { usize::MAX } else { 0 };
                let file = File { inode: shown.inode, durable, len: usize::MAX };
                compressed.extend(last.parse().ok().map(|last| (last, file)));
                return;
            }
            let file = File {
                inode: shown.inode,
                durable: if is_named { common(shown.cached, shown.durable) } else { 0 },
                len: shown.cached.len(),
            };
            self.parse(shown.inode, shown.cached);
            if let Some(last) = shown.name.strip_prefix("state-") {
                sealed.extend(last.parse().ok().map(|last| (last, file)));
            } else if let Some(last) = shown.name.strip_prefix("state.next-") {
                next.extend(last.parse::<u64>().ok().map(|last| (last, file)));
            } else {
                state = Some(file);
            }
        });
        self.join(&sealed, &compressed, state.as_ref(), &next)
    }

    fn join(
        &self,
        sealed: &BTreeMap<u64, File>,
        compressed: &BTreeMap<u64, File>,
        state: Option<&File>,
        next: &BTreeMap<u64, File>,
    ) -> Content {
        let mut content = Content::default();
        let mut names: Vec<u64> = sealed.keys().chain(compressed.keys()).copied().collect();
        names.sort_unstable();
        names.dedup();
        for last in names {
            // Where both forms are there, the plain one counts.
            match sealed.get(&last).or(compressed.get(&last)) {
                // A rotation is under way: `state` has two names.
                Some(file) if state.is_some_and(|state| state.inode == file.inode) => {}
                Some(file) => self.add(&mut content, file),
                None => {}
            }
        }
        if let Some(state) = state {
            self.add(&mut content, state);
        }
        let head = content.events.last().map(|held| held.event.id().get());
        if let Some(file) = head.and_then(|head| next.get(&head)) {
            let parsed = &self.files[&file.inode];
            // It counts only as a whole.
            if parsed.events.last().is_some_and(|(_, end)| *end == file.len) {
                self.add(&mut content, file);
            }
        }
        // Events after a hole are lost with it.
        let durable = content.events.iter().take_while(|held| held.is_durable).count();
        content.events[durable..].iter_mut().for_each(|held| held.is_durable = false);
        content
    }

    fn add(&self, content: &mut Content, file: &File) {
        let parsed = &self.files[&file.inode];
        let events = parsed.events.iter().map(|(event, end)| (event.clone(), *end <= file.durable));
        content.add(parsed.after, events);
    }

    /// Reads what is new in a file.
    fn parse(&mut self, inode: u64, text: &[u8]) {
        let parsed = self.files.entry(inode).or_default();
        if !text.starts_with(&parsed.text) {
            let same = common(&parsed.text, text);
            let keep = parsed.events.iter().take_while(|(_, end)| *end <= same).count();
            parsed.events.truncate(keep);
            parsed.text.truncate(parsed.events.last().map_or(0, |(_, end)| *end));
        }
        let mut commit = Vec::new();
        let mut at = parsed.text.len();
        while let Some(len) = text[at..].iter().position(|byte| *byte == b'\n') {
            let Some((event, flags, before)) = line(&text[at..at + len]) else { return };
            if at == 0 {
                parsed.after = before;
            }
            at += len + 1;
            commit.push(event);
            if flags & ENDS != 0 {
                parsed.events.extend(commit.drain(..).map(|event| (event, at)));
                parsed.text = text[..at].to_vec();
            }
        }
    }
}

impl Content {
    fn add(&mut self, after: Option<EventId>, events: impl Iterator<Item = (Event, bool)>) {
        if self.events.is_empty() {
            self.after = after;
        }
        self.events.extend(events.map(|(event, is_durable)| Held { event, is_durable }));
    }
}

/// Reads one line: its event, its flags, and the event that its file follows. `None` if it does not check.
fn line(line: &[u8]) -> Option<(Event, u8, Option<EventId>)> {
    let digits = |from_end: usize, width: usize| {
        let start = line.len().checked_sub(from_end)?;
        u64::from_str_radix(std::str::from_utf8(line.get(start..start + width)?).ok()?, 16).ok()
    };
    if !line.ends_with(b"\"}") || digits(10, 8)? != u64::from(crc32c::crc32c(&line[..line.len() - 10])) {
        return None;
    }
    let flags = u8::try_from(digits(12, 2)?).ok()?;
    let event = hydrant::store::envelope::decode(Bytes::copy_from_slice(line)).ok()?;
    let before = match flags & (OPENS | ROOT) {
        OPENS => Some(EventId::new(digits(28, 16)?)),
        _ => None,
    };
    Some((event, flags, before))
}

/// How many bytes both begin with.
fn common(one: &[u8], other: &[u8]) -> usize {
    let len = one.len().min(other.len());
    if one[..len] == other[..len] {
        return len;
    }
    one.iter().zip(other).take_while(|(one, other)| one == other).count()
}
