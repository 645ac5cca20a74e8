//! Standard input and output: `-`, or `stdio:` where an option is to be given.

use std::io::{self, ErrorKind as IoKind, Write};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use futures_util::{StreamExt, future, stream};
use hydrant::{
    Batch, Checkpoint, Error, ErrorKind, Event, EventId, EventSink, EventSource, EventStream, ReadFrom,
    Result, Retry,
};
use tokio::sync::mpsc;
use tokio::time::timeout_at;

use crate::lines::Lines;
use crate::options::{Options, bytes};
use crate::stores::{Finding, Findings, Keeper, OpenSink, Place, Reads, Scheme, StoreStatus};
use crate::url::Query;
use crate::values::Parsed;

/// The name of this scheme.
pub(crate) const NAME: &str = "stdio";

/// How much is handed over at a time, in events and bytes, and how many such chunks may wait.
const CHUNK_EVENTS: usize = 1024;
const CHUNK_BYTES: usize = 1 << 20;
const CHUNKS_WAITING: usize = 4;

/// The scheme `-`.
pub(crate) const SCHEME: Scheme = Scheme {
    name: NAME,
    syntax: "- (or stdio:?OPTION=VALUE)",
    about: "standard input or output, one event a line of JSON; reads all three generations of hydra-node's files",
    options: || options().rows(),
    parse,
};

/// Settings of standard input.
#[derive(Clone, Copy, Debug)]
struct Settings {
    line_bytes_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { line_bytes_max: 64 << 20 }
    }
}

fn options() -> Options<Settings> {
    Options::<Settings>::new().with("line_bytes_max", bytes(), "the longest line that is read", |settings| {
        &mut settings.line_bytes_max
    })
}

fn parse(target: &str, query: &Query) -> Parsed<Arc<dyn Place>> {
    if !target.is_empty() {
        return Err(format!(
            "standard input and output have no name, but `{target}` is given; write - alone"
        ));
    }
    Ok(Arc::new(options().apply(query)?))
}

#[async_trait]
impl Place for Settings {
    fn target(&self) -> String {
        "-".to_owned()
    }

    fn reads(&self) -> Reads {
        Reads::Once
    }

    fn has_memory(&self) -> bool {
        false
    }

    async fn source(&self) -> Result<Arc<dyn EventSource>> {
        Ok(Arc::new(StdinSource { line_bytes_max: self.line_bytes_max, taken: Mutex::new(false) }))
    }

    async fn sink(&self, _: Option<Keeper>) -> Result<OpenSink> {
        let sink = Arc::new(StdoutSink::default());
        Ok(OpenSink { sink, closing: Box::pin(future::ready(Ok(()))) })
    }

    async fn head(&self) -> Result<Option<EventId>> {
        Ok(None)
    }

    async fn left_over(&self) -> Result<Option<Error>> {
        Ok(None)
    }

    async fn verify(&self) -> Result<Findings> {
        let mut lines = Lines::new(io::stdin(), "standard input", self.line_bytes_max);
        // Nothing else happens meanwhile, so reading may block.
        let finding = move || {
            let error = std::iter::from_fn(|| lines.next_event()).find_map(Result::err)?;
            let (line, offset) = lines.place();
            let event = error.event().map(|id| format!("event {id}: ")).unwrap_or_default();
            let found = Finding::new("standard input", format!("{event}{}", error.message()));
            Some(Ok(Finding { line, offset: Some(offset), ..found }))
        };
        Ok(stream::iter(std::iter::from_fn(finding)).boxed())
    }

    async fn repair(&self) -> Result<Vec<Finding>> {
        Err(unsupported("standard input cannot be repaired; copy it into a store first"))
    }

    async fn status(&self) -> Result<StoreStatus> {
        Err(unsupported("standard input has no status; copy it into a store first"))
    }
}

fn unsupported(message: &str) -> Error {
    Error::new(ErrorKind::Unsupported, Retry::Never, message).at_target("-")
}

/// Events from standard input, which can be read once.
#[derive(Debug)]
struct StdinSource {
    line_bytes_max: usize,
    taken: Mutex<bool>,
}

