//! A sealed segment, compressed: zstd frames of whole lines, and an index by which a read starts anywhere.
//!
//! The `zstd` program decompresses such a file to exactly the plain segment. FORMAT.md describes it.

use std::io;

use hydrant::{Error, Result};
use sha2::{Digest as _, Sha256};
use zstd::bulk::{Compressor, Decompressor};

/// A frame ends with the first line that reaches this many plain bytes. A read decompresses one frame to begin.
const FRAME_BYTES_MIN: usize = 1 << 20;
/// The default of zstd: most of what higher levels gain, at disk speed.
const LEVEL: i32 = 3;

/// A frame that decompressors skip; it holds the index.
const SKIPPABLE: [u8; 4] = 0x184D_2A5D_u32.to_le_bytes();
const VERSION: u8 = 1;
const MAGIC: [u8; 7] = *b"HYDRZST";
const ENTRY_BYTES: usize = 24;
/// Plain length, number of frames, hash of the index, magic and version.
const TAIL_BYTES: usize = 8 + 8 + 16 + 8;
/// A larger index is damage: its segment would have more than 40 TB.
const INDEX_BYTES_MAX: u64 = 1 << 30;

/// Where one frame begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Frame {
    first_id: u64,
    plain_offset: u64,
    offset: u64,
}

/// The index of a compressed segment. Grows by 24 bytes with each MiB of plain text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Index {
    frames: Vec<Frame>,
    plain_bytes: u64,
    /// Where the last frame ends.
    end: u64,
}

/// Compresses a segment, fed in pieces of whole lines. The caller writes the output in order.
pub(crate) struct Packer {
    compressor: Compressor<'static>,
    pending: Vec<u8>,
    pending_first_id: u64,
    index: Index,
}

impl Packer {
    pub(crate) fn new() -> Result<Self> {
        let mut compressor = Compressor::new(LEVEL).map_err(bug)?;
        compressor.include_checksum(true).map_err(bug)?;
        let index = Index { frames: Vec::new(), plain_bytes: 0, end: 0 };
        Ok(Self { compressor, pending: Vec::new(), pending_first_id: 0, index })
    }

    /// Takes one line, its line break included, and gives out a frame where one is complete. Asks for the
    /// id of the line where a frame begins.
    pub(crate) fn push(&mut self, line: &[u8], id: impl FnOnce() -> Result<u64>) -> Result<Option<Vec<u8>>> {
        if self.pending.is_empty() {
            self.pending_first_id = id()?;
        }
        self.pending.extend_from_slice(line);
        if self.pending.len() < FRAME_BYTES_MIN { Ok(None) } else { self.cut().map(Some) }
    }

    fn cut(&mut self) -> Result<Vec<u8>> {
        let frame = self.compressor.compress(&self.pending).map_err(bug)?;
        let index = &mut self.index;
        index.frames.push(Frame {
            first_id: self.pending_first_id,
            plain_offset: index.plain_bytes,
            offset: index.end,
        });
        index.plain_bytes += self.pending.len() as u64;
        index.end += frame.len() as u64;
        self.pending.clear();
        Ok(frame)
    }

    /// The rest of the file: the last frame and the index.
    pub(crate) fn finish(mut self) -> Result<Vec<u8>> {
        let mut out = if self.pending.is_empty() { Vec::new() } else { self.cut()? };
        let mut index = Vec::with_capacity(self.index.frames.len() * ENTRY_BYTES + TAIL_BYTES);
        for frame in &self.index.frames {
            for number in [frame.first_id, frame.plain_offset, frame.offset] {
                index.extend_from_slice(&number.to_le_bytes());
            }
        }
        index.extend_from_slice(&self.index.plain_bytes.to_le_bytes());
        index.extend_from_slice(&(self.index.frames.len() as u64).to_le_bytes());
        let hash = hash(&index);
        index.extend_from_slice(&hash);
        index.extend_from_slice(&MAGIC);
        index.push(VERSION);
        let length = u32::try_from(index.len())
            .map_err(|cause| Error::invalid("the segment is too long to be compressed").because(cause))?;
        out.extend_from_slice(&SKIPPABLE);
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&index);
        Ok(out)
    }
}

