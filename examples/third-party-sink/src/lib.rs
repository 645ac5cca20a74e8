//! A sink that keeps events as rows of a CSV file, for spreadsheets.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader, Error as IoError, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hydrant::store::envelope;
use hydrant::{Batch, Checkpoint, Error, ErrorKind, Event, EventId, EventSink, Result, Retry};
use tokio::sync::Mutex;
use tokio::task::spawn_blocking;
use tokio::time::timeout_at;

/// The largest event accepted, in bytes of its envelope.
pub const EVENT_BYTES_MAX: usize = 1 << 20;

/// Appends each event as one row: `id,"time","envelope"`.
///
/// Acknowledged means: fsynced. A crash in the middle of an append leaves a prefix of its rows.
#[derive(Debug)]
pub struct CsvSink {
    table: Arc<Mutex<Table>>,
}

#[derive(Debug)]
struct Table {
    path: PathBuf,
    file: File,
    checkpoint: Checkpoint,
    /// The length of the file up to `checkpoint`.
    bytes: u64,
    /// A write failed, so the file may be longer than `bytes`.
    failed: bool,
}

impl CsvSink {
    /// Opens the file, and creates it if it does not exist.
    ///
    /// # Errors
    /// `Fenced` if another writer has it open, `Corrupt` naming a row that does not decode, `Unavailable` from disk.
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
        let appended = async {
            // The turn goes into the thread that writes. If this future is dropped, the next call waits for it.
            let mut table = Arc::clone(&self.table).lock_owned().await;
            spawn_blocking(move || table.append(Batch::new(after, &events)?)).await.map_err(bug)?
        };
        match batch.deadline() {
            Some(deadline) => timeout_at(deadline, appended).await.unwrap_or_else(|_| Err(late())),
            None => appended.await,
        }
    }

    async fn checkpoint(&self) -> Result<Checkpoint> {
        let mut table = Arc::clone(&self.table).lock_owned().await;
        spawn_blocking(move || table.cut().map(|()| table.checkpoint)).await.map_err(bug)?
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
        // A last row without its line break was never acknowledged: a crash cut it off.
        let mut table = Self { path, file, checkpoint: Checkpoint::Empty, bytes: 0, failed: true };
        for row in rows(&table.path)? {
            let (event, bytes) = row?;
            table.checkpoint = Checkpoint::at(&event);
            table.bytes += bytes;
        }
        table.cut()?;
        let parent =
            table.path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(parent).and_then(|parent| parent.sync_all()).map_err(disk)?; // the name is durable, too
        Ok(table)
    }

    /// Cuts off what a failed write left, so that the handle works again.
    fn cut(&mut self) -> Result<()> {
        if self.failed {
            self.file.set_len(self.bytes).and_then(|()| self.file.sync_all()).map_err(disk)?;
            self.failed = false;
        }
        Ok(())
    }

    fn append(&mut self, batch: Batch<'_>) -> Result<()> {
        self.cut()?;
        batch.check_size(EVENT_BYTES_MAX)?;
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
            self.bytes += bytes.len() as u64;
            self.checkpoint = Checkpoint::at(last);
        }
        Ok(())
    }

    /// Compares events that the checkpoint says are held: another event is another history.
    fn compare(&self, after: Option<EventId>, held: &[Event]) -> Result<()> {
        if held.is_empty() {
            return Ok(());
        }
        let mut stored = rows(&self.path)?.map(|row| row.map(|(event, _)| event)).peekable();
        // A file that begins with a snapshot has nothing below it.
        if let Some(Ok(oldest)) = stored.peek()
            && after.is_some_and(|after| after < oldest.id())
            && held[0].id() < oldest.id()
        {
            return Err(Error::pruned(oldest.id()).at(held[0].id()));
        }
        let mut stored = stored.skip_while(|event| matches!(event, Ok(event) if Some(event.id()) <= after));
        for event in held {
            if stored.next().transpose()?.as_ref() != Some(event) {
                return Err(Error::fenced("another event is held under this id").at(event.id()));
            }
        }
        Ok(())
    }
}

/// The events of a file with the bytes of their rows, without a last row that has no line break.
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

fn late() -> Error {
    Error::new(ErrorKind::Unavailable, Retry::AfterCheckpoint, "the disk did not answer before the deadline")
}

fn bug(cause: tokio::task::JoinError) -> Error {
    Error::new(ErrorKind::Bug, Retry::AfterCheckpoint, "the writing thread panicked").because(cause)
}
