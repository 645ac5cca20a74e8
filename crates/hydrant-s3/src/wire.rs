//! Bytes and metadata of a segment: the only place that knows how events are stored.

use std::collections::HashMap;
use std::io::Read;
use std::str::FromStr;

use bytes::Bytes;
use hydrant::store::envelope;
use hydrant::{Checkpoint, Digest, Error, Event, EventId, Result};

use crate::keys::Place;
use crate::options::Encoding;

/// The version of the format that is written, and the newest that is read.
const VERSION: u32 = 1;

/// The user metadata of an object.
pub(crate) type Metadata = HashMap<String, String>;

/// What an object of the log says that it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Object {
    Segment(Segment),
    /// Compaction merged it into the object there.
    Moved {
        into: Place,
    },
    /// It was below the floor.
    Pruned,
    /// At the origin: where the log begins since it was pruned.
    Floor(Floor),
}

/// Where a log begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Floor {
    /// The event before the oldest that is kept; `None` where no event ever was before it.
    pub(crate) after: Option<EventId>,
    /// The oldest event that is kept.
    pub(crate) oldest: EventId,
}

/// The newest snapshot event up to some point of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Snapshot {
    pub(crate) id: EventId,
    /// The event before it.
    pub(crate) after: Option<EventId>,
}

/// What the metadata of a segment contains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    /// The event before the first; `None` where no event ever was before it.
    pub(crate) after: Option<EventId>,
    pub(crate) first: EventId,
    pub(crate) last: EventId,
    pub(crate) count: u64,
    /// The length of the lines before compression.
    pub(crate) bytes: u64,
    /// The CRC-32C of the lines before compression.
    pub(crate) crc32c: u32,
    pub(crate) is_zstd: bool,
    /// Of the last event.
    pub(crate) digest: Digest,
    /// The newest snapshot event at or before `last`.
    pub(crate) snapshot: Option<Snapshot>,
    /// Whether several segments were merged into this one.
    pub(crate) is_compacted: bool,
}

impl Segment {
    /// Returns whether its first event is a snapshot event.
    pub(crate) fn opens_with_snapshot(&self) -> bool {
        self.snapshot.is_some_and(|newest| newest.id == self.first)
    }

    /// The checkpoint of a log that ends with this segment.
    pub(crate) fn checkpoint(&self) -> Checkpoint {
        Checkpoint::At { id: self.last, digest: self.digest }
    }
}

/// A segment and the bytes that it is stored as.
#[derive(Clone, Debug)]
pub(crate) struct Encoded {
    pub(crate) segment: Segment,
    pub(crate) body: Bytes,
}

/// Encodes the events of a batch behind `after`; `snapshot` is the newest snapshot event before them.
///
/// # Errors
/// `Invalid` where the compressor refuses its level.
pub(crate) fn encode(
    after: Option<EventId>,
    events: &[Event],
    snapshot: Option<Snapshot>,
    encoding: Encoding,
) -> Result<Encoded> {
    let mut lines = Vec::with_capacity(events.iter().map(|event| event.size() + 1).sum());
    for event in events {
        event.write_to(&mut lines);
        lines.push(b'\n');
    }
    let (first, last) = (&events[0], &events[events.len() - 1]);
    let opened = first.is_snapshot().then(|| Snapshot { id: first.id(), after });
    let segment = Segment {
        after,
        first: first.id(),
        last: last.id(),
        count: events.len() as u64,
        bytes: lines.len() as u64,
        crc32c: crc32c::crc32c(&lines),
        is_zstd: encoding.is_zstd(),
        digest: last.digest(),
        snapshot: opened.or(snapshot),
        is_compacted: false,
    };
    Ok(Encoded { segment, body: compress(lines, encoding)? })
}

/// The lines as they are stored.
pub(crate) fn compress(lines: Vec<u8>, encoding: Encoding) -> Result<Bytes> {
    match encoding {
        Encoding::Plain => Ok(lines.into()),
        Encoding::Zstd { level } => zstd::bulk::compress(&lines, level).map(Bytes::from).map_err(|cause| {
            Error::invalid("the events could not be compressed; check `encoding`").because(cause)
        }),
    }
}