impl Index {
    /// Reads the index of a file of `file_bytes`; `read_at` fills a buffer from an offset.
    ///
    /// # Errors
    /// `Corrupt` if a checksum is wrong, and errors of `read_at`.
    pub(crate) fn read(file_bytes: u64, read_at: impl Fn(u64, &mut [u8]) -> Result<()>) -> Result<Self> {
        let short = || Error::corrupt("the compressed segment is cut short");
        let mut tail = [0; TAIL_BYTES];
        let tail_at = file_bytes.checked_sub(TAIL_BYTES as u64).ok_or_else(short)?;
        read_at(tail_at, &mut tail)?;
        if tail[32..39] != MAGIC {
            return Err(short());
        }
        if tail[39] > VERSION {
            return Err(Error::unsupported(format!(
                "a newer Hydrant compressed this segment (version {}); upgrade, or decompress it with `zstd -d`",
                tail[39]
            )));
        }
        let damaged = || Error::corrupt("the index of the compressed segment does not check");
        let count = number(&tail[8..]);
        let index_bytes = count.checked_mul(ENTRY_BYTES as u64).filter(|&bytes| bytes <= INDEX_BYTES_MAX);
        let index_bytes = index_bytes.ok_or_else(damaged)?;
        let index_at = tail_at.checked_sub(index_bytes).ok_or_else(damaged)?;
        let mut index = vec![0; usize::try_from(index_bytes).map_err(|_| damaged())?];
        read_at(index_at, &mut index)?;
        index.extend_from_slice(&tail[..16]);
        if hash(&index) != tail[16..32] {
            return Err(damaged());
        }
        index.truncate(index.len() - 16);
        let frames: Vec<_> = index
            .chunks_exact(ENTRY_BYTES)
            .map(|entry| Frame {
                first_id: number(entry),
                plain_offset: number(&entry[8..]),
                offset: number(&entry[16..]),
            })
            .collect();
        let end = index_at.checked_sub(8).ok_or_else(damaged)?;
        let index = Self { frames, plain_bytes: number(&tail), end };
        let mut before = (0, 0);
        for at in 0..index.frames.len() {
            let (plain, packed) = index.extent(at);
            if (plain.start, packed.start) != before || plain.is_empty() || packed.is_empty() {
                return Err(damaged());
            }
            before = (plain.end, packed.end);
        }
        if before == (index.plain_bytes, end) { Ok(index) } else { Err(damaged()) }
    }

    /// The length of the plain segment in bytes.
    pub(crate) fn plain_bytes(&self) -> u64 {
        self.plain_bytes
    }

    /// The frame that holds this plain offset; `None` at the end and behind it.
    pub(crate) fn frame_at(&self, plain_offset: u64) -> Option<usize> {
        let behind = self.frames.partition_point(|frame| frame.plain_offset <= plain_offset);
        behind.checked_sub(1).filter(|_| plain_offset < self.plain_bytes)
    }

    /// Where a search for the first event above `after` may begin: the last frame that begins at or below it.
    pub(crate) fn seek(&self, after: u64) -> u64 {
        let behind = self.frames.partition_point(|frame| frame.first_id <= after);
        behind.checked_sub(1).map_or(0, |at| self.frames[at].plain_offset)
    }

    /// Plain and compressed extent of a frame.
    pub(crate) fn extent(&self, at: usize) -> (std::ops::Range<u64>, std::ops::Range<u64>) {
        let frame = self.frames[at];
        let (plain_end, end) = self
            .frames
            .get(at + 1)
            .map_or((self.plain_bytes, self.end), |next| (next.plain_offset, next.offset));
        (frame.plain_offset..plain_end, frame.offset..end)
    }
}

/// The plain text of one frame, whose length the index knows.
///
/// # Errors
/// `Corrupt` where the frame does not check.
pub(crate) fn unpack(frame: &[u8], plain_bytes: usize) -> Result<Vec<u8>> {
    let damaged = || Error::corrupt("a compressed frame does not check");
    let plain = Decompressor::new()
        .and_then(|mut unpacker| unpacker.decompress(frame, plain_bytes))
        .map_err(|cause| damaged().because(cause))?;
    if plain.len() == plain_bytes { Ok(plain) } else { Err(damaged()) }
}

fn number(bytes: &[u8]) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[..8]);
    u64::from_le_bytes(number)
}

