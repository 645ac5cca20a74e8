//! The writer of a log: compare-and-append, and how it finds out what became of an append that was not answered.
//!
//! # Why nothing is guessed, and nothing lands late
//! A log has one row with its head: id, digest, and an *epoch*. An append moves that row in the same
//! transaction that adds the events, and only if head and epoch are still what the writer knows. So of two
//! writers one finds the row moved; a batch is there whole or not at all.
//!
//! An append whose answer is missing (dropped, timed out, connection lost) may still be on its way: in a
//! socket's buffer, in a statement that waits for a lock, in a COMMIT that waits for the disk. Its epoch is
//! forgotten, so that the next call begins by raising the epoch, on any connection. That UPDATE waits for the
//! row's lock: a transaction that has moved the head ends first, and its outcome is in the answer. One that
//! has not will find another epoch than it names, whenever it comes, and add nothing. The wait is bounded by
//! `lock_timeout`; then the call fails and the next one asks again.
//!
//! Another handle that raised the epoch is no rival. If a writer finds the head where it left it, it adopts the new
//! epoch and continues, because all its own calls were answered by then.

use std::pin::pin;

use futures_util::SinkExt;
use futures_util::future::{join3, join4};
use hydrant::{Batch, Checkpoint, Error, ErrorKind, Event, EventId, Result, Retry};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Error as ServerError, Row};

use crate::error::{Doing, append_error, server_error};
use crate::session::Session;
use crate::shared::Log;
use crate::wire::{self, Columns, Copy, bigint, clamped};

/// How many times a writer reads the head again because others move it.
const LOOKS_MAX: usize = 8;

/// What the row of a log says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    epoch: i64,
    pub(crate) checkpoint: Checkpoint,
    /// The predecessor of the oldest event kept, when events before it are gone or were never here.
    pub(crate) floor_after: Option<EventId>,
    oldest: Option<EventId>,
}

impl Head {
    fn of(row: &Row) -> Result<Self> {
        let id = |at: usize| row.get::<_, Option<i64>>(at).map(wire::event_id).transpose();
        Ok(Self {
            epoch: row.get(0),
            checkpoint: wire::checkpoint(row.get(1), row.get(2))?,
            floor_after: id(3)?,
            oldest: id(4)?,
        })
    }

    /// Returns the head once `events` follow it.
    fn moved(self, batch: &Batch<'_>, events: &[Event]) -> Self {
        let Some(last) = events.last() else { return self };
        let checkpoint = Checkpoint::at(last);
        match self.checkpoint {
            Checkpoint::Empty => {
                Self { checkpoint, floor_after: batch.after(), oldest: Some(events[0].id()), ..self }
            }
            _ => Self { checkpoint, ..self },
        }
    }
}

/// The one that appends, of all clones of a handle.
#[derive(Default)]
pub(crate) struct Writer {
    session: Option<Session>,
    /// `None`: something of this handle may still be under way, or nothing was asked yet.
    known: Option<Head>,
    /// The head that this handle last read or made.
    witness: Option<Checkpoint>,
    /// An append of this handle may have been applied, and may still be under way.
    is_in_doubt: bool,
}

/// How a call ended: with an answer, which may be a refusal, or without one.
type Answer<T> = Result<Result<T>>;

impl Writer {
    /// Appends what of the batch is not held; whether that was anything.
    ///
    /// # Cancel safety
    /// Dropped, it leaves the batch whole or not at all; the next call finds out.
    pub(crate) async fn append(&mut self, log: &Log, session: Session, batch: Batch<'_>) -> Result<bool> {
        // Taken, not looked at: if this is dropped, or fails, the next call begins by asking.
        let known = self.known.take();
        session.mark_busy();
        let mut call = Call { log, session: &session, known, witness: self.witness };
        let was_in_doubt = std::mem::replace(&mut self.is_in_doubt, true);
        let answer = call.append(batch).await.inspect_err(|error| {
            // What failed before it was applied leaves no doubt but that of the calls before it.
            self.is_in_doubt = was_in_doubt || error.retry() == Retry::AfterCheckpoint;
        })?;
        (self.known, self.witness, self.is_in_doubt) = (call.known, call.witness, false);
        self.session = session.kept();
        answer
    }

