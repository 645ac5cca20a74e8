//! A sink that keeps events as rows of a CSV file, for people with spreadsheets.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader, Error as IoError, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hydrant::{Batch, Checkpoint, Error, ErrorKind, Event, EventId, EventSink, Result, Retry, envelope};
use tokio::sync::Mutex;
use tokio::task::spawn_blocking;

/// The largest event accepted, in bytes of its envelope.
pub const EVENT_BYTES_MAX: usize = 1 << 20;

/// Appends each event as one row: `id,"time","envelope"`.
///
/// Acknowledged means: fsynced. A crash in the middle of an append leaves its first rows.
#[derive(Debug)]
pub struct CsvSink {
    table: Arc<Mutex<Table>>,
}

#[derive(Debug)]
struct Table {
    path: PathBuf,
    file: File,
    checkpoint: Checkpoint,
    /// After a write that failed nobody knows what is on disk: opening again finds out.
    failed: bool,
}

impl CsvSink {
    /// Opens the file, and creates it where there is none.
    ///
    /// # Errors
    /// `Fenced` when another writer has it open, `Corrupt` naming the row that is none, `Unavailable` from disk.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref().to_owned();
        let table = spawn_blocking(move || Table::open(path)).await.map_err(bug)??;
        Ok(Self { table: Arc::new(Mutex::new(table)) })
    }
}

#[async_trait::async_trait]
impl EventSink for CsvSink {
    async fn append(&self, batch: Batch<'_>) -> Result<()> {
        let (after, events) = (batch.after(), batch.events().to_vec());
        // The turn goes into the thread that writes. If this future is dropped, the next call waits for it.
        let mut table = Arc::clone(&self.table).lock_owned().await;
        spawn_blocking(move || table.append(Batch::new(after, &events)?)).await.map_err(bug)?
    }

    async fn checkpoint(&self) -> Result<Checkpoint> {
        let table = self.table.lock().await;
        if table.failed { Err(stopped()) } else { Ok(table.checkpoint) }
    }
}

impl Table {
    fn open(path: PathBuf) -> Result<Self> {
        let file = OpenOptions::new().create(true).append(true).read(true).open(&path).map_err(disk)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::fenced("another writer has the file open; end it first"));
            }
            Err(TryLockError::Error(cause)) => return Err(disk(cause)),
        }
        let (mut checkpoint, mut whole) = (Checkpoint::Empty, 0);
        for row in rows(&path)? {
            let (event, bytes) = row?;
            checkpoint = Checkpoint::at(&event);
            whole += bytes;
        }
        // A last row without its line break was never acknowledged: it was cut off by a crash.
        file.set_len(whole).and_then(|()| file.sync_all()).map_err(disk)?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(parent).and_then(|parent| parent.sync_all()).map_err(disk)?; // the name is durable, too
        Ok(Self { path, file, checkpoint, failed: false })
    }

    fn append(&mut self, batch: Batch<'_>) -> Result<()> {
        if self.failed {
            return Err(stopped());
        }
        if let Some(event) = batch.events().iter().find(|event| event.size() > EVENT_BYTES_MAX) {
            let size = event.size();
            return Err(Error::invalid(format!("{size} bytes, of at most {EVENT_BYTES_MAX}")).at(event.id()));
        }
        let new = batch.fresh_after(&self.checkpoint)?; // what is still to write, or Gap, or Fenced
        self.compare(batch.after(), batch.held_by(&self.checkpoint))?;
        let mut bytes = Vec::new();
        for event in new {
            let envelope = event.to_string().replace('"', "\"\"");
            let time = event.time().unwrap_or_default();
            writeln!(bytes, "{},\"{time}\",\"{envelope}\"", event.id()).map_err(disk)?;
        }
        if let Some(last) = new.last() {
            self.failed = true;
            self.file.write_all(&bytes).and_then(|()| self.file.sync_data()).map_err(disk)?;
            self.failed = false;
            self.checkpoint = Checkpoint::at(last);
        }
        Ok(())
    }

    /// What is held already must be the same events, else the histories differ.
    fn compare(&self, after: Option<EventId>, held: &[Event]) -> Result<()> {
        if held.is_empty() {
            return Ok(());
        }
        let mut stored = rows(&self.path)?
            .map(|row| row.map(|(event, _)| event))
            .skip_while(|event| matches!(event, Ok(event) if Some(event.id()) <= after));
        for event in held {
            if stored.next().transpose()?.as_ref() != Some(event) {
                return Err(Error::fenced("another event is held where this one should be").at(event.id()));
            }
        }
        Ok(())
    }
}

/// The events of a file with the bytes of their rows; a last row without its line break is left out.
///
/// # Errors
/// `Unavailable` from disk, and as items `Corrupt`, naming the row.
pub fn rows(path: &Path) -> Result<impl Iterator<Item = Result<(Event, u64)>> + use<>> {
    let (log, mut reader) = (path.display().to_string(), BufReader::new(File::open(path).map_err(disk)?));
    let mut number = 0;
    Ok(std::iter::from_fn(move || {
        let mut row = Vec::new();
        let bytes = match reader.read_until(b'\n', &mut row) {
            Ok(bytes) if row.ends_with(b"\n") => bytes as u64,
            Ok(_) => return None,
            Err(cause) => return Some(Err(disk(cause))),
        };
        number += 1;
        let place = format!("{log}:{number}");
        Some(event(row).map(|event| (event, bytes)).map_err(|cause| cause.at_target(place)))
    }))
}

fn event(row: Vec<u8>) -> Result<Event> {
    let row = String::from_utf8(row).map_err(|cause| Error::corrupt("not UTF-8").because(cause))?;
    let envelope = row.find("\",\"").and_then(|at| row.get(at + 3..row.len() - 2)).unwrap_or_default();
    envelope::decode(envelope.replace("\"\"", "\"").into())
}

fn disk(cause: IoError) -> Error {
    Error::new(ErrorKind::Unavailable, Retry::AfterCheckpoint, "the disk failed").because(cause)
}

fn stopped() -> Error {
    Error::closed("a write failed before; open the sink again, which reads what is there")
}

fn bug(cause: tokio::task::JoinError) -> Error {
    Error::new(ErrorKind::Bug, Retry::AfterCheckpoint, "the writing thread did not end well").because(cause)
}
