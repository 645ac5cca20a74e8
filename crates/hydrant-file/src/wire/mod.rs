//! Bytes <-> events: one line of a log file. `FORMAT.md` is the specification.

use bytes::Bytes;
use hydrant::store::{Layout, envelope};
use hydrant::{Error, Event, EventId, Result};

/// The bytes between the open envelope and the mark's fields.
const HEAD: &[u8] = b",\"_hydrant\":\"h1";
/// The digits of time, metadata and members, in this order.
const LENGTHS: usize = 2 + 4 + 4;
const MARKS: usize = 12 + 12;
const PREDECESSOR: usize = 16;
const FLAGS: usize = 2;
const CRC: usize = 8;
const TAIL: &[u8] = b"\"}";

/// The most that a line is longer than its envelope, line break included.
pub(crate) const OVERHEAD_MAX: usize =
    HEAD.len() + LENGTHS + MARKS + PREDECESSOR + FLAGS + CRC + TAIL.len() + 1;

/// What a line says about itself and its place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Flags(u8);

impl Flags {
    /// The last line of its commit.
    pub(crate) const ENDS: Self = Self(1);
    /// The event is a snapshot.
    const SNAPSHOT: Self = Self(1 << 1);
    /// Not in use.
    const RESERVED: Self = Self(1 << 2);
    /// The line carries the start of its commit and how far the file was synced.
    const MARKED: Self = Self(1 << 3);
    /// The first line of its file; it carries the id of the event before it.
    const OPENS: Self = Self(1 << 4);
    /// With `OPENS`: no event was ever before it.
    const ROOT: Self = Self(1 << 5);
    /// A length does not fit its field: the line is to be parsed.
    const PARSE: Self = Self(1 << 6);
    /// The line before this one was not written by Hydrant.
    pub(crate) const AFTER_FOREIGN: Self = Self(1 << 7);

    pub(crate) const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// How long the fields are, from the lengths to the checksum.
    fn width(self) -> usize {
        let marks = if self.has(Self::MARKED) { MARKS } else { 0 };
        let predecessor = if self.has(Self::OPENS) { PREDECESSOR } else { 0 };
        LENGTHS + marks + predecessor + FLAGS + CRC
    }
}

impl std::ops::BitOr for Flags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl std::ops::BitOrAssign for Flags {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

/// Where a commit begins, and how far the file was known to be durable when it was written: offsets in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Marks {
    pub(crate) start: u64,
    pub(crate) synced: u64,
}

/// What the first line of a file says about the log before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opens {
    /// No event was ever before it.
    Root,
    /// The event before it.
    Behind(EventId),
}

impl Opens {
    pub(crate) fn behind(predecessor: Option<EventId>) -> Self {
        predecessor.map_or(Self::Root, Self::Behind)
    }

    pub(crate) fn predecessor(self) -> Option<EventId> {
        match self {
            Self::Root => None,
            Self::Behind(id) => Some(id),
        }
    }
}

/// What is written beside an event.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Place {
    pub(crate) flags: Flags,
    /// On the first and on the last line of a commit.
    pub(crate) marks: Option<Marks>,
    /// On the first line of a file: the event before it, if there ever was one.
    pub(crate) opens: Option<Opens>,
}