    /// Returns the head of the log, once nothing of this handle is under way any more.
    ///
    /// # Cancel safety
    /// It only asks.
    pub(crate) async fn checkpoint(&mut self, log: &Log, session: Session) -> Result<Checkpoint> {
        let known = self.known.take();
        session.mark_busy();
        let mut call = Call { log, session: &session, known, witness: self.witness };
        // A question changes nothing that a caller would see, whatever became of it.
        let head = call.ask(self.is_in_doubt).await.map_err(Error::nothing_applied)?;
        self.is_in_doubt = false;
        self.known = if known.is_some() || call.known.is_some() { head } else { None };
        let checkpoint = head.map_or(Checkpoint::Empty, |head| head.checkpoint);
        self.witness = Some(checkpoint);
        self.session = session.kept();
        Ok(checkpoint)
    }

    pub(crate) async fn close(&mut self) {
        self.known = None;
        if let Some(session) = self.session.take() {
            session.close().await;
        }
    }

    /// The connection for the next call, at rest.
    pub(crate) async fn session(&mut self, log: &Log) -> Result<Session> {
        match self.session.take() {
            Some(session) if !session.is_closed() => Ok(session),
            _ => Session::open(&log.connect, &log.settings).await,
        }
    }
}

/// One call on one connection.
struct Call<'a> {
    log: &'a Log,
    session: &'a Session,
    known: Option<Head>,
    witness: Option<Checkpoint>,
}

