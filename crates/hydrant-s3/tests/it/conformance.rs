//! The laws, against a server with conditional writes.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use futures_util::TryStreamExt;
use hydrant::{Batch, Capabilities, Event, EventSink, Result};
use hydrant_conformance::{Damage, Harness, Limits, Opened};
use hydrant_s3::{
    Encoding, FindingStream, S3Checkpoints, S3CheckpointsOptions, S3Source, S3Store, S3StoreOptions, connect,
    verify,
};

use crate::faults::{Fault, Faults, Kind};
use crate::support::{Place, objects, remove, shared};

/// Logs under prefixes of a bucket, each handle with a client of its own.
struct InBucket {
    options: S3StoreOptions,
    events_max: usize,
    /// The faults of the handle that was opened last.
    faults: Mutex<HashMap<String, Faults>>,
}

impl InBucket {
    fn new(options: S3StoreOptions, events_max: usize) -> Self {
        // A follower lists the bucket once its view is this old, and so finds that the log got shorter.
        let options = options.with_view_age_max(Duration::from_secs(1));
        let options = options.with_poll_interval(Duration::from_millis(5)).with_request_timeout(REQUEST_MAX);
        Self { options, events_max, faults: Mutex::default() }
    }

    fn faults(&self, namespace: &str) -> Faults {
        self.faults.lock().unwrap()[namespace].clone()
    }
}

/// What a verification finds, as text.
async fn findings(found: FindingStream) -> Result<Vec<String>> {
    let found: Vec<_> = found.try_collect().await?;
    Ok(found.iter().map(ToString::to_string).collect())
}

fn place() -> Place {
    shared().expect("the kit asked whether it is there")
}

/// How long a case may take: a server on a busy machine gets more patience than a store in the process.
const PATIENCE: Duration = Duration::from_mins(5);

/// How long a request may take on a busy machine: less than the kit allows for a call.
const REQUEST_MAX: Duration = Duration::from_secs(40);

/// A client with long time-outs.
async fn client(place: &Place) -> Client {
    connect(&place.options().with_attempt_timeout(REQUEST_MAX)).await.unwrap()
}

#[async_trait::async_trait]
impl Harness for InBucket {
    fn capabilities(&self) -> Capabilities {
        S3Store::CAPABILITIES
    }

    fn limits(&self) -> Limits {
        Limits::default().with_events_max(self.events_max).with_patience(PATIENCE)
    }

    fn unavailable(&self) -> Option<String> {
        shared().err()
    }

    async fn open(&self, namespace: &str) -> Result<Opened> {
        let place = place();
        let faults = Faults::new().without_pool();
        let client = faults.on(&client(&place).await);
        self.faults.lock().unwrap().insert(namespace.to_owned(), faults.clone());
        let options = self.options.clone().with_event_bytes_max(self.limits().event_bytes_max);
        let prefix = format!("{}/{namespace}", place.prefix);
        let store = S3Store::open(client, &place.bucket, &prefix, options).await?;
        let (closing, verifying) = (store.clone(), store.clone());
        Ok(Opened::primary(store)
            .verified_by(move || findings(verifying.verify()))
            .closed_by(async move { closing.close().await })
            .crashed_by(async move {
                faults.crash().await;
                Ok(())
            }))
    }

    async fn remove(&self, prefix: &str) -> Result<()> {
        let place = place();
        remove(&client(&place).await, &place.bucket, &format!("{}/{prefix}", place.prefix)).await;
        Ok(())
    }