fn hash(bytes: &[u8]) -> [u8; 16] {
    let mut half = [0; 16];
    half.copy_from_slice(&Sha256::digest(bytes)[..16]);
    half
}

/// Compressing into memory does not fail.
fn bug(cause: io::Error) -> Error {
    Error::new(hydrant::ErrorKind::Bug, hydrant::Retry::Safe, "compressing failed").because(cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(lines: &[(u64, Vec<u8>)]) -> Vec<u8> {
        let mut packer = Packer::new().unwrap();
        let mut file = Vec::new();
        for (id, line) in lines {
            file.extend(packer.push(line, || Ok(*id)).unwrap().unwrap_or_default());
        }
        file.extend(packer.finish().unwrap());
        file
    }

    fn index(file: &[u8]) -> Result<Index> {
        Index::read(file.len() as u64, |at, buffer| {
            let at = usize::try_from(at).unwrap();
            buffer.copy_from_slice(file.get(at..at + buffer.len()).ok_or_else(|| Error::corrupt("outside"))?);
            Ok(())
        })
    }

    fn range(range: std::ops::Range<u64>) -> std::ops::Range<usize> {
        usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()
    }

    fn lines(count: u64, bytes: usize) -> Vec<(u64, Vec<u8>)> {
        (0..count).map(|id| (3 * id, format!("{id}{}\n", "x".repeat(bytes)).into_bytes())).collect()
    }

    #[test]
    fn every_frame_comes_back_and_is_found_by_offset_and_by_id() {
        for (count, bytes) in [(0, 0), (1, 1), (10, 100), (5000, 1000), (7, 3 << 20)] {
            let lines = lines(count, bytes);
            let plain: Vec<u8> = lines.iter().flat_map(|(_, line)| line.clone()).collect();
            let file = packed(&lines);
            let index = index(&file).unwrap();
            assert_eq!(index.plain_bytes(), plain.len() as u64);
            let mut read = Vec::new();
            for at in 0..index.frames.len() {
                let (extent, packed) = index.extent(at);
                let frame = unpack(&file[range(packed)], range(extent.clone()).len()).unwrap();
                assert_eq!(frame, plain[range(extent.clone())]);
                assert_eq!(index.frame_at(extent.start), Some(at));
                assert_eq!(index.frame_at(extent.end - 1), Some(at));
                assert_eq!(index.seek(index.frames[at].first_id), extent.start);
                assert_eq!(index.seek(index.frames[at].first_id + 1), extent.start);
                read.extend(frame);
            }
            assert_eq!(index.seek(u64::MAX), index.frames.last().map_or(0, |frame| frame.plain_offset));
            assert_eq!(read, plain);
            assert_eq!(index.frame_at(plain.len() as u64), None);
            assert_eq!(zstd::stream::decode_all(&file[..]).unwrap(), plain, "the `zstd` program reads it");
        }
    }

    #[test]
    fn no_flipped_bit_and_no_missing_byte_goes_unnoticed() {
        let lines = lines(3000, 700);
        let file = packed(&lines);
        assert!(index(&file).unwrap().frames.len() > 1);
        let read = |file: &[u8]| -> Result<Vec<u8>> {
            let index = index(file)?;
            let mut read = Vec::new();
            for at in 0..index.frames.len() {
                let (plain, packed) = index.extent(at);
                read.extend(unpack(&file[range(packed)], range(plain).len())?);
            }
            Ok(read)
        };
        let plain = read(&file).unwrap();
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..300 {
            let mut bad = file.clone();
            let at = random.usize(..bad.len());
            bad[at] ^= 1 << random.u8(..8);
            // A few bits have no meaning, so flipping them changes nothing.
            assert!(read(&bad).is_err() || read(&bad).unwrap() == plain, "a flipped bit at {at}");
            assert!(read(&file[..random.usize(..file.len())]).is_err());
        }
    }

    #[test]
    fn a_newer_version_is_refused_with_what_helps() {
        let mut file = packed(&lines(1, 1));
        *file.last_mut().unwrap() = VERSION + 1;
        let error = index(&file).unwrap_err();
        assert_eq!(error.kind(), hydrant::ErrorKind::Unsupported);
        assert!(error.to_string().contains("upgrade"), "{error}");
    }
}
