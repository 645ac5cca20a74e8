//! The sink that runs a projection.

use std::fmt;
use std::future::Future;

use async_trait::async_trait;
use futures_util::future::join;
use hydrant::store::caught;
use hydrant::{Batch, Capabilities, Checkpoint, Error, ErrorKind, Event, EventSink, Result};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_postgres::error::Severity;
use tokio_postgres::types::ToSql;

use super::model::{Model, Standing, State, behind_apply, projection_error, standing};
use super::options::PostgresProjectionOptions;
use super::statements::TABLE;
use super::{Projection, ProjectionError};
use crate::PostgresConnect;
use crate::error::{Doing, server_error, timed_out};
use crate::schema::Part;
use crate::session::{Session, Settings};

/// Keeps a [`Projection`] up to date: a sink whose checkpoint moves in the same transaction as its tables.
///
/// Acknowledged means: the events' effects and the checkpoint behind them are committed, durably as the
/// server defines it. So each event takes effect once, however often it is delivered. A query sees the effects of
/// whole batches: of all events from the first to one.
///
/// The tables are in a schema of the projection's name. It declares `Idempotent`, `Atomic` and `Memory`, and not
/// `Fencing`. Of the events below its checkpoint it only knows that they were applied, so it does not notice
/// another history there. It does at its checkpoint, which a fan-out compares before the first append.
///
/// # One runner
/// Each handle moves the checkpoint only from where it left it. Of two that run one projection, the one that
/// comes second is `Fenced`, and stays so until it is opened again.
///
/// # Rebuilding
/// Raise [`Projection::version`]. The first open makes the new tables beside the old ones, in the schema
/// `<name>__v<version>`, and the log is delivered to them from its beginning, while queries go on to see the
/// old ones. With the batch that brings the new version as far as the old one, both schemas are renamed in
/// the same transaction. A crash at any step leaves one version live and the other where it was.
/// The runner of the old version is then `Fenced`; its tables stay until
/// [`drop_replaced`](PostgresProjection::drop_replaced).
///
/// The role needs the right to create schemas in its database.
pub struct PostgresProjection<P> {
    connect: PostgresConnect,
    projection: P,
    model: Model,
    options: PostgresProjectionOptions,
    settings: Settings,
    runner: Mutex<Runner>,
}

/// What a handle knows of its version.
struct Runner {
    session: Option<Session>,
    is_closed: bool,
    state: State,
    known: Checkpoint,
    /// Where a commit wanted to bring it whose outcome is open.
    pending: Option<Checkpoint>,
}

impl<P: Projection> PostgresProjection<P> {
    /// What it can do.
    pub const CAPABILITIES: Capabilities =
        Capabilities::IDEMPOTENT.with(Capabilities::ATOMIC).with(Capabilities::MEMORY);

    /// Opens the projection `name`, which is the name of its schema too, and makes this version of it where
    /// there is none.
    ///
    /// # Errors
    /// `Fenced` when a newer version is live; `Invalid` for a name that Postgres cannot hold or a schema that
    /// it did not make; what connecting and [`Projection::prepare`] answer.
    ///
    /// # Cancel safety
    /// Dropped, it leaves no connection; the version is not there, or whole and empty.
    pub async fn open(
        connect: impl Into<PostgresConnect>,
        name: &str,
        projection: P,
        options: PostgresProjectionOptions,
    ) -> Result<Self> {
        let model = Model::new(name, projection.version(), &options.schema)?;
        let runner = Runner {
            session: None,
            is_closed: false,
            state: State::Building,
            known: Checkpoint::Empty,
            pending: None,
        };
        let opened = Self {
            connect: connect.into(),
            projection,
            model,
            settings: Settings::new(options.call_timeout, options.lock_timeout),
            options,
            runner: Mutex::new(runner),
        };
        let claim = caught("opening the projection", || opened.claim());
        let claimed = opened.within("opening the projection", Doing::Writing, claim).await?;
        let mut runner = opened.runner.lock().await;
        (runner.session, runner.state, runner.known) =
            (claimed.0.kept(), claimed.1.state, claimed.1.checkpoint);
        drop(runner);
        Ok(opened)
    }

