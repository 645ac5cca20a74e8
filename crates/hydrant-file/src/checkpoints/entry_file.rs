//! One entry as a file: its name, and its bytes with their checksum.

use std::fmt::Write;

use hydrant::{CheckpointEntry, Digest, Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

/// A newer version is refused, an older one read.
const VERSION: u32 = 1;
const SUFFIX: &str = ".json";
/// How many bytes of a long encoded name precede its hash: file systems take 255 bytes, and the names of lock and
/// temporary file add a few.
const NAME_BYTES_MAX: usize = 160;

/// Returns the file of the entry `name`. It is readable, has only characters that every file system takes, and differs
/// from the file of every other name, also if case does not count.
pub(super) fn file_name(name: &str) -> String {
    let mut encoded = String::with_capacity(name.len() + SUFFIX.len());
    for (at, byte) in name.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => encoded.push(char::from(byte)),
            b'.' if at > 0 => encoded.push('.'), // files that begin with a dot are locks and leftovers
            _ => {
                let _ = write!(encoded, "%{byte:02X}");
            }
        }
    }
    if encoded.is_empty() {
        encoded.push('%');
    }
    if encoded.len() > NAME_BYTES_MAX {
        encoded.truncate(NAME_BYTES_MAX);
        let _ = write!(encoded, "~{}", checksum(name.as_bytes()));
    }
    encoded + SUFFIX
}

/// Returns whether a file of the directory claims to be an entry.
pub(super) fn is_entry(file_name: &str) -> bool {
    !file_name.starts_with('.') && file_name.ends_with(SUFFIX)
}

#[derive(Serialize, Deserialize)]
struct Sealed<'a> {
    version: u32,
    #[serde(borrow)]
    entry: &'a RawValue,
    /// Over the bytes of `entry`.
    checksum: Digest,
}

pub(super) fn encode(entry: &CheckpointEntry) -> Result<Vec<u8>> {
    let unable = |cause| Error::invalid("the entry cannot be written as JSON").because(cause);
    let raw = serde_json::value::to_raw_value(entry).map_err(unable)?;
    let sealed = Sealed { version: VERSION, entry: &raw, checksum: checksum(raw.get().as_bytes()) };
    let mut bytes = serde_json::to_vec(&sealed).map_err(unable)?;
    bytes.push(b'\n');
    Ok(bytes)
}

pub(super) fn decode(bytes: &[u8]) -> Result<CheckpointEntry> {
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
    if checksum(sealed.entry.get().as_bytes()) != sealed.checksum {
        return Err(damaged("the checksum differs: the checkpoint was damaged or edited"));
    }
    serde_json::from_str(sealed.entry.get()).map_err(not_ours)
}

/// Returns the error for a file that holds no entry, with advice.
pub(super) fn damaged(what: &str) -> Error {
    Error::corrupt(format!(
        "{what}; restore the file, or remove it: its sink then counts as one that was never reached"
    ))
}

/// The first 16 bytes of a SHA-256.
fn checksum(bytes: &[u8]) -> Digest {
    let mut half = [0; 16];
    half.copy_from_slice(&Sha256::digest(bytes)[..16]);
    Digest::from(half)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_has_its_own_file_on_every_file_system() {
        let long = "é".repeat(300);
        let longer = format!("{long}x");
        let names = [
            "",
            "%",
            "a",
            "A",
            "%41",
            "a/b",
            "a%2Fb",
            "..",
            ".",
            ".a",
            "a.b",
            "../../etc/passwd",
            "\0",
            "日本",
            "s3://bucket/log",
            "con",
            " ",
            "a\n",
            &long,
            &longer,
            "~",
            "a.json",
            "a.json.tmp",
        ];
        let mut files: Vec<_> = names.iter().map(|name| file_name(name)).collect();
        for (name, file) in names.iter().zip(&files) {
            assert!(is_entry(file), "{name:?} gave {file:?}");
            assert!(file.len() <= 200 && file.is_ascii() && !file.contains(['/', '\0', '\\']), "{file:?}");
        }
        let count = files.len();
        files.sort();
        files.dedup_by(|a, b| a.eq_ignore_ascii_case(b));
        assert_eq!(files.len(), count, "{files:?}");
        assert_eq!(file_name("archive"), "archive.json");
        assert_eq!(file_name("S3/a"), "%533%2Fa.json");
    }
}
