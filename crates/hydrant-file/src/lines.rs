//! A file as blocks of whole lines.

use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use hydrant::{Error, Result};

use crate::directory::Directory;
use crate::disk::DiskFile;

/// How much is read at once: it fits the second cache of a processor.
pub(crate) const BLOCK_BYTES: usize = 256 << 10;
/// How many buffers are kept to be used again.
const SPARE_MAX: usize = 4;

/// Whole lines as they stand in a file.
pub(crate) struct Block {
    /// Where they begin.
    pub(crate) offset: u64,
    /// Each line with its line break; the last of a range may have none.
    pub(crate) data: Bytes,
}

/// A part of a file.
pub(crate) enum Piece {
    Lines(Block),
    /// A line that is longer than the limit, from this offset on; the next piece begins behind it.
    TooLong(u64),
}

/// Reads a range of a file, which begins with a line.
pub(crate) struct Lines {
    file: Arc<dyn DiskFile>,
    at: u64,
    end: u64,
    block_bytes: usize,
    line_bytes_max: usize,
    spare: Vec<Bytes>,
}

impl Lines {
    pub(crate) fn new(file: Arc<dyn DiskFile>, at: u64, end: u64, line_bytes_max: usize) -> Self {
        Self { file, at, end, block_bytes: BLOCK_BYTES, line_bytes_max, spare: Vec::new() }
    }

    #[must_use]
    pub(crate) fn in_blocks_of(mut self, bytes: usize) -> Self {
        self.block_bytes = bytes;
        self
    }

    /// Where the next piece begins.
    pub(crate) fn at(&self) -> u64 {
        self.at
    }

    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// Goes on to a later end, of a file that has grown.
    pub(crate) fn extend(&mut self, end: u64) {
        self.end = end;
    }

    pub(crate) fn file(&self) -> &Arc<dyn DiskFile> {
        &self.file
    }

    /// Offers a block's buffer for the next one, once no slice of it is left.
    pub(crate) fn recycle(&mut self, data: Bytes) {
        if self.spare.len() < SPARE_MAX {
            self.spare.push(data);
        }
    }

    pub(crate) fn next(&mut self, dir: &Directory, path: &Path) -> Result<Option<Piece>> {
        let offset = self.at;
        let left = usize::try_from(self.end.saturating_sub(offset)).unwrap_or(usize::MAX);
        if left == 0 {
            return Ok(None);
        }
        let mut want = self.block_bytes;
        loop {
            let len = want.min(left);
            let mut buffer = self.buffer(len);
            let read = self.file.read_at(&mut buffer, offset).map_err(|cause| dir.unread(path, cause))?;
            if read < len {
                let short = Error::corrupt("the file is shorter than it was: it was cut");
                return Err(dir.damage(path, &*self.file, offset, &short));
            }
            if len == left {
                self.at = self.end;
                return Ok(Some(Piece::Lines(Block { offset, data: buffer.freeze() })));
            }
            if let Some(last) = memchr::memrchr(b'\n', &buffer) {
                buffer.truncate(last + 1);
                self.at += last as u64 + 1;
                return Ok(Some(Piece::Lines(Block { offset, data: buffer.freeze() })));
            }
            if len > self.line_bytes_max {
                self.at = self.skip_line(offset + len as u64, dir, path)?;
                return Ok(Some(Piece::TooLong(offset)));
            }
            want = want.saturating_mul(4).min(self.line_bytes_max.saturating_add(1));
        }
    }

    /// The offset behind the next line break.
    fn skip_line(&self, mut at: u64, dir: &Directory, path: &Path) -> Result<u64> {
        let mut buffer = vec![0; BLOCK_BYTES];
        while at < self.end {
            let read = self.file.read_at(&mut buffer, at).map_err(|cause| dir.unread(path, cause))?;
            if let Some(found) = memchr::memchr(b'\n', &buffer[..read]) {
                return Ok((at + found as u64 + 1).min(self.end));
            }
            if read == 0 {
                break;
            }
            at += read as u64;
        }
        Ok(self.end)
    }

    fn buffer(&mut self, len: usize) -> BytesMut {
        for at in 0..self.spare.len() {
            if !self.spare[at].is_unique() {
                continue;
            }
            if let Ok(mut buffer) = self.spare.swap_remove(at).try_into_mut() {
                buffer.resize(len, 0);
                return buffer;
            }
            break;
        }
        BytesMut::zeroed(len)
    }
}

/// A line that ends right before `end`, and where it begins; without its line break.
pub(crate) fn last_before(
    file: &Arc<dyn DiskFile>,
    end: u64,
    dir: &Directory,
    path: &Path,
) -> Result<(u64, Bytes)> {
    // The longest line, its line break, and the one before it.
    let want_max = (dir.line_bytes_max as u64).saturating_add(2);
    let mut want = want_max.min(64 << 10);
    loop {
        let start = end.saturating_sub(want);
        let len = usize::try_from(end - start).unwrap_or(usize::MAX);
        let mut buffer = BytesMut::zeroed(len);
        let read = file.read_at(&mut buffer, start).map_err(|cause| dir.unread(path, cause))?;
        buffer.truncate(read);
        if buffer.last() == Some(&b'\n') {
            buffer.truncate(read - 1);
        }
        let found = memchr::memrchr(b'\n', &buffer).map(|at| at + 1);
        if let Some(at) = found.or((start == 0).then_some(0)) {
            return Ok((start + at as u64, buffer.freeze().slice(at..)));
        }
        if want == want_max {
            let long = Error::corrupt(format!("the last line is longer than {} bytes", dir.line_bytes_max));
            return Err(dir.damage(path, &**file, start, &long));
        }
        want = want.saturating_mul(8).min(want_max);
    }
}

/// How many lines end before `offset`.
pub(crate) fn count(file: &dyn DiskFile, offset: u64) -> io::Result<u64> {
    let mut buffer = vec![0; BLOCK_BYTES];
    let (mut at, mut lines) = (0, 0);
    while at < offset {
        let len = usize::try_from(offset - at).unwrap_or(usize::MAX).min(buffer.len());
        let read = file.read_at(&mut buffer[..len], at)?;
        if read == 0 {
            break;
        }
        lines += memchr::memchr_iter(b'\n', &buffer[..read]).count() as u64;
        at += read as u64;
    }
    Ok(lines)
}

/// The number of the line at `offset`, as an editor counts, from 1.
pub(crate) fn number_at(file: &dyn DiskFile, offset: u64) -> io::Result<u64> {
    Ok(count(file, offset)? + 1)
}

/// Where the NUL bytes at the end of a file begin.
pub(crate) fn end_of_text(file: &dyn DiskFile, len: u64) -> io::Result<u64> {
    let mut buffer = vec![0; BLOCK_BYTES];
    let mut end = len;
    while end > 0 {
        let start = end.saturating_sub(if end == len { 512 } else { BLOCK_BYTES as u64 });
        let part = usize::try_from(end - start).unwrap_or(usize::MAX);
        let read = file.read_at(&mut buffer[..part], start)?;
        if let Some(last) = buffer[..read].iter().rposition(|&byte| byte != 0) {
            return Ok(start + last as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}
