//! A connection with the settings that this store's promises rest on.

use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::join3;
use hydrant::Result;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Error as ServerError, Row};

use crate::error::{Doing, server_error};
use crate::{PostgresClient, PostgresConnect};

/// The settings, in SQL.
#[derive(Debug)]
pub(crate) struct Settings {
    /// For a connection of our own, once.
    session: String,
    /// Begins a transaction. For a connection of a pool the settings end with it: the pool's other users never
    /// see them.
    begin: String,
}

impl Settings {
    pub(crate) fn new(call_timeout: Duration, lock_timeout: Duration) -> Self {
        let sql = |is_local: bool| {
            let scope = if is_local { "LOCAL" } else { "SESSION" };
            // A role or a server may have less than `on`: then a commit is acknowledged before it is durable here, or
            // before a synchronous standby has flushed it, and a crash or a failover takes back what `Ok` promised.
            // What is stronger stays. Set in any case: what a session has set, a reload of the configuration leaves
            // alone.
            format!(
                "SELECT pg_catalog.set_config('synchronous_commit', \
                 CASE pg_catalog.current_setting('synchronous_commit') \
                 WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END, {is_local}); \
                 SET {scope} statement_timeout = {call}; SET {scope} lock_timeout = {lock}; \
                 SET {scope} idle_in_transaction_session_timeout = {call}",
                // Less than a millisecond is not 0, which would mean: none.
                call = call_timeout.as_millis().clamp(1, MILLISECONDS_MAX),
                lock = lock_timeout.as_millis().clamp(1, MILLISECONDS_MAX),
            )
        };
        Self {
            session: format!(
                "{}; SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED",
                sql(false)
            ),
            begin: format!(
                "BEGIN ISOLATION LEVEL READ COMMITTED; {}; SET LOCAL hydrant.transaction = 'begun'",
                sql(true)
            ),
        }
    }
}

/// The condition that a statement runs within a transaction that [`Session::begin`] began.
///
/// Statements are on their way before BEGIN is answered. If BEGIN failed, for example because it was cancelled, the
/// server runs each of them as its own transaction, without the settings, while the caller takes the error for a
/// roll-back. So each statement that changes something behind a BEGIN that was not awaited has this condition.
pub(crate) const BEGUN: &str = "pg_catalog.current_setting('hydrant.transaction', true) = 'begun'";

/// A statement that changes something and is a transaction of its own.
#[derive(Debug)]
pub(crate) struct Change {
    own: String,
    /// For a connection of a pool, where it runs behind a BEGIN that may fail.
    begun: String,
}

impl Change {
    /// From what writes the statement, whose condition is to end with what it is given.
    pub(crate) fn new(sql: impl Fn(&str) -> String) -> Self {
        Self { own: sql(""), begun: sql(&format!(" AND {BEGUN}")) }
    }
}

/// The longest time-out that a server takes.
const MILLISECONDS_MAX: u128 = i32::MAX.unsigned_abs() as u128;

/// A connection in use.
///
/// Dropped while something is under way on it, it is closed: what a pool gets back is always at rest.
pub(crate) struct Session {
    client: Option<PostgresClient>,
    is_at_rest: AtomicBool,
}

impl Session {
    /// Connects.
    ///
    /// # Errors
    /// As [`PostgresConnect::connect`].
    pub(crate) async fn open(connect: &PostgresConnect, settings: &Settings) -> Result<Self> {
        let client = connect.connect().await?;
        let session = Self { client: Some(client), is_at_rest: AtomicBool::new(false) };
        if !session.is_pooled() {
            let set = session.batch_execute(&settings.session).await;
            set.map_err(|cause| server_error(Doing::Reading, "setting up the connection", cause))?;
        }
        session.mark_idle();
        Ok(session)
    }

    pub(crate) fn client_mut(&mut self) -> &mut PostgresClient {
        self.client.as_mut().expect("only closing takes it")
    }

    /// Nothing is under way on it any more.
    pub(crate) fn mark_idle(&self) {
        self.is_at_rest.store(true, Ordering::Release);
    }

    /// Something begins.
    pub(crate) fn mark_busy(&self) {
        self.is_at_rest.store(false, Ordering::Release);
    }

    /// At rest, for the next call; one of a pool goes back there instead, so that it serves others meanwhile.
    pub(crate) fn kept(self) -> Option<Self> {
        self.mark_idle();
        (!self.is_pooled()).then_some(self)
    }

    /// Ends the session and waits for it; one of a pool goes back there.
    pub(crate) async fn close(mut self) {
        if self.is_at_rest.load(Ordering::Acquire)
            && let Some(client) = self.client.take()
        {
            client.close().await;
        }
    }

    /// Begins a transaction with the settings, in which [`BEGUN`] is true.
    pub(crate) async fn begin(&self, settings: &Settings) -> Result<(), ServerError> {
        self.batch_execute(&settings.begin).await
    }

    /// A change, in one round trip.
    pub(crate) async fn change(
        &self,
        settings: &Settings,
        change: &Change,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, ServerError> {
        self.once(settings, if self.is_pooled() { &change.begun } else { &change.own }, params).await
    }

    /// One statement that is a transaction of its own, in one round trip. On a connection of a pool it runs behind
    /// a BEGIN that may fail: what changes anything is a [`Change`].
    pub(crate) async fn once(
        &self,
        settings: &Settings,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, ServerError> {
        let statement = self.prepared(sql).await?;
        if !self.is_pooled() {
            return self.query(&statement, params).await;
        }
        // All three are on their way before the first is answered. Behind a statement that failed, COMMIT is a
        // ROLLBACK.
        let (begun, rows, ended) =
            join3(self.begin(settings), self.query(&statement, params), self.batch_execute("COMMIT")).await;
        begun?;
        let rows = rows?;
        ended?;
        Ok(rows)
    }
}

impl Deref for Session {
    type Target = PostgresClient;

    fn deref(&self) -> &PostgresClient {
        self.client.as_ref().expect("only closing takes it")
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        match self.client.take() {
            Some(client) if !self.is_at_rest.load(Ordering::Acquire) => client.discard(),
            _ => {}
        }
    }
}
