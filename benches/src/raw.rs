//! Raw loops of a program without Hydrant. They measure what the disk can do.

use std::fs::{File, OpenOptions};
use std::io::{Seek, Write};
use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

use crate::Result;

/// Writes blocks of lines, each block with one `write` and one `fdatasync`. Returns how long it took.
///
/// # Errors
/// If the disk fails.
pub fn append_synced(path: &Path, line: &[u8], blocks: &[usize]) -> Result<Duration> {
    let largest = blocks.iter().copied().max().unwrap_or(0);
    let lines = line.repeat(largest);
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    let start = Instant::now();
    for block in blocks {
        file.write_all(&lines[..block * line.len()])?;
        file.sync_data()?;
    }
    Ok(start.elapsed())
}

/// Appends one line at a time, each with its `fdatasync`. Returns how long each took.
///
/// # Errors
/// If the disk fails.
pub fn append_alone(file: &mut File, line: &[u8], count: usize) -> Result<Vec<Duration>> {
    let mut took = Vec::with_capacity(count);
    for _ in 0..count {
        let start = Instant::now();
        file.write_all(line)?;
        file.sync_data()?;
        took.push(start.elapsed());
    }
    Ok(took)
}

/// Creates a file whose space was written before, positioned at its beginning.
///
/// # Errors
/// If the disk fails.
pub fn preallocated(path: &Path, bytes: usize) -> Result<File> {
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).open(path)?;
    let zeros = vec![0; 1 << 20];
    let mut left = bytes;
    while left > 0 {
        let now = left.min(zeros.len());
        file.write_all(&zeros[..now])?;
        left -= now;
    }
    file.sync_all()?;
    file.rewind()?;
    Ok(file)
}

/// Appends as hydra-node does: for each event it opens the file, appends one line and closes the file, without a sync.
/// Returns how long it took.
///
/// # Errors
/// If the disk fails.
pub fn open_append_close(path: &Path, line: &[u8], count: usize) -> Result<Duration> {
    let start = Instant::now();
    for _ in 0..count {
        OpenOptions::new().create(true).append(true).open(path)?.write_all(line)?;
    }
    Ok(start.elapsed())
}

/// Reads a file and passes each line to `see`, without its line break. Uses large reads. Copies only a line that
/// two reads share.
///
/// # Errors
/// If the disk or `see` fails.
pub fn lines(path: &Path, mut see: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    use std::io::Read;

    let mut file = File::open(path)?;
    let mut buffer = vec![0; 1 << 20];
    let mut held = 0;
    loop {
        if held == buffer.len() {
            buffer.resize(buffer.len() * 2, 0);
        }
        let read = file.read(&mut buffer[held..])?;
        if read == 0 {
            return Ok(());
        }
        let filled = held + read;
        let mut at = 0;
        while let Some(len) = memchr::memchr(b'\n', &buffer[at..filled]) {
            see(&buffer[at..at + len])?;
            at += len + 1;
        }
        buffer.copy_within(at..filled, 0);
        held = filled - at;
    }
}
