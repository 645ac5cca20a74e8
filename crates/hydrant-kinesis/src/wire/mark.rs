//! A line: an event and the mark that names the event before it.

use std::collections::BTreeMap;
use std::io::Write as _;

use bytes::Bytes;
use hydrant::store::envelope::{self, RESERVED_MEMBER};
use hydrant::{Error, Event, EventId, Result};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{VERSION, check_version};

/// An event and what the stream says about the one before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Marked {
    pub(crate) event: Event,
    pub(crate) predecessor: Predecessor,
}

/// The predecessor of an event in its log, as the stream names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Predecessor {
    /// By name; `None`: it is the first of its log.
    Named(Option<EventId>),
    /// Not at all, as other producers write.
    Unnamed,
}

/// What closes the open envelope of an event: the reserved member with the event before it, and the brace.
pub(super) fn closing(after: Option<EventId>) -> Vec<u8> {
    let mut text = Vec::with_capacity(64);
    let opens = format_args!(",\"{RESERVED_MEMBER}\":{{\"kinesis\":{VERSION},\"after\":");
    match after {
        Some(after) => write!(text, "{opens}{after}}}}}"),
        None => write!(text, "{opens}null}}}}"),
    }
    .expect("a vector takes every write");
    text
}

/// Reads one line.
///
/// # Errors
/// `Corrupt` for what is no event, `Unsupported` for a newer format.
pub(super) fn decode_line(line: &Bytes) -> Result<Marked> {
    let event = envelope::decode(line.clone())?;
    let predecessor = match line.strip_prefix(event.open_envelope()) {
        Some(b"}") => Predecessor::Unnamed,
        _ => read_mark(line).map_err(|error| error.at(event.id()))?,
    };
    if let Predecessor::Named(Some(after)) = predecessor
        && after >= event.id()
    {
        let message = format!("the record says that event {after} stands before it");
        return Err(Error::corrupt(message).at(event.id()));
    }
    Ok(Marked { event, predecessor })
}

/// The reserved member of a line. The member of another store is ignored.
fn read_mark(line: &[u8]) -> Result<Predecessor> {
    #[derive(Deserialize)]
    struct Line<'a> {
        #[serde(borrow, rename = "_hydrant")]
        mark: Option<&'a RawValue>,
    }
    #[derive(Deserialize)]
    struct Version {
        kinesis: u64,
    }
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Mark {
        #[serde(rename = "kinesis")]
        _version: u64,
        #[serde(deserialize_with = "Option::deserialize")] // a mark without `after` is none
        after: Option<EventId>,
    }
    let wrong = |cause| Error::corrupt("the mark of the event is not one of ours").because(cause);
    let line: Line<'_> = serde_json::from_slice(line).map_err(wrong)?;
    let Some(mark) = line.mark else { return Ok(Predecessor::Unnamed) };
    let members: BTreeMap<String, &RawValue> = serde_json::from_str(mark.get()).unwrap_or_default();
    if !members.contains_key("kinesis") {
        return Ok(Predecessor::Unnamed);
    }
    let Version { kinesis } = serde_json::from_str(mark.get()).map_err(wrong)?;
    check_version(kinesis)?;
    let Mark { after, .. } = serde_json::from_str(mark.get()).map_err(wrong)?;
    Ok(Predecessor::Named(after))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: u64) -> Event {
        Event::builder(EventId::new(id)).payload_json("{\"a\":1.0}").time("t").build().unwrap()
    }

    #[test]
    fn a_line_holds_the_event_and_names_its_predecessor() {
        for after in [None, Some(EventId::ZERO), Some(EventId::new(u64::MAX - 1))] {
            let event = event(u64::MAX);
            let line = [event.open_envelope(), &closing(after)].concat();
            serde_json::from_slice::<serde_json::Value>(&line).unwrap();
            let marked = decode_line(&line.into()).unwrap();
            assert_eq!(marked, Marked { event, predecessor: Predecessor::Named(after) });
        }
        let line = [event(6).open_envelope(), &closing(Some(EventId::new(5)))].concat();
        let wanted =
            r#"{"eventId":6,"stateChanged":{"a":1.0},"time":"t","_hydrant":{"kinesis":1,"after":5}}"#;
        assert_eq!(line, wanted.as_bytes());
    }

    #[test]
    fn a_line_of_others_is_read_without_a_predecessor() {
        for (text, predecessor) in [
            (r#"{"eventId":6,"stateChanged":1}"#, Predecessor::Unnamed),
            (r#"{"eventId":6,"stateChanged":1,"_hydrant":"c0ffee"}"#, Predecessor::Unnamed),
            (r#"{"eventId":6,"stateChanged":1,"_hydrant":{"udp":1,"after":4}}"#, Predecessor::Unnamed),
            (
                r#" { "_hydrant" : {"after" : 2 , "kinesis" : 1} , "stateChanged" : 1, "eventId": 6 } "#,
                Predecessor::Named(Some(EventId::new(2))),
            ),
        ] {
            assert_eq!(decode_line(&text.into()).unwrap().predecessor, predecessor, "{text}");
        }
    }

    #[test]
    fn a_mark_that_is_newer_or_wrong_is_refused() {
        for (mark, says) in [
            (r#"{"kinesis":2,"after":5}"#, "format 2"),
            (r#"{"kinesis":0,"after":5}"#, "no format version"),
            (r#"{"kinesis":1}"#, "not one of ours"),
            (r#"{"kinesis":1,"after":"5"}"#, "not one of ours"),
            (r#"{"kinesis":1,"after":6}"#, "event 6 stands before"),
            (r#"{"kinesis":1,"after":5,"x":1}"#, "not one of ours"),
            (r#"{"kinesis":"2","after":5}"#, "not one of ours"),
            (r#"{"kinesis":2.0,"after":5}"#, "not one of ours"),
            (r#"{"kinesis":null,"after":5}"#, "not one of ours"),
            (r#"{"kinesis":1,"kinesis":1,"after":5}"#, "not one of ours"),
            (r#"{"kinesis":1,"after":5},"_hydrant":{"kinesis":1,"after":5}"#, "not one of ours"),
        ] {
            let text = format!(r#"{{"eventId":6,"stateChanged":1,"_hydrant":{mark}}}"#);
            let error = decode_line(&text.into()).unwrap_err();
            assert!(error.to_string().contains(says), "{mark}: {error}");
            assert_eq!(error.event(), Some(EventId::new(6)), "{error}");
        }
    }
}
