//! A group: what several callers append, committed as one batch.

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::oneshot;

use crate::envelope::Parts;
use crate::{Error, Event, EventId, Result};

/// What one caller appends together.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) payloads: Payloads,
    /// The metadata of each of the events, as JSON.
    pub(super) metadata: Option<Vec<u8>>,
    pub(super) kind: Kind,
    /// The room that was taken, given back when the outcome is known.
    pub(super) room: Room,
    /// Told the id of the first event when all of them are durable.
    pub(super) answer: oneshot::Sender<Result<EventId>>,
}

/// What the events of a request are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Events of the application.
    Events,
    /// A snapshot of the state at `of`.
    Snapshot { of: Option<EventId> },
}

/// How much of the bounds is taken.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Room {
    pub(super) events: usize,
    pub(super) bytes: usize,
}

/// Payloads of one caller, a line of JSON each: one buffer, however many they are.
#[derive(Debug)]
pub(super) struct Payloads {
    lines: Vec<u8>,
    count: usize,
}

impl Payloads {
    pub(super) fn encode<T: Serialize>(events: &[T]) -> Result<Self> {
        let mut lines = Vec::with_capacity(256 * events.len().min(256));
        for (index, event) in events.iter().enumerate() {
            if index > 0 {
                lines.push(b'\n');
            }
            let start = lines.len();
            serde_json::to_writer(&mut lines, event).map_err(|cause| {
                Error::invalid(format!("event {} of this append cannot be written as JSON", index + 1))
                    .because(cause)
            })?;
            // Only a raw JSON value inside of the payload can bring one.
            if memchr::memchr2(b'\n', b'\r', &lines[start..]).is_some() {
                return Err(Error::invalid(format!(
                    "event {} of this append holds a line break; write JSON on one line",
                    index + 1
                )));
            }
        }
        Ok(Self { lines, count: events.len() })
    }

    pub(super) fn bytes(&self) -> usize {
        self.lines.len()
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = Some(self.lines.as_slice());
        std::iter::from_fn(move || {
            let lines = rest?;
            let Some(end) = memchr::memchr(b'\n', lines) else { return rest.take() };
            rest = Some(&lines[end + 1..]);
            Some(&lines[..end])
        })
    }
}

/// Gives the events of `group` the ids behind `head`, and encodes all of them into one buffer.
///
/// # Errors
/// `Invalid`: an event (named) is larger than an envelope can be, or the ids are used up.
pub(super) fn encode(group: &[Request], head: Option<EventId>, time: &str) -> Result<Vec<Event>> {
    let count = group.iter().map(|request| request.payloads.count()).sum();
    let bytes = group.iter().map(Request::encoded_len).sum();
    let mut buffer = Vec::with_capacity(bytes);
    let mut layouts = Vec::with_capacity(count);
    let mut last = head;
    for request in group {
        for payload in request.payloads.iter() {
            let id = match last {
                None => EventId::ZERO,
                Some(last) => last.next().ok_or_else(|| {
                    Error::invalid("the ids that a log can hold are used up; begin another log")
                })?,
            };
            last = Some(id);
            let parts = Parts {
                id,
                payload,
                time: Some(time.as_bytes()),
                metadata: request.metadata.as_deref(),
                is_snapshot: request.kind != Kind::Events,
                members: b"",
            };
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

/// Takes the request out of `group` that `error` names an event of, and tells its caller. The ids of the
/// group begin behind `head`.
///
/// Returns what was taken, or `None` when the error is about none of them.
pub(super) fn remove_named(
    group: &mut Vec<Request>,
    head: Option<EventId>,
    error: &Error,
) -> Option<(Request, Error)> {
    let first = head.map_or(Some(EventId::ZERO), EventId::next)?;
    let mut offset = usize::try_from(error.event()?.get().checked_sub(first.get())?).ok()?;
    for index in 0..group.len() {
        let count = group[index].payloads.count();
        if offset < count {
            let request = group.remove(index);
            let error = if count == 1 {
                error.clone()
            } else {
                let message = format!("{} (event {} of {count} of this append)", error.message(), offset + 1);
                Error::new(error.kind(), error.retry(), message).because(error.clone())
            };
            return Some((request, error));
        }
        offset -= count;
    }
    None
}

impl Request {
    fn encoded_len(&self) -> usize {
        // Names, id and time of an envelope take about this much.
        let metadata = self.metadata.as_ref().map_or(0, Vec::len);
        self.payloads.bytes() + self.payloads.count() * (128 + metadata)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::*;

    fn request(values: &[u64]) -> Request {
        Request {
            payloads: Payloads::encode(values).unwrap(),
            metadata: None,
            kind: Kind::Events,
            room: Room::default(),
            answer: oneshot::channel().0,
        }
    }

    #[test]
    fn a_group_is_encoded_as_its_events_would_be_alone() {
        let mut group = vec![request(&[10, 11]), request(&[12])];
        group[1].metadata = Some(br#"{"trace":"x"}"#.to_vec());
        let events = encode(&group, Some(EventId::new(6)), "t").unwrap();
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
    fn a_log_begins_with_zero_and_ends_with_the_last_id() {
        assert_eq!(encode(&[request(&[1])], None, "t").unwrap()[0].id(), EventId::ZERO);
        let before_last = Some(EventId::new(u64::MAX - 1));
        assert_eq!(encode(&[request(&[1])], before_last, "t").unwrap()[0].id(), EventId::new(u64::MAX));
        let error = encode(&[request(&[1, 2])], before_last, "t").unwrap_err();
        assert_eq!((error.kind(), error.event()), (crate::ErrorKind::Invalid, None));
    }

    #[test]
    fn an_error_finds_the_request_that_it_is_about() {
        let named = |id: u64| Error::invalid("no").at(EventId::new(id));
        for (id, taken) in [(7, Some(2)), (8, Some(2)), (9, Some(1)), (10, None), (6, None)] {
            let mut group = vec![request(&[10, 11]), request(&[12])];
            let found = remove_named(&mut group, Some(EventId::new(6)), &named(id));
            assert_eq!(found.map(|(request, _)| request.payloads.count()), taken, "event {id}");
        }
    }

    #[test]
    fn a_payload_with_a_line_break_is_refused() {
        let raw = |json: &str| RawValue::from_string(json.to_owned()).unwrap();
        assert!(Payloads::encode(&[raw("[1]"), raw("[1,\n2]")]).is_err());
        assert_eq!(Payloads::encode(&[raw("[1]"), raw("[2]")]).unwrap().iter().count(), 2);
    }
}
