//! The envelope: an event as one JSON object, everywhere the same.
//!
//! ```json
//! {"eventId":126,"stateChanged":{"tag":"TickObserved"},"time":"2026-01-05T09:00:00Z"}
//! ```
//!
//! The canonical form has no white space between members, and these members in this order: `eventId`,
//! `stateChanged` (the payload), `time`, `metadata`, `isSnapshot` (only when `true`), then all others in the
//! order they were given. [`decode`] reads any order and spacing. It is the form of hydra-node's event files
//! from 0.21 on; [`decode_hydra`] also reads the two generations before.
//!
//! One member name is reserved for a store's private data (checksums, marks): [`RESERVED_MEMBER`]. Decoding
//! drops it, so that it never leaves the store.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use bytes::Bytes;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::event::Layout;
use crate::{Error, Event, EventId, Result};

/// The member in which a store keeps private data beside an event. It never leaves the store.
pub const RESERVED_MEMBER: &str = "_hydrant";

/// Reads one envelope.
///
/// # Errors
/// `Corrupt`: not one JSON object, an `eventId` that is missing or no `u64`, no `stateChanged`, a `time`
/// that is no string, a member that appears twice.
pub fn decode(line: Bytes) -> Result<Event> {
    decode_with(line, None)
}

/// Reads one line as hydra-node wrote it, in any of its three generations: the bare change (before 0.16,
/// its id is its line number, from 0), the envelope without a time (to 0.20) and with one.
///
/// A change with `"tag":"Checkpoint"` is a snapshot.
///
/// # Errors
/// As [`decode`].
pub fn decode_hydra(line: Bytes, line_number: u64) -> Result<Event> {
    decode_with(line, Some(EventId::new(line_number)))
}

/// `bare_id` is the id of a bare change, where hydra-node wrote the line.
fn decode_with(line: Bytes, bare_id: Option<EventId>) -> Result<Event> {
    let text = std::str::from_utf8(&line).map_err(|cause| not_an_event(&line, &cause))?;
    let mut reader = serde_json::Deserializer::from_str(text);
    let found = reader
        .deserialize_map(Members)
        .and_then(|found| reader.end().map(|()| found))
        .map_err(|cause| not_an_event(&line, &cause))?;
    let mut parts = match bare_id {
        Some(id) if found.is_bare() => Parts::bare(id, text.trim().as_bytes()),
        _ => found.parts()?,
    };
    parts.is_snapshot |= bare_id.is_some() && is_hydra_checkpoint(parts.payload);
    let id = parts.id;
    let event = if let Some(layout) = parts.canonical_layout(&line) {
        Event::from_layout(line, layout)?
    } else {
        let mut canonical = Vec::with_capacity(parts.size());
        let layout = parts.encode(&mut canonical)?;
        Event::from_layout(canonical.into(), layout)?
    };
    // White space inside of a pretty-printed payload may hold a line break.
    if memchr::memchr2(b'\n', b'\r', event.open_envelope()).is_some() {
        return Err(Error::corrupt("the event is spread over several lines").at(id));
    }
    Ok(event)
}

/// Describes the bytes that are there instead of an event.
fn not_an_event(line: &[u8], cause: &dyn fmt::Display) -> Error {
    let looks = if line.is_empty() {
        "an empty line"
    } else if line.iter().all(|&byte| byte == 0) {
        "NUL bytes, as a crash leaves them"
    } else if line.starts_with(&[0xFF, 0xFE]) || line.starts_with(&[0xFE, 0xFF]) || line.contains(&0) {
        "UTF-16 or binary data; events are UTF-8"
    } else if line.starts_with(b"\xEF\xBB\xBF") {
        "text behind a byte order mark; remove the first three bytes"
    } else if !line.trim_ascii_start().starts_with(b"{") {
        "something that does not begin with `{`; an event is one JSON object"
    } else {
        return Error::corrupt(format!("this is not an event: {cause}"));
    };
    Error::corrupt(format!("this is not an event but {looks}"))
}

/// Returns whether a change is tagged `Checkpoint`, as hydra-node tags the state that opens a rotated file.
fn is_hydra_checkpoint(payload: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    struct Change<'a> {
        #[serde(borrow)]
        tag: Cow<'a, str>,
    }
    if memchr::memmem::find(payload, b"\"Checkpoint\"").is_none() {
        return false;
    }
    serde_json::from_slice::<Change<'_>>(payload).is_ok_and(|change| change.tag == "Checkpoint")
}

/// The members of an envelope as they are in the text, not yet checked: those of a bare change, which may
/// have the same names, mean something else.
#[derive(Default)]
struct Found<'a> {
    id: Option<&'a RawValue>,
    payload: Option<&'a RawValue>,
    time: Option<&'a RawValue>,
    metadata: Option<&'a RawValue>,
    is_snapshot: Option<&'a RawValue>,
    has_tag: bool,
    /// All others but the reserved one, as they are written in the canonical form.
    members: String,
    /// A name that came more than once.
    twice: Option<Cow<'a, str>>,
}