    async fn damage(&self, namespace: &str, damage: Damage) -> Result<bool> {
        let place = place();
        let client = client(&place).await;
        let log = format!("{}/{namespace}/log/", place.prefix);
        let all = objects(&client, &place.bucket, &log).await;
        match damage {
            Damage::Inside => {
                let key = all[all.len() / 2].key().unwrap();
                let got = client.get_object().bucket(&place.bucket).key(key).send().await.unwrap();
                let metadata = got.metadata().cloned();
                let mut body = got.body.collect().await.unwrap().to_vec();
                let middle = body.len() / 2;
                body[middle] ^= 1;
                let put = client.put_object().bucket(&place.bucket).key(key).set_metadata(metadata);
                put.body(ByteStream::from(body)).send().await.unwrap();
            }
            // What a killed writer leaves of a large object: parts of an upload that was not completed.
            Damage::TornTail => {
                let key = format!("{log}{:020}", 59);
                let begun =
                    client.create_multipart_upload().bucket(&place.bucket).key(&key).send().await.unwrap();
                let part = client.upload_part().bucket(&place.bucket).key(&key).part_number(1);
                let part =
                    part.set_upload_id(begun.upload_id).body(ByteStream::from_static(b"{\"eventId\":60"));
                part.send().await.unwrap();
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    async fn replace(&self, namespace: &str, events: &[Event]) -> Result<bool> {
        let place = place();
        let (client, prefix) = (client(&place).await, format!("{}/{namespace}", place.prefix));
        remove(&client, &place.bucket, &format!("{prefix}/log/")).await;
        let store = S3Store::open(client, &place.bucket, &prefix, self.options.clone()).await?;
        store.append(Batch::new(None, events)?).await?;
        store.close().await?;
        Ok(true)
    }

    fn unfired(&self, namespace: &str) -> Vec<String> {
        self.faults(namespace).unfired()
    }

    async fn delay(&self, namespace: &str, delay: Duration) -> Result<bool> {
        self.faults(namespace).delay(delay);
        Ok(true)
    }

    async fn heal(&self, namespace: &str) -> Result<()> {
        self.faults(namespace).heal();
        Ok(())
    }

    async fn fail_next_write(&self, namespace: &str, n: usize) -> Result<bool> {
        let faults = self.faults(namespace);
        match n {
            0 => faults.next(Kind::Put, Fault::Cut),
            1 => faults.next(Kind::Put, Fault::LoseAnswer),
            2 => faults.next(Kind::Put, Fault::Answer(500, "InternalError")),
            3 => faults.next(Kind::Put, Fault::AnswerAfter(500, "InternalError")),
            4 => faults.next(Kind::Put, Fault::Answer(503, "SlowDown")),
            5 => faults.next(Kind::Put, Fault::AnswerAfter(503, "ServiceUnavailable")),
            6 => faults.next(Kind::Put, Fault::Answer(409, "ConditionalRequestConflict")),
            7 => faults.next(Kind::Put, Fault::Answer(403, "AccessDenied")),
            8 => faults.next(Kind::Put, Fault::Answer(400, "ExpiredToken")),
            9 => faults.next(Kind::Put, Fault::Answer(507, "InsufficientStorage")),
            10 => faults.next(Kind::Put, Fault::LandLater),
            // The write is applied, but the look at it fails, in all attempts of the SDK.
            11 => {
                faults.next(Kind::Put, Fault::LoseAnswer);
                (0..3).for_each(|_| faults.next(Kind::List, Fault::Answer(503, "SlowDown")));
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

mod compressed {
    use super::*;
    hydrant_conformance::store_suite!(InBucket::new(S3StoreOptions::default(), 50_000));
}

/// As plain lines, and with pages and bounds so small that each is reached.
mod plain_in_small_pages {
    use super::*;
    hydrant_conformance::store_suite!(InBucket::new(
        S3StoreOptions::default().with_encoding(Encoding::Plain).with_list_keys(3).with_prefetch(2, 4 << 10),
        2_000
    ));
}

/// A source with a client that may only read, beside the store that writes.
struct ReadAlone(InBucket);

#[async_trait::async_trait]
impl Harness for ReadAlone {
    fn capabilities(&self) -> Capabilities {
        Capabilities::SOURCE
    }

    fn limits(&self) -> Limits {
        self.0.limits()
    }

    fn unavailable(&self) -> Option<String> {
        self.0.unavailable()
    }

    async fn open(&self, namespace: &str) -> Result<Opened> {
        let place = place();
        let (prefix, options) = (format!("{}/{namespace}", place.prefix), self.0.options.clone());
        let writer = S3Store::open(
            client(&place).await,
            &place.bucket,
            &prefix,
            options.clone().with_event_bytes_max(self.limits().event_bytes_max),
        )
        .await?;
        let reader = reading(&place).await;
        let source = S3Source::open(reader.clone(), &place.bucket, &prefix, options.clone()).await?;
        let verified = move || findings(verify(reader.clone(), &place.bucket, &prefix, options.clone()));
        let opened = Opened::source(source, writer.clone()).verified_by(verified);
        Ok(opened.closed_by(async move { writer.close().await }))
    }

    async fn replace(&self, namespace: &str, events: &[Event]) -> Result<bool> {
        self.0.replace(namespace, events).await
    }

    async fn remove(&self, prefix: &str) -> Result<()> {
        self.0.remove(prefix).await
    }

    async fn damage(&self, namespace: &str, damage: Damage) -> Result<bool> {
        self.0.damage(namespace, damage).await
    }
}

/// A client that may only read.
async fn reading(place: &Place) -> Client {
    let faults = Faults::new().without_pool();
    faults.always(Kind::Put, Fault::Answer(403, "AccessDenied"));
    faults.always_also(Kind::Other, Fault::Answer(403, "AccessDenied"));
    faults.on(&client(place).await)
}

mod read_alone {
    use super::*;
    hydrant_conformance::source_suite!(ReadAlone(InBucket::new(S3StoreOptions::default(), 20_000)));
}

/// Checkpoints in a bucket, each handle with a client of its own.
struct Checkpoints;

#[async_trait::async_trait]
impl Harness for Checkpoints {
    fn capabilities(&self) -> Capabilities {
        Capabilities::NONE
    }

    fn limits(&self) -> Limits {
        Limits::default().with_patience(PATIENCE)
    }

    fn unavailable(&self) -> Option<String> {
        shared().err()
    }

    async fn open(&self, namespace: &str) -> Result<Opened> {
        let place = place();
        let (client, prefix) = (client(&place).await, format!("{}/{namespace}", place.prefix));
        let options = S3CheckpointsOptions::default();
        Ok(Opened::checkpoints(S3Checkpoints::open(client, &place.bucket, &prefix, options).await?))
    }

    async fn remove(&self, prefix: &str) -> Result<()> {
        let place = place();
        remove(&client(&place).await, &place.bucket, &format!("{}/{prefix}", place.prefix)).await;
        Ok(())
    }
}

mod checkpoints {
    use super::*;
    hydrant_conformance::checkpoints_suite!(Checkpoints);
}
