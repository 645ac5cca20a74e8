//! Compressing sealed segments, so that a crash at any step loses nothing.

use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use hydrant::{Error, Result, Retry};

use crate::directory::{Directory, Sealed};
use crate::disk::{DiskFile, Mode};
use crate::error::io_error;
use crate::lines::{Lines, Piece};
use crate::rotation::sync_dir;
use crate::wire::{self, Line};
use crate::zst::Packer;
use crate::zst_file::ZstFile;

/// How much is compared at once when the result is checked.
const COMPARE_BYTES: usize = 1 << 20;

impl Directory {
    /// Replaces a sealed segment by its compressed form, which is complete, compared and durable before the
    /// plain one goes. Returns `false` if `stop` ended the work before.
    ///
    /// # Errors
    /// `Corrupt` for a segment with lines that are no events, which stays as it is; and errors of the disk. After any
    /// failure, the plain segment counts until the compressed one is complete.
    pub(crate) fn compress(&self, sealed: Sealed, stop: &AtomicBool) -> Result<bool> {
        let plain = self.file(&Sealed { compressed: false, ..sealed }.name());
        let packed = self.file(&Sealed { compressed: true, ..sealed }.name());
        let temp = self.file(&temp_name(sealed));
        let fail = |doing: &'static str| {
            let packed = packed.clone();
            move |cause| io_error(&packed, doing, Retry::Safe, cause)
        };
        let Some((file, stat)) = self.open(&plain)? else { return Ok(true) };

        // What a crash left behind: a part of it, or all of it but the removal of the plain one.
        for stale in [&temp, &packed] {
            if self.stat(stale)?.is_some() {
                self.disk.remove(stale).map_err(fail("removing what a crash left behind"))?;
            }
        }
        let out = self.disk.open(&temp, Mode::New).map_err(fail("creating"))?;
        let mut packer = Packer::new()?;
        let mut lines = Lines::new(file.clone(), 0, stat.len, self.line_bytes_max);
        let (mut written, mut number) = (0, 0);
        let mut put = |bytes: &[u8]| {
            out.write_at(bytes, written).map_err(fail("compressing"))?;
            written += bytes.len() as u64;
            Ok::<_, Error>(())
        };
        while let Some(piece) = lines.next(self, &plain)? {
            let Piece::Lines(block) = piece else {
                let long = Error::corrupt("a line is longer than the limit");
                return Err(self.damage(&plain, &*file, lines.at(), &long));
            };
            let mut at = 0;
            while at < block.data.len() {
                if stop.load(Ordering::Relaxed) {
                    return Ok(false);
                }
                let end =
                    memchr::memchr(b'\n', &block.data[at..]).map_or(block.data.len(), |len| at + len + 1);
                let id = || {
                    first_id(block.data.slice(at..end), number)
                        .map_err(|error| self.damage(&plain, &*file, block.offset + at as u64, &error))
                };
                if let Some(frame) = packer.push(&block.data[at..end], id)? {
                    put(&frame)?;
                }
                at = end;
                number += 1;
            }
        }
        put(&packer.finish()?)?;
        out.sync().map_err(fail("syncing"))?;
        self.compare(&*file, stat.len, &ZstFile::open(out, fail("reading back"))?)
            .map_err(|error| error.at_target(packed.display().to_string()))?;
        self.disk.rename(&temp, &packed).map_err(fail("renaming"))?;
        sync_dir(self)?;
        self.disk.remove(&plain).map_err(|cause| io_error(&plain, "removing", Retry::Safe, cause))?;
        sync_dir(self)?;
        Ok(true)
    }

    fn compare(&self, plain: &dyn DiskFile, len: u64, packed: &ZstFile) -> Result<()> {
        let differs = || Error::corrupt("the compressed segment differs from the plain one, which stays");
        let (mut ours, mut theirs) = (vec![0; COMPARE_BYTES], vec![0; COMPARE_BYTES]);
        let mut at = 0;
        loop {
            let read = plain.read_at(&mut ours, at).map_err(|cause| self.unread(&self.path, cause))?;
            let same = packed.read_at(&mut theirs, at).map_err(|cause| self.unread(&self.path, cause))?;
            if read != same || ours[..read] != theirs[..read] {
                return Err(differs());
            }
            at += read as u64;
            if read < COMPARE_BYTES {
                return if at == len { Ok(()) } else { Err(differs()) };
            }
        }
    }
}

/// Where the compressed form of a segment is written, before it counts.
pub(crate) fn temp_name(sealed: Sealed) -> String {
    format!("state.zst-{}", sealed.last)
}

/// The id of a line that begins a frame, by which a read finds it.
fn first_id(mut line: Bytes, number: u64) -> Result<u64> {
    if line.last() == Some(&b'\n') {
        line.truncate(line.len() - 1);
    }
    let event = match wire::parse(&line)? {
        Line::Ours(ours) => ours.event(line)?,
        Line::Foreign => wire::decode_foreign(line, Some(number))?,
    };
    Ok(event.id().get())
}
