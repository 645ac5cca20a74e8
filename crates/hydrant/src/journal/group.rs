//! A group: what several callers append, committed as one batch.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;

use super::Clock;
use super::queue::Answer;
use super::room::Room;
use crate::mutants::mutant;
use crate::store::envelope::Parts;
use crate::{Error, Event, EventId, Result};

/// What one caller appends together.
#[derive(Debug)]
pub(super) struct Request {
    /// The id of the first event; the others follow without a gap.
    pub(super) first: EventId,
    pub(super) payloads: Payloads,
    pub(super) kind: Kind,
    /// The room that was taken, given back when the outcome is known.
    pub(super) room: Room,
    pub(super) answer: oneshot::Sender<Answer>,
}

/// How the events of a request came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// By `append`: the caller does not know the ids before the answer, so they may change.
    Append,
    /// By `submit`: the caller knows the ids.
    Submit,
    /// A snapshot of the state at `of`, which must stay the event before it.
    Snapshot { of: Option<EventId> },
}

impl Kind {
    /// Returns whether its ids may change until it is committed.
    pub(super) fn may_move(self) -> bool {
        self == Self::Append || self == Self::Submit && mutant("submit-changes-ids")
    }

    pub(super) fn is_snapshot(self) -> bool {
        matches!(self, Self::Snapshot { .. })
    }
}

/// Events of one caller: one buffer, however many they are.
#[derive(Debug)]
pub(super) struct Payloads {
    /// Two lines for each event: the payload, then the metadata, empty where there is none.
    lines: Vec<u8>,
    count: usize,
    /// Payload and metadata of the largest event, in bytes.
    largest: usize,
}

impl Payloads {
    /// Encodes values, each with its metadata as JSON.
    ///
    /// # Errors
    /// `Invalid`: there are no events, or one of them cannot be written as JSON, or not on one line.
    pub(super) fn encode<'a, T: Serialize + 'a>(
        events: impl ExactSizeIterator<Item = (&'a T, Option<&'a [u8]>)>,
    ) -> Result<Self> {
        let count = events.len();
        if count == 0 {
            return Err(Error::invalid("there is nothing to append"));
        }
        let mut this = Self { lines: Vec::with_capacity(256 * count.min(256)), count, largest: 0 };
        for (index, (value, metadata)) in events.enumerate() {
            let start = this.lines.len();
            serde_json::to_writer(&mut this.lines, value)
                .map_err(|cause| invalid(index, "cannot be written as JSON").because(cause))?;
            this.end_line(index, start)?;
            if let Some(json) = metadata {
                let start = this.lines.len();
                this.lines.extend_from_slice(json);
                this.end_line(index, start)?;
            } else {
                this.lines.push(b'\n');
            }
            this.largest = this.largest.max(this.lines.len() - start);
        }
        Ok(this)
    }

    fn end_line(&mut self, index: usize, start: usize) -> Result<()> {
        // Only a raw JSON value inside of the line can bring a line break.
        if memchr::memchr2(b'\n', b'\r', &self.lines[start..]).is_some() {
            return Err(invalid(index, "holds a line break; write JSON on one line"));
        }
        self.lines.push(b'\n');
        Ok(())
    }

    /// Decodes every payload as a `T`, so that what a later read cannot decode is refused before it is written.
    ///
    /// # Errors
    /// `Invalid`, with what the decoder met.
    pub(super) fn check_decodes<T: DeserializeOwned>(&self) -> Result<()> {
        self.iter().enumerate().try_for_each(|(index, (payload, _))| {
            let wrong = |cause| {
                let what = format!(
                    "can be written but not read back as a {}, nothing was written; change the type so that serde \
                     reads what it writes (maps with integer keys cannot be read inside of a tagged enum)",
                    std::any::type_name::<T>()
                );
                invalid(index, &what).because(cause)
            };
            serde_json::from_slice::<T>(payload).map(drop).map_err(wrong)
        })
    }

