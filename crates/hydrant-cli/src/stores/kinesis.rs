//! `kinesis://STREAM?log=NAME`: a log in a Kinesis stream, beside others.

use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use hydrant::{Error, ErrorKind, EventId, EventSink as _, EventSource, Result, Retry};
use hydrant_kinesis::{
    ClientOptions, KinesisShards, KinesisSink, KinesisSinkOptions, KinesisSource, KinesisSourceOptions,
    KinesisStart, Oversize, Packing, Unnamed,
};
use jiff::Timestamp;

use crate::options::{Kind, Options, bytes, choice, interval, number, text};
use crate::stores::aws::Aws;
use crate::stores::{Finding, Findings, Keeper, OpenSink, Place, Reads, Scheme, StoreStatus, by_reading};
use crate::url::{Query, percent_decode, percent_encode};
use crate::values::Parsed;

/// The scheme `kinesis`.
pub(crate) const SCHEME: Scheme = Scheme {
    name: "kinesis",
    syntax: "kinesis://STREAM?log=NAME[&OPTION=VALUE&...]",
    about: "a log in a Kinesis stream, beside others; one process writes a log; credentials by the SDK's chain",
    options: || options().rows(),
    parse,
};

/// Where the stream is, and how the log in it is read and written.
#[derive(Clone, Debug, Default)]
struct Settings {
    aws: Aws,
    log: Option<String>,
    hash_key: Option<u128>,
    sink: KinesisSinkOptions,
    source: KinesisSourceOptions,
}

fn options() -> Options<Settings> {
    let log = Options::<Settings>::new().with(
        "log",
        text("NAME").or("none, it is required"),
        "which log of the stream: the partition key of its records",
        |settings| &mut settings.log,
    );
    let reached = Aws::options(log, |settings| &mut settings.aws).with(
        "explicit_hash_key",
        number().or("of the log's name"),
        "the hash key that the log is written with and read by",
        |settings| &mut settings.hash_key,
    );
    reading(writing(reached))
}

fn writing(options: Options<Settings>) -> Options<Settings> {
    let packing = choice(&[
        ("aggregated", Packing::Aggregated),
        ("lines", Packing::Lines),
        ("single", Packing::Single),
    ]);
    let oversize = choice(&[("park", Oversize::Park), ("chunk", Oversize::Chunk)]);
    options
        .with(
            "packing",
            packing,
            "writing: as many events a record as fit, in KPL's format or as lines of JSON, or one event a record",
            |settings| &mut settings.sink.packing,
        )
        .with(
            "oversize",
            oversize,
            "writing: what becomes of an event larger than a record: the sink parks, or it is put in chunks",
            |settings| &mut settings.sink.oversize,
        )
        .with("record_bytes_max", bytes(), "writing: the largest record, up to 10MiB where the stream takes it", |settings| {
            &mut settings.sink.record_bytes_max
        })
        .with("event_bytes_max", bytes(), "writing: the largest event, in chunks", |settings| {
            &mut settings.sink.event_bytes_max
        })
        .with("append_timeout", interval(), "writing: how long an append may take, throttling included", |settings| {
            &mut settings.sink.append_timeout
        })
        .with("put_timeout", interval(), "writing: how long one record may take", |settings| {
            &mut settings.sink.put_timeout
        })
}

fn reading(options: Options<Settings>) -> Options<Settings> {
    let unnamed = choice(&[
        ("contiguous", Unnamed::Contiguous),
        ("ascending", Unnamed::Ascending),
        ("refuse", Unnamed::Refuse),
    ]);
    let shards = choice(&[("of_log", KinesisShards::OfLog), ("all", KinesisShards::All)]);
    options
        .with(
            "start",
            start(),
            "reading: where the first event is looked for: at the oldest record, at a time, or in what comes",
            |settings| &mut settings.source.start,
        )
        .with("shards", shards, "reading: the shards that may hold the log, or all", |settings| {
            &mut settings.source.shards
        })
        .with(
            "unnamed",
            unnamed,
            "reading: what is made of events whose records do not name the event before, as other producers write",
            |settings| &mut settings.source.unnamed,
        )
        .with(
            "enhanced_fan_out",
            text("NAME").or("none"),
            "following: the registered consumer to subscribe as (enhanced fan-out, at a price)",
            |settings| &mut settings.source.enhanced_fan_out,
        )
        .with("poll_interval", interval(), "reading: the time between two requests to one shard", |settings| {
            &mut settings.source.poll_interval
        })
        .with("settle", interval(), "reading: how long a record that was acknowledged may still be invisible", |settings| {
            &mut settings.source.settle
        })
}

fn start() -> Kind<KinesisStart> {
    let read = |text: &str| match text {
        "trim_horizon" => Ok(KinesisStart::TrimHorizon),
        "latest" => Ok(KinesisStart::Latest),
        time => {
            time.parse::<Timestamp>().map(|time| KinesisStart::At(SystemTime::from(time))).map_err(|_| {
                format!("`{time}` is none of trim_horizon, latest or a time like 2026-01-05T09:00:00Z")
            })
        }
    };
    Kind::new("trim_horizon|latest|TIME", read, |start| match start {
        KinesisStart::Latest => "latest".to_owned(),
        KinesisStart::At(time) => {
            Timestamp::try_from(*time).map_or_else(|_| "TIME".to_owned(), |time| time.to_string())
        }
        _ => "trim_horizon".to_owned(),
    })
}