    async fn claim(&self) -> Result<(Session, Standing)> {
        let mut session = self.connected().await?;
        session.mark_busy();
        let migrations = [self.model.sql.version_1.clone()];
        let tables = [&*self.model.sql.table];
        let part =
            Part { schema: &self.options.schema, name: TABLE, tables: &tables, migrations: &migrations };
        part.ensure(session.client_mut(), self.options.create).await?;
        match self.model.claim(&session, &self.settings, &self.projection).await {
            Ok(standing) => Ok((session, standing)),
            // What was locked is free again when the caller hears of it.
            Err(error) => {
                if session.batch_execute("ROLLBACK").await.is_ok() && is_refusal(&error) {
                    session.mark_idle();
                    session.close().await;
                }
                Err(error)
            }
        }
    }

    /// Returns whether queries see this version: not while it is built beside another one.
    ///
    /// # Cancel safety
    /// It only looks at what this handle knows.
    pub async fn is_live(&self) -> bool {
        self.runner.lock().await.state == State::Live
    }

    /// Takes the place of the live version now, although it has not caught up: queries then see older data.
    /// Without it this happens by itself.
    ///
    /// # Errors
    /// `Fenced` when a newer version is live, and what the server answers.
    ///
    /// # Cancel safety
    /// Dropped, it was done or not; call it again.
    pub async fn go_live(&self) -> Result<()> {
        self.in_transaction("going live", async |session, standing| match standing.state {
            State::Live => Ok(State::Live),
            State::Building => self.model.publish(session, standing, true).await,
            State::Replaced => Err(self.model.replaced("another one")),
        })
        .await
    }

    /// Removes the tables of all versions below the live one, and what depends on them.
    ///
    /// # Errors
    /// What the server answers; then nothing was removed.
    ///
    /// # Cancel safety
    /// Dropped, it was done or not; call it again.
    pub async fn drop_replaced(&self) -> Result<()> {
        self.in_transaction("dropping replaced versions", async |session, standing| {
            self.model.drop_below(session).await.map(|()| standing.state)
        })
        .await
    }

    /// Ends the connection, behind the append in flight, and waits for it. What comes later is answered `Closed`.
    ///
    /// # Errors
    /// None so far.
    ///
    /// # Cancel safety
    /// Dropped, it may have closed nothing; call it again.
    pub async fn close(&self) -> Result<()> {
        let mut runner = self.runner.lock().await;
        runner.is_closed = true;
        if let Some(session) = runner.session.take() {
            session.close().await;
        }
        Ok(())
    }

    async fn within<T>(&self, what: &str, doing: Doing, work: impl Future<Output = Result<T>>) -> Result<T> {
        let limit = self.options.call_timeout;
        let done = timeout(limit, work).await.unwrap_or_else(|_| Err(timed_out(doing, what, limit)));
        done.map_err(|error| self.named(error))
    }

    fn named(&self, error: Error) -> Error {
        if error.target().is_some() { error } else { error.at_target(&self.model.name) }
    }

    async fn connected(&self) -> Result<Session> {
        Session::open(&self.connect, &self.settings).await
    }

    /// The connection, taken: dropped in the middle of something, it is closed, and the server rolls back.
    async fn session(&self, runner: &mut Runner) -> Result<Session> {
        if runner.is_closed {
            return Err(Error::closed("the projection was closed; open it again"));
        }
        match runner.session.take().filter(|session| !session.is_closed()) {
            Some(session) => Ok(session),
            None => self.connected().await,
        }
    }

    /// Begins a transaction and locks the row. Whatever an earlier transaction of this projection still did has
    /// ended by then: it sent COMMIT only when it held this lock.
    async fn begin(&self, session: &Session, runner: &mut Runner) -> Result<(Standing, String)> {
        let begun = session.begin(&self.settings).await;
        begun.map_err(|cause| server_error(Doing::Reading, "beginning a transaction", cause))?;
        let Some((standing, transaction)) = self.model.lock(session).await? else {
            return Err(Error::fenced("this projection was removed; open it again to build it anew"));
        };
        if runner.pending.take() == Some(standing.checkpoint) {
            runner.known = standing.checkpoint;
        }
        runner.state = standing.state;
        Ok((standing, transaction))
    }

