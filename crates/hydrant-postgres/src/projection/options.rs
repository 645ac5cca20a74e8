//! Settings, with units and defaults.

use std::time::Duration;

/// Settings of a [`PostgresProjection`](crate::PostgresProjection).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PostgresProjectionOptions {
    /// The schema of the table that says how far each projection is. Default: `hydrant`.
    pub schema: String,
    /// Whether that schema and table are made where they are missing. Default: yes.
    pub create: bool,
    /// The largest event accepted, in bytes of its envelope. Default: 64 MiB.
    pub event_bytes_max: usize,
    /// How long one call may take, connecting and a whole batch included; also the longest that a statement of
    /// the projection may run. Default: 60 s.
    pub call_timeout: Duration,
    /// How long a statement waits for a lock that another session holds. Default: 5 s.
    pub lock_timeout: Duration,
}

impl Default for PostgresProjectionOptions {
    fn default() -> Self {
        Self {
            schema: "hydrant".to_owned(),
            create: true,
            event_bytes_max: 64 << 20,
            call_timeout: Duration::from_secs(60),
            lock_timeout: Duration::from_secs(5),
        }
    }
}

impl PostgresProjectionOptions {
    /// Sets the schema of the table that says how far each projection is. It is quoted: any name will do.
    #[must_use]
    pub fn with_schema(mut self, schema: impl Into<String>) -> Self {
        self.schema = schema.into();
        self
    }

    /// Sets whether that schema and table are made where they are missing.
    #[must_use]
    pub fn with_create(mut self, create: bool) -> Self {
        self.create = create;
        self
    }

    /// Sets the largest event accepted, in bytes of its envelope.
    #[must_use]
    pub fn with_event_bytes_max(mut self, bytes: usize) -> Self {
        self.event_bytes_max = bytes;
        self
    }

    /// Sets how long one call may take.
    #[must_use]
    pub fn with_call_timeout(mut self, timeout: Duration) -> Self {
        self.call_timeout = timeout;
        self
    }

    /// Sets how long a statement waits for a lock that another session holds.
    #[must_use]
    pub fn with_lock_timeout(mut self, timeout: Duration) -> Self {
        self.lock_timeout = timeout;
        self
    }
}
