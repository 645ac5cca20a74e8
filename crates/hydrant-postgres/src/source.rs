//! Reading: page by page along the primary key, the next one fetched while this one is consumed.

use std::future::Future;
use std::sync::Arc;

use futures_util::stream;
use hydrant::{Digest, Error, Event, EventId, EventStream, ReadFrom, Result};
use tokio::task::JoinHandle;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use crate::error::{Doing, server_error};
use crate::session::Session;
use crate::shared::Shared;
use crate::wire::{self, STORED, clamped};

/// How many times a read searches for the newest snapshot, which may be pruned in between.
const LOOKS_MAX: usize = 8;

/// Everything from `from` on, up to what is the head when the first page is fetched.
pub(crate) fn read(shared: Arc<Shared>, from: ReadFrom) -> EventStream {
    Box::pin(stream::unfold(Reading::new(shared, from), |mut reading| async move {
        let item = reading.next().await?;
        Some((item, reading))
    }))
}

/// Like `read`, then yields new events as they are appended, of one history.
///
/// If the log continues without the event that was yielded last, the stream ends with `Diverged`. If the log ends before
/// that event, it ends with `Unavailable`: a standby may still catch up.
///
/// `arm` is called before each read, and its future is awaited after the read, so that no wake-up is lost.
pub(crate) fn follow<W: Future<Output = ()> + Send + 'static>(
    shared: Arc<Shared>,
    from: ReadFrom,
    mut arm: impl FnMut() -> W + Send + 'static,
) -> EventStream {
    let wait = Box::pin(arm());
    let state = Some((Reading::new(shared, from), wait, arm));
    Box::pin(stream::unfold(state, |state| async move {
        let (mut reading, mut wait, mut arm) = state?;
        loop {
            match reading.next().await {
                Some(Ok(event)) => return Some((Ok(event), Some((reading, wait, arm)))),
                Some(Err(error)) => return Some((Err(error), None)),
                None => {
                    wait.await;
                    wait = Box::pin(arm());
                    reading.next = Some(Next::Wanted);
                }
            }
        }
    }))
}

struct Reading {
    shared: Arc<Shared>,
    from: ReadFrom,
    /// The last event of the last page; `None`: there was none yet.
    last: Option<Position>,
    ready: std::vec::IntoIter<Event>,
    next: Option<Next>,
    /// The error that ends the stream, after the events that are ready.
    failed: Option<Error>,
}

enum Next {
    /// No page was asked for yet: a stream that is not polled costs nothing.
    Wanted,
    Fetching(Fetch),
}

impl Reading {
    fn new(shared: Arc<Shared>, from: ReadFrom) -> Self {
        let (ready, next) = (Vec::new().into_iter(), Some(Next::Wanted));
        Self { shared, from, last: None, ready, next, failed: None }
    }

    async fn next(&mut self) -> Option<Result<Event>> {
        loop {
            if let Some(event) = self.ready.next() {
                return Some(Ok(event));
            }
            if let Some(error) = self.failed.take() {
                self.next = None;
                return Some(Err(error));
            }
            let fetch = match self.next.as_mut()? {
                Next::Wanted => {
                    let shared = self.shared.clone();
                    self.next = Some(Next::Fetching(match self.last {
                        Some(last) => Fetch::page(shared, last, None),
                        None => Fetch::first(shared, self.from),
                    }));
                    continue;
                }
                Next::Fetching(fetch) => fetch,
            };
            // If the future is dropped here, the fetch continues, and the next poll finds it.
            let fetched = (&mut fetch.0).await;
            self.next = None;
            match fetched {
                Ok(Ok(page)) => {
                    self.last = page.last.or(self.last);
                    if page.failed.is_none()
                        && let Some(last) = page.last
                        && last.after < page.end
                    {
                        let fetch = Fetch::page(self.shared.clone(), last, page.end);
                        self.next = Some(Next::Fetching(fetch));
                    }
                    self.ready = page.events.into_iter();
                    self.failed = page.failed;
                }
                Ok(Err(error)) => return Some(Err(error)),
                Err(gone) => {
                    let error = Error::new(
                        hydrant::ErrorKind::Bug,
                        hydrant::Retry::Safe,
                        "fetching a page failed inside; report it",
                    );
                    return Some(Err(error.at_target(&self.shared.log.name).because(gone)));
                }
            }
        }
    }
}

