//! The store: what callers hold.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use hydrant::{
    Batch, Capabilities, Checkpoint, CheckpointStore, CommitPoint, Durability, Error, EventSink, EventSource,
    EventStream, Primary, ReadFrom, Result,
};
use tokio::time::timeout;

use crate::error::{Doing, server_error, timed_out};
use crate::options::PostgresStoreOptions;
use crate::schema::Tables;
use crate::session::{Session, Settings};
use crate::shared::{Log, Shared};
use crate::sql::Statements;
use crate::writer::Writer;
use crate::{PostgresCheckpoints, PostgresCheckpointsOptions, PostgresConnect};
use crate::{source, wire};

/// The longest name of a log, in bytes: it is part of every row and of the key.
const LOG_BYTES_MAX: usize = 512;

/// A log in a table of Postgres, beside as many others. Writers are fenced, any number of readers.
///
/// Acknowledged means: the transaction with the whole batch is committed with `synchronous_commit` at `on` or
/// `remote_apply`, so that it is in the server's write-ahead log on disk, and on the synchronous standbys where the
/// server has any.
/// A server that runs with `fsync = off` does not keep that.
///
/// A batch is one transaction. Of two writers that append behind the same head, one finds the head moved and gets
/// `Fenced`, so a log is never a mix. An append whose answer was lost is resolved, not
/// guessed: the next call on the handle begins by making sure that it has ended. See `FORMAT.md`.
///
/// A handle has one connection that writes and one that reads, made when they are needed and again when they
/// were lost; with a pool it borrows one for each call. Handles are cheap to clone and share the connections.
/// Ids go up to 2^63-1.
///
/// ```no_run
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> hydrant::Result<()> {
/// use hydrant::{Batch, Event, EventId, EventSink, EventSourceExt, ReadFrom};
/// use hydrant_postgres::{PostgresStoreOptions, PostgresStore};
///
/// let url = "postgres://app:secret@localhost/shop?sslmode=verify-full";
/// let log = PostgresStore::open(url, "payments", PostgresStoreOptions::default()).await?;
/// let events = [Event::new(EventId::ZERO, "hello")?];
/// log.append(Batch::new(None, &events)?).await?;
/// assert_eq!(log.collect(ReadFrom::Origin).await?, events);
/// log.close().await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct PostgresStore {
    shared: Arc<Shared>,
    roster: Arc<PostgresCheckpoints>,
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore")
            .field("log", &self.log())
            .field("at", &self.shared.log.connect.describe())
            .finish_non_exhaustive()
    }
}

impl PostgresStore {
    /// The capabilities declared to the conformance kit.
    pub const CAPABILITIES: Capabilities = Capabilities::ALL;

    /// Opens a log. Makes missing schemas and tables, unless the options forbid it.
    ///
    /// The log itself begins with its first append. Opening writes nothing where the tables are there, so that a
    /// role that may only read can open it, also on a standby.
    ///
    /// # Errors
    /// `Invalid` for a name or an option that cannot be; `Denied` for credentials and permissions; `Unavailable` when there is
    /// no server, database or table; `Unsupported` for a database that is not UTF-8, and for tables of a newer
    /// version.
    ///
    /// # Cancel safety
    /// A dropped future leaves no connection. The tables are there whole or not at all.
    pub async fn open(
        connect: impl Into<PostgresConnect>,
        log: &str,
        options: PostgresStoreOptions,
    ) -> Result<Self> {
        if log.is_empty() || log.len() > LOG_BYTES_MAX || log.contains('\0') {
            return Err(Error::invalid(format!(
                "the name of a log must have 1 to {LOG_BYTES_MAX} bytes and no NUL; choose another"
            )));
        }
        options.check().map_err(|error| error.at_target(log))?;
        let connect = connect.into();
        let tables = Tables::new(&options.schema, &options.table)?;
        let settings = Settings::new(options.call_timeout, options.lock_timeout);
        let (patience, create) = (options.call_timeout, options.create);
        let opening = async {
            let mut session = Session::open(&connect, &settings).await?;
            session.mark_busy();
            check_encoding(&session).await?;
            tables.ensure(session.client_mut(), create).await?;
            session.mark_idle();
            Ok(session)
        };
        let opened = timeout(patience, opening).await;
        let session = opened
            .unwrap_or_else(|_| Err(timed_out(Doing::Reading, "opening", patience)))
            .map_err(|error: Error| if error.target().is_some() { error } else { error.at_target(log) })?;
        let roster = PostgresCheckpointsOptions::default()
            .with_schema(&tables.schema)
            .with_table(tables.roster())
            .with_scope(log)
            .with_create(create)
            .with_call_timeout(options.call_timeout)
            .with_lock_timeout(options.lock_timeout);
        let roster = Arc::new(PostgresCheckpoints::lazy(connect.clone(), roster)?);
        let sql = Statements::new(&tables, options.notify);
        let (name, channel) = (log.to_owned(), tables.channel());
        let log = Log { name, connect, options, settings, sql, channel };
        Ok(Self { shared: Arc::new(Shared::new(log, session)), roster })
    }

