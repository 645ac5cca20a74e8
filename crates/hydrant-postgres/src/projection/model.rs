//! One version of a projection in the database: its schema, its row, and how it takes the place of the last one.

use hydrant::{Checkpoint, Error, ErrorKind, Result};
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;

use super::statements::Statements;
use super::{Projection, ProjectionError, Transaction};
use crate::error::{Doing, OneLine, meaning, server_error};
use crate::schema::{check_name, quoted};
use crate::session::{Session, Settings};
use crate::wire;

/// How many times a version checks again because another one went live before it.
const LOOKS_MAX: usize = 8;

/// What a version is to those who query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Not to be seen yet.
    Building,
    /// The one they see.
    Live,
    /// Another took its place.
    Replaced,
}

/// What the row of a version says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Standing {
    pub(super) version: i64,
    pub(super) state: State,
    pub(super) checkpoint: Checkpoint,
}

/// One version of a projection.
pub(super) struct Model {
    pub(super) name: String,
    pub(super) version: i64,
    /// Where it is while it is built, and when it was replaced.
    beside: String,
    mark: String,
    pub(super) sql: Statements,
}

impl Model {
    pub(super) fn new(name: &str, version: u32, schema: &str) -> Result<Self> {
        check_name("projection", name)?;
        check_name("schema", schema)?;
        let version = i64::from(version);
        let beside = beside(name, version);
        let mark = beside.replace("*/", "* /").replace("/*", "/ *");
        Ok(Self { name: name.to_owned(), version, beside, mark, sql: Statements::new(schema) })
    }

    pub(super) fn schema(&self, state: State) -> &str {
        if state == State::Live { &self.name } else { &self.beside }
    }

    pub(super) fn transaction<'a>(&'a self, session: &'a Session, state: State) -> Transaction<'a> {
        Transaction::new(session, self.schema(state), &self.mark)
    }

    /// Finds the version or makes it: its schema, its row and its tables, in one transaction.
    ///
    /// # Errors
    /// `Fenced` when another version replaced it, or a newer one is live; `Invalid` when the schema was
    /// not made by this projection; what the projection's `prepare` answers.
    ///
    /// # Cancel safety
    /// A dropped future leaves no version or a whole one.
    pub(super) async fn claim(
        &self,
        session: &Session,
        settings: &Settings,
        projection: &dyn Projection,
    ) -> Result<Standing> {
        let what = "opening the projection";
        let server = |cause| server_error(Doing::Reading, what, cause);
        session.begin(settings).await.map_err(server)?;
        let lock = session.prepared(&self.sql.open_lock).await.map_err(server)?;
        session.query(&lock, &[&self.name]).await.map_err(server)?;
        let mut standing = match self.lock(session).await? {
            Some((standing, _)) => standing,
            None => self.make(session, projection).await?,
        };
        match standing.state {
            State::Live => {}
            State::Building => standing.state = self.publish(session, &standing, false).await?,
            State::Replaced => return Err(self.replaced("another one")),
        }
        let committed = session.batch_execute("COMMIT").await;
        committed.map_err(|cause| server_error(Doing::Writing, what, cause))?;
        Ok(standing)
    }

