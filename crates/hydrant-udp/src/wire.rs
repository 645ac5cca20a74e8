//! Bytes <-> events, as `FORMAT.md` specifies them.

use std::io::Write as _;

use bytes::Bytes;
use hydrant::store::envelope::{self, RESERVED_MEMBER};
use hydrant::{Error, Event, EventId, Result};
use serde::Deserialize;

/// The first bytes of a chunk. The first of them begins no UTF-8 text, so a chunk is never taken for a line.
const MAGIC: [u8; 3] = [0xB5, b'h', b'u'];

/// The newest format that is read, of chunks and of the reserved member; the one that is written.
const VERSION: u8 = 1;

/// The bytes of a chunk before its part of the line.
pub(crate) const CHUNK_HEADER_BYTES: usize = 28;

/// What a line may have beyond its event: the reserved member.
pub(crate) const MARK_BYTES_MAX: usize = 64;

/// The few bytes that frame an event or a piece of one: the end of a line, or the header of a chunk.
#[derive(Clone, Copy)]
pub(crate) struct Frame {
    bytes: [u8; MARK_BYTES_MAX],
    len: usize,
}

impl Frame {
    fn new(text: &[u8]) -> Self {
        let mut bytes = [0; MARK_BYTES_MAX];
        bytes[..text.len()].copy_from_slice(text);
        Self { bytes, len: text.len() }
    }

    /// What closes the open envelope of an event: the reserved member with the event before it, and the brace.
    pub(crate) fn closing(predecessor: Option<EventId>) -> Self {
        let mut bytes = [0; MARK_BYTES_MAX];
        let mut rest = &mut bytes[..];
        let mark = format_args!(",\"{RESERVED_MEMBER}\":{{\"udp\":{VERSION},\"after\":");
        match predecessor {
            Some(after) => write!(rest, "{mark}{after}}}}}"),
            None => write!(rest, "{mark}null}}}}"),
        }
        .expect("the longest id makes 51 bytes");
        let len = MARK_BYTES_MAX - rest.len();
        Self { bytes, len }
    }

    /// What closes it when nothing is said about the predecessor.
    pub(crate) fn plain() -> Self {
        Self::new(b"}")
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// A line cut into chunks that fit.
pub(crate) struct Chunks<'a> {
    line: &'a [u8],
    header: [u8; CHUNK_HEADER_BYTES],
    piece_bytes: usize,
    index: u32,
}

impl<'a> Chunks<'a> {
    /// # Errors
    /// `Invalid` for a line above 4 GiB.
    pub(crate) fn of(line: &'a [u8], id: EventId, datagram_bytes_max: usize) -> Result<Self> {
        let too_large = |_| Error::invalid("the event is larger than 4 GiB").at(id);
        let total = u32::try_from(line.len()).map_err(too_large)?;
        let count = line.len().div_ceil(datagram_bytes_max - CHUNK_HEADER_BYTES);
        let count_u32 = u32::try_from(count).map_err(too_large)?;
        let mut header = [0; CHUNK_HEADER_BYTES];
        header[..3].copy_from_slice(&MAGIC);
        header[3] = VERSION;
        header[4..12].copy_from_slice(&id.get().to_be_bytes());
        header[16..20].copy_from_slice(&count_u32.to_be_bytes());
        header[20..24].copy_from_slice(&total.to_be_bytes());
        header[24..28].copy_from_slice(&crc32c::crc32c(line).to_be_bytes());
        Ok(Self { line, header, piece_bytes: line.len().div_ceil(count), index: 0 })
    }
}

impl<'a> Iterator for Chunks<'a> {
    type Item = (Frame, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        if self.line.is_empty() {
            return None;
        }
        let (piece, rest) = self.line.split_at(self.piece_bytes.min(self.line.len()));
        self.line = rest;
        self.header[12..16].copy_from_slice(&self.index.to_be_bytes());
        self.index += 1;
        Some((Frame::new(&self.header), piece))
    }
}

/// What a datagram turned out to hold.
pub(crate) enum Datagram {
    Line(Line),
    Chunk(Chunk),
}

/// An event and what the datagram says about the one before it.
pub(crate) struct Line {
    pub(crate) event: Event,
    pub(crate) predecessor: Predecessor,
}

/// The predecessor of an event, as its datagram names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Predecessor {
    Named(Option<EventId>),
    Unnamed,
}

/// A piece of a line.
pub(crate) struct Chunk {
    pub(crate) of: Whole,
    pub(crate) index: u32,
    pub(crate) piece: Bytes,
}

/// What all chunks of a line have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Whole {
    pub(crate) id: EventId,
    pub(crate) count: u32,
    pub(crate) total_bytes: u32,
    crc: u32,
}

