//! A chunk: a piece of the line of one event that is larger than a record may be.

use bytes::Bytes;
use hydrant::{Error, EventId, Result};

use super::{VERSION, check_version, md5_of};

/// The first bytes of a chunk. The first of them begins no UTF-8 text, so a chunk is never taken for a line.
pub(super) const MAGIC: [u8; 3] = [0xB5, b'h', b'k'];

/// The bytes before the name of the log.
const FIXED_BYTES: usize = 42;

/// What all chunks of an event have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Whole {
    pub(crate) id: EventId,
    pub(crate) count: u32,
    pub(crate) total_bytes: u32,
    pub(super) md5: [u8; 16],
}

/// A piece of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub(crate) of: Whole,
    pub(crate) index: u32,
    pub(crate) piece: Bytes,
}

/// A line cut evenly into the fewest records that fit.
#[derive(Debug)]
pub(super) struct Chunks {
    line: Bytes,
    header: Vec<u8>,
    piece_bytes: usize,
    index: u32,
}

impl Chunks {
    /// The smallest record that takes chunks of this log, and a byte of a piece.
    pub(super) fn record_bytes_min(log: &str) -> usize {
        FIXED_BYTES + log.len() + 1
    }

    /// # Errors
    /// `Invalid` for a line above 4 GiB.
    pub(super) fn of(line: Bytes, id: EventId, log: &str, record_bytes_max: usize) -> Result<Self> {
        let too_large = |_| Error::invalid("the event is larger than 4 GiB").at(id);
        let total_bytes = u32::try_from(line.len()).map_err(too_large)?;
        let count = line.len().div_ceil(record_bytes_max - FIXED_BYTES - log.len());
        let piece_bytes = line.len().div_ceil(count);
        // An even cut may need fewer: the last piece is never empty.
        let count = u32::try_from(line.len().div_ceil(piece_bytes)).map_err(too_large)?;
        let log_bytes = u16::try_from(log.len()).expect("a partition key has at most 256 characters");
        let mut header = Vec::with_capacity(FIXED_BYTES + log.len());
        header.extend_from_slice(&MAGIC);
        header.push(VERSION);
        header.extend_from_slice(&id.get().to_be_bytes());
        header.extend_from_slice(&[0; 4]); // the index
        header.extend_from_slice(&count.to_be_bytes());
        header.extend_from_slice(&total_bytes.to_be_bytes());
        header.extend_from_slice(&md5_of(&line));
        header.extend_from_slice(&log_bytes.to_be_bytes());
        header.extend_from_slice(log.as_bytes());
        Ok(Self { line, header, piece_bytes, index: 0 })
    }

    pub(super) fn is_done(&self) -> bool {
        self.line.is_empty()
    }
}

impl Iterator for Chunks {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.line.is_empty() {
            return None;
        }
        let piece = self.line.split_to(self.piece_bytes.min(self.line.len()));
        self.header[12..16].copy_from_slice(&self.index.to_be_bytes());
        self.index += 1;
        Some([self.header.as_slice(), &piece].concat())
    }
}

/// Reads one chunk; `None` for one of another log.
///
/// # Errors
/// `Corrupt` when its sizes do not agree, `Unsupported` for a newer format.
pub(super) fn decode(record: &Bytes, log: &str) -> Result<Option<Chunk>> {
    check_version(u64::from(record.get(3).copied().unwrap_or_default()))?;
    let cut_off = || Error::corrupt("the chunk is cut off");
    let Some((fixed, rest)) = record.split_at_checked(FIXED_BYTES) else { return Err(cut_off()) };
    let number = |at: usize| u32::from_be_bytes([0, 1, 2, 3].map(|byte| fixed[at + byte]));
    let log_bytes = usize::from(u16::from_be_bytes([fixed[40], fixed[41]]));
    let Some((of_log, piece)) = rest.split_at_checked(log_bytes) else { return Err(cut_off()) };
    if of_log != log.as_bytes() {
        return Ok(None);
    }
    let id = EventId::new(u64::from(number(4)) << 32 | u64::from(number(8)));
    let (index, count, total_bytes) = (number(12), number(16), number(20));
    let fits = index < count && {
        // All pieces but the last are as long as an even cut makes them.
        let piece_bytes = u64::from(total_bytes.div_ceil(count));
        let start = u64::from(index) * piece_bytes;
        let is_last = index + 1 == count;
        start < u64::from(total_bytes)
            && piece.len() as u64 == piece_bytes.min(u64::from(total_bytes) - start)
            && is_last == (start + piece.len() as u64 == u64::from(total_bytes))
    };
    if !fits {
        return Err(Error::corrupt("the sizes in the header of the chunk do not agree").at(id));
    }
    let mut md5 = [0; 16];
    md5.copy_from_slice(&fixed[24..40]);
    let piece = record.slice(FIXED_BYTES + log_bytes..);
    Ok(Some(Chunk { of: Whole { id, count, total_bytes, md5 }, index, piece }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "orders";

    #[test]
    fn chunks_of_every_size_make_the_line_again() {
        for bytes in [1, 2, 99, 100, 101, 1000, 4097] {
            let line: Vec<u8> = (0..bytes).map(|at| u8::try_from(at % 251).unwrap()).collect();
            for max in [Chunks::record_bytes_min(LOG), 55, 128, 1472] {
                let chunks = Chunks::of(line.clone().into(), EventId::new(1 << 40), LOG, max).unwrap();
                let mut whole = Vec::new();
                let mut of = None;
                for (at, record) in chunks.enumerate() {
                    assert!(record.len() <= max);
                    let chunk = decode(&record.into(), LOG).unwrap().unwrap();
                    assert_eq!(chunk.index as usize, at);
                    assert_eq!(*of.get_or_insert(chunk.of), chunk.of);
                    whole.extend_from_slice(&chunk.piece);
                }
                assert_eq!((&whole, of.unwrap().total_bytes as usize), (&line, bytes), "{bytes} in {max}");
                assert_eq!(of.unwrap().id, EventId::new(1 << 40));
            }
        }
    }

    #[test]
    fn a_chunk_whose_sizes_disagree_is_refused() {
        let good = Chunks::of(vec![7; 300].into(), EventId::new(7), LOG, 128).unwrap().next().unwrap();
        assert!(decode(&good.clone().into(), LOG).is_ok());
        assert!(decode(&good.clone().into(), "order5").unwrap().is_none());
        for end in 3..good.len() {
            assert!(decode(&good[..end].to_vec().into(), LOG).is_err(), "cut at {end}");
        }
        for (at, value) in [(3, 0), (12, 1), (15, 9), (16, 1), (19, 0), (20, 1), (23, 0), (40, 255)] {
            let mut bad = good.clone();
            bad[at] = value;
            assert!(decode(&bad.into(), LOG).is_err(), "byte {at} = {value}");
        }
        let mut newer = good;
        newer[3] = 9;
        assert!(decode(&newer.into(), LOG).unwrap_err().to_string().contains("update the reader"));
    }
}
