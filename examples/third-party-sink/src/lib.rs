//! A sink that keeps events as rows of a CSV file, for spreadsheets.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader, Error as IoError, Write};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hydrant::store::envelope;
use hydrant::{Batch, Checkpoint, Error, Event, EventId, EventSink, Result};
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
    /// The first event of the file. One that begins with a snapshot has nothing below it.
    oldest: Option<EventId>,
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
        let table = on_a_thread(move || Table::open(path)).await?;
        Ok(Self { table: Arc::new(Mutex::new(table)) })
    }

    async fn append_in_turn(&self, batch: Batch<'_>) -> Result<()> {
        batch.check_size(EVENT_BYTES_MAX)?;
        let mut table = Arc::clone(&self.table).lock_owned().await;
        let fresh = batch.fresh_after(&table.checkpoint)?.to_vec(); // what is still to write, or Gap, or Fenced
        let first = batch.first().id();
        if let (Some(after), Some(oldest)) = (batch.after(), table.oldest)
            && after < oldest
            && first < oldest
        {
            return Err(Error::pruned(oldest).at(first));
        }
        // What the checkpoint covers must be what the file holds: another event is another history.
        let path = table.path.clone();
        let held = async move |ids| on_a_thread(move || held(&path, &ids)).await;
        batch.check_held_with(&table.checkpoint, held).await?;
        // The turn goes into the thread that writes. If this future is dropped, the next call waits for it.
        on_a_thread(move || table.write(&fresh)).await
    }
}

#[async_trait::async_trait]
impl EventSink for CsvSink {
    async fn append(&self, batch: Batch<'_>) -> Result<()> {
        let appended = self.append_in_turn(batch);
        match batch.deadline() {
            Some(deadline) => timeout_at(deadline, appended).await.unwrap_or_else(|_| Err(late())),
            None => appended.await,
        }
    }

    async fn checkpoint(&self) -> Result<Checkpoint> {
        let mut table = Arc::clone(&self.table).lock_owned().await;
        on_a_thread(move || table.cut().map(|()| table.checkpoint)).await
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
        let mut table =
            Self { path, file, oldest: None, checkpoint: Checkpoint::Empty, bytes: 0, failed: true };
        for row in rows(&table.path)? {
            let (event, bytes) = row?;
            table.oldest.get_or_insert(event.id());
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

    fn write(&mut self, events: &[Event]) -> Result<()> {
        self.cut()?;
        let Some(last) = events.last() else { return Ok(()) };
        let mut bytes = Vec::new();
        for event in events {
            let envelope = event.to_string().replace('"', "\"\"");
            let time = event.time().unwrap_or_default();
            writeln!(bytes, "{},\"{time}\",\"{envelope}\"", event.id()).map_err(disk)?;
        }
        self.failed = true;
        self.file.write_all(&bytes).and_then(|()| self.file.sync_data()).map_err(disk)?;
        self.failed = false;
        self.bytes += bytes.len() as u64;
        self.oldest.get_or_insert(events[0].id());
        self.checkpoint = Checkpoint::at(last);
        Ok(())
    }
}

/// The events that a file holds under these ids.
fn held(path: &Path, ids: &RangeInclusive<EventId>) -> Result<Vec<Event>> {
    let events = rows(path)?.map(|row| row.map(|(event, _)| event));
    let wanted = events
        .skip_while(|event| matches!(event, Ok(event) if event.id() < *ids.start()))
        .take_while(|event| !matches!(event, Ok(event) if event.id() > *ids.end()));
    wanted.collect()
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
    Error::outcome_unknown("the disk failed").because(cause)
}

fn late() -> Error {
    Error::outcome_unknown("the disk did not answer before the deadline")
}

/// Runs what blocks where that blocks no other task.
async fn on_a_thread<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let panicked = |cause| Err(Error::bug("work on the file panicked").because(cause));
    spawn_blocking(work).await.unwrap_or_else(panicked)
}
