//! Settings of a store, with units and defaults.

use std::time::Duration;

use hydrant::{Clock, Error, Result};

/// How the lines of a segment are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Encoding {
    /// As they are: any tool reads them.
    Plain,
    /// Compressed by Zstandard, about a tenth of their size; `zstd -d` and most tools read them.
    Zstd {
        /// From 1, quick, to 22, small.
        level: i32,
    },
}

impl Encoding {
    pub(crate) fn is_zstd(self) -> bool {
        matches!(self, Self::Zstd { .. })
    }
}

/// Which key the server encrypts objects with.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Encryption {
    /// As the bucket says.
    Bucket,
    /// With keys of S3 itself (SSE-S3).
    S3,
    /// With a key of KMS (SSE-KMS): its id, ARN or alias, or the account's own where there is none.
    Kms(Option<String>),
}

/// Settings of an [`S3Store`](crate::S3Store).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct S3StoreOptions {
    /// Whether a log without any object is begun by [`S3Store::open`](crate::S3Store::open). With `false`, a wrong
    /// prefix or a bucket that lost its objects is not taken for a new log. Default: yes.
    pub create: bool,
    /// How segments are stored; reading takes both. Default: Zstandard, level 3.
    pub encoding: Encoding,
    /// The largest event accepted, in bytes of its envelope. Default: 64 MiB.
    pub event_bytes_max: usize,
    /// Which key the server encrypts objects with. Default: as the bucket says.
    pub encryption: Encryption,
    /// The storage class of objects, for example `STANDARD_IA`. Default: as the bucket says.
    pub storage_class: Option<String>,
    /// Tags of objects, as names and values. Default: none.
    pub tags: Vec<(String, String)>,
    /// A canned ACL, for example `bucket-owner-full-control`. Default: none is sent: buckets refuse them since
    /// 2023.
    pub acl: Option<String>,
    /// Objects above this many bytes are uploaded in parts. Default: 64 MiB.
    pub multipart_bytes: usize,
    /// How long one attempt of a request may take, its body included; a read may take three. Default: 10 s.
    ///
    /// What is larger than the network can carry in that time never arrives: raise it for large batches.
    pub request_timeout: Duration,
    /// How long an append may take, with all its attempts and the wait for its turn; a batch with an earlier deadline
    /// ends earlier. Default: 25 s, which is less than a fan-out waits.
    pub append_timeout: Duration,
    /// For how long a writer believes what it saw last to be the end of the log, before it looks again.
    /// Default: 1 min.
    pub view_age_max: Duration,
    /// How long what `prune` frees keeps a tombstone. Must be more than `view_age_max`, twice `append_timeout` and a
    /// second together, in all processes that write or prune one log. Default: 1 h.
    pub tombstones_kept: Duration,
    /// How often a follower looks for what another process wrote. Default: 1 s.
    pub poll_interval: Duration,
    /// How many objects a read fetches ahead. Default: 16.
    pub prefetch_objects: usize,
    /// How many bytes, as they are stored, a read fetches ahead. Default: 8 MiB.
    pub prefetch_bytes: u64,
    /// How many keys a listing asks for at a time, from 1 to 1,000. Default: 1,000.
    pub list_keys: u16,
    /// Whether a server is accepted that ignores conditional writes. Then nothing but you keeps two writers
    /// apart, one that crashed and its successor among them: let `append_timeout` pass between the two, and what the
    /// server may still hold back of a request. [`Capabilities::FENCING`](hydrant::Capabilities::FENCING) is not
    /// declared; to compact and to prune is `Unsupported`. Default: no.
    pub unsafe_single_writer: bool,
    /// What is added to waits at random follows from this. Default: chosen at random.
    pub seed: Option<u64>,
    /// The clock that, beside the runtime's own, says how old a view is: that one may stand still while the
    /// machine sleeps.
    pub clock: Clock,
}

impl Default for S3StoreOptions {
    fn default() -> Self {
        Self {
            create: true,
            encoding: Encoding::Zstd { level: 3 },
            event_bytes_max: 64 << 20,
            encryption: Encryption::Bucket,
            storage_class: None,
            tags: Vec::new(),
            acl: None,
            multipart_bytes: 64 << 20,
            request_timeout: Duration::from_secs(10),
            append_timeout: Duration::from_secs(25),
            view_age_max: Duration::from_mins(1),
            tombstones_kept: Duration::from_hours(1),
            poll_interval: Duration::from_secs(1),
            prefetch_objects: 16,
            prefetch_bytes: 8 << 20,
            list_keys: 1_000,
            unsafe_single_writer: false,
            seed: None,
            clock: Clock::system(),
        }
    }
}