    /// Runs `work` on all versions, under the lock of this one, and stores the state that it returns.
    async fn in_transaction(
        &self,
        what: &str,
        work: impl AsyncFnOnce(&Session, &Standing) -> Result<State>,
    ) -> Result<()> {
        let mut runner = self.runner.lock().await;
        let runner = &mut *runner;
        let all = async {
            let session = self.session(runner).await?;
            session.mark_busy();
            let (standing, _) = self.begin(&session, runner).await?;
            let state = work(&session, &standing).await?;
            let committed = session.batch_execute("COMMIT").await;
            committed.map_err(|cause| server_error(Doing::Writing, what, cause))?;
            (runner.session, runner.state) = (session.kept(), state);
            Ok(())
        };
        self.within(what, Doing::Writing, all).await
    }

    async fn write(&self, runner: &mut Runner, batch: Batch<'_>) -> Result<()> {
        let was_kept = runner.session.is_some();
        let session = self.session(runner).await?;
        session.mark_busy();
        let mut written = self.write_on(&session, runner, batch).await;
        let is_over = match &written {
            Ok(()) => true,
            // An outcome that is open is found out on another connection, behind the lock.
            Err(_) if runner.pending.is_some() || session.is_closed() => false,
            // Perhaps the table of a prepared statement was altered since. The answer on a new connection
            // decides.
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                if was_kept || session.is_reused() {
                    let message = "a statement may be out of date, prepared before its table was altered; the next \
                                   call makes a new connection";
                    written = Err(Error::unavailable(message).because(error.clone()));
                }
                false
            }
            Err(error) => session.batch_execute("ROLLBACK").await.is_ok() && is_refusal(error),
        };
        if is_over {
            runner.session = session.kept();
        }
        written
    }

    async fn write_on(&self, session: &Session, runner: &mut Runner, batch: Batch<'_>) -> Result<()> {
        let (mut standing, transaction) = self.begin(session, runner).await?;
        if standing.state == State::Replaced {
            return Err(self.model.replaced("another one"));
        }
        if standing.checkpoint != runner.known {
            return Err(Error::fenced(
                "another runner moves this projection; end one of the two, then open the other again",
            ));
        }
        let fresh = batch.fresh_after(&runner.known)?;
        let Some(last) = fresh.last() else {
            let ended = session.batch_execute("ROLLBACK").await;
            return ended.map_err(|cause| server_error(Doing::Reading, "ending a transaction", cause));
        };
        let mut tx = self.model.transaction(session, standing.state);
        for event in fresh {
            let applied = self.projection.apply(&mut tx, event).await;
            applied.map_err(|cause| about(event, cause))?;
        }
        standing.checkpoint = Checkpoint::at(last);
        if standing.state == State::Building {
            standing.state = self.model.publish(session, &standing, false).await?;
        }
        self.commit(session, runner, &standing, &transaction).await
    }

    /// Moves the checkpoint and commits, in one round trip.
    async fn commit(
        &self,
        session: &Session,
        runner: &mut Runner,
        new: &Standing,
        transaction: &str,
    ) -> Result<()> {
        let what = "committing the projection";
        let advance = session.prepared(&self.model.sql.advance).await;
        let advance = advance.map_err(|cause| behind_apply(what, cause))?;
        let Checkpoint::At { id, digest } = new.checkpoint else {
            return Err(Error::bug("a checkpoint behind no event"));
        };
        let (id, digest) = (id.to_string(), &digest.as_bytes()[..]);
        let params: [&(dyn ToSql + Sync); 5] =
            [&self.model.name, &self.model.version, &id, &digest, &transaction];
        // From here on the outcome is open until the server has said it.
        runner.pending = Some(new.checkpoint);
        let (advanced, committed) =
            join(session.execute(&advance, &params), session.batch_execute("COMMIT")).await;
        match (advanced, committed) {
            (Ok(1), Ok(())) => {
                (runner.pending, runner.known, runner.state) = (None, new.checkpoint, new.state);
                Ok(())
            }
            (Ok(_), Ok(())) => {
                runner.pending = None;
                let message = "the projection ended the transaction that it was given, so some of its effects stand \
                               without their checkpoint; take COMMIT and ROLLBACK out of it, and rebuild";
                Err(Error::bug(message))
            }
            (Err(cause), _) | (Ok(_), Err(cause)) => {
                let is_error =
                    |said: &tokio_postgres::error::DbError| said.parsed_severity() == Some(Severity::Error);
                if cause.as_db_error().is_some_and(is_error) {
                    // Rolled back, for example by a constraint that is checked at the end.
                    runner.pending = None;
                    return Err(projection_error(what, ProjectionError::Sql(cause)));
                }
                Err(server_error(Doing::Writing, what, cause))
            }
        }
    }
}