impl Found<'_> {
    fn is_bare(&self) -> bool {
        self.has_tag && self.id.is_none() && self.payload.is_none()
    }

    fn parts(&self) -> Result<Parts<'_>> {
        if let Some(name) = &self.twice {
            return Err(Error::corrupt(format!("`{}` stands twice", clip(name))));
        }
        let id = self.id.ok_or_else(|| Error::corrupt("the event has no `eventId`"))?.get();
        let id = serde_json::from_str(id).map_err(|_| {
            Error::corrupt(format!("`eventId` is {}, not a number from 0 to 2^64-1", clip(id)))
        })?;
        let wrong = |what: &str| Error::corrupt(what).at(id);
        let payload = self.payload.ok_or_else(|| wrong("the event has no `stateChanged`"))?;
        let time = self.time.map(RawValue::get).map(|time| {
            let unquoted = time.strip_prefix('"').and_then(|time| time.strip_suffix('"'));
            unquoted.ok_or_else(|| wrong("`time` is not a string"))
        });
        let is_snapshot = match self.is_snapshot.map(RawValue::get) {
            Some("true") => true,
            Some("false") | None => false,
            Some(_) => return Err(wrong("`isSnapshot` is not true or false")),
        };
        Ok(Parts {
            id,
            payload: payload.get().as_bytes(),
            time: time.transpose()?.map(str::as_bytes),
            metadata: self.metadata.map(|metadata| metadata.get().as_bytes()),
            is_snapshot,
            members: self.members.as_bytes(),
        })
    }
}

struct Members;

impl<'t> Visitor<'t> for Members {
    type Value = Found<'t>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event, one JSON object")
    }

    fn visit_map<A: MapAccess<'t>>(self, mut map: A) -> std::result::Result<Found<'t>, A::Error> {
        let mut found = Found::default();
        let mut others = HashSet::new(); // a line of a million members must not take a million squared
        while let Some((quoted, value)) = map.next_entry::<&'t RawValue, &'t RawValue>()? {
            let name = unescaped(quoted.get())?;
            let twice = match name.as_ref() {
                "eventId" => found.id.replace(value).is_some(),
                "stateChanged" => found.payload.replace(value).is_some(),
                "time" => found.time.replace(value).is_some(),
                "metadata" => found.metadata.replace(value).is_some(),
                "isSnapshot" => found.is_snapshot.replace(value).is_some(),
                RESERVED_MEMBER => false,
                other => {
                    found.has_tag |= other == "tag";
                    if !found.members.is_empty() {
                        found.members.push(',');
                    }
                    found.members.extend([quoted.get(), ":", value.get()]);
                    !others.insert(name.clone())
                }
            };
            if twice {
                found.twice = Some(name);
            }
        }
        Ok(found)
    }
}

/// Returns the name without quotes and escapes.
fn unescaped<E: serde::de::Error>(quoted: &str) -> std::result::Result<Cow<'_, str>, E> {
    if quoted.contains('\\') {
        serde_json::from_str(quoted).map(Cow::Owned).map_err(E::custom)
    } else {
        Ok(Cow::Borrowed(quoted.trim_matches('"')))
    }
}

/// Returns the beginning of a line, fit for an error of one line.
fn clip(text: &str) -> String {
    let plain = |char: char| if char.is_control() { ' ' } else { char };
    let mut clipped: String = text.chars().take(40).map(plain).collect();
    if text.chars().nth(40).is_some() {
        clipped.push('…');
    }
    clipped
}

/// The parts of an event, to be encoded or compared.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Parts<'a> {
    pub(crate) id: EventId,
    pub(crate) payload: &'a [u8],
    pub(crate) time: Option<&'a [u8]>,
    pub(crate) metadata: Option<&'a [u8]>,
    pub(crate) is_snapshot: bool,
    pub(crate) members: &'a [u8],
}

const ID: &[u8] = b"{\"eventId\":";
const PAYLOAD: &[u8] = b",\"stateChanged\":";
const TIME: &[u8] = b",\"time\":\"";
const METADATA: &[u8] = b",\"metadata\":";
const SNAPSHOT: &[u8] = b",\"isSnapshot\":true";

impl<'a> Parts<'a> {
    /// A change without an envelope.
    fn bare(id: EventId, payload: &'a [u8]) -> Self {
        Self { id, payload, time: None, metadata: None, is_snapshot: false, members: b"" }
    }

    /// The envelope's size in bytes, closing brace included: what [`Event::size`] returns once it is encoded.
    pub(crate) fn size(&self) -> usize {
        let digits = self.id.get().checked_ilog10().map_or(1, |log| log as usize + 1);
        let time = self.time.map_or(0, |text| TIME.len() + text.len() + 1);
        let metadata = self.metadata.map_or(0, |json| METADATA.len() + json.len());
        let snapshot = if self.is_snapshot { SNAPSHOT.len() } else { 0 };
        let members = if self.members.is_empty() { 0 } else { 1 + self.members.len() };
        ID.len() + digits + PAYLOAD.len() + self.payload.len() + time + metadata + snapshot + members + 1
    }