    /// Checks that no event is larger than the store takes, under the ids from `first` on.
    ///
    /// # Errors
    /// `Invalid`, naming the position of the event in its append, its size and the limit.
    pub(super) fn check_size(&self, first: EventId, kind: Kind, bytes_max: usize) -> Result<()> {
        /// More than the envelope adds to payload and metadata.
        const ENVELOPE_BYTES: usize = 256;
        if self.largest.saturating_add(ENVELOPE_BYTES) <= bytes_max {
            return Ok(());
        }
        let time = [b'0'; Clock::TEXT_BYTES];
        for (index, size) in self.parts(first, kind, &time).map(|parts| parts.size()).enumerate() {
            if size > bytes_max {
                let what = format!(
                    "takes {size} bytes, more than `event_bytes_max` = {bytes_max} of the store; raise it, or keep large \
                     values elsewhere"
                );
                return Err(invalid(index, &what));
            }
        }
        Ok(())
    }

    pub(super) fn bytes(&self) -> usize {
        self.lines.len()
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// The id of the last event, if that of the first is `first`; `None` beyond the largest id.
    pub(super) fn last_id(&self, first: EventId) -> Option<EventId> {
        first.get().checked_add(self.count as u64 - 1).map(EventId::new)
    }

    /// The events under the ids from `first` on.
    fn parts<'a>(
        &'a self,
        first: EventId,
        kind: Kind,
        time: &'a [u8],
    ) -> impl Iterator<Item = Parts<'a>> + 'a {
        self.iter().zip(first.get()..=u64::MAX).map(move |((payload, metadata), id)| Parts {
            id: EventId::new(id),
            payload,
            time: Some(time),
            metadata: Some(metadata).filter(|metadata| !metadata.is_empty()),
            is_snapshot: kind.is_snapshot(),
            members: b"",
        })
    }

    fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut rest = self.lines.as_slice();
        let mut line = move || {
            let is_empty = rest.first() == Some(&b'\n'); // most metadata
            let end = if is_empty { 0 } else { memchr::memchr(b'\n', rest)? };
            let (line, behind) = rest.split_at(end);
            rest = &behind[1..];
            Some(line)
        };
        std::iter::from_fn(move || Some((line()?, line()?)))
    }
}

/// Encodes the events of `group` into one buffer, under their ids.
///
/// # Errors
/// `Invalid`: an event (named) is larger than an envelope can be.
pub(super) fn encode(group: &[Request], time: &str) -> Result<Vec<Event>> {
    let count = group.iter().map(|request| request.payloads.count()).sum();
    // Names, id and time of an envelope take about this much.
    let bytes = group.iter().map(|request| request.payloads.bytes() + 128 * request.payloads.count()).sum();
    let mut buffer = Vec::with_capacity(bytes);
    let mut layouts = Vec::with_capacity(count);
    for request in group {
        for parts in request.payloads.parts(request.first, request.kind, time.as_bytes()) {
            let start = buffer.len();
            layouts.push((start, parts.encode(&mut buffer)?));
        }
    }
    let buffer = Bytes::from(buffer);
    layouts
        .into_iter()
        .map(|(start, layout)| Event::from_layout(buffer.slice(start..start + layout.end as usize), layout))
        .collect()
}

/// Removes and returns the request with the event that `error` names, and the error for its caller.
///
/// Returns `None` when the error is about none of them.
pub(super) fn remove_named(group: &mut Vec<Request>, error: &Error) -> Option<(Request, Error)> {
    let named = error.event()?;
    let holds =
        |request: &Request| named >= request.first && Some(named) <= request.payloads.last_id(request.first);
    let request = group.remove(group.iter().position(holds)?);
    let (offset, count) = (named.get() - request.first.get(), request.payloads.count());
    if count == 1 {
        return Some((request, error.clone()));
    }
    let message = format!("{} (event {} of {count} of this append)", error.message(), offset + 1);
    let error = Error::new(error.kind(), error.retry(), message).because(error.clone());
    Some((request, error))
}

