//! The requests that a store makes. Each is bounded in time, and classifies its errors.

use std::fmt::Write as _;
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{
    ChecksumAlgorithm, ChecksumMode, ObjectCannedAcl, ServerSideEncryption, StorageClass,
};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use bytes::Bytes;
use hydrant::{Error, Result};
use tokio::time::{Instant, timeout, timeout_at};

use crate::error::{Request, body_error, elapsed, sdk_error};
use crate::keys::{Keys, Place};
use crate::options::{Encryption, S3StoreOptions};
use crate::upload::{Parts, upload};
use crate::wire::{Metadata, Object};

/// A bucket, the keys of one log in it, and how objects are written there.
#[derive(Clone, Debug)]
pub(crate) struct Bucket {
    pub(crate) client: Client,
    /// The same client without the SDK's retries, for writes: behind these an attempt with an unknown outcome
    /// could hide.
    pub(crate) once: Client,
    pub(crate) name: String,
    pub(crate) keys: Keys,
    pub(crate) options: S3StoreOptions,
    /// Whether the server holds to the conditions of a PUT.
    pub(crate) is_conditional: bool,
    pub(crate) parts: Parts,
}

/// On what a PUT depends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition<'a> {
    /// That the key is free.
    Free,
    /// That the object is still the version with this entity tag.
    Unchanged(&'a str),
    /// On nothing: for servers that know no conditions.
    None,
}

/// What became of a conditional PUT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Put {
    /// It is done; the entity tag of the version that it made.
    Done(String),
    /// The condition does not hold: nothing was done.
    Refused,
}

/// What a HEAD returns.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) object: Object,
    pub(crate) etag: String,
}

/// An object and its bytes.
#[derive(Clone, Debug)]
pub(crate) struct Fetched {
    pub(crate) object: Object,
    pub(crate) etag: String,
    pub(crate) body: Bytes,
}

/// One line of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) place: Place,
    /// The bytes that are stored; a tombstone has none.
    pub(crate) size: u64,
}

/// Part of a listing, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Page {
    pub(crate) listed: Vec<Listed>,
    /// Whether there is more behind it.
    pub(crate) has_more: bool,
}

impl Bucket {
    /// The log under a prefix of a bucket, whose server is believed to hold to conditions.
    ///
    /// # Errors
    /// `Invalid` for options that cannot work, and a bucket without a name.
    pub(crate) fn new(client: Client, bucket: &str, prefix: &str, options: S3StoreOptions) -> Result<Self> {
        options.check()?;
        if bucket.is_empty() {
            return Err(Error::invalid("a bucket has a name, and this one is empty; say which bucket"));
        }
        let once = client.config().to_builder().retry_config(RetryConfig::disabled()).build();
        Ok(Self {
            client,
            once: Client::from_conf(once),
            name: bucket.to_owned(),
            keys: Keys::new(prefix),
            options,
            is_conditional: true,
            parts: Parts::default(),
        })
    }

    /// Checkpoints under a name beside the log, written as the log is, in the bucket's own storage class.
    pub(crate) fn for_checkpoints(&self, name: &str) -> Self {
        let options = S3StoreOptions { storage_class: None, ..self.options.clone() };
        Self { keys: Keys::new(&self.keys.beside(name)), options, ..self.clone() }
    }

    /// What errors name: `s3://bucket/key`.
    pub(crate) fn url(&self, key: &str) -> String {
        format!("s3://{}/{key}", self.name)
    }

    /// Returns the URL of the object at a place, for errors.
    pub(crate) fn url_at(&self, place: Place) -> String {
        self.url(&self.keys.at(place))
    }

    /// What the object at a place is; `None` where the key is free.
    pub(crate) async fn head(&self, place: Place) -> Result<Option<Found>> {
        let key = self.keys.at(place);
        let target = self.url(&key);
        let request = self.client.head_object().bucket(&self.name).key(key).send();
        let answer = self.bounded(&target, request).await?;
        match answer {
            Ok(head) => {
                let object = object(&target, head.metadata)?;
                Ok(Some(Found { object, etag: head.e_tag.unwrap_or_default() }))
            }
            Err(cause) if status(&cause) == Some(404) => Ok(None),
            Err(cause) => Err(sdk_error(&target, Request::Read, cause)),
        }
    }

    /// The object at a place with its bytes, checked against S3's own checksum; `None` where the key is free.
    pub(crate) async fn get(&self, place: Place) -> Result<Option<Fetched>> {
        let key = self.keys.at(place);
        let target = self.url(&key);
        let send =
            self.client.get_object().bucket(&self.name).key(key).checksum_mode(ChecksumMode::Enabled).send();
        let whole = async {
            let answer = match send.await {
                Ok(answer) => answer,
                Err(cause) if code(&cause) == Some("NoSuchKey") => return Ok(None),
                Err(cause) => return Err(sdk_error(&target, Request::Read, cause)),
            };
            let object = object(&target, answer.metadata)?;
            let etag = answer.e_tag.unwrap_or_default();
            let body = answer.body.collect().await.map_err(|cause| body_error(&target, cause))?.into_bytes();
            Ok(Some(Fetched { object, etag, body }))
        };
        self.bounded(&target, Box::pin(whole)).await?
    }