/// A page on its way, fetched by a task of its own: a consumer that stands still in the middle of an answer
/// would hold up all others on the connection. Dropped, it ends.
struct Fetch(JoinHandle<Result<Page>>);

impl Drop for Fetch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Fetch {
    fn first(shared: Arc<Shared>, from: ReadFrom) -> Self {
        match from.exclusive() {
            ReadFrom::After(id) => Self::page(shared, Position::at(Some(id)), None),
            ReadFrom::Snapshot => Self(tokio::spawn(async move { from_snapshot(&shared).await })),
            ReadFrom::Origin | ReadFrom::At(_) => Self::page(shared, Position::at(None), None),
        }
    }

    fn page(shared: Arc<Shared>, at: Position, end: Option<EventId>) -> Self {
        Self(tokio::spawn(async move { page(&shared, at, end).await }))
    }
}

/// Where a page begins.
#[derive(Clone, Copy)]
struct Position {
    after: Option<EventId>,
    /// Whether `after` is the event that the next one names as its predecessor, and not just any id.
    follows: bool,
    /// Of the event `after`, where this reader had it: the log must still have the same.
    digest: Option<Digest>,
}

impl Position {
    fn at(after: Option<EventId>) -> Self {
        Self { after, follows: false, digest: None }
    }

    fn behind(event: &Event) -> Self {
        Self { after: Some(event.id()), follows: true, digest: Some(event.digest()) }
    }
}

struct Page {
    events: Vec<Event>,
    /// The error that ends the stream, after the events.
    failed: Option<Error>,
    /// The last of the events.
    last: Option<Position>,
    /// The head when the read began.
    end: Option<EventId>,
}

/// The newest snapshot and what is behind it; everything that is kept where there is none.
async fn from_snapshot(shared: &Shared) -> Result<Page> {
    let mut looks = 0;
    loop {
        looks += 1;
        let at =
            shared.reading("looking for the newest snapshot", async |session| newest(shared, session).await);
        match page(shared, at.await?, None).await {
            // A newer snapshot was appended, and what was before it pruned, since the look.
            Err(error) if matches!(error.kind(), hydrant::ErrorKind::Pruned { .. }) && looks < LOOKS_MAX => {}
            page => return page,
        }
    }
}

async fn newest(shared: &Shared, session: &Session) -> Result<Position> {
    let log = &shared.log;
    let failed = |cause| server_error(Doing::Reading, "looking for the newest snapshot", cause);
    let rows = session.once(&log.settings, &log.sql.newest_snapshot, &[&log.name]).await.map_err(failed)?;
    if let Some(row) = rows.first() {
        let after = row.get::<_, Option<i64>>(1).map(wire::event_id).transpose()?;
        return Ok(Position { follows: true, ..Position::at(after) });
    }
    let rows = session.once(&log.settings, &log.sql.look, &[&log.name]).await.map_err(failed)?;
    let floor_after = rows.first().and_then(|row| row.get::<_, Option<i64>>(3));
    let after = floor_after.map(wire::event_id).transpose()?;
    Ok(Position { follows: after.is_some(), ..Position::at(after) })
}

/// Fetches a page.
///
/// # Errors
/// `Pruned` when it begins below the floor; `Diverged` when it begins behind an event that is another one now;
/// `Corrupt` when rows are missing; whatever the server answers.
async fn page(shared: &Shared, at: Position, end: Option<EventId>) -> Result<Page> {
    let log = &shared.log;
    let after = at.after.map_or(-1, clamped);
    let until = end.map(clamped);
    let digest = at.digest.as_ref().map(|digest| &digest.as_bytes()[..]);
    let events_max = i64::try_from(log.options.page_events_max).unwrap_or(i64::MAX);
    let bytes_max = i64::try_from(log.options.page_bytes_max).unwrap_or(i64::MAX);
    let rows = shared
        .reading("reading", async |session| {
            let params: [&(dyn ToSql + Sync); 6] =
                [&log.name, &after, &until, &events_max, &bytes_max, &digest];
            let rows = session.once(&log.settings, &log.sql.page, &params).await;
            rows.map_err(|cause| server_error(Doing::Reading, "reading", cause))
        })
        .await?;
    decode(&rows, at, end).map_err(|error| error.at_target(&log.name)).map(|mut page| {
        page.failed = page.failed.map(|error| error.at_target(&log.name));
        page
    })
}