/// Reads one datagram.
///
/// # Errors
/// `Corrupt` for garbage, `Unsupported` for a newer format.
pub(crate) fn decode(datagram: &Bytes) -> Result<Datagram> {
    if datagram.starts_with(&MAGIC) {
        decode_chunk(datagram).map(Datagram::Chunk)
    } else {
        decode_line(datagram).map(Datagram::Line)
    }
}

fn decode_line(line: &Bytes) -> Result<Line> {
    let event = envelope::decode(line.clone())?;
    let predecessor = match line.strip_prefix(event.open_envelope()) {
        Some(b"}") => Predecessor::Unnamed,
        _ => read_mark(line)?,
    };
    if let Predecessor::Named(Some(after)) = predecessor
        && after >= event.id()
    {
        return Err(
            Error::corrupt(format!("the datagram says that event {after} stands before it")).at(event.id())
        );
    }
    Ok(Line { event, predecessor })
}

/// The reserved member of a line. The member of another store is ignored.
fn read_mark(line: &[u8]) -> Result<Predecessor> {
    #[derive(Deserialize)]
    struct Marked<'a> {
        #[serde(borrow, rename = "_hydrant")]
        mark: Option<&'a serde_json::value::RawValue>,
    }
    #[derive(Deserialize)]
    struct Version {
        udp: u64,
    }
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Mark {
        #[serde(rename = "udp")]
        _version: u64,
        #[serde(deserialize_with = "Option::deserialize")] // a mark without `after` is none
        after: Option<EventId>,
    }
    let Some(mark) = serde_json::from_slice::<Marked<'_>>(line).ok().and_then(|line| line.mark) else {
        return Ok(Predecessor::Unnamed);
    };
    let Ok(Version { udp }) = serde_json::from_str(mark.get()) else {
        return Ok(Predecessor::Unnamed);
    };
    check_version(udp)?;
    serde_json::from_str(mark.get())
        .map(|mark: Mark| Predecessor::Named(mark.after))
        .map_err(|cause| Error::corrupt("the mark of the datagram is not one of ours").because(cause))
}

fn decode_chunk(datagram: &Bytes) -> Result<Chunk> {
    check_version(u64::from(datagram.get(3).copied().unwrap_or_default()))?;
    if datagram.len() <= CHUNK_HEADER_BYTES {
        return Err(Error::corrupt("the chunk is cut off"));
    }
    let number = |at: usize| u32::from_be_bytes([0, 1, 2, 3].map(|byte| datagram[at + byte]));
    let id = EventId::new(u64::from(number(4)) << 32 | u64::from(number(8)));
    let (index, count, total_bytes, crc) = (number(12), number(16), number(20), number(24));
    let piece = datagram.slice(CHUNK_HEADER_BYTES..);
    // All pieces but the last are as long as an even cut makes them.
    let fits = index < count && count <= total_bytes && {
        let piece_bytes = u64::from(total_bytes.div_ceil(count));
        let start = u64::from(index) * piece_bytes;
        start < u64::from(total_bytes)
            && piece.len() as u64 == piece_bytes.min(u64::from(total_bytes) - start)
    };
    if !fits {
        return Err(Error::corrupt("the sizes in the header of the chunk do not agree").at(id));
    }
    Ok(Chunk { of: Whole { id, count, total_bytes, crc }, index, piece })
}

fn check_version(version: u64) -> Result<()> {
    match version {
        1 => Ok(()),
        0 => Err(Error::corrupt("the datagram has no format version")),
        newer => Err(Error::unsupported(format!(
            "the datagram has format {newer}, this listener reads up to {VERSION}; update the listener"
        ))),
    }
}

