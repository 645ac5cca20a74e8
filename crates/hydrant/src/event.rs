//! An event: an id, a time, a JSON payload.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::store::envelope::{self, Parts};
use crate::{Digest, Error, Result};

/// The id of an event in its log. Ids strictly increase, may have gaps, and may begin anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EventId(u64);

impl EventId {
    /// The smallest id.
    pub const ZERO: Self = Self(0);

    /// Creates an id from its number.
    pub const fn new(id: u64) -> Self {
        Self(id)
    }

    /// Returns the number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Returns the next id; `None` after the largest id that a log can hold.
    #[must_use]
    pub fn next(self) -> Option<Self> {
        self.0.checked_add(1).map(Self)
    }

    /// Returns the previous id; `None` for the smallest.
    #[must_use]
    pub fn prev(self) -> Option<Self> {
        self.0.checked_sub(1).map(Self)
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<u64> for EventId {
    fn from(id: u64) -> Self {
        Self(id)
    }
}

/// An event of a log: an id, a payload, and optionally a time and metadata.
///
/// Cheap to clone (one reference count): an event is a slice of the buffer in which it was read or encoded, in the
/// form of the [envelope](crate::store::envelope). Every sink writes those same bytes. Payload and metadata are kept
/// byte for byte: no member is reordered, and no number is rewritten.
///
/// Two events are equal when id, time text, payload, metadata, the snapshot mark and all other members of
/// the envelope are, byte for byte.
///
/// ```
/// use hydrant::{Event, EventId};
///
/// let event = Event::builder(EventId::new(7))
///     .time("2026-01-05T09:00:00Z")
///     .payload_json(r#"{"tag":"Deposited","amount":1.0}"#)
///     .build()?;
/// assert_eq!(event.payload(), br#"{"tag":"Deposited","amount":1.0}"#);
/// assert_eq!(
///     event.to_string(),
///     r#"{"eventId":7,"stateChanged":{"tag":"Deposited","amount":1.0},"time":"2026-01-05T09:00:00Z"}"#,
/// );
/// # Ok::<(), hydrant::Error>(())
/// ```
#[derive(Clone)]
pub struct Event {
    /// The envelope in canonical form, from `{` on; whatever follows `layout.end` is not part of it.
    line: Bytes,
    layout: Layout,
}

/// The offsets of the parts of an event in its line, for authors of stores that know them without parsing.
///
/// Offsets are in bytes from the start of a line in canonical form (see [`envelope`](crate::store::envelope)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The event's id.
    pub id: EventId,
    /// The start and end of the payload.
    pub payload: (u32, u32),
    /// The start and end of the text of the time, without its quotes; `(0, 0)` where there is none.
    pub time: (u32, u32),
    /// The start and end of the metadata; `(0, 0)` where there is none.
    pub metadata: (u32, u32),
    /// The start and end of all other members, `"name":value` separated by commas; `(0, 0)` where there is none.
    pub members: (u32, u32),
    /// Whether the envelope, or the dialect that it was read in, marks a snapshot.
    pub is_snapshot: bool,
    /// The offset of the closing brace of the envelope. A store's private member may be there instead.
    pub end: u32,
}

impl Event {
    /// Creates an event with a typed payload and nothing else.
    ///
    /// # Errors
    /// `Invalid` if the payload cannot be written as JSON.
    pub fn new<T: Serialize + ?Sized>(id: EventId, payload: &T) -> Result<Self> {
        Self::builder(id).payload(payload)?.build()
    }

    /// Returns a builder that takes the parts of an event one by one.
    pub fn builder(id: EventId) -> EventBuilder {
        EventBuilder {
            id,
            time: None,
            payload: Vec::new(),
            metadata: None,
            is_snapshot: false,
            members: String::new(),
        }
    }

    /// Creates an event from a line in canonical form whose layout is known, without parsing the line again.
    ///
    /// For stores whose own checksum proves that the line has the bytes that they wrote.
    ///
    /// # Errors
    /// `Corrupt` if an offset is outside of the line. The bytes between the offsets are not checked.
    pub fn from_layout(line: Bytes, layout: Layout) -> Result<Self> {
        let inside = |(start, end): (u32, u32)| start <= end && end <= layout.end;
        let fits = layout.end as usize <= line.len()
            && [layout.payload, layout.time, layout.metadata, layout.members].into_iter().all(inside);
        if !fits {
            return Err(Error::corrupt("the layout reaches beyond its line").at(layout.id));
        }
        Ok(Self { line, layout })
    }

    /// Returns the id.
    pub fn id(&self) -> EventId {
        self.layout.id
    }

