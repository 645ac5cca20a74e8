//! Checkpoints in a table: the roster of a log, and the memory of sinks that have none.

mod options;
mod statements;

use std::fmt;

use async_trait::async_trait;
use futures_util::future::join4;
use hydrant::{Checkpoint, CheckpointEntry, CheckpointStore, Error, Result};
use serde_json::Value;
use tokio::sync::Mutex;
use tokio::time::timeout;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Error as ServerError, Row};

pub use options::PostgresCheckpointsOptions;
use statements::Statements;

use crate::PostgresConnect;
use crate::error::{Doing, server_error, timed_out};
use crate::schema::{Part, check_name, quoted};
use crate::session::{Session, Settings};
use crate::wire;

/// Checkpoints in a table of Postgres, one row each, for the roster of a log and for
/// [`Checkpointed`](hydrant::Checkpointed) sinks.
///
/// A swap is one statement that compares and replaces, in a transaction that is committed only after its reply
/// arrived. A swap with a lost reply holds a lock until it ends, and [`load`](CheckpointStore::load) waits for
/// that lock: so `load` returns its outcome.
///
/// It holds one connection, and connects again after a loss; with a pool it borrows one for each call. After it
/// is dropped, no connection is left.
pub struct PostgresCheckpoints {
    connect: PostgresConnect,
    options: PostgresCheckpointsOptions,
    settings: Settings,
    sql: Statements,
    slot: Mutex<Slot>,
}

/// The connection, and whether there may be one.
#[derive(Default)]
struct Slot {
    session: Option<Session>,
    /// Whether the last call found the table there.
    is_made: bool,
    is_closed: bool,
}

impl PostgresCheckpoints {
    /// Opens the table, and creates it if there is none.
    ///
    /// # Errors
    /// `Invalid` for names that Postgres cannot hold, `Unsupported` for a table that a newer Hydrant created, and
    /// any error of connecting.
    ///
    /// # Cancel safety
    /// A dropped future leaves no connection, and the table or none.
    pub async fn open(
        connect: impl Into<PostgresConnect>,
        options: PostgresCheckpointsOptions,
    ) -> Result<Self> {
        let checkpoints = Self::lazy(connect.into(), options)?;
        checkpoints.call("opening the checkpoints", Doing::Reading, async |_| Ok(())).await?;
        Ok(checkpoints)
    }

    /// The same, connecting when it is used first.
    pub(crate) fn lazy(connect: PostgresConnect, options: PostgresCheckpointsOptions) -> Result<Self> {
        check_name("schema", &options.schema)?;
        check_name("table", &options.table)?;
        check_text("scope", &options.scope)?;
        let sql = Statements::new(&format!("{}.{}", quoted(&options.schema), quoted(&options.table)));
        let settings = Settings::new(options.call_timeout, options.lock_timeout);
        Ok(Self { connect, options, settings, sql, slot: Mutex::default() })
    }

    /// Waits for the call in flight and ends the connection. Later calls fail with `Closed`.
    ///
    /// # Errors
    /// None so far.
    ///
    /// # Cancel safety
    /// A dropped future may have closed nothing; call it again.
    pub async fn close(&self) -> Result<()> {
        let mut slot = self.slot.lock().await;
        slot.is_closed = true;
        if let Some(session) = slot.session.take() {
            session.close().await;
        }
        Ok(())
    }

