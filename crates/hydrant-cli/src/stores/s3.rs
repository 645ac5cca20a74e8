//! `s3://BUCKET/PREFIX`: a log as objects in a bucket.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::{StreamExt as _, TryStreamExt as _};
use hydrant::{Error, ErrorKind, EventId, EventSource, Result, Retry};
use hydrant_s3::{ClientOptions, CompactOptions, Encoding, Encryption, S3Source, S3Store, S3StoreOptions};
use tokio::sync::OnceCell;

use crate::options::{Kind, Options, bytes, duration, flag, interval, number, text};
use crate::stores::aws::Aws;
use crate::stores::{
    self, Compaction, Finding, Findings, Keeper, OpenSink, Place, Reads, Scheme, StoreStatus,
};
use crate::url::{Query, percent_decode, percent_encode};
use crate::values::Parsed;

/// The scheme `s3`.
pub(crate) const SCHEME: Scheme = Scheme {
    name: "s3",
    syntax: "s3://BUCKET[/PREFIX][?OPTION=VALUE&...]",
    about: "a log as objects in a bucket of S3, or a server that speaks like it; credentials by the SDK's chain",
    options: || options().rows(),
    parse,
};

/// Where the bucket is, and how the log in it is read and written.
#[derive(Clone, Debug, Default)]
struct Settings {
    aws: Aws,
    path_style: bool,
    store: S3StoreOptions,
}

fn options() -> Options<Settings> {
    let options = Aws::options(Options::<Settings>::new(), |settings| &mut settings.aws);
    options
        .with(
            "path_style",
            flag(),
            "whether the bucket stands in the path, as servers of another make mostly need it",
            |settings| &mut settings.path_style,
        )
        .with("create", flag(), "writing: whether a log that does not exist is begun", |settings| {
            &mut settings.store.create
        })
        .with("encoding", encoding(), "writing: how segments are stored; they are read either way", |settings| {
            &mut settings.store.encoding
        })
        .with("event_bytes_max", bytes(), "the largest event", |settings| &mut settings.store.event_bytes_max)
        .with("encryption", encryption(), "writing: the key that the server encrypts objects with", |settings| {
            &mut settings.store.encryption
        })
        .with("storage_class", text("NAME").or("as the bucket says"), "writing: the storage class of objects", |settings| {
            &mut settings.store.storage_class
        })
        .with("tags", tags(), "writing: tags of objects", |settings| &mut settings.store.tags)
        .with("acl", text("NAME").or("none is sent"), "writing: a canned ACL", |settings| &mut settings.store.acl)
        .with("multipart_bytes", bytes(), "writing: objects above this size are uploaded in parts", |settings| {
            &mut settings.store.multipart_bytes
        })
        .with("request_timeout", interval(), "how long one attempt of a request may take, its body included; a read may take three", |settings| {
            &mut settings.store.request_timeout
        })
        .with("append_timeout", interval(), "writing: how long an append may take", |settings| {
            &mut settings.store.append_timeout
        })
        .with(
            "view_age_max",
            duration(),
            "writing: for how long the end of the log is believed to be what was seen last",
            |settings| &mut settings.store.view_age_max,
        )
        .with("poll_interval", interval(), "following: how often to look for what another process wrote", |settings| {
            &mut settings.store.poll_interval
        })
        .with("prefetch_objects", number(), "reading: how many objects are fetched ahead", |settings| {
            &mut settings.store.prefetch_objects
        })
        .with(
            "unsafe_single_writer",
            flag(),
            "whether a server that ignores conditional writes will do: nothing but you keeps two writers apart then, and nothing is compacted or pruned",
            |settings| &mut settings.store.unsafe_single_writer,
        )
}

fn encoding() -> Kind<Encoding> {
    let read = |text: &str| match text.split_once(':') {
        None if text == "plain" => Ok(Encoding::Plain),
        None if text == "zstd" => Ok(Encoding::Zstd { level: 3 }),
        Some(("zstd", level)) => level
            .parse()
            .ok()
            .filter(|level| (1..=22).contains(level))
            .map(|level| Encoding::Zstd { level })
            .ok_or_else(|| format!("`{level}` is no level of compression; take 1, quick, to 22, small")),
        _ => Err(format!("`{text}` is none of plain, zstd, zstd:LEVEL")),
    };
    Kind::new("plain|zstd|zstd:LEVEL", read, |encoding| match encoding {
        Encoding::Zstd { level } => format!("zstd:{level}"),
        _ => "plain".to_owned(),
    })
}

fn encryption() -> Kind<Encryption> {
    let read = |text: &str| match text.split_once(':') {
        None if text == "bucket" => Ok(Encryption::Bucket),
        None if text == "s3" => Ok(Encryption::S3),
        None if text == "kms" => Ok(Encryption::Kms(None)),
        Some(("kms", key)) if !key.is_empty() => Ok(Encryption::Kms(Some(key.to_owned()))),
        _ => Err(format!("`{text}` is none of bucket, s3, kms, kms:KEY")),
    };
    Kind::new("bucket|s3|kms|kms:KEY", read, |encryption| match encryption {
        Encryption::S3 => "s3".to_owned(),
        Encryption::Kms(None) => "kms".to_owned(),
        Encryption::Kms(Some(key)) => format!("kms:{key}"),
        _ => "bucket".to_owned(),
    })
}