/// Appends the line of `event`, with its line break.
pub(crate) fn encode(out: &mut Vec<u8>, event: &Event, place: Place) {
    let mut flags = place.flags;
    let layout = event.layout();
    let mut length = |len: u32, max: u32| {
        let fits = len <= max;
        if !fits {
            flags |= Flags::PARSE;
        }
        u64::from(if fits { len } else { 0 })
    };
    let span = |(start, end): (u32, u32)| end - start;
    // One more than the length of the time, because a text may be empty; zero where there is none.
    let time = if layout.time == (0, 0) { 0 } else { length(span(layout.time) + 1, 0xFF) };
    let metadata = length(span(layout.metadata), 0xFFFF);
    let members = length(span(layout.members), 0xFFFF);
    if layout.is_snapshot {
        flags |= Flags::SNAPSHOT;
    }
    // Put together beside the line, and copied once.
    let mut member = Member { bytes: [0; OVERHEAD_MAX], len: 0 };
    member.put(HEAD);
    member.put(&hex_digits::<2>(time));
    member.put(&hex_digits::<4>(metadata));
    member.put(&hex_digits::<4>(members));
    if let Some(marks) = place.marks {
        flags |= Flags::MARKED;
        member.put(&hex_digits::<12>(marks.start));
        member.put(&hex_digits::<12>(marks.synced));
    }
    if let Some(opens) = place.opens {
        flags |= Flags::OPENS;
        if opens == Opens::Root {
            flags |= Flags::ROOT;
        }
        member.put(&hex_digits::<16>(opens.predecessor().map_or(0, EventId::get)));
    }
    member.put(&hex_digits::<2>(u64::from(flags.0)));
    let envelope = event.open_envelope();
    let crc = crc32c::crc32c_append(crc32c::crc32c(envelope), &member.bytes[..member.len]);
    member.put(&hex_digits::<8>(u64::from(crc)));
    member.put(TAIL);
    member.put(b"\n");
    out.reserve(envelope.len() + member.len);
    out.extend_from_slice(envelope);
    out.extend_from_slice(&member.bytes[..member.len]);
}

struct Member {
    bytes: [u8; OVERHEAD_MAX],
    len: usize,
}

impl Member {
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }
}

/// A line that Hydrant wrote, and whose checksum is right.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ours {
    pub(crate) flags: Flags,
    pub(crate) marks: Option<Marks>,
    pub(crate) opens: Option<Opens>,
    /// Where the parts of the event lie; `None` when the line is to be parsed.
    layout: Option<Layout>,
}

/// Who wrote a line.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Line {
    Ours(Ours),
    /// Another program: to be parsed, and there is no checksum.
    Foreign,
}

/// Reads the private part of a line, without its line break.
///
/// # Errors
/// `Corrupt` when the line was written by Hydrant and does not check, `Unsupported` when a newer one wrote it.
pub(crate) fn parse(line: &[u8]) -> Result<Line> {
    let Some(fields_end) = line.len().checked_sub(TAIL.len()).filter(|&end| &line[end..] == TAIL) else {
        return Ok(Line::Foreign);
    };
    let Some(flags_at) = fields_end.checked_sub(FLAGS + CRC) else {
        return Ok(Line::Foreign);
    };
    let flags = hex(&line[flags_at..flags_at + FLAGS]).and_then(|flags| u8::try_from(flags).ok());
    let ours = flags.and_then(|flags| {
        let open = fields_end.checked_sub(HEAD.len() + Flags(flags).width())?;
        (&line[open..open + HEAD.len()] == HEAD).then_some((Flags(flags), open))
    });
    let Some((flags, open)) = ours else {
        return foreign_or_flaw(line);
    };
    let crc = hex(&line[flags_at + FLAGS..fields_end]);
    if crc != Some(u64::from(crc32c::crc32c(&line[..flags_at + FLAGS]))) {
        return Err(Error::corrupt("the checksum differs"));
    }
    if flags.has(Flags::RESERVED) {
        return Err(written_by_newer());
    }
    let mut at = open + HEAD.len();
    let mut field = |width: usize| {
        at += width;
        hex(&line[at - width..at]).ok_or_else(|| Error::corrupt("a mark is not a number"))
    };
    let lengths = (field(2)?, field(4)?, field(4)?);
    let marks =
        if flags.has(Flags::MARKED) { Some(Marks { start: field(12)?, synced: field(12)? }) } else { None };
    let opens = if flags.has(Flags::OPENS) {
        let predecessor = EventId::new(field(16)?);
        Some(if flags.has(Flags::ROOT) { Opens::Root } else { Opens::Behind(predecessor) })
    } else {
        None
    };
    let layout = if flags.has(Flags::PARSE) { None } else { Some(layout(line, open, flags, lengths)?) };
    Ok(Line::Ours(Ours { flags, marks, opens, layout }))
}