impl Call<'_> {
    async fn append(&mut self, batch: Batch<'_>) -> Answer<bool> {
        // What this handle remembers is tried first, if the batch directly follows it. Everything else is
        // judged by what the server says.
        let mut head = match self.known.take() {
            Some(head) if batch.after().is_some() && batch.after() == head.checkpoint.id() => head,
            known => self.refreshed(known.is_some()).await?,
        };
        for _ in 0..LOOKS_MAX {
            if let Err(refusal) = self.recognise(&head) {
                return Ok(Err(refusal));
            }
            let fresh = match self.still_to_write(&head, batch).await? {
                Ok(fresh) => fresh,
                Err(refusal) => {
                    self.known = Some(head);
                    return Ok(Err(refusal));
                }
            };
            if fresh.is_empty() || self.write(&head, &batch, fresh).await? {
                let head = head.moved(&batch, fresh);
                self.known = Some(head);
                self.witness = Some(head.checkpoint);
                return Ok(Ok(!fresh.is_empty()));
            }
            // Another writer moved the head, or raised the epoch. All of ours is answered: looking is enough.
            head = self.refreshed(true).await?;
        }
        let message = "other writers move this log all the time; end them, or give each a log of its own";
        Ok(Err(Error::unavailable(message)))
    }

    /// What the server says now, of a log that is there from then on. Unless all of this handle is answered,
    /// whatever may still be under way ends first.
    async fn refreshed(&self, is_answered: bool) -> Result<Head> {
        if is_answered && let Some(head) = self.head("asking for the head", &self.log.sql.look).await? {
            return Ok(head);
        }
        let claim = self.session.change(&self.log.settings, &self.log.sql.claim, &[&self.log.name]).await;
        let claimed = claim.map_err(|cause| failed("fencing what was under way", cause))?;
        let row = claimed.first().ok_or_else(|| {
            Error::new(ErrorKind::Bug, Retry::AfterCheckpoint, "an upsert gave no row back")
        })?;
        self.read_head(row)
    }

    /// The same of a log that may not be there, and then is not made.
    ///
    /// # Errors
    /// The server's refusal to write, where an append of this handle is in doubt: a server that only reads cannot
    /// say what becomes of it.
    async fn ask(&mut self, is_in_doubt: bool) -> Result<Option<Head>> {
        if self.known.is_some() {
            return self.head("asking for the head", &self.log.sql.look).await;
        }
        let bumped = self.session.change(&self.log.settings, &self.log.sql.bump, &[&self.log.name]).await;
        let rows = match bumped {
            // A role that may only read, and a standby, have nothing under way.
            Err(cause) if !is_in_doubt && is_read_only(&cause) => {
                return self.head("asking for the head", &self.log.sql.look).await;
            }
            rows => rows.map_err(|cause| failed("fencing what was under way", cause))?,
        };
        self.known = rows.first().map(|row| self.read_head(row)).transpose()?;
        Ok(self.known)
    }

    async fn head(&self, what: &str, sql: &str) -> Result<Option<Head>> {
        let rows = self.session.once(&self.log.settings, sql, &[&self.log.name]).await;
        let rows = rows.map_err(|cause| failed(what, cause))?;
        rows.first().map(|row| self.read_head(row)).transpose()
    }

    fn read_head(&self, row: &Row) -> Result<Head> {
        Head::of(row).map_err(|error| error.at_target(&self.log.name))
    }

    /// Detects another history. A server that was restored to an older state, or a standby that missed the last events,
    /// has other events under the same ids once another writer appends to it.
    fn recognise(&self, head: &Head) -> Result<()> {
        match (self.witness, head.checkpoint) {
            (Some(Checkpoint::At { id, digest }), Checkpoint::At { id: now, digest: other })
                if id == now && digest != other =>
            {
                Err(differs(id))
            }
            _ => Ok(()),
        }
    }

    /// What of the batch is not held, or why it does not belong here.
    async fn still_to_write<'b>(&self, head: &Head, batch: Batch<'b>) -> Answer<&'b [Event]> {
        let held = batch.held_by(&head.checkpoint);
        if let (Some(first), Some(oldest)) = (held.first(), head.oldest)
            && batch.after() < head.floor_after
        {
            return Ok(Err(Error::pruned(oldest).at(first.id())));
        }
        let fresh = match batch.fresh_after(&head.checkpoint) {
            Ok(fresh) => fresh,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let Some(last) = held.last() else { return Ok(Ok(fresh)) };
        let after = batch.after().map_or(-1, clamped);
        let count = i64::try_from(held.len()).unwrap_or(i64::MAX);
        let params: [&(dyn ToSql + Sync); 4] = [&self.log.name, &after, &clamped(last.id()), &count];
        let rows = self.session.once(&self.log.settings, &self.log.sql.held, &params).await;
        let rows = rows.map_err(|cause| failed("comparing what is held", cause))?;
        for (at, event) in held.iter().enumerate() {
            let same = rows.get(at).is_some_and(|row| {
                row.get::<_, i64>(0) == clamped(event.id())
                    && row.get::<_, &[u8]>(1) == event.digest().as_bytes()
            });
            if !same {
                return Ok(Err(self.differing(head, event).await?));
            }
        }
        Ok(Ok(fresh))
    }

    /// Why what is held is not the same: it was pruned meanwhile, or it is another event.
    async fn differing(&self, head: &Head, event: &Event) -> Result<Error> {
        let now = self.refreshed(true).await?;
        Ok(match now.oldest {
            Some(oldest) if now.floor_after > head.floor_after && event.id() < oldest => {
                Error::pruned(oldest).at(event.id())
            }
            _ => differs(event.id()),
        })
    }

    /// Moves the head and adds the events, in one transaction; whether the head was where it was expected.
    async fn write(&self, head: &Head, batch: &Batch<'_>, events: &[Event]) -> Result<bool> {
        let after = head.checkpoint.id().or(batch.after());
        let bytes: usize = events.iter().map(Event::size).sum();
        if bytes >= self.log.options.copy_bytes_min {
            return self.copy(head, batch, after, events).await;
        }
        let moving = Moving::new(head, batch, events)?;
        let columns = Columns::of(after, events)?;
        let params: Vec<_> = moving.params(&self.log.name).into_iter().chain(columns.params()).collect();
        let rows = self.session.change(&self.log.settings, &self.log.sql.append, &params).await;
        Ok(!rows.map_err(|cause| append_error(self.log.options.notify, cause))?.is_empty())
    }

    /// The same by COPY, in two round trips.
    async fn copy(
        &self,
        head: &Head,
        batch: &Batch<'_>,
        after: Option<EventId>,
        events: &[Event],
    ) -> Result<bool> {
        let failed = |cause| failed("appending", cause);
        let (log, session) = (self.log, self.session);
        let moving = Moving::new(head, batch, events)?;
        let params = moving.params(&log.name);
        let move_head = session.prepared(&log.sql.move_head).await.map_err(failed)?;
        let copy = session.prepared(&log.sql.copy).await.map_err(failed)?;
        let mut pieces = Copy::new(&log.name).pieces(after, events);
        // All three are on their way before the first is answered, and rows are encoded meanwhile. Where BEGIN
        // fails, the head does not move.
        let (begun, moved, sink, first) = join4(
            session.begin(&log.settings),
            session.query(&move_head, &params),
            session.copy_in::<_, bytes::Bytes>(&copy),
            async { pieces.next() },
        )
        .await;
        begun.map_err(failed)?;
        let moved = moved.map_err(failed)?;
        let mut sink = pin!(sink.map_err(failed)?);
        if moved.is_empty() {
            // Finished without a row, so that the connection is in step again.
            drop(sink.as_mut().finish().await);
            session.batch_execute("ROLLBACK").await.map_err(failed)?;
            return Ok(false);
        }
        for piece in first.into_iter().chain(pieces) {
            sink.send(piece?).await.map_err(failed)?;
        }
        let notify = async {
            match &log.sql.notify {
                Some(sql) => session.execute_typed(sql, &[(&log.name, Type::TEXT)]).await.map(drop),
                None => Ok(()),
            }
        };
        let (copied, notified, ended) =
            join3(sink.as_mut().finish(), notify, session.batch_execute("COMMIT")).await;
        let copied = copied.map_err(failed)?;
        notified.map_err(failed)?;
        // A queue of notifications that is full is said here.
        ended.map_err(|cause| append_error(log.options.notify, cause))?;
        debug_assert_eq!(usize::try_from(copied).ok(), Some(events.len()));
        Ok(true)
    }
}