/// The lines of a segment, checked against its metadata: nothing of a damaged one is ever given out.
///
/// # Errors
/// `Corrupt` where length or checksum differ, or the bytes do not decompress.
pub(crate) fn decompress(segment: &Segment, body: Bytes) -> Result<Bytes> {
    let lines = if segment.is_zstd {
        let mut lines = Vec::new();
        // One byte more than was said is enough to see that it is wrong; what was said is not believed
        // before the bytes are there.
        zstd::stream::read::Decoder::with_buffer(body.as_ref())
            .and_then(|decoder| decoder.take(segment.bytes.saturating_add(1)).read_to_end(&mut lines))
            .map_err(|cause| damaged("the bytes do not decompress").because(cause))?;
        Bytes::from(lines)
    } else {
        body
    };
    if lines.len() as u64 != segment.bytes {
        return Err(damaged(&format!("{} bytes of lines, {} were written", lines.len(), segment.bytes)));
    }
    if crc32c::crc32c(&lines) != segment.crc32c {
        return Err(damaged("the checksum of its lines differs"));
    }
    Ok(lines)
}

fn damaged(what: &str) -> Error {
    Error::corrupt(format!(
        "{what}; run `hydrant verify`, and put the object back from another version or sink"
    ))
}

/// The events of lines that were checked, decoded as they are asked for.
#[derive(Debug)]
pub(crate) struct Lines {
    rest: Bytes,
    segment: Segment,
    before: Option<EventId>,
    left: u64,
}

impl Lines {
    pub(crate) fn new(segment: Segment, lines: Bytes) -> Self {
        Self { rest: lines, before: None, left: segment.count, segment }
    }

    /// Decodes a line, and checks again what its writer checked: a failure is a fault of the writer, or damage.
    fn decode(&mut self, line: Bytes) -> Result<Event> {
        let event = envelope::decode(line)?;
        let id = event.id();
        let is_first = self.left == self.segment.count;
        self.left = self.left.checked_sub(1).ok_or_else(|| damaged("more events than it says").at(id))?;
        let in_order = if is_first { id == self.segment.first } else { Some(id) > self.before };
        if !in_order || id > self.segment.last {
            return Err(damaged("the ids are not those that it says").at(id));
        }
        if self.left == 0 && (id, event.digest()) != (self.segment.last, self.segment.digest) {
            return Err(damaged("the last event is not the one that it says").at(id));
        }
        self.before = Some(id);
        Ok(event)
    }
}

impl Iterator for Lines {
    type Item = Result<Event>;

    fn next(&mut self) -> Option<Result<Event>> {
        if self.rest.is_empty() {
            let missing = std::mem::take(&mut self.left);
            return (missing > 0).then(|| Err(damaged("fewer events than it says").at(self.segment.last)));
        }
        let end = memchr::memchr(b'\n', &self.rest).unwrap_or(self.rest.len());
        let mut line = self.rest.split_to(self.rest.len().min(end + 1));
        line.truncate(end);
        Some(self.decode(line))
    }
}

impl Object {
    /// What goes into the metadata.
    pub(crate) fn to_metadata(&self) -> Metadata {
        let mut metadata = Metadata::new();
        let mut put = |name: &str, value: String| drop(metadata.insert(name.to_owned(), value));
        let kind = match self {
            Self::Segment(_) => "segment",
            Self::Moved { .. } => "moved",
            Self::Pruned => "pruned",
            Self::Floor(_) => "floor",
        };
        put("hydrant", format!("{kind} {VERSION}"));
        match self {
            Self::Segment(segment) => {
                put("after", id_or_none(segment.after));
                put("first", segment.first.to_string());
                put("last", segment.last.to_string());
                put("count", segment.count.to_string());
                put("bytes", segment.bytes.to_string());
                put("crc32c", format!("{:08x}", segment.crc32c));
                put("encoding", if segment.is_zstd { "zstd" } else { "plain" }.to_owned());
                put("digest", segment.digest.to_string());
                let snapshot = |newest: Snapshot| format!("{} {}", newest.id, id_or_none(newest.after));
                put("snapshot", segment.snapshot.map_or_else(|| "-".to_owned(), snapshot));
                if segment.is_compacted {
                    put("compacted", "1".to_owned());
                }
            }
            Self::Moved { into } => put("into", id_or_none(*into)),
            Self::Pruned => {}
            Self::Floor(floor) => {
                put("after", id_or_none(floor.after));
                put("oldest", floor.oldest.to_string());
            }
        }
        metadata
    }

