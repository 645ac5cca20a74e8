//! A compressed segment, read like its plain file.

use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use hydrant::{Error, Result};

use crate::disk::{DiskFile, Stat};
use crate::zst::{Index, unpack};

/// Reads plain bytes at any offset. Keeps the last frame, so that sequential reads unpack each frame once.
pub(crate) struct ZstFile {
    file: Arc<dyn DiskFile>,
    index: Index,
    frame: Mutex<Option<(usize, Bytes)>>,
}

impl ZstFile {
    /// # Errors
    /// `Corrupt` when the index does not check, `Unsupported` when a newer Hydrant wrote it.
    pub(crate) fn open(file: Arc<dyn DiskFile>, unread: impl Fn(io::Error) -> Error) -> Result<Self> {
        let len = file.stat().map_err(&unread)?.len;
        let index = Index::read(len, |at, buffer| {
            if file.read_at(buffer, at).map_err(&unread)? == buffer.len() {
                return Ok(());
            }
            Err(Error::corrupt("the compressed segment is shorter than it was"))
        })?;
        Ok(Self { file, index, frame: Mutex::default() })
    }

    fn frame(&self, at: usize) -> io::Result<Bytes> {
        let mut kept = self.frame.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((kept_at, frame)) = &*kept
            && *kept_at == at
        {
            return Ok(frame.clone());
        }
        let (plain, packed) = self.index.extent(at);
        let mut buffer = vec![0; length(&packed)?];
        if self.file.read_at(&mut buffer, packed.start)? < buffer.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let damaged = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        let frame = Bytes::from(unpack(&buffer, length(&plain)?).map_err(damaged)?);
        *kept = Some((at, frame.clone()));
        Ok(frame)
    }
}

fn length(extent: &Range<u64>) -> io::Result<usize> {
    usize::try_from(extent.end - extent.start).map_err(|_| io::ErrorKind::InvalidData.into())
}

impl DiskFile for ZstFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut read = 0;
        while read < buffer.len() {
            let Some(at) = self.index.frame_at(offset + read as u64) else { break };
            let frame = self.frame(at)?;
            let from = length(&(self.index.extent(at).0.start..offset + read as u64))?;
            let count = (frame.len() - from).min(buffer.len() - read);
            buffer[read..read + count].copy_from_slice(&frame[from..from + count]);
            read += count;
        }
        Ok(read)
    }

    fn write_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn sync(&self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn truncate(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn near(&self, after: u64) -> Option<u64> {
        Some(self.index.seek(after))
    }

    /// The length is that of the plain segment.
    fn stat(&self) -> io::Result<Stat> {
        Ok(Stat { len: self.index.plain_bytes(), ..self.file.stat()? })
    }
}