/// The parameters by which the head moves.
struct Moving {
    last: i64,
    digest: Vec<u8>,
    floor_after: Option<i64>,
    oldest: i64,
    epoch: i64,
    head: Option<i64>,
    head_digest: Option<Vec<u8>>,
}

impl Moving {
    fn new(head: &Head, batch: &Batch<'_>, events: &[Event]) -> Result<Self> {
        let (was, was_digest) = match head.checkpoint {
            Checkpoint::At { id, digest } => (Some(bigint(id)?), Some(digest.as_bytes().to_vec())),
            _ => (None, None),
        };
        let (first, last) = (&events[0], &events[events.len() - 1]);
        Ok(Self {
            last: bigint(last.id())?,
            digest: last.digest().as_bytes().to_vec(),
            floor_after: batch.after().map(bigint).transpose()?,
            oldest: bigint(first.id())?,
            epoch: head.epoch,
            head: was,
            head_digest: was_digest,
        })
    }

    fn params<'a>(&'a self, log: &'a String) -> [&'a (dyn ToSql + Sync); 8] {
        [
            log,
            &self.last,
            &self.digest,
            &self.floor_after,
            &self.oldest,
            &self.epoch,
            &self.head,
            &self.head_digest,
        ]
    }
}

fn failed(what: &str, cause: ServerError) -> Error {
    server_error(Doing::Writing, what, cause)
}

/// Returns whether the server refuses because nothing may be written here by this role.
fn is_read_only(cause: &ServerError) -> bool {
    matches!(cause.code().map(SqlState::code), Some("25006" | "42501"))
}

fn differs(id: EventId) -> Error {
    Error::fenced(
        "another event is held where this one should be: end the other writer, or give this log a name of its own",
    )
    .at(id)
}