/// An error about the event at `index` of an append.
fn invalid(index: usize, what: &str) -> Error {
    Error::invalid(format!("event {} of this append {what}", index + 1))
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::*;

    fn payloads<T: Serialize>(values: &[T], metadata: Option<&[u8]>) -> Result<Payloads> {
        Payloads::encode(values.iter().map(|value| (value, metadata)))
    }

    fn request(first: u64, values: &[u64], metadata: Option<&[u8]>) -> Request {
        Request {
            first: EventId::new(first),
            payloads: payloads(values, metadata).unwrap(),
            kind: Kind::Append,
            room: Room::default(),
            answer: oneshot::channel().0,
        }
    }

    #[test]
    fn a_group_is_encoded_as_its_events_would_be_alone() {
        let group = [request(7, &[10, 11], None), request(9, &[12], Some(br#"{"trace":"x"}"#))];
        let events = encode(&group, "t").unwrap();
        let alone =
            |id: u64, value: &str| Event::builder(EventId::new(id)).time("t").payload_json(value.to_owned());
        assert_eq!(events[0], alone(7, "10").build().unwrap());
        assert_eq!(events[1], alone(8, "11").build().unwrap());
        assert_eq!(events[2], alone(9, "12").metadata_json(r#"{"trace":"x"}"#).build().unwrap());
        assert_eq!(
            events[2].to_vec(),
            alone(9, "12").metadata_json(r#"{"trace":"x"}"#).build().unwrap().to_vec()
        );
    }

    #[test]
    fn ids_end_with_the_largest_number() {
        let last = request(u64::MAX, &[1], None);
        assert_eq!(encode(&[last], "t").unwrap()[0].id(), EventId::new(u64::MAX));
        let two = payloads(&[1, 2], None).unwrap();
        assert_eq!(two.last_id(EventId::new(u64::MAX - 1)), Some(EventId::new(u64::MAX)));
        assert_eq!(two.last_id(EventId::new(u64::MAX)), None);
    }

    #[test]
    fn an_error_finds_the_request_that_it_is_about() {
        let named = |id: u64| Error::invalid("no").at(EventId::new(id));
        for (id, taken) in [(7, Some(2)), (8, Some(2)), (9, Some(1)), (10, None), (6, None)] {
            let mut group = vec![request(7, &[10, 11], None), request(9, &[12], None)];
            let found = remove_named(&mut group, &named(id));
            assert_eq!(found.map(|(request, _)| request.payloads.count()), taken, "event {id}");
        }
    }

    #[test]
    fn a_line_break_in_a_payload_or_metadata_is_refused() {
        let raw = |json: &str| RawValue::from_string(json.to_owned()).unwrap();
        assert!(payloads(&[raw("[1]"), raw("[1,\n2]")], None).is_err());
        assert!(payloads(&[raw("[1]")], Some(b"[1,\r2]")).is_err());
        assert_eq!(payloads(&[raw("[1]"), raw("[2]")], None).unwrap().iter().count(), 2);
    }

    #[test]
    fn the_size_is_checked_to_the_byte() {
        let time = "1970-01-01T00:00:00.000000000Z";
        for (first, kind, metadata) in [
            (9, Kind::Append, None),
            (99, Kind::Submit, Some(b"{}".as_slice())),
            (u64::MAX - 1, Kind::Snapshot { of: None }, None),
        ] {
            let mut request = request(first, &[1, 2], metadata);
            request.kind = kind;
            let largest = encode(&[request], time).unwrap().iter().map(Event::size).max().unwrap();
            let payloads = payloads(&[1, 2], metadata).unwrap();
            payloads.check_size(EventId::new(first), kind, largest).unwrap();
            let error = payloads.check_size(EventId::new(first), kind, largest - 1).unwrap_err();
            assert!(error.message().contains(&format!("takes {largest} bytes")), "{error}");
        }
    }
}
