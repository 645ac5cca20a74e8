//! Records <-> events, as `FORMAT.md` specifies them: both directions, in one place.

mod aggregate;
mod assembly;
mod chunk;
mod mark;
mod pack;
mod unpack;

use hydrant::{Error, Result};
use md5::{Digest as _, Md5};

pub(crate) use assembly::Assembly;
pub(crate) use mark::{Marked, Predecessor};
pub(crate) use pack::{Packed, Wire};
pub(crate) use unpack::{Unpacked, unpack};

/// The newest format that is read, of chunks and of the reserved member; the one that is written.
const VERSION: u8 = 1;

/// Where the records of a partition key go: to the shard whose range of hash keys holds this one.
pub(crate) fn hash_key(partition_key: &str) -> u128 {
    u128::from_be_bytes(md5_of(partition_key.as_bytes()))
}

fn md5_of(bytes: &[u8]) -> [u8; 16] {
    Md5::digest(bytes).into()
}

fn check_version(version: u64) -> Result<()> {
    const NEWEST: u64 = VERSION as u64;
    match version {
        1..=NEWEST => Ok(()),
        0 => Err(Error::corrupt("the record has no format version")),
        newer => Err(Error::unsupported(format!(
            "the record has format {newer}, this reader reads up to {VERSION}; update the reader"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_key_is_the_md5_of_the_partition_key_as_a_number() {
        // The digests of RFC 1321.
        assert_eq!(hash_key(""), 0xd41d_8cd9_8f00_b204_e980_0998_ecf8_427e);
        assert_eq!(hash_key("abc"), 0x9001_5098_3cd2_4fb0_d696_3f7d_28e1_7f72);
    }
}