    /// Appends the open envelope in canonical form; offsets count from where it begins.
    ///
    /// # Errors
    /// `Invalid` above 4 GiB.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) -> Result<Layout> {
        if u32::try_from(self.size()).is_err() {
            return Err(Error::invalid("the event is larger than 4 GiB").at(self.id));
        }
        let base = out.len();
        out.extend_from_slice(ID);
        push_number(out, self.id.get());
        out.extend_from_slice(PAYLOAD);
        let put = |out: &mut Vec<u8>, bytes: &[u8]| {
            let start = out.len() - base;
            out.extend_from_slice(bytes);
            (offset(start), offset(out.len() - base))
        };
        let payload = put(out, self.payload);
        let mut time = (0, 0);
        if let Some(text) = self.time {
            out.extend_from_slice(TIME);
            time = put(out, text);
            out.push(b'"');
        }
        let mut metadata = (0, 0);
        if let Some(json) = self.metadata {
            out.extend_from_slice(METADATA);
            metadata = put(out, json);
        }
        if self.is_snapshot {
            out.extend_from_slice(SNAPSHOT);
        }
        let mut members = (0, 0);
        if !self.members.is_empty() {
            out.push(b',');
            members = put(out, self.members);
        }
        let end = offset(out.len() - base);
        Ok(Layout { id: self.id, payload, time, metadata, members, is_snapshot: self.is_snapshot, end })
    }

    /// Returns the layout, if the parts (slices of `line`) are where `encode` would write them.
    fn canonical_layout(&self, line: &[u8]) -> Option<Layout> {
        let mut at = 0;
        let mut expect = |bytes: &[u8]| {
            let ok = line[at..].starts_with(bytes);
            at += bytes.len();
            ok.then_some((offset(at - bytes.len()), offset(at)))
        };
        u32::try_from(line.len()).ok()?;
        expect(ID)?;
        let mut digits = Vec::with_capacity(20);
        push_number(&mut digits, self.id.get());
        expect(&digits)?;
        expect(PAYLOAD)?;
        let payload = expect(self.payload)?;
        let mut time = (0, 0);
        if let Some(text) = self.time {
            expect(TIME)?;
            time = expect(text)?;
            expect(b"\"")?;
        }
        let mut metadata = (0, 0);
        if let Some(json) = self.metadata {
            expect(METADATA)?;
            metadata = expect(json)?;
        }
        if self.is_snapshot {
            expect(SNAPSHOT)?;
        }
        let mut members = (0, 0);
        if !self.members.is_empty() {
            expect(b",")?;
            members = expect(self.members)?;
        }
        let end = offset(at);
        let rest = line.get(at..)?;
        let closed = rest == b"}" || (rest.starts_with(b",\"_hydrant\":") && rest.ends_with(b"}"));
        closed.then_some(Layout {
            id: self.id,
            payload,
            time,
            metadata,
            members,
            is_snapshot: self.is_snapshot,
            end,
        })
    }
}

/// Checks what a builder was given: all parts on one line, JSON where JSON belongs, no reserved name.
pub(crate) fn check_parts(parts: &Parts<'_>) -> Result<()> {
    let invalid = |what: &str| Error::invalid(what.to_owned()).at(parts.id);
    let json = |bytes: &[u8], what: &str| {
        if bytes.contains(&b'\n') || bytes.contains(&b'\r') {
            return Err(invalid(&format!("{what} holds a line break; write JSON on one line")));
        }
        serde_json::from_slice::<&RawValue>(bytes)
            .map_err(|cause| invalid(&format!("{what} is not JSON")).because(cause))
            .and_then(|raw| {
                let whole = raw.get().len() == bytes.len();
                whole.then_some(()).ok_or_else(|| invalid(&format!("{what} has white space around it")))
            })
    };
    json(parts.payload, "the payload")?;
    if let Some(metadata) = parts.metadata {
        json(metadata, "the metadata")?;
    }
    if let Some(time) = parts.time {
        let plain = |byte: &u8| *byte >= 0x20 && *byte != b'"' && *byte != b'\\';
        if !time.iter().all(plain) {
            return Err(invalid("the time holds a quote, a backslash or a control character"));
        }
    }
    if !parts.members.is_empty() {
        check_members(parts)?;
    }
    Ok(())
}

/// The other members must come back from decoding as they were given.
fn check_members(parts: &Parts<'_>) -> Result<()> {
    let mut line = Vec::with_capacity(parts.size());
    parts.encode(&mut line)?;
    line.push(b'}');
    let wrong = || Error::invalid("a member has a name that the envelope uses, or is not JSON").at(parts.id);
    let read = decode(line.into()).map_err(|cause| wrong().because(cause))?;
    if read.parts() == *parts { Ok(()) } else { Err(wrong()) }
}

fn push_number(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b"0123456789"[(number % 10) as usize];
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Offsets fit: `encode` and `canonical_layout` refuse what is larger than 4 GiB first.
#[expect(clippy::cast_possible_truncation, reason = "checked by the callers")]
fn offset(at: usize) -> u32 {
    at as u32
}

#[cfg(test)]
mod tests;
