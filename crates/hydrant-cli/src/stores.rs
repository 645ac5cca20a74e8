//! The registry of schemes: everything that a URL can name, in one table.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use hydrant::{
    Checkpoint, CheckpointStore, Error, ErrorKind, Event, EventId, EventSink, EventSource, EventStream,
    FanOut, FanOutOptions, Primary, Prune, ReadFrom, Result, Retry,
};
use serde::Serialize;

use crate::exit::{Exit, exit_of};
use crate::options::OptionRow;
use crate::url::Query;
use crate::values::Parsed;

#[cfg(any(feature = "kinesis", feature = "s3"))]
mod aws;
mod file;
#[cfg(feature = "kinesis")]
mod kinesis;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "s3")]
mod s3;
pub(crate) mod stdio;
mod udp;

/// Every scheme there is. A new store adds its file and its line here.
pub(crate) const SCHEMES: &[Scheme] = &[
    file::SCHEME,
    #[cfg(feature = "postgres")]
    postgres::SCHEME,
    #[cfg(feature = "s3")]
    s3::SCHEME,
    #[cfg(feature = "kinesis")]
    kinesis::SCHEME,
    udp::SCHEME,
    stdio::SCHEME,
];

/// Stores that a program may be built without, by the name of their feature, which is that of their scheme.
pub(crate) const OPTIONAL: &[&str] = &["kinesis", "postgres", "s3"];

/// The scheme of this name.
pub(crate) fn scheme(name: &str) -> Option<&'static Scheme> {
    let name = if name == "postgresql" { "postgres" } else { name };
    SCHEMES.iter().find(|scheme| scheme.name == name)
}

/// A kind of store: how its URLs are written and read.
pub(crate) struct Scheme {
    /// The part before the colon.
    pub(crate) name: &'static str,
    /// How a URL is written, for people.
    pub(crate) syntax: &'static str,
    /// What it is, in one sentence.
    pub(crate) about: &'static str,
    /// Its options with their defaults.
    pub(crate) options: fn() -> Vec<OptionRow>,
    /// A place from a target, as it is written, and a query, or what is wrong with them.
    pub(crate) parse: fn(&str, &Query) -> Parsed<Arc<dyn Place>>,
}

/// Where a valid URL points. Nothing is opened before it is asked for.
///
/// A place that cannot do what is asked says so with `Unsupported`.
#[async_trait]
pub(crate) trait Place: fmt::Debug + Send + Sync {
    /// What outputs, errors and checkpoints call it: no options, no secrets.
    fn target(&self) -> String;
    /// What two URLs of one place have in common, however they are written.
    fn identity(&self) -> String {
        self.target()
    }
    /// How it can be read.
    fn reads(&self) -> Reads;
    /// Whether, as a sink, it has a checkpoint of its own.
    fn has_memory(&self) -> bool;
    /// Refuses where there is no log, not even an empty one. Who follows does not ask: it may come yet.
    async fn must_hold_a_log(&self) -> Result<()> {
        Ok(())
    }
    /// Opens it for reading.
    async fn source(&self) -> Result<Arc<dyn EventSource>>;
    /// Opens it for writing. A sink with a memory of its own may keep its checkpoint where the keeper says, too.
    async fn sink(&self, keeper: Option<Keeper>) -> Result<OpenSink>;
    /// Returns its last event; `None` if it is empty, or if the event is unknown before a read.
    async fn head(&self) -> Result<Option<EventId>>;
    /// Returns an error for bytes that a crash left behind the last whole event. A read ends there without an error.
    async fn left_over(&self) -> Result<Option<Error>>;
    /// Checks everything that can be checked, and gives each place that is wrong, as it is found.
    async fn verify(&self) -> Result<Findings>;
    /// Mends what can be mended, keeps aside what it removes, and returns each change.
    async fn repair(&self) -> Result<Vec<Finding>>;
    /// Drops segments that end before an event, never the newest snapshot, nor what a secondary of the log's roster
    /// still needs.
    async fn prune(&self, _before: EventId) -> Result<()> {
        let message = "nothing is pruned here: what is old goes as the store itself says";
        Err(Error::new(ErrorKind::Unsupported, Retry::Never, message).at_target(self.target()))
    }
    /// Merges small segments.
    async fn compact(&self) -> Result<Compaction> {
        let message = "there is nothing to merge here: it is logs in S3 that are one object a batch";
        Err(Error::new(ErrorKind::Unsupported, Retry::Never, message).at_target(self.target()))
    }
    /// What it holds.
    async fn status(&self) -> Result<StoreStatus>;
}

/// How a place can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reads {
    /// Again and again, from anywhere: a log.
    Again,
    /// Once, from its beginning to its end.
    Once,
    /// Only what arrives from now on.
    Live,
}

/// A place opened for writing.
pub(crate) struct OpenSink {
    /// The sink itself.
    pub(crate) sink: Arc<dyn EventSink>,
    /// Releases everything and waits; to be awaited when nothing more is appended.
    pub(crate) closing: BoxFuture<'static, Result<()>>,
}

/// Where a checkpoint is kept for a sink, and under which name.
#[derive(Clone)]
pub(crate) struct Keeper {
    pub(crate) store: Arc<dyn CheckpointStore>,
    pub(crate) name: String,
}