fn tags() -> Kind<Vec<(String, String)>> {
    let tag = |text: &str| match text.split_once(':') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("`{text}` is not NAME:VALUE")),
    };
    Kind::new(
        "NAME:VALUE,...",
        move |text| text.split(',').map(tag).collect(),
        |tags: &Vec<(String, String)>| {
            if tags.is_empty() {
                return "none".to_owned();
            }
            tags.iter().map(|(name, value)| format!("{name}:{value}")).collect::<Vec<_>>().join(",")
        },
    )
}

fn parse(target: &str, query: &Query) -> Parsed<Arc<dyn Place>> {
    let target = percent_decode(target)?;
    let rest = target.strip_prefix("//").unwrap_or(&target);
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    if bucket.is_empty() {
        return Err("it names no bucket; write s3://BUCKET/PREFIX".to_owned());
    }
    if bucket.contains(['@', ':', ' ']) {
        return Err(format!(
            "`{bucket}` is no bucket; write s3://BUCKET/PREFIX, a server as ?endpoint=URL, and give credentials as the \
             SDK takes them, for example AWS_ACCESS_KEY_ID"
        ));
    }
    let settings = options().apply(query)?;
    let (bucket, prefix) = (bucket.to_owned(), prefix.trim_matches('/').to_owned());
    Ok(Arc::new(S3Place { bucket, prefix, settings, reader: OnceCell::new() }))
}

#[derive(Debug)]
struct S3Place {
    bucket: String,
    prefix: String,
    settings: Settings,
    /// The handle that all reading shares.
    reader: OnceCell<S3Source>,
}

impl S3Place {
    fn client(&self) -> ClientOptions {
        let Aws { endpoint, region, profile, role } = self.settings.aws.clone();
        let mut options = ClientOptions::default().with_path_style(self.settings.path_style);
        (options.endpoint, options.region, options.profile, options.role) = (endpoint, region, profile, role);
        options
    }

    async fn open(&self) -> Result<S3Store> {
        let client = hydrant_s3::connect(&self.client()).await?;
        S3Store::open(client, &self.bucket, &self.prefix, self.settings.store.clone()).await
    }

    /// It writes nothing: who may only read can.
    async fn reader(&self) -> Result<&S3Source> {
        let open = async || {
            let client = hydrant_s3::connect(&self.client()).await?;
            S3Source::open(client, &self.bucket, &self.prefix, self.settings.store.clone()).await
        };
        self.reader.get_or_try_init(open).await
    }
}

#[async_trait]
impl Place for S3Place {
    fn target(&self) -> String {
        let slash = if self.prefix.is_empty() { "" } else { "/" };
        let target = format!("s3://{}{slash}{}", self.bucket, percent_encode(&self.prefix));
        match &self.settings.aws.endpoint {
            Some(endpoint) => format!("{target}?endpoint={}", percent_encode(endpoint)),
            None => target,
        }
    }

    fn reads(&self) -> Reads {
        Reads::Again
    }

    fn has_memory(&self) -> bool {
        true
    }

    async fn must_hold_a_log(&self) -> Result<()> {
        if self.reader().await?.checkpoint().await?.id().is_some() {
            return Ok(());
        }
        let message = "there is no log under this prefix; check bucket, prefix and endpoint";
        Err(Error::new(ErrorKind::Unavailable, Retry::Never, message).at_target(self.target()))
    }

    async fn source(&self) -> Result<Arc<dyn EventSource>> {
        Ok(Arc::new(self.reader().await?.clone()))
    }

    async fn sink(&self, _: Option<Keeper>) -> Result<OpenSink> {
        let store = self.open().await?;
        let closing = store.clone();
        Ok(OpenSink { sink: Arc::new(store), closing: Box::pin(async move { closing.close().await }) })
    }

    async fn head(&self) -> Result<Option<EventId>> {
        Ok(self.reader().await?.checkpoint().await?.id())
    }

    async fn left_over(&self) -> Result<Option<Error>> {
        Ok(None)
    }

    async fn verify(&self) -> Result<Findings> {
        let (client, options) = (hydrant_s3::connect(&self.client()).await?, self.settings.store.clone());
        let findings = hydrant_s3::verify(client, &self.bucket, &self.prefix, options);
        let shown = |found: hydrant_s3::Finding| {
            let event = found.event.map(|id| format!("event {id}: ")).unwrap_or_default();
            let finding = Finding::new(found.object, format!("{event}{}", found.what));
            Finding { line: found.line, leftover: found.is_leftover, ..finding }
        };
        Ok(findings.map_ok(shown).boxed())
    }

    async fn repair(&self) -> Result<Vec<Finding>> {
        let message = "nothing is mended in a bucket, where other writers may be at work; copy the log anew, from \
                       where it is whole, under another prefix";
        Err(Error::new(ErrorKind::Unsupported, Retry::Never, message).at_target(self.target()))
    }

    async fn prune(&self, before: EventId) -> Result<()> {
        let store = self.open().await?;
        let pruned = stores::prune(store.clone(), before).await;
        store.close().await.and(pruned)
    }

    async fn compact(&self) -> Result<Compaction> {
        let store = self.open().await?;
        let report = store.compact(&CompactOptions::default()).await;
        store.close().await?;
        report.map(|report| Compaction {
            segments: report.segments,
            into: report.into,
            events: report.events,
        })
    }

    async fn status(&self) -> Result<StoreStatus> {
        StoreStatus::by_reading(self.target(), self.reader().await?).await
    }
}
