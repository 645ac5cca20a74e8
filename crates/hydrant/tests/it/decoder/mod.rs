//! The decoder of the envelope under lines of every kind. The fuzz target `decode` (crates/hydrant/fuzz) does
//! the same for as long as one lets it.

mod invariants;

use std::path::Path;

use hydrant::store::envelope;
use hydrant::{Event, EventId};
use proptest::collection::vec;
use proptest::prelude::*;

/// Any JSON value as text: with white space, escapes, numbers that no machine type holds.
fn json() -> impl Strategy<Value = String> {
    let text = prop_oneof![any::<String>(), Just("_hydrant".to_owned()), Just("Checkpoint".to_owned())]
        .prop_map(|text| serde_json::Value::from(text).to_string());
    let escaped = r#""(\\[\\/bfnrt"]|\\u[0-9a-fA-F]{4}|[ -!#-\[\]-~à-ÿ🦀])*""#;
    let number = r"-?(0|[1-9][0-9]{0,25})(\.[0-9]{1,25})?([eE][+-]?[0-9]{1,4})?";
    let leaf =
        prop_oneof![text, escaped, number, "true|false|null", Just("{\"tag\":\"Checkpoint\"}".to_owned())];
    let space = "[ \t]{0,2}";
    leaf.prop_recursive(4, 24, 4, move |inner| {
        let list = (vec(inner.clone(), 0..4), space)
            .prop_map(|(values, space)| format!("[{space}{}{space}]", values.join(&format!("{space},"))));
        let object = (vec((any::<String>(), inner), 0..4), space).prop_map(|(members, space)| {
            let member =
                |(name, value): (String, String)| format!("{}:{space}{value}", serde_json::Value::from(name));
            let members: Vec<_> = members.into_iter().map(member).collect();
            format!("{{{}{space}}}", members.join(","))
        });
        prop_oneof![list, object]
    })
}

/// The text of an event, part by part, as a writer of any taste would give them.
#[derive(Clone, Debug)]
struct Parts {
    id: u64,
    payload: String,
    time: Option<String>,
    metadata: Option<String>,
    is_snapshot: bool,
    members: Vec<(String, String)>,
}

fn parts() -> impl Strategy<Value = Parts> {
    let id = prop_oneof![any::<u64>(), 0..10_u64, Just(u64::MAX)];
    let time = prop_oneof!["[^\"\\\\\\p{Cc}]{0,30}", Just("2026-01-05T09:00:00.000000000001Z".to_owned())];
    let known = ["eventId", "stateChanged", "time", "metadata", "isSnapshot", envelope::RESERVED_MEMBER];
    let members = vec((any::<String>(), json()), 0..4).prop_map(move |mut members| {
        members.retain(|(name, _)| !known.contains(&name.as_str()));
        members.sort();
        members.dedup_by(|one, other| one.0 == other.0);
        members
    });
    let rest = (proptest::option::of(time), proptest::option::of(json()), any::<bool>(), members);
    (id, json(), rest).prop_map(|(id, payload, (time, metadata, is_snapshot, members))| Parts {
        id,
        payload,
        time,
        metadata,
        is_snapshot,
        members,
    })
}

fn built(parts: &Parts) -> Event {
    let mut builder = Event::builder(EventId::new(parts.id)).payload_json(parts.payload.clone());
    if let Some(time) = &parts.time {
        builder = builder.time(time);
    }
    if let Some(metadata) = &parts.metadata {
        builder = builder.metadata_json(metadata.clone());
    }
    if parts.is_snapshot {
        builder = builder.snapshot();
    }
    for (name, json) in &parts.members {
        builder = builder.member(name, json);
    }
    builder.build().expect("the parts are valid")
}

/// The same event as another writer would have it: members turned around, spaced out, with private data.
fn written_otherwise(parts: &Parts, turn: usize, space: &str) -> String {
    let mut members = vec![
        ("\"eventId\"".to_owned(), parts.id.to_string()),
        ("\"state\\u0043hanged\"".to_owned(), parts.payload.clone()),
        ("\"_hydrant\"".to_owned(), "{\"crc\":[1,2]}".to_owned()),
    ];
    members.extend(parts.time.iter().map(|time| ("\"time\"".to_owned(), format!("\"{time}\""))));
    members.extend(parts.metadata.iter().map(|json| ("\"metadata\"".to_owned(), json.clone())));
    if parts.is_snapshot || turn.is_multiple_of(2) {
        members.push(("\"isSnapshot\"".to_owned(), parts.is_snapshot.to_string()));
    }
    let turn = turn % members.len();
    members.rotate_left(turn);
    // The order of the other members is theirs to keep, whatever stands between them.
    let mut at = 0;
    for (name, json) in &parts.members {
        at = (at + 1 + turn).min(members.len());
        members.insert(at, (serde_json::Value::from(name.as_str()).to_string(), json.clone()));
    }
    let member = |(name, value): &(String, String)| format!("{space}{name}{space}:{space}{value}{space}");
    let members: Vec<_> = members.iter().map(member).collect();
    format!("{space}{{{}}}{space}", members.join(","))
}