    /// The name of the log.
    pub fn log(&self) -> &str {
        &self.shared.log.name
    }

    /// Closes all connections of this handle and its clones, and waits for it. Readers and followers end with
    /// `Closed`.
    ///
    /// # Errors
    /// None so far.
    ///
    /// # Cancel safety
    /// If the future is dropped, the remaining connections close when the handle is dropped. `close` waits for a prune
    /// that has begun, also if its future is no longer polled: drop that future first.
    pub async fn close(&self) -> Result<()> {
        self.shared.close().await;
        self.roster.close().await
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Nothing that a row cannot hold or a reader would refuse is accepted.
    fn check(&self, batch: &Batch<'_>) -> Result<()> {
        batch.check_size(self.event_bytes_max())?;
        batch.events().iter().try_for_each(|event| wire::bigint(event.id()).map(drop))
    }
}

/// Events are UTF-8, and a database of another encoding would refuse some of them, sooner or later.
async fn check_encoding(session: &Session) -> Result<()> {
    let asked = session.query_typed("SELECT current_setting('server_encoding')", &[]).await;
    let rows = asked.map_err(|cause| server_error(Doing::Reading, "asking for the encoding", cause))?;
    match rows.first().map(|row| row.get::<_, String>(0)) {
        Some(encoding) if encoding != "UTF8" => {
            let message = format!("the database's encoding is {encoding}; create one with `ENCODING 'UTF8'`");
            Err(Error::unsupported(message))
        }
        _ => Ok(()),
    }
}

#[async_trait]
impl EventSink for PostgresStore {
    /// Appends a batch in one transaction: by one statement in one round trip, or, from `copy_bytes_min` on, by
    /// COPY in two.
    ///
    /// # Errors
    /// `Gap`, `Fenced` and `Pruned` as the contract says; `Invalid` for an event above `event_bytes_max` or an
    /// id above 2^63-1; `Full` when the server's disk is; what `docs/postgres.md` lists by SQLSTATE. `Unavailable` at
    /// the batch's deadline or after `call_timeout`, whichever is earlier: `Safe` while it waited for its turn or for
    /// a connection.
    ///
    /// # Cancel safety
    /// A dropped future leaves all of the batch or none. The next call on this handle waits until it has ended.
    async fn append(&self, batch: Batch<'_>) -> Result<()> {
        let Shared { log, appended, .. } = &*self.shared;
        self.check(&batch).map_err(|error| error.at_target(&log.name))?;
        let deadline = log.deadline(batch.deadline());
        let append = async |writer: &mut Writer, session| writer.append(log, session, batch).await;
        if self.shared.writing(deadline, Doing::Writing, "appending", append).await? {
            appended.send_replace(());
        }
        Ok(())
    }

    async fn checkpoint(&self) -> Result<Checkpoint> {
        let log = &self.shared.log;
        let checkpoint = async |writer: &mut Writer, session| writer.checkpoint(log, session).await;
        let what = "asking for the checkpoint";
        self.shared.writing(log.deadline(None), Doing::Reading, what, checkpoint).await
    }
}

impl EventSource for PostgresStore {
    fn read(&self, from: ReadFrom) -> EventStream {
        source::read(Arc::clone(&self.shared), from)
    }

    fn follow(&self, from: ReadFrom) -> EventStream {
        self.shared.listen();
        let appended = self.shared.appended.subscribe();
        let interval = self.shared.log.options.poll_interval;
        source::follow(Arc::clone(&self.shared), from, move || {
            let mut appended = appended.clone();
            appended.mark_unchanged();
            async move {
                // By this handle, or, unheard, by another.
                drop(timeout(interval, appended.changed()).await);
            }
        })
    }
}

#[async_trait]
impl CommitPoint for PostgresStore {
    async fn head(&self) -> Result<Checkpoint> {
        self.checkpoint().await
    }

    fn event_bytes_max(&self) -> usize {
        self.shared.log.options.event_bytes_max
    }
}

impl Primary for PostgresStore {
    /// Kept in a table beside the log's, under the log's name; made when it is used first.
    fn roster(&self) -> Arc<dyn CheckpointStore> {
        self.roster.clone()
    }

    fn durability(&self) -> Durability {
        Durability::Durable
    }
}