    async fn make(&self, session: &Session, projection: &dyn Projection) -> Result<Standing> {
        let what = "making the projection";
        let server = |cause| server_error(Doing::Reading, what, cause);
        let state = match self.live(session, &self.sql.live).await? {
            Some(live) if live.version > self.version => return Err(self.replaced(live.version)),
            Some(_) => State::Building,
            // No version is live, so this one is live while it grows.
            None => State::Live,
        };
        let schema = self.schema(state);
        let sql = "SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = $1";
        if !session.query(sql, &[&schema]).await.map_err(server)?.is_empty() {
            return Err(Error::invalid(format!(
                "there is a schema {schema:?} already, which this projection did not make; give the projection \
                 another name, or rename that schema"
            )));
        }
        session.batch_execute(&format!("CREATE SCHEMA {}", quoted(schema))).await.map_err(server)?;
        let entered = session.query_one(&self.sql.enter, &[&quoted(schema)]).await.map_err(server)?;
        let transaction: String = entered.get(0);
        let prepared = projection.prepare(&mut self.transaction(session, state)).await;
        prepared.map_err(|cause| projection_error("preparing its tables", cause))?;
        // Last, so that tables which were not all made in this transaction have no row and are not taken for whole.
        let params: [&(dyn ToSql + Sync); 4] = [&self.name, &self.version, &state.as_str(), &transaction];
        let inserted = session.execute(&self.sql.insert, &params).await;
        if inserted.map_err(|cause| behind_apply(what, cause))? == 0 {
            let message = format!(
                "the projection's `prepare` ended the transaction that it was given; take COMMIT and ROLLBACK out of \
                 it, and drop what it left: the schema {schema:?}, or tables in another one"
            );
            return Err(Error::bug(message));
        }
        Ok(Standing { version: self.version, state, checkpoint: Checkpoint::Empty })
    }

    /// The row, locked until the transaction ends, and the transaction's number. What another transaction
    /// still does to this version ends before.
    pub(super) async fn lock(&self, session: &Session) -> Result<Option<(Standing, String)>> {
        let server = |cause| server_error(Doing::Reading, "reading the checkpoint", cause);
        let statement = session.prepared(&self.sql.lock).await.map_err(server)?;
        let (live, beside) = (quoted(&self.name), quoted(&self.beside));
        let params: [&(dyn ToSql + Sync); 4] = [&self.name, &self.version, &live, &beside];
        let row = session.query_opt(&statement, &params).await.map_err(server)?;
        row.map(|row| Ok((standing(&row)?, row.get(4)))).transpose()
    }

    async fn live(&self, session: &Session, sql: &str) -> Result<Option<Standing>> {
        let failed = |cause| behind_apply("looking for the live version", cause);
        let statement = session.prepared(sql).await.map_err(failed)?;
        let row = session.query_opt(&statement, &[&self.name]).await.map_err(failed)?;
        row.map(|row| standing(&row)).transpose()
    }

    /// Takes the place of the live version if this one is at least as far, or in any case (`now`).
    ///
    /// Part of a transaction that holds this version's row: committed with the events that bring it there.
    pub(super) async fn publish(&self, session: &Session, standing: &Standing, now: bool) -> Result<State> {
        let has_to_wait = |live: &Standing| {
            if live.version > self.version {
                return Err(self.replaced(live.version));
            }
            Ok(!now && live.checkpoint.id() > standing.checkpoint.id())
        };
        for _ in 0..LOOKS_MAX {
            // Without a lock first: while this one catches up, the live one is not disturbed.
            let seen = self.live(session, &self.sql.live).await?;
            if seen.as_ref().map(has_to_wait).transpose()? == Some(true) {
                return Ok(State::Building);
            }
            let locked = self.live(session, &self.sql.lock_live).await?;
            if locked.as_ref().map(has_to_wait).transpose()? == Some(true) {
                return Ok(State::Building);
            }
            // Where the row that was live is not any more, another version took its place while we waited.
            if locked.is_some() || seen.is_none() {
                self.swap(session, locked).await?;
                return Ok(State::Live);
            }
        }
        let message = "other versions of this projection go live all the time; end all of them but one";
        Err(Error::unavailable(message))
    }

    async fn swap(&self, session: &Session, live: Option<Standing>) -> Result<()> {
        let server = |cause| server_error(Doing::Reading, "swapping the versions", cause);
        if let Some(live) = live {
            self.set_state(session, live.version, State::Replaced).await?;
            let rename = rename(&self.name, &beside(&self.name, live.version));
            session.batch_execute(&rename).await.map_err(server)?;
        }
        self.set_state(session, self.version, State::Live).await?;
        session.batch_execute(&rename(&self.beside, &self.name)).await.map_err(server)
    }