/// What `verify` found; an error is the last item.
pub(crate) type Findings = BoxStream<'static, Result<Finding>>;

/// One thing that `verify` found or `repair` did.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Finding {
    /// The file or object; the store as a whole where it has none.
    pub(crate) file: String,
    /// From 1, as editors count; 0 for the file as a whole.
    pub(crate) line: u64,
    /// Where the line begins in the file, in bytes from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) offset: Option<u64>,
    /// Whether it is the end of a commit that a crash cut off, which the next writer sets aside.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) torn_tail: bool,
    /// Whether the log is whole all the same, and this only takes space.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) leftover: bool,
    /// What is wrong there, or what was done about it.
    pub(crate) message: String,
}

impl Finding {
    /// About a file, or a store, as a whole.
    pub(crate) fn new(file: impl Into<String>, message: impl Into<String>) -> Self {
        let (file, message) = (file.into(), message.into());
        Self { file, line: 0, offset: None, torn_tail: false, leftover: false, message }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, offset, message, .. } = self;
        match offset {
            _ if *line == 0 => write!(f, "{file}: {message}"),
            Some(offset) => write!(f, "{file}:{line}: byte {offset}: {message}"),
            None => write!(f, "{file}:{line}: {message}"),
        }
    }
}

/// Checks a log by reading all of it: every store checks what it reads. Behind an event that does not check,
/// it goes on.
pub(crate) fn by_reading(place: String, source: Arc<dyn EventSource>) -> Findings {
    struct Reading {
        place: String,
        source: Arc<dyn EventSource>,
        events: Option<EventStream>,
        last: Option<EventId>,
    }
    let events = Some(source.read(ReadFrom::Origin));
    stream::unfold(Reading { place, source, events, last: None }, async |mut reading| {
        loop {
            let error = match reading.events.as_mut()?.next().await? {
                Ok(event) => {
                    reading.last = Some(event.id());
                    continue;
                }
                Err(error) => error,
            };
            let before = |id: EventId| id.prev();
            let next = match (error.kind(), error.event()) {
                // Of a pruned log: what is kept.
                (ErrorKind::Pruned { oldest }, _) if reading.last.is_none() => {
                    reading.events = Some(reading.source.read(ReadFrom::from(before(oldest))));
                    continue;
                }
                (_, Some(id)) if reading.last.is_none_or(|last| last < id) => Some(id),
                _ => None,
            };
            reading.last = next;
            reading.events = next.map(|id| reading.source.read(ReadFrom::After(id)));
            if exit_of(&error) != Exit::Data {
                reading.events = None;
                return Some((Err(error), reading));
            }
            let event = error.event().map(|id| format!("event {id}: ")).unwrap_or_default();
            let finding =
                Finding::new(error.target().unwrap_or(&reading.place), format!("{event}{}", error.message()));
            return Some((Ok(finding), reading));
        }
    })
    .boxed()
}

/// Prunes the log of a store as a fan-out over it would: by the roster of its secondaries.
pub(crate) async fn prune<P: Primary + Prune + 'static>(store: P, before: EventId) -> Result<()> {
    let log = FanOut::open(store, FanOutOptions::default()).await?;
    let pruned = log.prune(before).await;
    // Nothing is attached, so there is nothing to wait for.
    drop(log.close(Duration::ZERO).await);
    pruned
}

/// What was merged.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Compaction {
    pub(crate) segments: u64,
    pub(crate) into: u64,
    pub(crate) events: u64,
}

/// What a store holds.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct StoreStatus {
    pub(crate) target: String,
    pub(crate) first_id: Option<EventId>,
    pub(crate) last_id: Option<EventId>,
    pub(crate) events: u64,
    /// The bytes that are stored. If the store does not report them, the bytes of the events.
    pub(crate) bytes: u64,
    /// Of a store that has segments.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) segments: Option<u64>,
    pub(crate) checkpoint: Checkpoint,
}

impl StoreStatus {
    /// What a log holds, found by reading all of it.
    pub(crate) async fn by_reading(target: String, source: &dyn EventSource) -> Result<Self> {
        let (first_id, last_id, checkpoint) = (None, None, Checkpoint::Empty);
        let mut status = Self { target, first_id, last_id, events: 0, bytes: 0, segments: None, checkpoint };
        let mut events = source.read(ReadFrom::Origin);
        let mut last = None;
        loop {
            match events.next().await.transpose() {
                Ok(Some(event)) => {
                    status.first_id = status.first_id.or(Some(event.id()));
                    status.events += 1;
                    status.bytes += event.size() as u64 + 1;
                    last = Some(event);
                }
                Ok(None) => break,
                // Of a pruned log: what is kept.
                Err(error) => match error.kind() {
                    ErrorKind::Pruned { oldest } if last.is_none() => {
                        let before = oldest.prev();
                        events = source.read(ReadFrom::from(before));
                    }
                    _ => return Err(error),
                },
            }
        }
        status.last_id = last.as_ref().map(Event::id);
        status.checkpoint = last.as_ref().map_or(Checkpoint::Empty, Checkpoint::at);
        Ok(status)
    }
}
