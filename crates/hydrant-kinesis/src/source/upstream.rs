//! The stream that is read, and how it is asked: once, in time, and again after a pause where the service says so.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_kinesis::primitives::DateTime;
use aws_sdk_kinesis::types::{self, ShardIteratorType, StartingPosition};
use aws_smithy_runtime_api::http::Response;
use bytes::Bytes;
use hydrant::{Error, ErrorKind, Result, Retry};
use tokio::time::{Instant, sleep, timeout};

use super::lineage::{Shard, ShardId};
use crate::KinesisSourceOptions;
use crate::error;

/// Where the service numbers a record within its shard. Text: it is larger than any integer type.
pub(crate) type SequenceNumber = std::sync::Arc<str>;

/// The stream, and the settings by which it is read.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) client: Client,
    pub(crate) stream: String,
    pub(crate) log: String,
    pub(crate) options: KinesisSourceOptions,
    pub(super) arn: String,
    /// The ARN of the registered consumer, once it was asked for.
    consumer: Mutex<Option<String>>,
    /// What the pauses of all readers draw their chance from.
    chance: Mutex<fastrand::Rng>,
}

/// Where the reading of one shard begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Begin {
    TrimHorizon,
    AtTimestamp(DateTime),
    Latest,
    At(SequenceNumber),
    After(SequenceNumber),
}

impl Begin {
    /// As polling says it: the kind of iterator, and the sequence number or the time that it takes.
    pub(super) fn iterator(&self) -> (ShardIteratorType, Option<String>, Option<DateTime>) {
        match self {
            Self::TrimHorizon => (ShardIteratorType::TrimHorizon, None, None),
            Self::AtTimestamp(time) => (ShardIteratorType::AtTimestamp, None, Some(*time)),
            Self::Latest => (ShardIteratorType::Latest, None, None),
            Self::At(number) => (ShardIteratorType::AtSequenceNumber, Some(number.to_string()), None),
            Self::After(number) => (ShardIteratorType::AfterSequenceNumber, Some(number.to_string()), None),
        }
    }

    /// As a subscription says it.
    pub(super) fn position(&self) -> Result<StartingPosition> {
        let (kind, number, time) = self.iterator();
        let position = StartingPosition::builder().r#type(kind);
        let position = position.set_sequence_number(number).set_timestamp(time).build();
        position.map_err(|cause| Error::bug("a position of no kind").because(cause))
    }
}

/// What came of a shard in one piece.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) records: Vec<Record>,
    /// When it was asked for, if it reaches the end of the shard as it was then. Of a closed shard this says nothing
    /// about the log, which continues in its children: see [`Upstream::open_shards`].
    pub(crate) at_tip: Option<Instant>,
    /// Where the shard continues behind this page.
    pub(crate) next: Begin,
    /// Whether the shard takes no more records, and these are its last.
    pub(crate) is_last: bool,
}

impl Page {
    /// The end of a shard that has expired.
    pub(super) fn of_the_end() -> Self {
        Self { records: Vec::new(), at_tip: None, next: Begin::TrimHorizon, is_last: true }
    }
}

/// One record of the stream.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) number: SequenceNumber,
    pub(crate) partition_key: String,
    pub(crate) data: Bytes,
}

impl From<types::Record> for Record {
    fn from(record: types::Record) -> Self {
        Self {
            number: record.sequence_number.into(),
            partition_key: record.partition_key.unwrap_or_default(),
            data: record.data.into_inner().into(),
        }
    }
}

/// Why a question has no answer yet.
pub(crate) enum Unanswered {
    /// The position in the shard is valid no more: take a new one behind the last record.
    Expired(Error),
    /// Too fast, or too soon: ask again after a pause.
    TooFast(Error),
    /// There is no such stream, or no such shard or consumer in it.
    Missing(Error),
    Failed(Error),
}

impl Unanswered {
    pub(crate) fn into_error(self) -> Error {
        match self {
            Self::Expired(error) | Self::TooFast(error) | Self::Missing(error) | Self::Failed(error) => error,
        }
    }
}

impl Upstream {
    pub(crate) fn new(client: Client, stream: &str, log: &str, options: KinesisSourceOptions) -> Self {
        let (stream, log) = (stream.to_owned(), log.to_owned());
        let chance = Mutex::new(options.seed.map_or_else(fastrand::Rng::new, fastrand::Rng::with_seed));
        Self { client, stream, log, options, arn: String::new(), consumer: Mutex::default(), chance }
    }