impl S3StoreOptions {
    /// Sets whether a log without any object is begun.
    #[must_use]
    pub fn with_create(mut self, create: bool) -> Self {
        self.create = create;
        self
    }

    /// Sets how segments are stored.
    #[must_use]
    pub fn with_encoding(mut self, encoding: Encoding) -> Self {
        self.encoding = encoding;
        self
    }

    /// Sets the largest event accepted, in bytes of its envelope.
    #[must_use]
    pub fn with_event_bytes_max(mut self, bytes: usize) -> Self {
        self.event_bytes_max = bytes;
        self
    }

    /// Sets which key the server encrypts objects with.
    #[must_use]
    pub fn with_encryption(mut self, encryption: Encryption) -> Self {
        self.encryption = encryption;
        self
    }

    /// Sets the storage class of objects.
    #[must_use]
    pub fn with_storage_class(mut self, class: impl Into<String>) -> Self {
        self.storage_class = Some(class.into());
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

    /// Sets above how many bytes objects are uploaded in parts.
    #[must_use]
    pub fn with_multipart_bytes(mut self, bytes: usize) -> Self {
        self.multipart_bytes = bytes;
        self
    }

    /// Sets how long one request may take, its body included.
    #[must_use]
    pub fn with_request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// Sets how long an append may take, with all its attempts.
    #[must_use]
    pub fn with_append_timeout(mut self, timeout: Duration) -> Self {
        self.append_timeout = timeout;
        self
    }

    /// Sets for how long a writer believes what it saw last to be the end of the log.
    #[must_use]
    pub fn with_view_age_max(mut self, age: Duration) -> Self {
        self.view_age_max = age;
        self
    }

    /// Sets how long what `prune` frees keeps a tombstone.
    #[must_use]
    pub fn with_tombstones_kept(mut self, kept: Duration) -> Self {
        self.tombstones_kept = kept;
        self
    }

    /// Sets how often a follower looks for what another process wrote.
    #[must_use]
    pub fn with_poll_interval(mut self, interval: Duration) -> Self {
        self.poll_interval = interval;
        self
    }

    /// Sets how many objects, and how many bytes as they are stored, a read fetches ahead.
    #[must_use]
    pub fn with_prefetch(mut self, objects: usize, bytes: u64) -> Self {
        self.prefetch_objects = objects;
        self.prefetch_bytes = bytes;
        self
    }

    /// Sets how many keys a listing asks for at a time.
    #[must_use]
    pub fn with_list_keys(mut self, keys: u16) -> Self {
        self.list_keys = keys;
        self
    }

    /// Sets whether a server is accepted that ignores conditional writes.
    #[must_use]
    pub fn with_unsafe_single_writer(mut self, unsafe_single_writer: bool) -> Self {
        self.unsafe_single_writer = unsafe_single_writer;
        self
    }

    /// Sets what the random part of waits follows from.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Sets the clock that, beside the runtime's own, says how old a view is.
    #[must_use]
    pub fn with_clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// How old a view may be when a PUT that followed from it is believed.
    pub(crate) fn believed_for(&self) -> Duration {
        self.view_age_max + self.append_timeout
    }

    /// Refuses what cannot work, at open rather than at the first append.
    pub(crate) fn check(&self) -> Result<()> {
        let wrong = |what: &str| Err(Error::invalid(what));
        // An upload in parts bears the date of its beginning, and dates are in seconds.
        let backdated = self.append_timeout + Duration::from_secs(1);
        if self.tombstones_kept <= self.believed_for() + backdated {
            return wrong(
                "`tombstones_kept` must be more than `view_age_max`, twice `append_timeout` and a second together",
            );
        }
        if self.request_timeout.is_zero() || self.append_timeout.is_zero() {
            return wrong("a time-out of zero lets no request through");
        }
        if !(1..=1_000).contains(&self.list_keys) {
            return wrong("`list_keys` is from 1 to 1,000");
        }
        if self.poll_interval.is_zero() {
            return wrong("a `poll_interval` of zero never rests");
        }
        match self.encoding {
            Encoding::Zstd { level } if !zstd::compression_level_range().contains(&level) => {
                wrong("the level of `Encoding::Zstd` is from 1 to 22")
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_work_is_refused() {
        let options = S3StoreOptions::default;
        assert!(options().check().is_ok());
        for wrong in [
            options().with_tombstones_kept(Duration::from_secs(111)),
            options().with_request_timeout(Duration::ZERO),
            options().with_list_keys(0),
            options().with_list_keys(1_001),
            options().with_poll_interval(Duration::ZERO),
            options().with_encoding(Encoding::Zstd { level: 99 }),
        ] {
            assert!(wrong.check().is_err(), "{wrong:?}");
        }
    }
}