/// Decides about a line that does not end as ours do: it is foreign, or ours and damaged in just that place.
#[cold]
fn foreign_or_flaw(line: &[u8]) -> Result<Line> {
    let end = &line[line.len().saturating_sub(OVERHEAD_MAX + 8)..];
    let member = format!("\"{}\":", envelope::RESERVED_MEMBER);
    if let Some(at) = memchr::memmem::find(end, member.as_bytes()) {
        let version = line.len() - end.len() + at + member.len() + b"\"h".len();
        let newer = line.get(version).is_some_and(|version| version.is_ascii_digit() && *version != b'1');
        // With that digit alone flipped, the line would check.
        let flipped = || [&line[..version], b"1", &line[version + 1..]].concat();
        if newer && line[version - 2..version] == *b"\"h" && parse(&flipped()).is_err() {
            return Err(written_by_newer());
        }
        return Err(Error::corrupt("the mark of the line is damaged"));
    }
    let widths = [Flags::default(), Flags::MARKED, Flags::MARKED | Flags::OPENS].map(Flags::width);
    let damaged = widths.into_iter().any(|width| {
        let text =
            line.len().checked_sub(TAIL.len() + width + 5).map(|at| &line[at..line.len() - TAIL.len()]);
        text.is_some_and(|text| text.starts_with(b"\":\"h1") && is_hex(&text[5..]))
    });
    if damaged { Err(Error::corrupt("the name of the line's mark is damaged")) } else { Ok(Line::Foreign) }
}

fn written_by_newer() -> Error {
    Error::unsupported("the line was written by a newer Hydrant; update this one")
}

/// Where the parts lie: the canonical envelope leaves no choice, once the lengths are known.
fn layout(line: &[u8], end: usize, flags: Flags, lengths: (u64, u64, u64)) -> Result<Layout> {
    const ID: usize = b"{\"eventId\":".len();
    const PAYLOAD: usize = b",\"stateChanged\":".len();
    const TIME: usize = b",\"time\":\"".len();
    const METADATA: usize = b",\"metadata\":".len();
    const SNAPSHOT: usize = b",\"isSnapshot\":true".len();
    let short = || Error::corrupt("the lengths of the line's mark do not fit the line");
    let (id, digits) = number(line.get(ID..end).ok_or_else(short)?).ok_or_else(short)?;
    let span = |start: usize, end: usize| match (u32::try_from(start), u32::try_from(end)) {
        (Ok(start), Ok(end)) => Ok((start, end)),
        _ => Err(short()),
    };
    let mut at = end;
    // Takes a part off the end: its length, and the bytes around it.
    let mut take = |len: u64, before: usize, behind: usize| {
        let part_end = at.checked_sub(behind).ok_or_else(short)?;
        let len = usize::try_from(len).map_err(|_| short())?;
        let start = part_end.checked_sub(len).ok_or_else(short)?;
        at = start.checked_sub(before).ok_or_else(short)?;
        span(start, part_end)
    };
    let (time_len, metadata_len, members_len) = lengths;
    let members = if members_len > 0 { take(members_len, 1, 0)? } else { (0, 0) };
    if flags.has(Flags::SNAPSHOT) {
        take(0, SNAPSHOT, 0)?;
    }
    let metadata = if metadata_len > 0 { take(metadata_len, METADATA, 0)? } else { (0, 0) };
    let time = if time_len > 0 { take(time_len - 1, TIME, 1)? } else { (0, 0) };
    let payload = ID + digits + PAYLOAD;
    if payload > at {
        return Err(short());
    }
    Ok(Layout {
        id,
        payload: span(payload, at)?,
        time,
        metadata,
        members,
        is_snapshot: flags.has(Flags::SNAPSHOT),
        end: span(end, end)?.0,
    })
}