    /// Up to `keys` objects from a place on, in order: at least one, unless there is none.
    pub(crate) async fn list(&self, from: Place, keys: u16) -> Result<Page> {
        let log = self.keys.log();
        let target = self.url(&log);
        // What is behind all ids is not ours, and nothing of ours is behind it.
        let beyond = format!("{log}:");
        let mut before = self.keys.before(from);
        loop {
            let request = self
                .client
                .list_objects_v2()
                .bucket(&self.name)
                .prefix(&log)
                .set_start_after(before)
                .max_keys(i32::from(keys))
                .send();
            let answer = self.bounded(&target, request).await?;
            let answer = answer.map_err(|cause| sdk_error(&target, Request::Read, cause))?;
            let contents = answer.contents.unwrap_or_default();
            let ours = |object: &aws_sdk_s3::types::Object| {
                let place = self.keys.place(object.key()?)?;
                let size = object.size().and_then(|size| u64::try_from(size).ok()).unwrap_or(0);
                Some(Listed { place, size })
            };
            let listed: Vec<_> = contents.iter().filter_map(ours).collect();
            let last = contents.last().and_then(|object| object.key()).filter(|last| **last < *beyond);
            let has_more = answer.is_truncated.unwrap_or(false) && last.is_some();
            if !listed.is_empty() || !has_more {
                return Ok(Page { listed, has_more });
            }
            // A page of names that are not ours: the next may be.
            before = last.map(str::to_owned);
        }
    }

    /// Writes an object of the log, once: what failed is not tried again here.
    ///
    /// # Errors
    /// `AfterCheckpoint` where it may have been done, or be done yet.
    pub(crate) async fn put(
        &self,
        place: Place,
        object: &Object,
        body: Bytes,
        on: Condition<'_>,
        deadline: Instant,
    ) -> Result<Put> {
        self.put_key(&self.keys.at(place), object.to_metadata(), body, on, deadline).await
    }

    /// The same for any key.
    pub(crate) async fn put_key(
        &self,
        key: &str,
        metadata: Metadata,
        body: Bytes,
        on: Condition<'_>,
        deadline: Instant,
    ) -> Result<Put> {
        if body.len() > self.options.multipart_bytes && self.parts.are_conditional(self, on).await? {
            return upload(self, key, metadata, body, on, deadline).await;
        }
        self.put_whole(key, metadata, body, on, deadline).await
    }

    /// The same in one request, however large it is.
    pub(crate) async fn put_whole(
        &self,
        key: &str,
        metadata: Metadata,
        body: Bytes,
        on: Condition<'_>,
        deadline: Instant,
    ) -> Result<Put> {
        let target = self.url(key);
        // The cheaper classes bill a tombstone as if it were large.
        let class = self.options.storage_class.as_deref().filter(|_| !body.is_empty());
        let mut put = self
            .once
            .put_object()
            .bucket(&self.name)
            .key(key)
            .set_metadata(Some(metadata))
            .checksum_algorithm(ChecksumAlgorithm::Crc32)
            .set_storage_class(class.map(StorageClass::from))
            .set_acl(self.options.acl.as_deref().map(ObjectCannedAcl::from))
            .set_tagging(self.tagging())
            .body(ByteStream::from(body));
        put = match &self.options.encryption {
            Encryption::Bucket => put,
            Encryption::S3 => put.server_side_encryption(ServerSideEncryption::Aes256),
            Encryption::Kms(key) => {
                put.server_side_encryption(ServerSideEncryption::AwsKms).set_ssekms_key_id(key.clone())
            }
        };
        put = match on {
            Condition::Free => put.if_none_match("*"),
            Condition::Unchanged(etag) => put.if_match(etag),
            Condition::None => put,
        };
        let until = deadline.min(Instant::now() + self.options.request_timeout);
        let answer = timeout_at(until, Box::pin(put.send()))
            .await
            .map_err(|cause| elapsed(&target, Request::Write, cause))?;
        match answer {
            Ok(done) => Ok(Put::Done(done.e_tag.unwrap_or_default())),
            Err(cause) if status(&cause) == Some(412) => Ok(Put::Refused),
            // A key whose object is gone does not match, either.
            Err(cause) if matches!(on, Condition::Unchanged(_)) && code(&cause) == Some("NoSuchKey") => {
                Ok(Put::Refused)
            }
            Err(cause) => Err(sdk_error(&target, Request::Write, cause)),
        }
    }

    /// Waits for a request that only reads, with the SDK's attempts.
    pub(crate) async fn bounded<T>(&self, target: &str, request: impl Future<Output = T>) -> Result<T> {
        // The SDK's own attempts lie inside.
        let all = self.options.request_timeout.saturating_mul(SDK_ATTEMPTS);
        timeout(all, request).await.map_err(|cause| elapsed(target, Request::Read, cause))
    }

    /// Tags as a query, which is how the header wants them.
    pub(crate) fn tagging(&self) -> Option<String> {
        let encoded = |text: &str| {
            text.bytes().fold(String::new(), |mut out, byte| {
                if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
                    out.push(char::from(byte));
                } else {
                    write!(out, "%{byte:02X}").expect("a string takes everything");
                }
                out
            })
        };
        let tags = &self.options.tags;
        let pair = |(name, value): &(String, String)| format!("{}={}", encoded(name), encoded(value));
        (!tags.is_empty()).then(|| tags.iter().map(pair).collect::<Vec<_>>().join("&"))
    }
}

/// How many attempts of the SDK a request that only asks has time for.
const SDK_ATTEMPTS: u32 = 3;

fn object(target: &str, metadata: Option<Metadata>) -> Result<Object> {
    Object::from_metadata(&metadata.unwrap_or_default()).map_err(|error: Error| error.at_target(target))
}

pub(crate) fn status<E>(cause: &SdkError<E, HttpResponse>) -> Option<u16> {
    cause.raw_response().map(|raw| raw.status().as_u16())
}

pub(crate) fn code<E: ProvideErrorMetadata>(cause: &SdkError<E, HttpResponse>) -> Option<&str> {
    cause.as_service_error().and_then(ProvideErrorMetadata::code)
}

/// The time that is left until a deadline, where there is some.
pub(crate) fn left(deadline: Instant) -> Option<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    (!left.is_zero()).then_some(left)
}