fn parse(target: &str, query: &Query) -> Parsed<Arc<dyn Place>> {
    let target = percent_decode(target)?;
    let stream = target.strip_prefix("//").unwrap_or(&target).trim_end_matches('/');
    if stream.is_empty()
        || stream.contains(|letter: char| !letter.is_ascii_alphanumeric() && !"_.-".contains(letter))
    {
        return Err(format!(
            "`{stream}` is no stream; write kinesis://STREAM?log=NAME, a server as endpoint=URL, and give credentials \
             as the SDK takes them, for example AWS_ACCESS_KEY_ID"
        ));
    }
    let mut settings = options().apply(query)?;
    let log = settings.log.take().ok_or("it names no log; a stream holds many: add log=NAME")?;
    settings.sink.explicit_hash_key = settings.hash_key;
    if let Some(key) = settings.hash_key {
        if settings.source.shards == KinesisShards::All {
            return Err("`explicit_hash_key` and `shards=all` exclude each other; drop one".to_owned());
        }
        settings.source.shards = KinesisShards::OfHashKey(key);
    }
    settings.source.event_bytes_max = settings.source.event_bytes_max.max(settings.sink.event_bytes_max);
    let stream = stream.to_owned();
    Ok(Arc::new(KinesisPlace { stream, log, settings }))
}

#[derive(Debug)]
struct KinesisPlace {
    stream: String,
    log: String,
    settings: Settings,
}

impl KinesisPlace {
    fn client(&self) -> ClientOptions {
        let Aws { endpoint, region, profile, role } = self.settings.aws.clone();
        let mut options = ClientOptions::default();
        (options.endpoint, options.region, options.profile, options.role) = (endpoint, region, profile, role);
        options
    }

    async fn reader(&self, options: KinesisSourceOptions) -> Result<KinesisSource> {
        let client = hydrant_kinesis::connect(&self.client()).await?;
        KinesisSource::open(client, &self.stream, &self.log, options).await
    }

    async fn writer(&self, options: KinesisSinkOptions) -> Result<KinesisSink> {
        let client = hydrant_kinesis::connect(&self.client()).await?;
        KinesisSink::open(client, &self.stream, &self.log, options).await
    }
}

#[async_trait]
impl Place for KinesisPlace {
    fn target(&self) -> String {
        let mut target = format!("kinesis://{}?log={}", self.stream, percent_encode(&self.log));
        let Aws { endpoint, region, .. } = &self.settings.aws;
        for (name, value) in [("endpoint", endpoint), ("region", region)] {
            if let Some(value) = value {
                target.extend(["&", name, "=", &percent_encode(value)]);
            }
        }
        target
    }

    fn reads(&self) -> Reads {
        Reads::Again
    }

    fn has_memory(&self) -> bool {
        true
    }

    async fn must_hold_a_log(&self) -> Result<()> {
        self.reader(self.settings.source.clone()).await?; // which says so where there is no stream
        if self.head().await?.is_some() {
            return Ok(());
        }
        let message =
            format!("the stream keeps nothing of a log `{}`; check stream, log=NAME and endpoint", self.log);
        Err(Error::new(ErrorKind::Unavailable, Retry::Never, message).at_target(self.target()))
    }

    async fn source(&self) -> Result<Arc<dyn EventSource>> {
        Ok(Arc::new(self.reader(self.settings.source.clone()).await?))
    }

    async fn sink(&self, keeper: Option<Keeper>) -> Result<OpenSink> {
        let options = self.settings.sink.clone();
        let sink = match keeper {
            Some(Keeper { store, name }) => self.writer(options.with_checkpoints(store, name)).await?,
            None => self.writer(options).await?,
        };
        let sink = Arc::new(sink);
        let closing = sink.clone();
        Ok(OpenSink { sink, closing: Box::pin(async move { closing.close().await }) })
    }

    /// Looks back from the end of the shard that the log is written to, which is quicker than reading all of it. Where
    /// it may lie in any shard, all of them are read.
    async fn head(&self) -> Result<Option<EventId>> {
        if self.settings.source.shards == KinesisShards::All {
            let everything = self.settings.source.clone().with_start(KinesisStart::TrimHorizon);
            return Ok(self.reader(everything).await?.checkpoint().await?.id());
        }
        let writer = self.writer(self.settings.sink.clone()).await?;
        let head = writer.checkpoint().await;
        writer.close().await?;
        Ok(head?.id())
    }

    async fn left_over(&self) -> Result<Option<Error>> {
        Ok(None)
    }

    async fn verify(&self) -> Result<Findings> {
        Ok(by_reading(self.target(), self.source().await?))
    }

    async fn repair(&self) -> Result<Vec<Finding>> {
        let message = "what stands in a stream cannot be changed; copy the log anew, from where it is whole, under \
                       another log=NAME";
        Err(Error::new(ErrorKind::Unsupported, Retry::Never, message).at_target(self.target()))
    }

    async fn status(&self) -> Result<StoreStatus> {
        StoreStatus::by_reading(self.target(), &*self.source().await?).await
    }
}
