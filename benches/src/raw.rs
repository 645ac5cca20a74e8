//! What a program does that writes by hand: the measure of what the disk gives.

use std::fs::{File, OpenOptions};
use std::io::{Seek, Write};
use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

use crate::Result;

/// Writes blocks of so many lines, each block with one `write` and one `fdatasync`. How long it took.
///
/// # Errors
/// What the disk gives.
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

/// Appends one line at a time, each with its `fdatasync`. How long each took.
///
/// # Errors
/// What the disk gives.
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

/// A file whose space was written before, positioned at its beginning.
///
/// # Errors
/// What the disk gives.
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

/// The way of hydra-node: opens the file, appends one line and closes it, for each event, without any sync.
/// How long it took.
///
/// # Errors
/// What the disk gives.
pub fn open_append_close(path: &Path, line: &[u8], count: usize) -> Result<Duration> {
    let start = Instant::now();
    for _ in 0..count {
        OpenOptions::new().create(true).append(true).open(path)?.write_all(line)?;
    }
    Ok(start.elapsed())
}

/// Reads a file and gives each line to `see`, without its line break: large reads, no copy of a line but
/// of the one that two reads share.
///
/// # Errors
/// What the disk gives, and what `see` says.
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