/// The columns of a page that come before those of an event: head, floor, oldest event kept, and whether the event
/// before the page is the one that it was.
const OF_HEAD: usize = 4;

fn decode(rows: &[Row], at: Position, end: Option<EventId>) -> Result<Page> {
    let column = |at: usize| -> Result<Option<EventId>> {
        let found = rows.first().and_then(|row| row.get::<_, Option<i64>>(at));
        found.map(wire::event_id).transpose()
    };
    let (head, floor_after, oldest) = (column(0)?, column(1)?, column(2)?);
    // All are of the same snapshot: what is not there was pruned before it, and then the floor says so.
    if at.after < floor_after {
        return Err(Error::pruned(oldest.or(floor_after).unwrap_or(EventId::ZERO)));
    }
    if end > head {
        let message =
            "this server is behind the one that the read began on, as a standby may be; read on later";
        return Err(Error::unavailable(message));
    }
    let is_same = rows.first().is_none_or(|row| row.get(3));
    if at.digest.is_some() && at.after > head {
        return Err(behind(at.after));
    }
    // At the floor the event was pruned.
    if !is_same && floor_after < at.after && at.after <= head {
        return Err(diverged(at.after));
    }
    let mut page = Page { events: Vec::new(), failed: None, last: None, end: end.or(head) };
    debug_assert_eq!(STORED.split(", ").count(), 8);
    let is_event = |row: &&Row| row.get::<_, Option<i64>>(OF_HEAD).is_some();
    let (mut position, mut follows) = (at.after, at.follows);
    for row in rows.iter().filter(is_event) {
        match next(row, position, follows, head) {
            Ok(event) => {
                (position, follows) = (Some(event.id()), true);
                page.events.push(event);
            }
            Err(error) => {
                page.failed = Some(error);
                break;
            }
        }
    }
    page.last = page.events.last().map(Position::behind);
    if page.events.is_empty() && page.failed.is_none() && position < page.end {
        page.failed = Some(missing(position, page.end));
    }
    Ok(page)
}

/// The log went on without the event that this reader had last.
fn diverged(after: Option<EventId>) -> Error {
    let error = Error::diverged(
        "the log has lost this event, which was read from it, and went on without it, as behind a failover to a standby \
         that did not have it yet; undo what came of the events that were lost, then read on behind the last one that \
         both have",
    );
    match after {
        Some(after) => error.at(after),
        None => error,
    }
}

/// The log ends before the event that was read last.
fn behind(after: Option<EventId>) -> Error {
    let error = Error::unavailable(
        "this server's log ends before this event, which was read from it; a standby may still catch up",
    );
    match after {
        Some(after) => error.at(after),
        None => error,
    }
}

/// The event of a row, which must be the next one.
fn next(row: &Row, position: Option<EventId>, follows: bool, head: Option<EventId>) -> Result<Event> {
    let stored = wire::stored(row, OF_HEAD)?;
    let is_next = if follows { stored.after == position } else { stored.after <= position };
    if head.is_none() {
        let message = "there are events of a log that has no head; find out who removed it";
        return Err(Error::corrupt(message).at(stored.event.id()));
    }
    if !is_next {
        return Err(missing(position, stored.after));
    }
    Ok(stored.event)
}

/// Returns the error for rows that were removed by hand.
fn missing(after: Option<EventId>, until: Option<EventId>) -> Error {
    let behind = after.map_or("from the beginning".to_owned(), |after| format!("behind event {after}"));
    let error = Error::corrupt(format!(
        "rows are missing {behind}: they were removed by hand; restore them from another store of this log"
    ));
    match until {
        Some(until) => error.at(until),
        None => error,
    }
}