    /// Works on the connection, within the time of a call. After a failure the connection is dropped: a
    /// statement that still runs ends with it, or holds the lock of the entry until it ends.
    async fn call<T>(
        &self,
        what: &str,
        doing: Doing,
        work: impl AsyncFnOnce(&Session) -> Result<T>,
    ) -> Result<T> {
        let mut slot = self.slot.lock().await;
        if slot.is_closed {
            return Err(Error::closed("the checkpoints were closed; open them again"));
        }
        // Taken out, so that a call that is dropped drops the connection as well.
        let known = slot.session.take().filter(|session| !session.is_closed());
        let is_made = std::mem::take(&mut slot.is_made);
        let all = async {
            let session = match known {
                Some(session) => session,
                None => self.connected(is_made).await?,
            };
            session.mark_busy();
            let done = work(&session).await?;
            Ok((session, done))
        };
        let limit = self.options.call_timeout;
        let result = timeout(limit, all).await.unwrap_or_else(|_| Err(timed_out(doing, what, limit)));
        let (session, done) = result.map_err(|error: Error| self.named(error))?;
        (slot.session, slot.is_made) = (session.kept(), true);
        Ok(done)
    }

    /// A connection, with the table behind it unless that is known to be there.
    async fn connected(&self, is_made: bool) -> Result<Session> {
        let mut session = Session::open(&self.connect, &self.settings).await?;
        if is_made {
            return Ok(session);
        }
        let PostgresCheckpointsOptions { schema, table, create, .. } = &self.options;
        session.mark_busy();
        let migrations = [self.sql.version_1.clone()];
        let tables = [&*self.sql.table];
        let part = Part { schema, name: table, tables: &tables, migrations: &migrations };
        part.ensure(session.client_mut(), *create).await?;
        Ok(session)
    }

    fn named(&self, error: Error) -> Error {
        let PostgresCheckpointsOptions { schema, table, .. } = &self.options;
        if error.target().is_some() { error } else { error.at_target(format!("{schema}.{table}")) }
    }

    /// Begins a transaction that holds the lock of an entry, and runs a statement under it, in one round trip.
    /// The caller ends the transaction.
    async fn locked(
        &self,
        session: &Session,
        name: &str,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
        end: Option<&str>,
    ) -> Result<Vec<Row>, ServerError> {
        let (lock, asked) = (session.prepared(&self.sql.lock).await?, session.prepared(sql).await?);
        let lock_params: [&(dyn ToSql + Sync); 2] = [&self.options.scope, &name];
        let ended = async {
            match end {
                Some(end) => session.batch_execute(end).await,
                None => Ok(()),
            }
        };
        let (begun, locked, rows, ended) = join4(
            session.begin(&self.settings),
            session.query(&lock, &lock_params),
            session.query(&asked, params),
            ended,
        )
        .await;
        begun?;
        locked?;
        let rows = rows?;
        ended?;
        Ok(rows)
    }
}

#[async_trait]
impl CheckpointStore for PostgresCheckpoints {
    async fn load(&self, name: &str) -> Result<Option<CheckpointEntry>> {
        let what = "loading a checkpoint";
        let rows = self
            .call(what, Doing::Reading, async |session| {
                let params: [&(dyn ToSql + Sync); 2] = [&self.options.scope, &name];
                self.locked(session, name, &self.sql.load, &params, Some("COMMIT"))
                    .await
                    .map_err(|cause| server_error(Doing::Reading, what, cause))
            })
            .await?;
        rows.first().map(|row| entry(row).map_err(|error| self.named(error))).transpose()
    }

    async fn list(&self) -> Result<Vec<CheckpointEntry>> {
        let what = "listing the checkpoints";
        let rows = self
            .call(what, Doing::Reading, async |session| {
                let listed = session.once(&self.settings, &self.sql.list, &[&self.options.scope]).await;
                listed.map_err(|cause| server_error(Doing::Reading, what, cause))
            })
            .await?;
        rows.iter().map(|row| entry(row).map_err(|error| self.named(error))).collect()
    }

