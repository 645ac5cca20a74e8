//! Settings, with units and defaults.

use std::time::Duration;

/// Settings of [`PostgresCheckpoints`](crate::PostgresCheckpoints).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PostgresCheckpointsOptions {
    /// The schema of the table. Default: `hydrant`.
    pub schema: String,
    /// The table. At most 50 bytes. Default: `checkpoints`.
    pub table: String,
    /// Which entries of the table these are: entries of another scope may have the same names. Default: none.
    pub scope: String,
    /// Whether a schema and a table that do not exist are made. Default: yes.
    pub create: bool,
    /// How long one call may take, connecting included. Default: 20 s.
    pub call_timeout: Duration,
    /// How long a statement waits for another runner that moves the same entry. Default: 5 s.
    pub lock_timeout: Duration,
}

impl Default for PostgresCheckpointsOptions {
    fn default() -> Self {
        Self {
            schema: "hydrant".to_owned(),
            table: "checkpoints".to_owned(),
            scope: String::new(),
            create: true,
            call_timeout: Duration::from_secs(20),
            lock_timeout: Duration::from_secs(5),
        }
    }
}

impl PostgresCheckpointsOptions {
    /// Sets the schema of the table. It is quoted: any name will do.
    #[must_use]
    pub fn with_schema(mut self, schema: impl Into<String>) -> Self {
        self.schema = schema.into();
        self
    }

    /// Sets the table. It is quoted: any name will do.
    #[must_use]
    pub fn with_table(mut self, table: impl Into<String>) -> Self {
        self.table = table.into();
        self
    }

    /// Sets which entries of the table these are.
    #[must_use]
    pub fn with_scope(mut self, scope: impl Into<String>) -> Self {
        self.scope = scope.into();
        self
    }

    /// Sets whether a schema and a table that do not exist are made.
    #[must_use]
    pub fn with_create(mut self, create: bool) -> Self {
        self.create = create;
        self
    }

    /// Sets how long one call may take, connecting included.
    #[must_use]
    pub fn with_call_timeout(mut self, timeout: Duration) -> Self {
        self.call_timeout = timeout;
        self
    }

    /// Sets how long a statement waits for another runner that moves the same entry.
    #[must_use]
    pub fn with_lock_timeout(mut self, timeout: Duration) -> Self {
        self.lock_timeout = timeout;
        self
    }
}
