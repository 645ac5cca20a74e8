//! Settings of checkpoints in a bucket.

use std::time::Duration;

use crate::options::{Encryption, S3StoreOptions};

/// Settings of [`S3Checkpoints`](crate::S3Checkpoints).
///
/// There is no storage class: what is replaced all the time belongs in the bucket's standard one.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct S3CheckpointsOptions {
    /// Which key the server encrypts objects with. Default: as the bucket says.
    pub encryption: Encryption,
    /// Tags of objects, as names and values. Default: none.
    pub tags: Vec<(String, String)>,
    /// A canned ACL. Default: none is sent.
    pub acl: Option<String>,
    /// How long one attempt of a request may take, its body included; a read may take three. Default: 10 s.
    pub request_timeout: Duration,
}

impl Default for S3CheckpointsOptions {
    fn default() -> Self {
        let S3StoreOptions { encryption, tags, acl, request_timeout, .. } = S3StoreOptions::default();
        Self { encryption, tags, acl, request_timeout }
    }
}

impl S3CheckpointsOptions {
    /// Sets which key the server encrypts objects with.
    #[must_use]
    pub fn with_encryption(mut self, encryption: Encryption) -> Self {
        self.encryption = encryption;
        self
    }

    /// Adds a tag to objects.
    #[must_use]
    pub fn with_tag(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.tags.push((name.into(), value.into()));
        self
    }

    /// Sets the canned ACL of objects.
    #[must_use]
    pub fn with_acl(mut self, acl: impl Into<String>) -> Self {
        self.acl = Some(acl.into());
        self
    }

    /// Sets how long one attempt of a request may take, its body included.
    #[must_use]
    pub fn with_request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// The same for what makes the requests.
    pub(super) fn into_store(self) -> S3StoreOptions {
        let Self { encryption, tags, acl, request_timeout } = self;
        S3StoreOptions { encryption, tags, acl, request_timeout, ..S3StoreOptions::default() }
    }
}