    /// Returns the time as it was written. Times order nothing and may go back. Events of older logs have none.
    pub fn time(&self) -> Option<&str> {
        self.time_bytes().and_then(|text| std::str::from_utf8(text).ok())
    }

    /// Returns the payload: one line of JSON, byte for byte.
    pub fn payload(&self) -> &[u8] {
        self.part(self.layout.payload)
    }

    /// Returns the metadata, one line of JSON: correlation, causation, trace.
    pub fn metadata(&self) -> Option<&[u8]> {
        self.optional(self.layout.metadata)
    }

    /// Returns whether the event carries the whole aggregated state and opens a segment.
    pub fn is_snapshot(&self) -> bool {
        self.layout.is_snapshot
    }

    /// Returns all other members of the envelope, `"name":value` separated by commas; empty if there is none.
    pub fn members(&self) -> &[u8] {
        self.part(self.layout.members)
    }

    /// Decodes the payload.
    ///
    /// # Errors
    /// `Invalid`, naming the event, if the payload is not a `T`.
    pub fn decode<'a, T: Deserialize<'a>>(&'a self) -> Result<T> {
        serde_json::from_slice(self.payload()).map_err(|cause| {
            Error::invalid(format!("the payload is not a {}", std::any::type_name::<T>()))
                .at(self.id())
                .because(cause)
        })
    }

    /// Returns a hash of all parts that make two events equal.
    pub fn digest(&self) -> Digest {
        Digest::of(self)
    }

    /// Returns the envelope without its closing brace. The writer adds `}`, or a private member and `}`.
    pub fn open_envelope(&self) -> &[u8] {
        &self.line[..self.layout.end as usize]
    }

    /// Returns the offsets of the parts in [`open_envelope`](Event::open_envelope).
    ///
    /// A store may keep them beside the event, and pass them to [`from_layout`](Event::from_layout) when it reads the
    /// event back.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Returns the size of the envelope in bytes, with its closing brace. Every limit in bytes counts this size.
    pub fn size(&self) -> usize {
        self.layout.end as usize + 1
    }

    /// Appends the envelope as one JSON object, without a line break.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.open_envelope());
        out.push(b'}');
    }

    /// Returns the envelope as one JSON object, without a line break.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.size());
        self.write_to(&mut out);
        out
    }

    /// Returns the same event in a buffer of its own, so that the buffer in which it was read can be freed.
    #[must_use]
    pub fn detached(&self) -> Self {
        Self { line: Bytes::copy_from_slice(self.open_envelope()), layout: self.layout }
    }

    /// Returns the same event with the snapshot mark set or removed.
    ///
    /// # Errors
    /// `Invalid` if the envelope exceeds 4 GiB.
    pub(crate) fn marked(self, is_snapshot: bool) -> Result<Self> {
        if self.is_snapshot() == is_snapshot {
            return Ok(self);
        }
        let parts = Parts { is_snapshot, ..self.parts() };
        let mut line = Vec::with_capacity(parts.size());
        let layout = parts.encode(&mut line)?;
        Self::from_layout(line.into(), layout)
    }

    pub(crate) fn parts(&self) -> Parts<'_> {
        Parts {
            id: self.id(),
            payload: self.payload(),
            time: self.time_bytes(),
            metadata: self.metadata(),
            is_snapshot: self.is_snapshot(),
            members: self.members(),
        }
    }

    fn time_bytes(&self) -> Option<&[u8]> {
        self.optional(self.layout.time)
    }

    fn optional(&self, part: (u32, u32)) -> Option<&[u8]> {
        (part != (0, 0)).then(|| self.part(part))
    }

    fn part(&self, (start, end): (u32, u32)) -> &[u8] {
        &self.line[start as usize..end as usize]
    }
}

impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts()
    }
}

impl Eq for Event {}

impl fmt::Display for Event {
    /// Writes the envelope as one JSON object.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}}}", String::from_utf8_lossy(self.open_envelope()))
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Event({self})")
    }
}

/// Collects the parts of an [`Event`] and checks them once, in [`build`](EventBuilder::build).
#[derive(Clone, Debug)]
pub struct EventBuilder {
    id: EventId,
    time: Option<String>,
    payload: Vec<u8>,
    metadata: Option<Vec<u8>>,
    is_snapshot: bool,
    members: String,
}

impl EventBuilder {
    /// Sets the time as text, which is kept as it is. By custom it is in the format of RFC 3339.
    #[must_use]
    pub fn time(mut self, text: impl Into<String>) -> Self {
        self.time = Some(text.into());
        self
    }