    async fn set_state(&self, session: &Session, version: i64, state: State) -> Result<()> {
        let params: [&(dyn ToSql + Sync); 3] = [&self.name, &version, &state.as_str()];
        let set = session.execute(&self.sql.set_state, &params).await;
        set.map(drop).map_err(|cause| server_error(Doing::Reading, "swapping the versions", cause))
    }

    /// Removes the versions below the live one, whether they were replaced or never finished.
    pub(super) async fn drop_below(&self, session: &Session) -> Result<()> {
        let server = |cause| server_error(Doing::Reading, "dropping replaced versions", cause);
        for row in session.query(&self.sql.below, &[&self.name]).await.map_err(server)? {
            let version: i64 = row.get(0);
            let schema = quoted(&beside(&self.name, version));
            session
                .batch_execute(&format!("DROP SCHEMA IF EXISTS {schema} CASCADE"))
                .await
                .map_err(server)?;
            session.execute(&self.sql.remove, &[&self.name, &version]).await.map_err(server)?;
        }
        Ok(())
    }

    pub(super) fn replaced(&self, by: impl std::fmt::Display) -> Error {
        Error::fenced(format!(
            "version {} was replaced by {by}; end this runner, or raise the version of the projection",
            self.version
        ))
    }
}

/// Where a version is that is not live.
fn beside(name: &str, version: i64) -> String {
    format!("{name}__v{version}")
}

fn rename(from: &str, to: &str) -> String {
    format!("ALTER SCHEMA {} RENAME TO {}", quoted(from), quoted(to))
}

impl State {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Building => "building",
            Self::Live => "live",
            Self::Replaced => "replaced",
        }
    }
}

/// What a row says: version, state, id, digest.
pub(super) fn standing(row: &Row) -> Result<Standing> {
    let (state, id, digest): (&str, Option<&str>, Option<&[u8]>) = (row.get(1), row.get(2), row.get(3));
    let corrupt = || Error::corrupt("the projection's row is damaged; drop the version, and build it again");
    let state = match state {
        "building" => State::Building,
        "live" => State::Live,
        "replaced" => State::Replaced,
        _ => return Err(corrupt()),
    };
    let checkpoint = match (id, digest) {
        (None, None) => Checkpoint::Empty,
        (Some(id), Some(digest)) => wire::checkpoint_from_text(id, digest).ok_or_else(corrupt)?,
        _ => return Err(corrupt()),
    };
    Ok(Standing { version: row.get(0), state, checkpoint })
}

/// Why the projection's own code failed. Nothing of the transaction was committed.
///
/// Only what the projection itself says is about an event may be put aside as poison; so an `Invalid` of the
/// server names none.
pub(super) fn projection_error(what: &str, cause: ProjectionError) -> Error {
    let cause = match cause {
        ProjectionError::Rejected(error) => return error,
        ProjectionError::Sql(cause) => cause,
    };
    let code = cause.code().map(|state| state.code().to_owned()).unwrap_or_default();
    let is_its_own = match code.get(..2).unwrap_or_default() {
        // Data, constraints, syntax and names, a view's condition, an exception raised by a function.
        "22" | "23" | "44" | "54" | "P0" => true,
        "42" => meaning(&code).kind != ErrorKind::Denied && code != POOLER_MIXED_UP,
        _ => false,
    };
    if is_its_own {
        let message =
            format!("{what} failed in the projection's own SQL; correct the model, or the data it meets");
        return Error::invalid(message).because(OneLine(cause));
    }
    behind_apply(what, cause)
}

/// Two statements under one name: the answer of a pooler, and not about the SQL.
const POOLER_MIXED_UP: &str = "42P05";

/// What the server answers in a transaction that the projection had before. An error that the projection kept to
/// itself shows only now, and would show again at each try.
pub(super) fn behind_apply(what: &str, cause: tokio_postgres::Error) -> Error {
    if cause.code() == Some(&SqlState::IN_FAILED_SQL_TRANSACTION) {
        let message = format!(
            "{what} failed: a statement of the projection failed before, and the projection went on; pass its error \
             on with `?`"
        );
        return Error::bug(message).because(OneLine(cause));
    }
    server_error(Doing::Reading, what, cause)
}
