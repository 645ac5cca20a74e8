//! What holds for every line whatsoever: shared by the property test and the fuzz target.

use std::collections::BTreeMap;

use bytes::Bytes;
use hydrant::store::envelope;
use hydrant::{ErrorKind, Event, Result};
use serde_json::value::RawValue;

/// Panics where the decoder does, or where what it answers is wrong.
pub fn check(line: &[u8]) {
    judge(line, envelope::decode(Bytes::copy_from_slice(line)));
    judge(line, envelope::decode_hydra(Bytes::copy_from_slice(line), 7));
}

fn judge(line: &[u8], decoded: Result<Event>) {
    match decoded {
        Ok(event) => event_holds(line, &event),
        Err(error) => {
            let text = error.to_string();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{text}");
            assert!(
                text.len() < 300 && !text.contains(char::is_control),
                "no message for one line: {text:?}"
            );
        }
    }
}

fn event_holds(line: &[u8], event: &Event) {
    // Each part stands in the line, byte for byte.
    let time = event.time().map(str::as_bytes);
    for part in [Some(event.payload()), event.metadata(), time].into_iter().flatten() {
        assert!(memchr::memmem::find(line, part).is_some(), "{event} has a part that {line:?} has not");
    }

    // The canonical form is one JSON object on one line, without what is private to a store.
    let canonical = event.to_vec();
    assert_eq!(canonical.len(), event.size());
    assert_eq!(canonical, event.to_string().as_bytes());
    assert!(!canonical.contains(&b'\n') && !canonical.contains(&b'\r'));
    let members: BTreeMap<String, &RawValue> = serde_json::from_slice(&canonical).expect("one JSON object");
    assert_eq!(members["eventId"].get(), event.id().to_string());
    assert_eq!(members["stateChanged"].get().as_bytes(), event.payload());
    assert!(!members.contains_key(envelope::RESERVED_MEMBER));

    // It is read as the same event, also from a buffer of its own and beside private data.
    let mut marked = event.open_envelope().to_vec();
    marked.extend_from_slice(br#","_hydrant":{"x":[1,"}"]}}"#);
    for form in [&canonical, &marked] {
        let again = envelope::decode(Bytes::copy_from_slice(form)).expect("what was decoded is an event");
        assert_eq!(again, *event);
        assert_eq!(again.detached(), *event);
        assert_eq!(again.digest(), event.digest());
        assert_eq!(again.to_vec(), canonical);
    }

    // Built from its parts, it is the same, where the builder (stricter about times) takes them.
    if event.members().is_empty() {
        let mut builder = Event::builder(event.id()).payload_json(event.payload());
        if let Some(time) = event.time() {
            builder = builder.time(time);
        }
        if let Some(metadata) = event.metadata() {
            builder = builder.metadata_json(metadata);
        }
        if event.is_snapshot() {
            builder = builder.snapshot();
        }
        if let Ok(built) = builder.build() {
            assert_eq!(built, *event);
        }
    }
}
