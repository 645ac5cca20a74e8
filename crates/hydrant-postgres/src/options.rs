//! Settings, with units and defaults.

use std::time::Duration;

use hydrant::{Error, Result};

/// Settings of a [`PostgresStore`](crate::PostgresStore).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PostgresStoreOptions {
    /// The schema of the tables. Default: `hydrant`.
    pub schema: String,
    /// The table of events; its other objects are named after it. At most 40 bytes. Default: `events`.
    pub table: String,
    /// Whether schema and tables that do not exist, or are of an older version, are made at open. Default: yes.
    pub create: bool,
    /// The largest event accepted, in bytes of its envelope. Default: 64 MiB.
    pub event_bytes_max: usize,
    /// How many bytes a read fetches at once, beside the event that crosses the limit. A read holds two such
    /// pages. Default: 1 MiB.
    pub page_bytes_max: usize,
    /// How many events a read fetches at once. Default: 1,000.
    pub page_events_max: usize,
    /// From how many bytes on a batch is written by binary COPY, in two round trips, instead of by one
    /// statement. Default: 256 KiB, from where on COPY is the faster one (measured in `docs/postgres.md`).
    pub copy_bytes_min: usize,
    /// How often a follower looks for what another handle or process wrote. Default: 100 ms.
    pub poll_interval: Duration,
    /// Whether appends NOTIFY and followers LISTEN, so that they learn at once what another process wrote.
    /// Default: no.
    ///
    /// A NOTIFY takes one lock for the whole server while its transaction commits: writers of all logs
    /// then commit one after the other. Followers poll all the same.
    pub notify: bool,
    /// How long one call to the server may take, connecting included. Default: 20 s.
    pub call_timeout: Duration,
    /// How long a statement waits for another transaction that holds the log's row. Default: 5 s.
    pub lock_timeout: Duration,
}

impl Default for PostgresStoreOptions {
    fn default() -> Self {
        Self {
            schema: "hydrant".to_owned(),
            table: "events".to_owned(),
            create: true,
            event_bytes_max: 64 << 20,
            page_bytes_max: 1 << 20,
            page_events_max: 1_000,
            copy_bytes_min: 256 << 10,
            poll_interval: Duration::from_millis(100),
            notify: false,
            call_timeout: Duration::from_secs(20),
            lock_timeout: Duration::from_secs(5),
        }
    }
}

impl PostgresStoreOptions {
    /// Sets the schema of the tables. It is quoted: any name will do.
    #[must_use]
    pub fn with_schema(mut self, schema: impl Into<String>) -> Self {
        self.schema = schema.into();
        self
    }

    /// Sets the table of events. It is quoted: any name will do.
    #[must_use]
    pub fn with_table(mut self, table: impl Into<String>) -> Self {
        self.table = table.into();
        self
    }

    /// Sets whether schema and tables that do not exist, or are of an older version, are made at open.
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

    /// Sets how many bytes a read fetches at once.
    #[must_use]
    pub fn with_page_bytes_max(mut self, bytes: usize) -> Self {
        self.page_bytes_max = bytes;
        self
    }

    /// Sets how many events a read fetches at once.
    #[must_use]
    pub fn with_page_events_max(mut self, events: usize) -> Self {
        self.page_events_max = events;
        self
    }

    /// Sets from how many bytes on a batch is written by binary COPY.
    #[must_use]
    pub fn with_copy_bytes_min(mut self, bytes: usize) -> Self {
        self.copy_bytes_min = bytes;
        self
    }

    /// Sets how often a follower looks for what another handle or process wrote.
    #[must_use]
    pub fn with_poll_interval(mut self, interval: Duration) -> Self {
        self.poll_interval = interval;
        self
    }

    /// Sets whether appends NOTIFY and followers LISTEN.
    #[must_use]
    pub fn with_notify(mut self, notify: bool) -> Self {
        self.notify = notify;
        self
    }

    /// Sets how long one call to the server may take, connecting included.
    #[must_use]
    pub fn with_call_timeout(mut self, timeout: Duration) -> Self {
        self.call_timeout = timeout;
        self
    }

    /// Sets how long a statement waits for another transaction that holds the log's row.
    #[must_use]
    pub fn with_lock_timeout(mut self, timeout: Duration) -> Self {
        self.lock_timeout = timeout;
        self
    }

    /// # Errors
    /// `Invalid`, naming the setting with which nothing can work.
    pub(crate) fn check(&self) -> Result<()> {
        let wrong = |what: &str| Err(Error::invalid(what));
        if self.call_timeout.is_zero() || self.lock_timeout.is_zero() {
            return wrong("a `call_timeout` or `lock_timeout` of zero lets no call through; give both more");
        }
        if self.poll_interval.is_zero() {
            return wrong("a `poll_interval` of zero never rests; give it more");
        }
        if self.page_events_max == 0 || self.page_bytes_max == 0 {
            return wrong(
                "a page of nothing reads nothing; give `page_events_max` and `page_bytes_max` at least 1",
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_work_is_refused() {
        let options = PostgresStoreOptions::default;
        assert!(options().check().is_ok());
        for wrong in [
            options().with_call_timeout(Duration::ZERO),
            options().with_lock_timeout(Duration::ZERO),
            options().with_poll_interval(Duration::ZERO),
            options().with_page_events_max(0),
            options().with_page_bytes_max(0),
        ] {
            assert!(wrong.check().is_err(), "{wrong:?}");
        }
    }
}
