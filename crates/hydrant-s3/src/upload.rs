//! Uploads in parts: an object that is too large for one request.
//!
//! The parts are nothing until the upload is completed, and that is under the same condition as a PUT: so a
//! large object is there as a whole or not at all, and of two writers of one key one wins.

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::types::{
    ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart, ObjectCannedAcl, ServerSideEncryption,
    StorageClass,
};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use hydrant::{Error, Result};
use tokio::sync::OnceCell;
use tokio::time::{Instant, timeout, timeout_at};

use crate::bucket::{Bucket, Condition, Put, code, status};
use crate::error::{Request, elapsed, is_not_implemented, sdk_error};
use crate::options::Encryption;
use crate::probe;
use crate::wire::Metadata;

/// S3 takes no smaller parts, but for the last.
const PART_BYTES_MIN: usize = 5 << 20;

/// S3 takes no more parts.
const PARTS_MAX: usize = 10_000;

/// Parts on their way at the same time.
const PARTS_AT_ONCE: usize = 4;

/// How long an abort may take; what is not aborted is left to a lifecycle rule.
const ABORT_TIMEOUT: Duration = Duration::from_secs(5);

/// Whether the server holds to conditions when an upload is completed, each found out when it is needed first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Parts(Arc<[OnceCell<bool>; 2]>);

impl Parts {
    /// Returns whether an object may be uploaded in parts on this condition. Servers may know it for a PUT alone: then
    /// a PUT it is, as large as that takes.
    pub(crate) async fn are_conditional(&self, bucket: &Bucket, on: Condition<'_>) -> Result<bool> {
        let [free, unchanged] = &*self.0;
        let (known, probed) = match on {
            Condition::None => return Ok(true),
            Condition::Free => (free, Condition::Free),
            Condition::Unchanged(_) => (unchanged, Condition::Unchanged(probe::NEVER)),
        };
        // It is about the probe: nothing of the log was done.
        let known = known.get_or_try_init(|| Box::pin(is_conditional(bucket, probed))).await;
        known.copied().map_err(Error::nothing_applied)
    }
}

/// Tries to complete an upload at the key of the probe, or in place of a version that it never had.
async fn is_conditional(bucket: &Bucket, on: Condition<'_>) -> Result<bool> {
    let deadline = Instant::now() + bucket.options.append_timeout;
    let key = bucket.keys.beside(probe::NAME);
    let body = Bytes::from_static(
        b"Uploaded in parts on a condition that does not hold, to see whether the server refuses it.\n",
    );
    // A PUT that is refused, or makes the object that was missing.
    bucket.put_whole(&key, Metadata::new(), body.clone(), Condition::Free, deadline).await?;
    let is_conditional = match upload(bucket, &key, Metadata::new(), body, on, deadline).await {
        Ok(put) => put == Put::Refused,
        // Uploads on a condition, or uploads at all.
        Err(error) if is_not_implemented(&error) => false,
        Err(error) => return Err(error),
    };
    if !is_conditional {
        tracing::warn!(
            bucket = bucket.name,
            "the server ignores the conditions of uploads in parts; large objects are put in one request"
        );
    }
    Ok(is_conditional)
}

/// Writes an object in parts, once: what failed is not tried again here, but for what the SDK tries with parts.
///
/// # Errors
/// `AfterCheckpoint` where it may have been done.
///
/// # Cancel safety
/// A dropped future leaves the object or none. A separate task aborts the upload, if the runtime continues.
pub(crate) async fn upload(
    bucket: &Bucket,
    key: &str,
    metadata: Metadata,
    body: Bytes,
    on: Condition<'_>,
    deadline: Instant,
) -> Result<Put> {
    let target = bucket.url(key);
    let late = |cause| elapsed(&target, Request::Read, cause);
    let begun = Box::pin(create(bucket, key, metadata));
    let upload = timeout_at(deadline, begun).await.map_err(late)??;
    let parts = timeout_at(deadline, send_parts(bucket, &upload, body)).await;
    let parts = match parts.map_err(late).and_then(|parts| parts) {
        Ok(parts) => parts,
        // Nothing was written, and now nothing can be.
        Err(error) => {
            upload.abort().await;
            return Err(error);
        }
    };
    let completed = Box::pin(complete(bucket, &upload, parts, on, deadline)).await;
    match completed {
        Ok(Put::Done(_)) => upload.forget(),
        // Refused, or the answer is missing: what was not completed until now never will be.
        _ => upload.abort().await,
    }
    completed
}

/// An upload that is not completed yet. Dropped, it is aborted, as far as possible.
struct Unfinished {
    client: Client,
    bucket: String,
    key: String,
    target: String,
    id: Option<String>,
}

impl Unfinished {
    fn forget(mut self) {
        self.id = None;
    }

    async fn abort(mut self) {
        if let Some(id) = self.id.take() {
            abort(self.client.clone(), self.bucket.clone(), self.key.clone(), id).await;
        }
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let (Some(id), Ok(runtime)) = (self.id.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(abort(self.client.clone(), self.bucket.clone(), self.key.clone(), id));
        }
    }
}

