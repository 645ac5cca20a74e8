//! The source: the events of one log, whatever shards they lie in.

mod active;
mod enhanced;
mod lineage;
mod options;
mod order;
mod poll;
mod positions;
mod reader;
mod upstream;

use std::fmt;
use std::sync::Arc;

use aws_sdk_kinesis::Client;
use futures_util::{StreamExt, stream};
use hydrant::store::caught;
use hydrant::{
    Capabilities, Checkpoint, Error, ErrorKind, Event, EventId, EventSource, EventStream, ReadFrom, Result,
};

pub use options::{KinesisShards, KinesisSourceOptions, KinesisStart, Unnamed};
use positions::{Position, Positions};
use reader::{Mode, Reader};

// What the sink's look for its own checkpoint shares.
pub(crate) use lineage::Lineage;
pub(crate) use poll::pages;
pub(crate) use upstream::{Begin, Record, Unanswered, Upstream};

use crate::wire::Predecessor;

/// Reads the events of one log from a stream: in order, each once, across shards that split and merge.
///
/// # What it promises
/// - Every shard that may hold the log is read, parents to their end before their children; of a merge, both.
/// - Each event names its predecessor, and is yielded only right behind it. The same event again (a put whose
///   answer was lost) is dropped. Another event under an id that came, or one below the newest that did
///   not come, is `Diverged`: two writers.
/// - What the stream no longer keeps is `Pruned`, at the beginning and in the middle. A read after an event does
///   not ask for what is missing up to there, so a reader that filled a gap from another copy continues behind it.
/// - `read` ends behind everything that was acknowledged before it began. It asks, also where
///   [`enhanced_fan_out`](KinesisSourceOptions::enhanced_fan_out) lets `follow` subscribe.
/// - Memory is bounded: a page of each open shard (one shard, unless all are read) and the events remembered.
///   A stream that is dropped leaves no task, no call and no subscription.
///
/// # What it does not notice
/// - That the last events of a log expired: an idle stream whose records are all gone reads as empty.
///   Keep the retention longer than the longest pause of readers and writers together.
/// - A loss, if other producers write without naming predecessors into a log whose ids have gaps
///   ([`Unnamed::Ascending`]).
/// - Whether an event that comes again is still the same, once more than
///   [`compared_events_max`](KinesisSourceOptions::compared_events_max) came behind it.
///
/// # What a read costs
/// A stream has no index: a read after an event begins at the newest position saved at or below it (see
/// [`with_positions`](KinesisSourceOptions::with_positions)), else at the oldest record. [`ReadFrom::Snapshot`]
/// reads everything from the newest snapshot whose position was saved, or else from the oldest record, to find
/// the newest one, and then reads again from there: twice the reading, in the same memory.
#[derive(Clone)]
pub struct KinesisSource {
    upstream: Arc<Upstream>,
    /// Distinguishes the stream from an earlier one of the same name.
    incarnation: Arc<str>,
}

impl fmt::Debug for KinesisSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KinesisSource")
            .field("stream", &self.upstream.stream)
            .field("log", &self.upstream.log)
            .field("options", &self.upstream.options)
            .finish_non_exhaustive()
    }
}

impl KinesisSource {
    /// `SOURCE` only: a stream has no compare-and-append, so it does not fence.
    pub const CAPABILITIES: Capabilities = Capabilities::SOURCE;

    /// Opens the log whose partition key is `log` in a stream that exists.
    ///
    /// # Errors
    /// `Invalid` when an option is out of range, `Denied` without the permission, `Unavailable` when there is no such
    /// stream, or the service does not answer.
    ///
    /// # Cancel safety
    /// It only asks.
    pub async fn open(
        client: Client,
        stream: &str,
        log: &str,
        options: KinesisSourceOptions,
    ) -> Result<Self> {
        caught("opening a log in Kinesis", || Box::pin(Self::open_log(client, stream, log, options))).await
    }

    async fn open_log(
        client: Client,
        stream: &str,
        log: &str,
        options: KinesisSourceOptions,
    ) -> Result<Self> {
        options.check().map_err(|error| error.at_target(format!("{stream}/{log}")))?;
        let mut upstream = Upstream::new(client, stream, log, options);
        let ask = upstream.client.describe_stream_summary().stream_name(stream).send();
        let answer = upstream.ask("DescribeStreamSummary", ask).await.map_err(Unanswered::into_error)?;
        let summary = answer.stream_description_summary;
        let created = summary.as_ref().map(|summary| summary.stream_creation_timestamp.as_secs_f64());
        upstream.arn = summary.map(|summary| summary.stream_arn).unwrap_or_default();
        let incarnation = created.unwrap_or_default().to_string().into();
        Ok(Self { upstream: Arc::new(upstream), incarnation })
    }

    /// The last event that a read would yield now, whatever has expired before it. It reads all that the stream
    /// keeps: a [`KinesisSink`](crate::KinesisSink) looks back from the end.
    ///
    /// # Errors
    /// As a read, but for what has expired.
    ///
    /// # Cancel safety
    /// It only asks.
    pub async fn checkpoint(&self) -> Result<Checkpoint> {
        let mut reader = Reader::open(self.upstream.clone(), Mode::Read, None, None).await?;
        while reader.next().await?.is_some() {}
        Ok(reader.last())
    }

