//! The laws, against a server with conditional writes.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use aws_sdk_s3::primitives::ByteStream;
use hydrant::{Capabilities, Result};
use hydrant_conformance::{Damage, Harness, Limits, Opened};
use hydrant_s3::{Encoding, S3Source, S3Store, S3StoreOptions};

use crate::faults::{Fault, Faults, Kind};
use crate::support::{Place, objects, remove, shared};

/// Logs under prefixes of a bucket, each handle with a client of its own.
struct InBucket {
    options: S3StoreOptions,
    events_max: usize,
    /// What is in the way of the handle that was opened last.
    faults: Mutex<HashMap<String, Faults>>,
}

impl InBucket {
    fn new(options: S3StoreOptions, events_max: usize) -> Self {
        let options = options.with_poll_interval(Duration::from_millis(5));
        Self { options, events_max, faults: Mutex::default() }
    }
}

fn place() -> Place {
    shared().expect("the kit asked whether it is there")
}

#[async_trait::async_trait]
impl Harness for InBucket {
    fn capabilities(&self) -> Capabilities {
        S3Store::CAPABILITIES
    }

    fn limits(&self) -> Limits {
        Limits::default().with_events_max(self.events_max).with_patience(Duration::from_mins(5))
    }

    fn unavailable(&self) -> Option<String> {
        shared().err()
    }

    async fn open(&self, namespace: &str) -> Result<Opened> {
        let place = place();
        let faults = Faults::new().without_pool();
        let client = faults.on(&place.client().await);
        self.faults.lock().unwrap().insert(namespace.to_owned(), faults.clone());
        let options = self.options.clone().with_event_bytes_max(self.limits().event_bytes_max);
        let prefix = format!("{}/{namespace}", place.prefix);
        let store = S3Store::open(client, &place.bucket, &prefix, options).await?;
        Ok(Opened::prunable(store.clone()).closed_by(async move { store.close().await }).crashed_by(
            async move {
                faults.crash().await;
                Ok(())
            },
        ))
    }

    async fn remove(&self, prefix: &str) -> Result<()> {
        let place = place();
        remove(&place.client().await, &place.bucket, &format!("{}/{prefix}", place.prefix)).await;
        Ok(())
    }

    async fn damage(&self, namespace: &str, damage: Damage) -> Result<bool> {
        let place = place();
        let client = place.client().await;
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
            // What a killed writer leaves of a large object: parts that nobody put together.
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

    async fn fail_next_write(&self, namespace: &str, n: usize) -> Result<bool> {
        let faults = self.faults.lock().unwrap()[namespace].clone();
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
            // Done, but the look at it fails, with all attempts of the SDK.
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

/// As plain lines, and with pages and bounds so small that each is met.
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
            place.client().await,
            &place.bucket,
            &prefix,
            options.clone().with_event_bytes_max(self.limits().event_bytes_max),
        )
        .await?;
        let source = S3Source::open(reading(&place).await, &place.bucket, &prefix, options).await?;
        Ok(Opened::source(source, writer.clone()).closed_by(async move { writer.close().await }))
    }

    async fn remove(&self, prefix: &str) -> Result<()> {
        self.0.remove(prefix).await
    }

    async fn damage(&self, namespace: &str, damage: Damage) -> Result<bool> {
        self.0.damage(namespace, damage).await
    }
}

/// A client with the right to read alone.
async fn reading(place: &Place) -> aws_sdk_s3::Client {
    let faults = Faults::new().without_pool();
    faults.always(Kind::Put, Fault::Answer(403, "AccessDenied"));
    faults.always_also(Kind::Other, Fault::Answer(403, "AccessDenied"));
    faults.on(&place.client().await)
}

mod read_alone {
    use super::*;
    hydrant_conformance::source_suite!(ReadAlone(InBucket::new(S3StoreOptions::default(), 20_000)));
}
