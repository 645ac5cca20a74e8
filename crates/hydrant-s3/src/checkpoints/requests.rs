//! The requests that checkpoints are made of.

use std::sync::{Mutex, PoisonError};

use aws_sdk_s3::types::ChecksumMode;
use hydrant::{CheckpointEntry, Error, Result};
use tokio::sync::OnceCell;
use tokio::time::Instant;

use super::content::{self, Content, encode_name};
use crate::bucket::{self, Bucket, Condition, code};
use crate::error::{Request, body_error, sdk_error};
use crate::probe;
use crate::wire::Metadata;

/// What S3 takes as a key.
const KEY_BYTES_MAX: usize = 1024;

/// Not an entry: its name begins with a dot.
const PROBE: &str = ".probe";

/// Where the entries are.
#[derive(Debug)]
pub(super) struct Requests {
    /// Under whose prefix an entry is the object with its encoded name.
    bucket: Bucket,
    /// Marks must differ from those of all other processes: seeded by the system, not by an option.
    marks: Mutex<fastrand::Rng>,
    probed: OnceCell<()>,
}

/// One version of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Version {
    Absent,
    Present { etag: String, content: Content },
}

impl Version {
    pub(super) fn entry(&self) -> Option<&CheckpointEntry> {
        match self {
            Self::Absent => None,
            Self::Present { content, .. } => content.entry.as_ref(),
        }
    }

    pub(super) fn into_entry(self) -> Option<CheckpointEntry> {
        match self {
            Self::Absent => None,
            Self::Present { content, .. } => content.entry,
        }
    }

    /// The mark of the swap that wrote it.
    pub(super) fn mark(&self) -> Option<&str> {
        match self {
            Self::Absent => None,
            Self::Present { content, .. } => Some(&content.swap),
        }
    }
}

/// The answer to a conditional write.
pub(super) enum Put {
    Done(Version),
    /// The object is no longer the version that it was to replace.
    Changed,
}

impl Requests {
    pub(super) fn new(bucket: Bucket) -> Self {
        Self { bucket, marks: Mutex::new(fastrand::Rng::new()), probed: OnceCell::new() }
    }

    pub(super) fn target(&self, name: &str) -> String {
        self.url(&encode_name(name))
    }

    fn url(&self, encoded: &str) -> String {
        self.bucket.url(&self.key(encoded))
    }

    fn key(&self, encoded: &str) -> String {
        self.bucket.keys.beside(encoded)
    }

    pub(super) fn check(&self, name: &str) -> Result<()> {
        if self.key(&encode_name(name)).len() > KEY_BYTES_MAX {
            return Err(Error::invalid(format!(
                "a key of S3 has at most {KEY_BYTES_MAX} bytes, and this name needs more; shorten it"
            ))
            .at_target(name));
        }
        Ok(())
    }

    /// A mark that no other swap has.
    pub(super) fn mark(&self) -> String {
        let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        format!("{:032x}", marks.u128(..))
    }

    pub(super) async fn get(&self, name: &str) -> Result<Version> {
        self.get_encoded(&encode_name(name)).await
    }

    pub(super) async fn get_encoded(&self, encoded: &str) -> Result<Version> {
        let target = self.url(encoded);
        let whole = Box::pin(self.get_whole(encoded, &target));
        self.bucket.bounded(&target, whole).await?
    }

    async fn get_whole(&self, encoded: &str, target: &str) -> Result<Version> {
        let get = self.bucket.client.get_object().bucket(&self.bucket.name).key(self.key(encoded));
        let object = match get.checksum_mode(ChecksumMode::Enabled).send().await {
            Ok(object) => object,
            Err(cause) if code(&cause) == Some("NoSuchKey") => return Ok(Version::Absent),
            Err(cause) => return Err(sdk_error(target, Request::Read, cause)),
        };
        let etag = object.e_tag().unwrap_or_default().to_owned();
        if usize::try_from(object.content_length().unwrap_or_default())
            .is_ok_and(|len| len > content::BYTES_MAX)
        {
            return Err(content::damaged("this is not a checkpoint: it is too large").at_target(target));
        }
        let bytes = object.body.collect().await.map_err(|cause| body_error(target, cause))?.into_bytes();
        let content = content::decode(&bytes, encoded).map_err(|error| error.at_target(target))?;
        Ok(Version::Present { etag, content })
    }

    /// Replaces `old`, if it still is there.
    pub(super) async fn put(&self, name: &str, content: Content, old: &Version) -> Result<Put> {
        let encoded = encode_name(name);
        let body = content::encode(&content)?;
        match self.put_bytes(&encoded, body, old).await? {
            Some(etag) => Ok(Put::Done(Version::Present { etag, content })),
            None => Ok(Put::Changed),
        }
    }

    /// The entity tag of the version that it made; `None` where `old` is not there any more.
    async fn put_bytes(&self, encoded: &str, body: Vec<u8>, old: &Version) -> Result<Option<String>> {
        let on = match old {
            Version::Absent => Condition::Free,
            Version::Present { etag, .. } => Condition::Unchanged(etag),
        };
        let deadline = Instant::now() + self.bucket.options.request_timeout;
        let put =
            self.bucket.put_whole(&self.key(encoded), Metadata::new(), body.into(), on, deadline).await?;
        Ok(match put {
            bucket::Put::Done(etag) => Some(etag),
            bucket::Put::Refused => None,
        })
    }

    /// The encoded names of all entries.
    pub(super) async fn list(&self) -> Result<Vec<String>> {
        let (prefix, target) = (self.key(""), self.url(""));
        let pages = self.bucket.client.list_objects_v2().bucket(&self.bucket.name).prefix(&prefix);
        let mut pages = pages.into_paginator().send();
        let mut names = Vec::new();
        while let Some(page) = self.bucket.bounded(&target, pages.next()).await? {
            let page = page.map_err(|cause| sdk_error(&target, Request::Read, cause))?;
            let ours = |key: &str| {
                let name = key.strip_prefix(&prefix)?;
                (!name.starts_with('.') && !name.contains('/')).then(|| name.to_owned())
            };
            names.extend(page.contents().iter().filter_map(|object| ours(object.key()?)));
        }
        Ok(names)
    }

    /// Finds out, by trying once, whether the server holds to the conditions that swaps are made of.
    pub(super) async fn must_be_conditional(&self) -> Result<()> {
        self.probed.get_or_try_init(|| self.probe()).await.copied()
    }

    async fn probe(&self) -> Result<()> {
        let body = b"shows at open whether the server holds to conditional writes\n".to_vec();
        if self.put_bytes(PROBE, body.clone(), &Version::Absent).await?.is_some()
            && self.put_bytes(PROBE, body.clone(), &Version::Absent).await?.is_some()
        {
            return Err(self.unconditional("If-None-Match"));
        }
        let content = Content { entry: None, swap: String::new() };
        let never = Version::Present { etag: probe::NEVER.to_owned(), content };
        if self.put_bytes(PROBE, body, &never).await?.is_some() {
            return Err(self.unconditional("If-Match"));
        }
        Ok(())
    }

    fn unconditional(&self, header: &str) -> Error {
        let message = format!(
            "the server ignores `{header}`, so two runners of one sink could both move its checkpoint; take a \
             server with conditional writes, or keep checkpoints elsewhere"
        );
        Error::unsupported(message).at_target(self.url(""))
    }
}