impl EventSource for StdinSource {
    fn read(&self, from: ReadFrom) -> EventStream {
        let taken = std::mem::replace(&mut *self.taken.lock().unwrap_or_else(PoisonError::into_inner), true);
        let after = match from.exclusive() {
            ReadFrom::Origin if !taken => None,
            ReadFrom::After(id) if !taken => Some(id),
            _ => {
                let error = unsupported("standard input can only be read once, from its beginning on");
                return stream::once(future::ready(Err(error))).boxed();
            }
        };
        let (chunks, receiver) = mpsc::channel(CHUNKS_WAITING);
        let lines = Lines::new(io::stdin(), "standard input", self.line_bytes_max);
        // A thread of its own, not the runtime's: one that waits for a terminal must not hold up the end.
        let spawned =
            std::thread::Builder::new().name("stdin".to_owned()).spawn(move || hand_over(lines, &chunks));
        if let Err(cause) = spawned {
            let error = Error::new(ErrorKind::Unavailable, Retry::Never, "no thread to read standard input");
            return stream::once(future::ready(Err(error.because(cause)))).boxed();
        }
        let chunks = stream::unfold(receiver, async |mut receiver| {
            let chunk: Vec<Result<Event>> = receiver.recv().await?;
            Some((stream::iter(chunk), receiver))
        });
        let behind = move |event: &Result<Event>| {
            future::ready(event.as_ref().map_or(true, |event| after.is_none_or(|after| event.id() > after)))
        };
        chunks.flatten().filter(behind).boxed()
    }

    /// Input that has ended has nothing more to come, so this ends there too.
    fn follow(&self, from: ReadFrom) -> EventStream {
        self.read(from)
    }
}

/// Decodes until the input ends, a line is bad, or the receiver is dropped.
fn hand_over(mut lines: Lines<io::Stdin>, chunks: &mpsc::Sender<Vec<Result<Event>>>) {
    let (mut chunk, mut bytes) = (Vec::new(), 0);
    while let Some(event) = lines.next_event() {
        let ends = event.is_err();
        bytes += event.as_ref().map_or(0, Event::size);
        chunk.push(event);
        // What is there goes out before this thread waits for more.
        let goes = ends || chunk.len() >= CHUNK_EVENTS || bytes >= CHUNK_BYTES || !lines.has_line();
        if goes && (chunks.blocking_send(std::mem::take(&mut chunk)).is_err() || ends) {
            return;
        }
        bytes = if goes { 0 } else { bytes };
    }
}

/// Writes each event as one line to standard output.
///
/// Acknowledged means: taken by whatever reads standard output. It has no memory, but within the process it
/// writes no event twice.
#[derive(Debug, Default)]
struct StdoutSink {
    last: Arc<tokio::sync::Mutex<Option<EventId>>>,
}

#[async_trait]
impl EventSink for StdoutSink {
    async fn append(&self, batch: Batch<'_>) -> Result<()> {
        let mut begun = false;
        let Some(deadline) = batch.deadline() else { return self.write(batch, &mut begun).await };
        let in_time = timeout_at(deadline, self.write(batch, &mut begun)).await;
        in_time.unwrap_or_else(|_| Err(late(if begun { Retry::AfterCheckpoint } else { Retry::Safe })))
    }

    async fn checkpoint(&self) -> Result<Checkpoint> {
        Ok(Checkpoint::Unknown)
    }
}

impl StdoutSink {
    /// Writes what was not written yet; `begun` once it is this batch's turn.
    async fn write(&self, batch: Batch<'_>, begun: &mut bool) -> Result<()> {
        let mut last = self.last.clone().lock_owned().await;
        *begun = true;
        let events: Vec<Event> = batch
            .events()
            .iter()
            .filter(|event| last.is_none_or(|last| event.id() > last))
            .cloned()
            .collect();
        // The guard goes along: a write whose caller has gone ends before the next one begins.
        let write = tokio::task::spawn_blocking(move || {
            let mut text = Vec::with_capacity(events.iter().map(|event| event.size() + 1).sum());
            for event in &events {
                event.write_to(&mut text);
                text.push(b'\n');
            }
            let mut output = io::stdout().lock();
            output.write_all(&text).and_then(|()| output.flush())?;
            *last = events.last().map(Event::id).or(*last);
            Ok(())
        });
        write
            .await
            .map_err(|cause| Error::closed("the program is ending").because(cause))?
            .map_err(not_written)
    }
}

fn late(retry: Retry) -> Error {
    let message = "the reader of standard output did not take the events before the deadline";
    Error::new(ErrorKind::Unavailable, retry, message).at_target("-")
}

/// `Closed` when the reader has gone. Never retried: half a line may be out.
fn not_written(cause: io::Error) -> Error {
    let kind = match cause.kind() {
        IoKind::BrokenPipe => ErrorKind::Closed,
        IoKind::StorageFull | IoKind::QuotaExceeded => ErrorKind::Full,
        _ => ErrorKind::Unavailable,
    };
    Error::new(kind, Retry::Never, "standard output cannot be written").at_target("-").because(cause)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::*;

    #[tokio::test]
    async fn append_waits_for_its_turn_until_its_deadline() {
        let sink = StdoutSink::default();
        let under_way = sink.last.clone().lock_owned().await;
        let events = [Event::new(EventId::ZERO, "a").unwrap()];
        let batch = Batch::new(None, &events).unwrap();
        let late = batch.with_deadline(Some(Instant::now() + Duration::from_millis(50)));
        let error = sink.append(late).await.unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::Safe), "{error}");
        drop(under_way);
    }
}