/// Returns whether the batch or the model was refused, and nothing is wrong with the connection. After any other error
/// the connection is not used again: for example, a server that became read-only stays so for open connections.
fn is_refusal(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Invalid | ErrorKind::Fenced | ErrorKind::Gap)
}

/// Names the event, where that does not make it poison.
fn about(event: &Event, cause: ProjectionError) -> Error {
    let by_itself = matches!(cause, ProjectionError::Rejected(_));
    let error = projection_error(&format!("applying event {}", event.id()), cause);
    if error.event().is_some() || (error.kind() == ErrorKind::Invalid && !by_itself) {
        error
    } else {
        error.at(event.id())
    }
}

#[async_trait]
impl<P: Projection> EventSink for PostgresProjection<P> {
    async fn append(&self, batch: Batch<'_>) -> Result<()> {
        batch.check_size(self.options.event_bytes_max).map_err(|error| self.named(error))?;
        let now = Instant::now();
        let latest = now + self.options.call_timeout;
        let deadline = batch.deadline().map_or(latest, |deadline| deadline.min(latest));
        let late = |doing| timed_out(doing, "applying a batch", deadline.saturating_duration_since(now));
        let turn = timeout_at(deadline, self.runner.lock()).await;
        let mut runner = turn.map_err(|_| self.named(late(Doing::Reading)))?;
        let written = timeout_at(deadline, self.write(&mut runner, batch)).await;
        // A transaction that did not come to its COMMIT is rolled back.
        let doing = if runner.pending.is_some() { Doing::Writing } else { Doing::Reading };
        written.unwrap_or_else(|_| Err(late(doing))).map_err(|error| self.named(error))
    }

    async fn checkpoint(&self) -> Result<Checkpoint> {
        let mut runner = self.runner.lock().await;
        let runner = &mut *runner;
        let looked = async {
            let what = "reading the checkpoint";
            let session = self.session(runner).await?;
            session.mark_busy();
            let checkpoint = if runner.pending.is_some() {
                let (standing, _) = self.begin(&session, runner).await?;
                let ended = session.batch_execute("COMMIT").await;
                ended.map_err(|cause| server_error(Doing::Reading, what, cause))?;
                standing.checkpoint
            } else {
                let key: [&(dyn ToSql + Sync); 2] = [&self.model.name, &self.model.version];
                let rows = session.once(&self.settings, &self.model.sql.look, &key).await;
                let rows = rows.map_err(|cause| server_error(Doing::Reading, what, cause))?;
                let held = rows.first().map(standing).transpose()?;
                held.map_or(Checkpoint::Empty, |held| held.checkpoint)
            };
            runner.session = session.kept();
            Ok(checkpoint)
        };
        self.within("reading the checkpoint", Doing::Reading, looked).await
    }
}

impl<P> fmt::Debug for PostgresProjection<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresProjection")
            .field("name", &self.model.name)
            .field("version", &self.model.version)
            .field("connect", &self.connect)
            .finish_non_exhaustive()
    }
}