/// What happens to a line on its way.
#[derive(Clone, Debug)]
enum Mutation {
    Set(usize, u8),
    Insert(usize, Vec<u8>),
    Remove(usize, usize),
    Copy(usize, usize, usize),
    Cut(usize),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let at = any::<usize>;
    let tokens = [
        "\"",
        "\\",
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\n",
        " ",
        "\0",
        "\\u0049",
        "1e400",
        "-",
        "null",
        "é",
        "\"time\":\"t\",",
        "\"eventId\":1,",
        "\"_hydrant\":0,",
        "\"tag\":\"Checkpoint\",",
        "\u{FEFF}",
    ];
    prop_oneof![
        (at(), any::<u8>()).prop_map(|(at, byte)| Mutation::Set(at, byte)),
        (at(), proptest::sample::select(tokens.to_vec()))
            .prop_map(|(at, token)| Mutation::Insert(at, token.into())),
        (at(), vec(any::<u8>(), 1..4)).prop_map(|(at, bytes)| Mutation::Insert(at, bytes)),
        (at(), 1..20_usize).prop_map(|(at, count)| Mutation::Remove(at, count)),
        (at(), 1..40_usize, at()).prop_map(|(at, count, to)| Mutation::Copy(at, count, to)),
        at().prop_map(Mutation::Cut),
    ]
}

fn mutated(mut line: Vec<u8>, mutations: &[Mutation]) -> Vec<u8> {
    for mutation in mutations {
        let place = |at: usize| at % (line.len() + 1);
        match *mutation {
            Mutation::Set(at, byte) => {
                let at = place(at);
                if let Some(old) = line.get_mut(at) {
                    *old = byte;
                }
            }
            Mutation::Insert(at, ref bytes) => {
                let at = place(at);
                line.splice(at..at, bytes.iter().copied());
            }
            Mutation::Remove(at, count) => {
                let at = place(at);
                line.drain(at..line.len().min(at + count));
            }
            Mutation::Copy(at, count, to) => {
                let (at, to) = (place(at), place(to));
                let piece = line[at..line.len().min(at + count)].to_vec();
                line.splice(to..to, piece);
            }
            Mutation::Cut(at) => line.truncate(place(at)),
        }
    }
    line
}

/// The lines that the fuzzer found worth keeping, and those that people did.
fn corpus() -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/decode");
    let mut lines: Vec<_> = std::fs::read_dir(directory)
        .expect("the corpus is in the repository")
        .map(|entry| std::fs::read(entry.expect("an entry").path()).expect("a file"))
        .collect();
    lines.sort(); // a seed replays a run only if the order is the same
    lines
}

#[test]
fn every_line_of_the_corpus_holds_the_invariants() {
    let corpus = corpus();
    assert!(corpus.len() > 20, "the corpus is gone");
    for line in corpus {
        invariants::check(&line);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn what_is_built_is_read_again_byte_for_byte(parts in parts()) {
        let event = built(&parts);
        let line = event.to_vec();
        invariants::check(&line);
        let read = envelope::decode(line.clone().into()).unwrap();
        prop_assert_eq!(&read, &event);
        prop_assert_eq!(read.to_vec(), line);
        prop_assert_eq!(read.id().get(), parts.id);
        prop_assert_eq!(read.payload(), parts.payload.as_bytes());
        prop_assert_eq!(read.time(), parts.time.as_deref());
        prop_assert_eq!(read.metadata(), parts.metadata.as_deref().map(str::as_bytes));
        prop_assert_eq!(read.is_snapshot(), parts.is_snapshot);
    }

    #[test]
    fn order_spacing_and_private_data_change_nothing(parts in parts(), turn in 0..20_usize, space in "[ \t\r\n]{0,2}") {
        let line = written_otherwise(&parts, turn, &space);
        invariants::check(line.as_bytes());
        prop_assert_eq!(envelope::decode(line.into()).unwrap(), built(&parts));
    }

    #[test]
    fn a_damaged_line_is_an_error_or_a_whole_event(parts in parts(), mutations in vec(mutation(), 1..5)) {
        invariants::check(&mutated(built(&parts).to_vec(), &mutations));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn so_is_a_damaged_line_of_the_corpus(
        line in proptest::sample::select(corpus()),
        mutations in vec(mutation(), 1..5),
    ) {
        invariants::check(&mutated(line, &mutations));
    }

    #[test]
    fn so_are_bytes_of_any_kind(bytes in vec(any::<u8>(), 0..200)) {
        invariants::check(&bytes);
    }
}
