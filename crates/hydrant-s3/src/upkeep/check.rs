//! The lines of a segment, checked.

use bytes::Bytes;
use hydrant::Result;

use crate::blocking::blocking;
use crate::bucket::Bucket;
use crate::keys::Place;
use crate::wire::{Segment, decompress};

/// The lines of the segment that was found at a place.
pub(super) async fn lines_of(bucket: &Bucket, place: Place, segment: &Segment, body: Bytes) -> Result<Bytes> {
    let (target, segment) = (bucket.url_at(place), segment.clone());
    blocking(move || decompress(&segment, body).map_err(|error| error.at_target(target))).await
}

/// Returns whether these lines are somewhere among those.
pub(super) fn holds(outer: &[u8], inner: &[u8]) -> bool {
    memchr::memmem::find_iter(outer, inner).any(|at| at == 0 || outer[at - 1] == b'\n')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_found_whole_only() {
        assert!(holds(b"ab\ncd\nef\n", b"cd\nef\n"));
        assert!(holds(b"ab\ncd\n", b"ab\n"));
        assert!(!holds(b"ab\ncd\n", b"b\n"));
        assert!(holds(b"bab\nab\n", b"ab\n"));
        assert!(!holds(b"ab\ncd\n", b"ab\nef\n"));
    }
}