impl Ours {
    /// The layout of the event in `line`, parsed where it must be.
    pub(crate) fn layout(&self) -> Option<Layout> {
        self.layout
    }

    /// The event, as a slice of the line.
    pub(crate) fn event(&self, line: Bytes) -> Result<Event> {
        match self.layout {
            Some(layout) => Event::from_layout(line, layout),
            None => envelope::decode(line),
        }
    }
}

/// Reads a foreign line. Its number, from 0, is the id of a bare change where lines have no ids.
pub(crate) fn decode_foreign(line: Bytes, line_number: Option<u64>) -> Result<Event> {
    let Some(number) = line_number else {
        // `is_bare` was asked first: this line has no id.
        if is_bare(&line) {
            return Err(Error::corrupt("the event has no `eventId`, and its file has ids"));
        }
        return envelope::decode_hydra(line, 0);
    };
    envelope::decode_hydra(line, number)
}

/// Returns whether a line is a bare change, of hydra-node before 0.16.
pub(crate) fn is_bare(line: &Bytes) -> bool {
    if line.starts_with(b"{\"eventId\":") {
        return false;
    }
    let id = |number| envelope::decode_hydra(line.clone(), number).map(|event| event.id()).ok();
    id(0).is_some_and(|zero| Some(zero) != id(1))
}

/// A number at the beginning of `text`, and how many digits it has.
fn number(text: &[u8]) -> Option<(EventId, usize)> {
    let mut number = 0_u64;
    let mut digits = 0;
    for byte in text.iter().take(21) {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            break;
        }
        number = number.checked_mul(10)?.checked_add(u64::from(digit))?;
        digits += 1;
    }
    (digits > 0).then_some((EventId::new(number), digits))
}

/// A number in lower-case hexadecimal; it fits its width.
#[inline]
pub(crate) fn hex_digits<const WIDTH: usize>(number: u64) -> [u8; WIDTH] {
    debug_assert!(WIDTH >= 16 || number >> (4 * WIDTH) == 0, "the number fits its field");
    let mut all = [0; 16];
    if WIDTH > 8 {
        all[..8].copy_from_slice(&eight_digits(number >> 32));
    }
    all[8..].copy_from_slice(&eight_digits(number & 0xFFFF_FFFF));
    let mut digits = [0; WIDTH];
    digits.copy_from_slice(&all[16 - WIDTH..]);
    digits
}

/// The digits of 32 bits, all at once: each half byte is moved into a byte of its own, the highest first.
#[inline]
fn eight_digits(number: u64) -> [u8; 8] {
    let number = (number >> 16) | (number & 0xFFFF) << 32;
    let number = (number & 0x0000_FF00_0000_FF00) >> 8 | (number & 0x0000_00FF_0000_00FF) << 16;
    let number = (number & 0x00F0_00F0_00F0_00F0) >> 4 | (number & 0x000F_000F_000F_000F) << 8;
    let letters = ((number + 0x0606_0606_0606_0606) >> 4) & 0x0101_0101_0101_0101;
    (number + 0x3030_3030_3030_3030 + letters * u64::from(b'a' - b'9' - 1)).to_le_bytes()
}

/// The values of the lower-case hexadecimal digits; all others are `0xFF`.
const DIGITS: [u8; 256] = {
    let mut values = [0xFF; 256];
    let mut at = 0;
    while at < 16 {
        values[b"0123456789abcdef"[at as usize] as usize] = at;
        at += 1;
    }
    values
};

/// A number of at most 16 digits.
pub(crate) fn hex(digits: &[u8]) -> Option<u64> {
    let mut number = 0;
    let mut wrong = 0;
    for &digit in digits {
        let value = DIGITS[usize::from(digit)];
        wrong |= value & 0xF0;
        number = number << 4 | u64::from(value & 0xF);
    }
    (wrong == 0).then_some(number)
}

fn is_hex(text: &[u8]) -> bool {
    text.iter().all(|&digit| DIGITS[usize::from(digit)] != 0xFF)
}

#[cfg(test)]
mod tests;