    /// What the metadata says.
    ///
    /// # Errors
    /// `Corrupt` for an object that Hydrant did not write, `Unsupported` for one of a newer version.
    pub(crate) fn from_metadata(metadata: &Metadata) -> Result<Self> {
        let fields = Fields(metadata);
        let (kind, version) = fields
            .text("hydrant")
            .ok()
            .and_then(|text| text.split_once(' '))
            .and_then(|(kind, version)| Some((kind, version.parse::<u32>().ok()?)))
            .ok_or_else(|| {
                Error::corrupt(
                    "the object has no metadata of Hydrant: take it out of `log/` if it is not ours, or copy it \
                     with its metadata",
                )
            })?;
        if version > VERSION {
            let message =
                format!("written by a newer Hydrant, in version {version} of its format; update this one");
            return Err(Error::unsupported(message));
        }
        match kind {
            "segment" => fields.segment().map(Self::Segment),
            "moved" => Ok(Self::Moved { into: fields.id_or_none("into")? }),
            "pruned" => Ok(Self::Pruned),
            "floor" => Ok(Self::Floor(Floor {
                after: fields.id_or_none("after")?,
                oldest: fields.parsed("oldest")?,
            })),
            _ => Err(wrong("hydrant")),
        }
    }
}

fn id_or_none(id: Option<EventId>) -> String {
    id.map_or_else(|| "-".to_owned(), |id| id.to_string())
}

/// An id, or none; the error says nothing more.
fn parse_id_or_none(text: &str) -> std::result::Result<Option<EventId>, ()> {
    if text == "-" { Ok(None) } else { EventId::parsed(text).map(Some).ok_or(()) }
}

fn wrong(name: &str) -> Error {
    damaged(&format!("its metadata `{name}` is missing or makes no sense"))
}

/// Metadata, read field by field.
struct Fields<'m>(&'m Metadata);

impl Fields<'_> {
    fn text(&self, name: &str) -> Result<&str> {
        self.0.get(name).map(String::as_str).ok_or_else(|| wrong(name))
    }

    fn parsed<T: Parsed>(&self, name: &str) -> Result<T> {
        T::parsed(self.text(name)?).ok_or_else(|| wrong(name))
    }

    fn id_or_none(&self, name: &str) -> Result<Option<EventId>> {
        parse_id_or_none(self.text(name)?).map_err(|()| wrong(name))
    }

    fn segment(&self) -> Result<Segment> {
        let snapshot = match self.text("snapshot")? {
            "-" => None,
            both => {
                let (id, after) = both.split_once(' ').ok_or_else(|| wrong("snapshot"))?;
                let id = EventId::parsed(id).ok_or_else(|| wrong("snapshot"))?;
                let after = parse_id_or_none(after).map_err(|()| wrong("snapshot"))?;
                Some(Snapshot { id, after })
            }
        };
        let segment = Segment {
            after: self.id_or_none("after")?,
            first: self.parsed("first")?,
            last: self.parsed("last")?,
            count: self.parsed("count")?,
            bytes: self.parsed("bytes")?,
            crc32c: u32::from_str_radix(self.text("crc32c")?, 16).map_err(|_| wrong("crc32c"))?,
            is_zstd: match self.text("encoding")? {
                "zstd" => true,
                "plain" => false,
                _ => return Err(wrong("encoding")),
            },
            digest: Digest::from_str(self.text("digest")?).map_err(|cause| wrong("digest").because(cause))?,
            snapshot,
            is_compacted: self.0.contains_key("compacted"),
        };
        if segment.count == 0 || segment.first > segment.last || segment.after >= Some(segment.first) {
            return Err(wrong("first"));
        }
        // A snapshot event begins an object.
        if segment.snapshot.is_some_and(|newest| newest.id > segment.first) {
            return Err(wrong("snapshot"));
        }
        Ok(segment)
    }
}

/// What is written as a plain number.
trait Parsed: Sized {
    fn parsed(text: &str) -> Option<Self>;
}