    /// Deregisters the consumer of [`enhanced_fan_out`](KinesisSourceOptions::enhanced_fan_out), which costs money
    /// for every hour and shard. Subscriptions that are open end; a follower that is still there registers it again.
    ///
    /// # Errors
    /// What the service answers; that there is none is fine, and that it is being changed is waited out for
    /// `throttled_max`.
    ///
    /// # Cancel safety
    /// Dropped, it may have deregistered it; call it again.
    pub async fn deregister_consumer(&self) -> Result<()> {
        enhanced::deregister(&self.upstream).await
    }

    fn events(&self, from: ReadFrom, mode: Mode) -> EventStream {
        let source = self.clone();
        let begin = async move { View::open(source, from, mode).await };
        // An error is the last item.
        let events = stream::once(begin).flat_map(|view| match view {
            Ok(view) => stream::try_unfold(view, |mut view| async move {
                Ok(view.next().await?.map(|event| (event, view)))
            })
            .boxed(),
            Err(error) => stream::iter([Err(error)]).boxed(),
        });
        events.boxed()
    }
}

impl EventSource for KinesisSource {
    fn read(&self, from: ReadFrom) -> EventStream {
        self.events(from, Mode::Read)
    }

    fn follow(&self, from: ReadFrom) -> EventStream {
        self.events(from, Mode::Follow)
    }
}

/// What a caller sees of a log: from where it asked, or the answer that this is gone.
struct View {
    reader: Reader,
    positions: Option<Positions>,
    /// What the caller has already.
    behind: Option<EventId>,
    /// Whether the first event must stand right behind that: not where the options say to begin later.
    is_exact: bool,
    unsaved_events: u64,
    position_interval_events: u64,
}

impl View {
    async fn open(source: KinesisSource, from: ReadFrom, mode: Mode) -> Result<Self> {
        let upstream = source.upstream;
        let positions = Positions::load(&upstream, &source.incarnation).await;
        let (at, behind) = match from.exclusive() {
            ReadFrom::After(id) => (positions.as_ref().and_then(|kept| kept.best(from)), Some(id)),
            ReadFrom::Snapshot => match newest_snapshot(&upstream, positions.as_ref()).await? {
                Some(found) => (found.at, found.id.prev()),
                None => (None, None),
            },
            ReadFrom::Origin | ReadFrom::At(_) => (None, None),
        };
        let is_exact = behind.is_some() || upstream.options.start == KinesisStart::TrimHorizon;
        let position_interval_events = upstream.options.position_interval_events;
        let reader = Reader::open(upstream, mode, at, behind).await?;
        Ok(Self { reader, positions, behind, is_exact, unsaved_events: 0, position_interval_events })
    }

    async fn next(&mut self) -> Result<Option<Event>> {
        loop {
            self.save().await;
            let Some(event) = self.reader.next().await? else { return Ok(None) };
            self.unsaved_events += 1;
            if event.is_snapshot()
                && let Some(positions) = &mut self.positions
                && let Some(position) = self.reader.position_before_last()
            {
                positions.save_snapshot(position).await;
            }
            if let Some((oldest, Predecessor::Named(before))) = self.reader.floor()
                && self.is_exact
                && before > self.behind
            {
                return Err(Error::pruned(oldest).at_target(self.reader.name()));
            }
            if Some(event.id()) > self.behind {
                return Ok(Some(event));
            }
        }
    }

    /// The caller came back, so what it received may be skipped at the next start.
    async fn save(&mut self) {
        if let Some(positions) = &mut self.positions
            && self.unsaved_events >= self.position_interval_events
            && let Some(position) = self.reader.position()
        {
            positions.save(position).await;
            self.unsaved_events = 0;
        }
    }
}

/// The newest snapshot event, and where to begin to read it; nowhere in particular if it is the first event.
struct Found {
    id: EventId,
    at: Option<Position>,
}

/// Looks for the newest snapshot event by reading up to the end.
async fn newest_snapshot(upstream: &Arc<Upstream>, positions: Option<&Positions>) -> Result<Option<Found>> {
    let saved = positions.and_then(|positions| positions.best(ReadFrom::Snapshot));
    match scan(upstream, saved.clone()).await {
        // What was saved has expired since.
        Err(error) if saved.is_some() && matches!(error.kind(), ErrorKind::Pruned { .. }) => {
            scan(upstream, None).await
        }
        found => found,
    }
}

async fn scan(upstream: &Arc<Upstream>, at: Option<Position>) -> Result<Option<Found>> {
    let mut reader = Reader::open(upstream.clone(), Mode::Read, at, None).await?;
    let mut newest = None;
    while let Some(event) = reader.next().await? {
        if event.is_snapshot() {
            newest = Some(Found { id: event.id(), at: reader.position_before_last() });
        }
    }
    Ok(newest)
}
