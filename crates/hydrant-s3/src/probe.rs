//! Whether a server holds to conditions, found out by trying.

use bytes::Bytes;
use hydrant::{Error, Result};
use tokio::time::Instant;

use crate::bucket::{Bucket, Condition, Put};
use crate::error::is_not_implemented;
use crate::wire::Metadata;

/// The object that stays behind, so that one request is enough from the second time on.
pub(crate) const NAME: &str = "probe";

/// The entity tag of a version that never was.
pub(crate) const NEVER: &str = "\"00000000000000000000000000000000\"";

/// Returns whether a second PUT with `If-None-Match: *` is refused, as the fence needs it.
///
/// # Errors
/// What the server answers otherwise: here wrong credentials and a missing bucket are found first.
pub(crate) async fn is_conditional(bucket: &Bucket) -> Result<bool> {
    // Of two handles that open at once either may make the object: from then on it is there.
    for _ in 0..2 {
        let deadline = Instant::now() + bucket.options.append_timeout;
        let key = bucket.keys.beside(NAME);
        let body =
            Bytes::from_static(b"Made with If-None-Match: * to see whether the server refuses it twice.\n");
        match bucket.put_key(&key, Metadata::new(), body, Condition::Free, deadline).await {
            Ok(Put::Refused) => return Ok(true),
            Ok(Put::Done(_)) => {}
            // Some say that they know no such condition. What they refuse otherwise (an ACL, a storage class) says
            // nothing of it.
            Err(error) if is_not_implemented(&error) => return Ok(false),
            // Whether the probe was put or not: nothing of the log was.
            Err(error) => return Err(error.nothing_applied()),
        }
    }
    Ok(false)
}

/// The answer to who would open a log where nothing keeps writers apart.
pub(crate) fn refusal(bucket: &Bucket) -> Error {
    let message = "the server ignores `If-None-Match`, so that two writers could overwrite each other: take one that \
                   holds to it, or, if you make sure of a single writer, set `unsafe_single_writer`";
    Error::unsupported(message).at_target(bucket.url(&bucket.keys.beside(NAME)))
}