impl Parsed for u64 {
    fn parsed(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl Parsed for EventId {
    fn parsed(text: &str) -> Option<Self> {
        text.parse().ok().map(Self::new)
    }
}

#[cfg(test)]
mod tests {
    use hydrant::ErrorKind;

    use super::*;

    fn events() -> Vec<Event> {
        let build = |id: u64| Event::builder(EventId::new(id)).payload_json(format!("{{\"n\":{id}}}"));
        vec![
            build(4).snapshot().build().unwrap(),
            build(6).build().unwrap(),
            build(9).time("t").build().unwrap(),
        ]
    }

    #[test]
    fn a_segment_is_read_back_from_its_bytes_and_metadata() {
        for encoding in [Encoding::Plain, Encoding::Zstd { level: 3 }] {
            let encoded = encode(Some(EventId::new(3)), &events(), None, encoding).unwrap();
            let newest = Snapshot { id: EventId::new(4), after: Some(EventId::new(3)) };
            assert_eq!(encoded.segment.snapshot, Some(newest));
            let object = Object::Segment(encoded.segment.clone());
            assert_eq!(Object::from_metadata(&object.to_metadata()).unwrap(), object);
            let lines = decompress(&encoded.segment, encoded.body).unwrap();
            let read: Result<Vec<_>> = Lines::new(encoded.segment, lines).collect();
            assert_eq!(read.unwrap(), events());
        }
    }

    #[test]
    fn the_other_kinds_are_read_back() {
        let floor = Floor { after: Some(EventId::new(8)), oldest: EventId::new(9) };
        for object in [
            Object::Moved { into: None },
            Object::Moved { into: Some(EventId::ZERO) },
            Object::Pruned,
            Object::Floor(floor),
        ] {
            assert_eq!(Object::from_metadata(&object.to_metadata()).unwrap(), object);
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        for encoding in [Encoding::Plain, Encoding::Zstd { level: 3 }] {
            let encoded = encode(None, &events(), None, encoding).unwrap();
            for at in 0..encoded.body.len() * 8 {
                let mut body = encoded.body.to_vec();
                body[at / 8] ^= 1 << (at % 8);
                let lines = decompress(&encoded.segment, body.into());
                // A flipped bit that the compressed form does not need changes nothing.
                let same =
                    lines.map(|lines| Lines::new(encoded.segment.clone(), lines).collect::<Result<Vec<_>>>());
                assert!(same.is_err() || same.is_ok_and(|read| read.unwrap() == events()), "bit {at}");
            }
        }
    }

    #[test]
    fn invalid_metadata_is_corrupt_and_newer_versions_are_refused() {
        let encoded = encode(None, &events(), None, Encoding::Plain).unwrap();
        let good = Object::Segment(encoded.segment).to_metadata();
        for name in good.keys() {
            let mut bad = good.clone();
            bad.insert(name.clone(), "?".to_owned());
            assert_eq!(Object::from_metadata(&bad).unwrap_err().kind(), ErrorKind::Corrupt, "{name}");
            bad.remove(name);
            assert_eq!(Object::from_metadata(&bad).unwrap_err().kind(), ErrorKind::Corrupt, "{name}");
        }
        let mut inside = good.clone();
        inside.insert("snapshot".to_owned(), "6 4".to_owned());
        assert_eq!(Object::from_metadata(&inside).unwrap_err().kind(), ErrorKind::Corrupt);
        let mut newer = good;
        newer.insert("hydrant".to_owned(), "segment 2".to_owned());
        assert_eq!(Object::from_metadata(&newer).unwrap_err().kind(), ErrorKind::Unsupported);
    }

    #[test]
    fn lines_that_are_not_what_the_metadata_says_are_corrupt() {
        let encoded = encode(None, &events(), None, Encoding::Plain).unwrap();
        let read = |change: fn(&mut Segment)| {
            let mut segment = encoded.segment.clone();
            change(&mut segment);
            Lines::new(segment, encoded.body.clone()).collect::<Result<Vec<_>>>()
        };
        assert!(read(|_| ()).is_ok());
        for change in [
            (|segment: &mut Segment| segment.count = 2) as fn(&mut Segment),
            |segment| segment.count = 4,
            |segment| segment.first = EventId::new(5),
            |segment| segment.last = EventId::new(8),
            |segment| segment.last = EventId::new(10),
            |segment| segment.digest = events()[0].digest(),
        ] {
            assert_eq!(read(change).unwrap_err().kind(), ErrorKind::Corrupt);
        }
    }
}