    /// Sets the payload to a value, encoded as JSON.
    ///
    /// # Errors
    /// `Invalid` if the value cannot be written as JSON.
    pub fn payload<T: Serialize + ?Sized>(mut self, payload: &T) -> Result<Self> {
        self.payload = serde_json::to_vec(payload).map_err(|cause| {
            Error::invalid("the payload cannot be written as JSON").at(self.id).because(cause)
        })?;
        Ok(self)
    }

    /// Sets the payload to JSON text, which is kept byte for byte.
    #[must_use]
    pub fn payload_json(mut self, json: impl Into<Vec<u8>>) -> Self {
        self.payload = json.into();
        self
    }

    /// Sets the metadata to JSON text, which is kept byte for byte.
    #[must_use]
    pub fn metadata_json(mut self, json: impl Into<Vec<u8>>) -> Self {
        self.metadata = Some(json.into());
        self
    }

    /// Marks the event as one that carries the whole aggregated state and opens a segment.
    #[must_use]
    pub fn snapshot(mut self) -> Self {
        self.is_snapshot = true;
        self
    }

    /// Adds another member to the envelope. `build` refuses the names of the envelope itself.
    #[must_use]
    pub fn member(mut self, name: &str, json: &str) -> Self {
        if !self.members.is_empty() {
            self.members.push(',');
        }
        self.members.push_str(&serde_json::Value::from(name).to_string());
        self.members.push(':');
        self.members.push_str(json);
        self
    }

    /// Checks all parts and encodes the envelope, once for all sinks.
    ///
    /// # Errors
    /// `Invalid`, naming the event: payload or metadata is not one line of JSON, the time has a character
    /// that JSON would escape, or a member has a reserved name.
    pub fn build(self) -> Result<Event> {
        let parts = Parts {
            id: self.id,
            payload: &self.payload,
            time: self.time.as_deref().map(str::as_bytes),
            metadata: self.metadata.as_deref(),
            is_snapshot: self.is_snapshot,
            members: self.members.as_bytes(),
        };
        let mut line = Vec::with_capacity(parts.size());
        let layout = parts.encode(&mut line)?;
        envelope::check_parts(&parts)?;
        Event::from_layout(line.into(), layout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_what_it_was_built_from() {
        let event = Event::builder(EventId::new(9))
            .time("2026-01-05T09:00:00.000000000789Z")
            .payload_json(r#"{"b":1e400,"a":9007199254740993}"#)
            .metadata_json(r#"{"trace":"x"}"#)
            .member("origin", "\"alice\"")
            .snapshot()
            .build()
            .unwrap();
        assert_eq!(event.payload(), br#"{"b":1e400,"a":9007199254740993}"#);
        assert_eq!(event.time(), Some("2026-01-05T09:00:00.000000000789Z"));
        assert_eq!(event.metadata(), Some(br#"{"trace":"x"}"#.as_slice()));
        assert_eq!(event.members(), br#""origin":"alice""#);
        assert!(event.is_snapshot());
        assert_eq!(event.size(), event.to_vec().len());
        assert_eq!(event.size(), event.parts().size());
        assert_eq!(crate::store::envelope::decode(event.to_vec().into()).unwrap(), event);
    }

    #[test]
    fn what_would_break_a_line_is_refused() {
        let build = |json: &str| Event::builder(EventId::ZERO).payload_json(json).build();
        for bad in ["", "{", "{}{}", "{\n}", "{\"a\":1}\r", "nul", "{\"a\":\"\u{1}\"}"] {
            let error = build(bad).unwrap_err();
            assert_eq!(error.event(), Some(EventId::ZERO), "{bad:?}");
        }
        assert!(Event::builder(EventId::ZERO).payload_json("1").time("a\"b").build().is_err());
        assert!(Event::builder(EventId::ZERO).payload_json("1").member("_hydrant", "1").build().is_err());
        assert!(
            Event::builder(EventId::ZERO).payload_json("1").member("x", "1,\"time\":\"y\"").build().is_err()
        );
    }

    #[test]
    fn every_part_counts_for_sameness() {
        let base = || Event::builder(EventId::ZERO).payload_json("1").time("t").metadata_json("2");
        let event = base().build().unwrap();
        assert_eq!(event, base().build().unwrap());
        for other in [
            base().payload_json("1.0"),
            base().time("u"),
            base().metadata_json("3"),
            base().snapshot(),
            base().member("m", "1"),
        ] {
            let other = other.build().unwrap();
            assert_ne!(event, other);
            assert_ne!(event.digest(), other.digest());
            assert_eq!(other.size(), other.parts().size());
        }
    }
}