async fn abort(client: Client, bucket: String, key: String, id: String) {
    let request = client.abort_multipart_upload().bucket(bucket).key(&key).upload_id(id).send();
    if !matches!(timeout(ABORT_TIMEOUT, Box::pin(request)).await, Ok(Ok(_))) {
        tracing::debug!(key, "an upload could not be aborted; a lifecycle rule removes what it holds");
    }
}

async fn create(bucket: &Bucket, key: &str, metadata: Metadata) -> Result<Unfinished> {
    let options = &bucket.options;
    let create = bucket
        .client
        .create_multipart_upload()
        .bucket(&bucket.name)
        .key(key)
        .set_metadata(Some(metadata))
        // Some servers refuse parts with a checksum that was not announced.
        .checksum_algorithm(ChecksumAlgorithm::Crc32)
        .set_storage_class(options.storage_class.as_deref().map(StorageClass::from))
        .set_acl(options.acl.as_deref().map(ObjectCannedAcl::from))
        .set_tagging(bucket.tagging());
    let create = match &options.encryption {
        Encryption::Bucket => create,
        Encryption::S3 => create.server_side_encryption(ServerSideEncryption::Aes256),
        Encryption::Kms(key) => {
            create.server_side_encryption(ServerSideEncryption::AwsKms).set_ssekms_key_id(key.clone())
        }
    };
    let target = bucket.url(key);
    // An upload that was begun without an answer is no object: to begin another is safe.
    let created = create.send().await.map_err(|cause| sdk_error(&target, Request::Read, cause))?;
    let id = created.upload_id.ok_or_else(|| {
        let message = "the server began an upload and did not name it; check that the endpoint speaks S3";
        Error::unavailable(message).at_target(&target)
    })?;
    let (client, bucket) = (bucket.client.clone(), bucket.name.clone());
    Ok(Unfinished { client, bucket, key: key.to_owned(), target, id: Some(id) })
}

async fn send_parts(bucket: &Bucket, upload: &Unfinished, body: Bytes) -> Result<Vec<CompletedPart>> {
    let part_bytes = PART_BYTES_MIN.max(body.len().div_ceil(PARTS_MAX));
    let count = body.len().div_ceil(part_bytes);
    let parts = (0..count).map(|at| {
        let end = body.len().min((at + 1) * part_bytes);
        (at + 1, body.slice(at * part_bytes..end))
    });
    let send = |(number, part): (usize, Bytes)| Box::pin(send_part(bucket, upload, number, part));
    stream::iter(parts).map(send).buffered(PARTS_AT_ONCE).try_collect().await
}

async fn send_part(
    bucket: &Bucket,
    upload: &Unfinished,
    number: usize,
    part: Bytes,
) -> Result<CompletedPart> {
    let number = i32::try_from(number).expect("no more than 10,000 parts");
    let request = bucket
        .client
        .upload_part()
        .bucket(&upload.bucket)
        .key(&upload.key)
        .set_upload_id(upload.id.clone())
        .part_number(number)
        .checksum_algorithm(ChecksumAlgorithm::Crc32)
        .body(part.into());
    let answer = bucket.bounded(&upload.target, request.send()).await?;
    let sent = answer.map_err(|cause| sdk_error(&upload.target, Request::Read, cause))?;
    Ok(CompletedPart::builder()
        .part_number(number)
        .set_e_tag(sent.e_tag)
        .set_checksum_crc32(sent.checksum_crc32)
        .build())
}

async fn complete(
    bucket: &Bucket,
    upload: &Unfinished,
    parts: Vec<CompletedPart>,
    on: Condition<'_>,
    deadline: Instant,
) -> Result<Put> {
    let complete = bucket
        .once
        .complete_multipart_upload()
        .bucket(&upload.bucket)
        .key(&upload.key)
        .set_upload_id(upload.id.clone())
        .multipart_upload(CompletedMultipartUpload::builder().set_parts(Some(parts)).build());
    let complete = match on {
        Condition::Free => complete.if_none_match("*"),
        Condition::Unchanged(etag) => complete.if_match(etag),
        Condition::None => complete,
    };
    let answer = timeout_at(deadline, complete.send())
        .await
        .map_err(|cause| elapsed(&upload.target, Request::Write, cause))?;
    match answer {
        Ok(done) => Ok(Put::Done(done.e_tag.unwrap_or_default())),
        // Also behind a 200, which is sent before the server has looked.
        Err(cause) if status(&cause) == Some(412) || code(&cause) == Some("PreconditionFailed") => {
            Ok(Put::Refused)
        }
        Err(cause) if matches!(on, Condition::Unchanged(_)) && code(&cause) == Some("NoSuchKey") => {
            Ok(Put::Refused)
        }
        // It may be gone because it was completed, by a gateway that sent this twice.
        Err(cause) if code(&cause) == Some("NoSuchUpload") => {
            Err(sdk_error(&upload.target, Request::Write, cause).maybe_applied())
        }
        Err(cause) => Err(sdk_error(&upload.target, Request::Write, cause)),
    }
}
