//! Settings, with units and defaults.

use std::time::Duration;

/// When the log is synced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fsync {
    /// Before each acknowledgement: `Ok` means that `fdatasync` returned. Appends that wait at the same
    /// time share one.
    #[default]
    Always,
    /// At most this long after the first append that is not synced yet: `Ok` means accepted by the kernel,
    /// and a power cut may lose the events accepted in this time. Checkpoint, reads and followers advance
    /// only to synced events.
    Interval(Duration),
    /// Only on rotation, [`FileStore::sync`](crate::FileStore::sync) and
    /// [`FileStore::close`](crate::FileStore::close): `Ok` means accepted by the kernel, and a power cut
    /// may lose all events since. Checkpoint, reads and followers advance only to synced events. The open
    /// after a crash reads the rest, and writes it once more.
    Never,
}

/// What opening does with a torn tail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum TornTail {
    /// It is copied to `state.torn-<n>`, that copy is synced, and then it is cut off and reported.
    #[default]
    SetAside,
    /// Opening is refused, so that an operator can look first.
    Refuse,
}

/// Settings of a [`FileStore`](crate::FileStore).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FileStoreOptions {
    /// When the log is synced. Default: [`Fsync::Always`].
    pub fsync: Fsync,
    /// The largest event accepted and read, in bytes of its envelope. Default: 64 MiB.
    pub event_bytes_max: usize,
    /// How much space is written ahead, in bytes, so that a sync has no metadata to flush; `0` for none.
    /// Default: 0.
    ///
    /// It saves about a sixth of an append's latency. In return `state` ends with NUL bytes while it is
    /// open, which hydra-node cannot read; closing (and the next open, after a crash) cuts them off.
    pub preallocate_bytes: u64,
    /// What opening does with a torn tail. Default: it is set aside and reported.
    pub torn_tail: TornTail,
    /// Whether a log that does not exist is begun, and its directory created. Default: yes.
    ///
    /// In production, begin a log once and then open it with `false`: if the volume of the directory is not mounted,
    /// opening fails instead of beginning an empty log.
    pub create: bool,
    /// Whether sealed segments are compressed, beside the writer, as soon as a rotation seals them and at
    /// open. Default: no.
    ///
    /// Reads see no difference; hydra-node never reads sealed files.
    pub compress: bool,
    /// The capacity of the writer's queue: further callers wait for a place. Default: 4,096.
    pub appends_waiting_max: usize,
    /// How many bytes of waiting appends share one write and one sync. Default: 8 MiB.
    pub commit_bytes_max: usize,
}

impl Default for FileStoreOptions {
    fn default() -> Self {
        Self {
            fsync: Fsync::Always,
            event_bytes_max: EVENT_BYTES_MAX,
            preallocate_bytes: 0,
            torn_tail: TornTail::SetAside,
            create: true,
            compress: false,
            appends_waiting_max: 4096,
            commit_bytes_max: 8 << 20,
        }
    }
}

/// The default limit of an event, in bytes of its envelope.
const EVENT_BYTES_MAX: usize = 64 << 20;

impl FileStoreOptions {
    /// Sets when the log is synced.
    #[must_use]
    pub fn with_fsync(mut self, fsync: Fsync) -> Self {
        self.fsync = fsync;
        self
    }

    /// Sets the largest event accepted and read, in bytes of its envelope.
    #[must_use]
    pub fn with_event_bytes_max(mut self, bytes: usize) -> Self {
        self.event_bytes_max = bytes;
        self
    }

    /// Sets how much space is written ahead, in bytes.
    #[must_use]
    pub fn with_preallocate_bytes(mut self, bytes: u64) -> Self {
        self.preallocate_bytes = bytes;
        self
    }

    /// Sets what becomes of a torn tail that is found at open.
    #[must_use]
    pub fn with_torn_tail(mut self, torn_tail: TornTail) -> Self {
        self.torn_tail = torn_tail;
        self
    }

    /// Sets whether a log that does not exist is begun.
    #[must_use]
    pub fn with_create(mut self, create: bool) -> Self {
        self.create = create;
        self
    }

    /// Sets whether sealed segments are compressed.
    #[must_use]
    pub fn with_compress(mut self, compress: bool) -> Self {
        self.compress = compress;
        self
    }

    /// Sets how many calls may wait for the writer.
    #[must_use]
    pub fn with_appends_waiting_max(mut self, appends: usize) -> Self {
        self.appends_waiting_max = appends;
        self
    }

    /// Sets how many bytes of waiting appends share one write and one sync.
    #[must_use]
    pub fn with_commit_bytes_max(mut self, bytes: usize) -> Self {
        self.commit_bytes_max = bytes;
        self
    }
}

/// Settings of a [`FileSource`](crate::FileSource).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FileSourceOptions {
    /// The largest event read, in bytes of its envelope. Default: 64 MiB.
    pub event_bytes_max: usize,
    /// The pause between two polls for what another process wrote, 1 ms at least. Default: 20 ms.
    pub poll_interval: Duration,
}

impl Default for FileSourceOptions {
    fn default() -> Self {
        Self { event_bytes_max: EVENT_BYTES_MAX, poll_interval: Duration::from_millis(20) }
    }
}

impl FileSourceOptions {
    /// Sets the largest event read, in bytes of its envelope.
    #[must_use]
    pub fn with_event_bytes_max(mut self, bytes: usize) -> Self {
        self.event_bytes_max = bytes;
        self
    }

    /// Sets the pause between two polls for what another process wrote, 1 ms at least.
    #[must_use]
    pub fn with_poll_interval(mut self, interval: Duration) -> Self {
        self.poll_interval = interval;
        self
    }
}