    async fn swap(
        &self,
        name: &str,
        expected: Option<&CheckpointEntry>,
        new: Option<&CheckpointEntry>,
    ) -> Result<()> {
        let what = "moving a checkpoint";
        for text in [expected, new].into_iter().flatten().flat_map(|entry| [&entry.name, &entry.target]) {
            check_text("name or the target of a checkpoint", text)?;
        }
        if new.is_some_and(|entry| entry.name != name) {
            return Err(Error::invalid("an entry is kept under its own name only").at_target(name));
        }
        let (expected, new) = (expected.map(Columns::of), new.map(Columns::of));
        let (sql, columns): (&str, Vec<&(dyn ToSql + Sync)>) = match (&expected, &new) {
            (None, None) => (&self.sql.absent, vec![]),
            (None, Some(new)) => (&self.sql.insert, new.params().into()),
            (Some(expected), None) => (&self.sql.delete, expected.params().into()),
            (Some(expected), Some(new)) => {
                (&self.sql.update, expected.params().into_iter().chain(new.params()).collect())
            }
        };
        let key: [&(dyn ToSql + Sync); 2] = [&self.options.scope, &name];
        let params: Vec<_> = key.into_iter().chain(columns).collect();
        let swapped = self
            .call(what, Doing::Writing, async |session| {
                let asked = self.locked(session, name, sql, &params, None).await;
                // Nothing was committed: COMMIT was not even sent, and without BEGIN the row does not move.
                let rows = asked.map_err(|cause| server_error(Doing::Reading, what, cause))?;
                let swapped = !rows.is_empty();
                let end = if swapped { "COMMIT" } else { "ROLLBACK" };
                let ended = session.batch_execute(end).await;
                ended.map_err(|cause| server_error(Doing::Writing, what, cause)).map(|()| swapped)
            })
            .await?;
        if swapped {
            return Ok(());
        }
        Err(Error::fenced("another runner moved this checkpoint; end one of the two").at_target(name))
    }
}

impl fmt::Debug for PostgresCheckpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresCheckpoints")
            .field("connect", &self.connect)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// An entry as its columns: target, state, id, digest, and what is kept beside.
struct Columns<'a> {
    target: &'a str,
    state: &'static str,
    id: Option<String>,
    digest: Option<&'a [u8]>,
    beside: Option<String>,
}

impl<'a> Columns<'a> {
    fn of(entry: &'a CheckpointEntry) -> Self {
        let (state, id, digest) = match &entry.checkpoint {
            Checkpoint::Empty => ("empty", None, None),
            Checkpoint::At { id, digest } => ("at", Some(id.to_string()), Some(&digest.as_bytes()[..])),
            Checkpoint::Unknown => ("unknown", None, None),
        };
        let beside = entry.beside.as_ref().map(Value::to_string);
        Self { target: &entry.target, state, id, digest, beside }
    }

    fn params(&self) -> [&(dyn ToSql + Sync); 5] {
        [&self.target, &self.state, &self.id, &self.digest, &self.beside]
    }
}

fn entry(row: &Row) -> Result<CheckpointEntry> {
    let name: String = row.get(0);
    let (state, id, digest): (&str, Option<&str>, Option<&[u8]>) = (row.get(2), row.get(3), row.get(4));
    let checkpoint = match (state, id, digest) {
        ("empty", None, None) => Some(Checkpoint::Empty),
        ("unknown", None, None) => Some(Checkpoint::Unknown),
        ("at", Some(id), Some(digest)) => wire::checkpoint_from_text(id, digest),
        _ => None,
    };
    let beside = row.get::<_, Option<&str>>(5).map(serde_json::from_str).transpose();
    let (Some(checkpoint), Ok(beside)) = (checkpoint, beside) else {
        let message = "this row is no checkpoint; correct it, or delete it: its sink then counts as one that was \
                       never reached";
        return Err(Error::corrupt(message).at_target(name));
    };
    Ok(CheckpointEntry::new(name, row.get::<_, &str>(1), checkpoint).with_beside(beside))
}

/// Text that Postgres can hold.
fn check_text(what: &str, text: &str) -> Result<()> {
    if text.contains('\0') {
        return Err(Error::invalid(format!("the {what} must not contain NUL")));
    }
    Ok(())
}