    pub(super) fn consumer(&self) -> Option<String> {
        self.consumer.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn remember_consumer(&self, arn: String) {
        *self.consumer.lock().unwrap_or_else(PoisonError::into_inner) = Some(arn);
    }

    /// It is deregistered, or may be: it is to be looked for again.
    pub(super) fn forget_consumer(&self) {
        *self.consumer.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The stream and the log in one word, for errors.
    pub(crate) fn name(&self) -> String {
        format!("{}/{}", self.stream, self.log)
    }

    /// All shards that the stream has or had, as long as their records are kept.
    ///
    /// # Errors
    /// What the service answers.
    pub(crate) async fn list_shards(&self) -> Result<Vec<Shard>> {
        let mut shards = Vec::new();
        let mut pause = Pause::new(self);
        let mut next: Option<String> = None;
        loop {
            let ask = self.client.list_shards();
            let ask = match &next {
                Some(token) => ask.next_token(token),
                None => ask.stream_name(&self.stream),
            };
            let page = match self.ask("ListShards", ask.send()).await {
                Ok(page) => page,
                Err(Unanswered::Missing(error) | Unanswered::Failed(error)) => return Err(error),
                Err(Unanswered::Expired(error) | Unanswered::TooFast(error)) => {
                    pause.take(error).await?;
                    // A token that was too old begins the list anew.
                    (next, shards) = (None, Vec::new());
                    continue;
                }
            };
            for shard in page.shards() {
                shards.push(Shard::listed(shard).map_err(|error| error.at_target(self.name()))?);
            }
            next = page.next_token;
            if next.is_none() {
                return Ok(shards);
            }
        }
    }

    /// The shards that take records.
    ///
    /// # Errors
    /// What the service answers.
    pub(crate) async fn open_shards(&self) -> Result<BTreeSet<ShardId>> {
        let listed = self.list_shards().await?.into_iter();
        Ok(listed.filter(|shard| !shard.closed).map(|shard| shard.id).collect())
    }

    /// Returns whether a shard has left the stream, as it does when the last of its records has expired.
    ///
    /// # Errors
    /// What the service answers, also where there is no stream.
    pub(super) async fn has_lost(&self, shard: &ShardId) -> Result<bool> {
        Ok(self.list_shards().await?.iter().all(|listed| listed.id != *shard))
    }

    /// One call, in time.
    pub(crate) async fn ask<T, E>(
        &self,
        call: &'static str,
        answer: impl Future<Output = Result<T, SdkError<E, Response>>>,
    ) -> Result<T, Unanswered>
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        let limit = self.options.call_timeout;
        let Ok(answer) = timeout(limit, answer).await else {
            let message = format!("{call} did not answer within {limit:?}; check the network");
            let error = Error::unavailable(message);
            return Err(Unanswered::Failed(error.at_target(self.name())));
        };
        answer.map_err(|cause| {
            let error = error::reading(&cause, call).at_target(self.name());
            let code = cause.as_service_error().and_then(ProvideErrorMetadata::code);
            if error::is_expired(&cause) {
                Unanswered::Expired(error)
            } else if error::is_missing(&cause) {
                Unanswered::Missing(error)
            } else if error::is_throttled(&cause) || code == Some("ResourceInUseException") {
                Unanswered::TooFast(error)
            } else {
                Unanswered::Failed(error)
            }
        })
    }

    /// Returns the error for a place of `LATEST` that was lost before a first record showed where it is.
    pub(super) fn lost_its_place(&self, shard: &ShardId) -> Error {
        let message = "the place of LATEST was lost before the first record came, so events since then may be missing; \
                       take the events faster, or begin at a time";
        Error::new(ErrorKind::Unavailable, Retry::Never, message).at_target(self.place(shard, None))
    }

    /// Where an error happened: the shard, and the record where there is one.
    pub(super) fn place(&self, shard: &ShardId, number: Option<&SequenceNumber>) -> String {
        match number {
            Some(number) => format!("{}: {shard}: sequence number {number}", self.name()),
            None => format!("{}: {shard}", self.name()),
        }
    }
}

/// Waits longer and longer, each time by chance between nothing and a bound that doubles, and not for ever.
///
/// The SDK has tried some times before that; this is for the limits of a shard that several consumers share,
/// where giving up would only begin the same read again.
#[derive(Debug)]
pub(super) struct Pause {
    rng: fastrand::Rng,
    first: Duration,
    limit: Duration,
    taken: u32,
    since: Option<Instant>,
}

impl Pause {
    pub(super) fn new(upstream: &Upstream) -> Self {
        Self {
            rng: upstream.chance.lock().unwrap_or_else(PoisonError::into_inner).fork(),
            first: upstream.options.poll_interval,
            limit: upstream.options.throttled_max,
            taken: 0,
            since: None,
        }
    }

    /// # Errors
    /// The one that it is given, when that went on for too long.
    pub(super) async fn take(&mut self, error: Error) -> Result<()> {
        let since = *self.since.get_or_insert_with(Instant::now);
        if since.elapsed() >= self.limit {
            return Err(error);
        }
        let bound = self.first.max(Duration::from_millis(10)) * 2_u32.pow(self.taken.min(5));
        self.taken += 1;
        tracing::debug!(%error, "throttled; asking again");
        sleep(self.draw(bound)).await;
        Ok(())
    }

    fn draw(&mut self, bound: Duration) -> Duration {
        bound.mul_f64(self.rng.f64())
    }

    pub(super) fn reset(&mut self) {
        (self.taken, self.since) = (0, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn no_two_pauses_draw_alike_and_a_seed_repeats_them() {
        let client = crate::client::nowhere().await;
        let drawn = |options: KinesisSourceOptions| {
            let upstream = Upstream::new(client.clone(), "stream", "log", options);
            let pause = || {
                let mut pause = Pause::new(&upstream);
                [(); 4].map(|()| pause.draw(Duration::from_secs(1)))
            };
            [pause(), pause()]
        };
        let seeded = || drawn(KinesisSourceOptions::default().with_seed(7));
        assert_ne!(seeded()[0], seeded()[1]);
        assert_eq!(seeded(), seeded());
        assert_ne!(drawn(KinesisSourceOptions::default())[0], drawn(KinesisSourceOptions::default())[0]);
    }
}