/// Reads the line that all chunks together make.
///
/// # Errors
/// `Corrupt` when its checksum or its id is not what the chunks said, and as [`decode`].
pub(crate) fn decode_whole(of: &Whole, line: &Bytes) -> Result<Line> {
    if crc32c::crc32c(line) != of.crc {
        return Err(Error::corrupt("the checksum of the chunks differs").at(of.id));
    }
    let line = decode_line(line)?;
    if line.event.id() == of.id {
        Ok(line)
    } else {
        Err(Error::corrupt(format!("the chunks hold event {} instead", line.event.id())).at(of.id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: u64) -> Event {
        Event::builder(EventId::new(id)).payload_json("{\"a\":1.0}").time("t").build().unwrap()
    }

    fn line(event: &Event, frame: Frame) -> Bytes {
        [event.open_envelope(), frame.as_slice()].concat().into()
    }

    fn read(bytes: impl Into<Bytes>) -> Result<Line> {
        match decode(&bytes.into())? {
            Datagram::Line(line) => Ok(line),
            Datagram::Chunk(_) => panic!("a chunk"),
        }
    }

    #[test]
    fn a_line_holds_the_event_and_names_its_predecessor() {
        for after in [None, Some(EventId::ZERO), Some(EventId::new(u64::MAX - 1))] {
            let event = event(u64::MAX);
            let bytes = line(&event, Frame::closing(after));
            let read = read(bytes.clone()).unwrap();
            assert_eq!((read.event, read.predecessor), (event, Predecessor::Named(after)));
            serde_json::from_slice::<serde_json::Value>(&bytes).unwrap();
        }
        let wanted = r#"{"eventId":6,"stateChanged":{"a":1.0},"time":"t","_hydrant":{"udp":1,"after":5}}"#;
        assert_eq!(line(&event(6), Frame::closing(Some(EventId::new(5)))), wanted.as_bytes());
    }

    #[test]
    fn a_line_of_others_is_read_without_a_predecessor() {
        for (text, named) in [
            (r#"{"eventId":6,"stateChanged":1}"#, Predecessor::Unnamed),
            ("{\"eventId\":6,\"stateChanged\":1}\n", Predecessor::Unnamed),
            (r#"{"eventId":6,"stateChanged":1,"_hydrant":"c0ffee"}"#, Predecessor::Unnamed),
            (r#"{"eventId":6,"stateChanged":1,"_hydrant":{"crc":1}}"#, Predecessor::Unnamed),
            (
                r#" { "_hydrant" : {"after" : 2 , "udp" : 1} , "stateChanged" : 1, "eventId": 6 } "#,
                Predecessor::Named(Some(EventId::new(2))),
            ),
        ] {
            assert_eq!(read(text).unwrap().predecessor, named, "{text}");
        }
    }

    #[test]
    fn a_mark_that_is_newer_or_wrong_is_refused() {
        for (mark, says) in [
            (r#"{"udp":2,"after":5}"#, "format 2"),
            (r#"{"udp":0,"after":5}"#, "no format version"),
            (r#"{"udp":1}"#, "not one of ours"),
            (r#"{"udp":1,"after":"5"}"#, "not one of ours"),
            (r#"{"udp":1,"after":6}"#, "event 6 stands before"),
            (r#"{"udp":1,"after":5,"x":1}"#, "not one of ours"),
        ] {
            let text = format!(r#"{{"eventId":6,"stateChanged":1,"_hydrant":{mark}}}"#);
            let error = read(text).err().expect(mark).to_string();
            assert!(error.contains(says), "{mark}: {error}");
        }
    }

    #[test]
    fn chunks_of_every_size_make_the_line_again() {
        for bytes in [1, 2, 99, 100, 101, 1000, 4097] {
            let line: Vec<u8> = (0..bytes).map(|at| u8::try_from(at % 251).unwrap()).collect();
            for max in [CHUNK_HEADER_BYTES + 1, CHUNK_HEADER_BYTES + 7, 128, 1472] {
                let mut whole = Vec::new();
                let mut of = None;
                let mut count = 0;
                for (at, (frame, piece)) in Chunks::of(&line, EventId::new(7), max).unwrap().enumerate() {
                    let datagram = [frame.as_slice(), piece].concat();
                    assert!(datagram.len() <= max);
                    let Datagram::Chunk(chunk) = decode(&datagram.into()).unwrap() else { panic!("a line") };
                    assert_eq!(chunk.index as usize, at);
                    assert_eq!(*of.get_or_insert(chunk.of), chunk.of);
                    whole.extend_from_slice(&chunk.piece);
                    count += 1;
                }
                assert_eq!((whole, of.unwrap().count), (line.clone(), count), "{bytes} in {max}");
            }
        }
    }

    #[test]
    fn a_chunk_whose_sizes_disagree_is_refused() {
        let (frame, piece) = Chunks::of(&[7; 300], EventId::new(7), 128).unwrap().next().unwrap();
        let good = [frame.as_slice(), piece].concat();
        assert!(decode(&good.clone().into()).is_ok());
        let refused = |bytes: Vec<u8>| decode(&bytes.into()).err().expect("refused").to_string();
        for end in 3..good.len() {
            refused(good[..end].to_vec());
        }
        for (at, value) in [(3, 2), (12, 1), (15, 9), (16, 1), (19, 0), (20, 1), (23, 0)] {
            let mut bad = good.clone();
            bad[at] = value;
            refused(bad);
        }
        let mut newer = good;
        newer[3] = 9;
        assert!(refused(newer).contains("update the listener"));
    }
}
