//! One entry as an object: its key, and its bytes with their checksum.

use std::fmt::Write;

use hydrant::{CheckpointEntry, Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// A newer version is refused, an older one read.
const VERSION: u32 = 1;

/// No entry is larger; what is longer is none.
pub(super) const BYTES_MAX: usize = 64 << 10;

/// What an object says: an entry, or that there is none any more, and which swap wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Content {
    pub(super) entry: Option<CheckpointEntry>,
    pub(super) swap: String,
}

/// The part of the key behind the prefix. Every name has one of its own, and none begins with a dot.
pub(super) fn encode_name(name: &str) -> String {
    let mut encoded = String::with_capacity(name.len());
    for (at, byte) in name.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => encoded.push(char::from(byte)),
            b'.' if at > 0 => encoded.push('.'), // what begins with a dot is no entry
            _ => {
                let _ = write!(encoded, "%{byte:02X}");
            }
        }
    }
    if encoded.is_empty() {
        encoded.push('%');
    }
    encoded
}

#[derive(Serialize, Deserialize)]
struct Sealed<'a> {
    version: u32,
    swap: &'a str,
    /// The entry, or `null` where it was removed.
    #[serde(borrow)]
    entry: &'a RawValue,
    /// Over the bytes of `entry`.
    crc32c: u32,
}

pub(super) fn encode(content: &Content) -> Result<Vec<u8>> {
    let unable = |cause| Error::invalid("the entry cannot be written as JSON").because(cause);
    let raw = serde_json::value::to_raw_value(&content.entry).map_err(unable)?;
    let crc32c = crc32c::crc32c(raw.get().as_bytes());
    let sealed = Sealed { version: VERSION, swap: &content.swap, entry: &raw, crc32c };
    let mut bytes = serde_json::to_vec(&sealed).map_err(unable)?;
    bytes.push(b'\n');
    if bytes.len() > BYTES_MAX {
        return Err(Error::invalid(format!(
            "a checkpoint takes at most {BYTES_MAX} bytes; shorten its target, or what is kept beside it"
        )));
    }
    Ok(bytes)
}

/// Reads an object, and checks that it belongs to the key it was found under.
pub(super) fn decode(bytes: &[u8], encoded_name: &str) -> Result<Content> {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let not_ours = |cause| damaged("this is not a checkpoint").because(cause);
    let Version { version } = serde_json::from_slice(bytes).map_err(not_ours)?;
    if version > VERSION {
        return Err(Error::unsupported(format!(
            "a newer Hydrant wrote this checkpoint (version {version}, this one reads {VERSION}); upgrade"
        )));
    }
    let sealed: Sealed<'_> = serde_json::from_slice(bytes).map_err(not_ours)?;
    if crc32c::crc32c(sealed.entry.get().as_bytes()) != sealed.crc32c {
        return Err(damaged("the checksum differs: the checkpoint was damaged or edited"));
    }
    let entry: Option<CheckpointEntry> = serde_json::from_str(sealed.entry.get()).map_err(not_ours)?;
    if let Some(entry) = &entry
        && encode_name(&entry.name) != encoded_name
    {
        return Err(damaged(&format!("this is the checkpoint of {:?}", entry.name)));
    }
    Ok(Content { entry, swap: sealed.swap.to_owned() })
}

/// The error for an object that holds no entry, and what helps.
pub(super) fn damaged(what: &str) -> Error {
    Error::corrupt(format!(
        "{what}; restore the object, or remove it: its sink then counts as one that was never reached"
    ))
}

#[cfg(test)]
mod tests {
    use hydrant::{Checkpoint, ErrorKind};

    use super::*;

    #[test]
    fn every_name_has_a_key_of_its_own() {
        let names = ["", "%", "a", "A", "%41", "a/b", "a%2Fb", "..", ".", ".a", "a.b", "\0", "日本", " "];
        let mut keys: Vec<_> = names.iter().map(|name| encode_name(name)).collect();
        assert!(keys.iter().all(|key| key.is_ascii() && !key.starts_with('.') && !key.contains('/')));
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), names.len());
        assert_eq!(encode_name("archive-2.a"), "archive-2.a");
        assert_eq!(encode_name("s3://a b"), "s3%3A%2F%2Fa%20b");
    }

    #[test]
    fn damaged_moved_and_newer_entries_are_errors() {
        let entry = CheckpointEntry::new("a", "memory", Checkpoint::Empty);
        for entry in [Some(entry), None] {
            let content = Content { entry, swap: "1f".into() };
            let bytes = encode(&content).unwrap();
            assert_eq!(decode(&bytes, "a").unwrap(), content);
        }
        let entry = CheckpointEntry::new("a", "memory", Checkpoint::Empty);
        let bytes = encode(&Content { entry: Some(entry), swap: "1f".into() }).unwrap();
        let text = String::from_utf8(bytes.clone()).unwrap();
        let kind = |text: &str, name| decode(text.as_bytes(), name).unwrap_err().kind();
        assert_eq!(kind(&text, "b"), ErrorKind::Corrupt);
        assert_eq!(kind(&text.replace("memory", "Memory"), "a"), ErrorKind::Corrupt);
        assert_eq!(kind(&text[..20], "a"), ErrorKind::Corrupt);
        assert_eq!(kind(&text.replace("\"version\":1", "\"version\":2"), "a"), ErrorKind::Unsupported);
    }
}
