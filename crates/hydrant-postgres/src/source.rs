//! Reading: page by page along the primary key, the next one fetched while this one is consumed.

use std::sync::Arc;

use futures_util::stream;
use hydrant::{Error, Event, EventId, EventStream, ReadFrom, Result};
use tokio::task::JoinHandle;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use crate::error::{Doing, server_error};
use crate::session::Session;
use crate::shared::Shared;
use crate::wire::{self, STORED, clamped};

/// How often a read looks for the newest snapshot again, because it was pruned in between.
const LOOKS_MAX: usize = 8;

/// Everything from `from` on, up to what is the head when the first page is fetched.
pub(crate) fn read(shared: Arc<Shared>, from: ReadFrom) -> EventStream {
    let first = Some(Next::First(from));
    let reading = Reading { shared, ready: Vec::new().into_iter(), next: first, failed: None };
    Box::pin(stream::unfold(reading, |mut reading| async move {
        let item = reading.next().await?;
        Some((item, reading))
    }))
}

struct Reading {
    shared: Arc<Shared>,
    ready: std::vec::IntoIter<Event>,
    next: Option<Next>,
    /// Told behind what is ready.
    failed: Option<Error>,
}

enum Next {
    /// Nothing was asked for yet: a stream that nobody polls costs nothing.
    First(ReadFrom),
    Fetching(Fetch),
}

impl Reading {
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
                Next::First(from) => {
                    let from = *from;
                    self.next = Some(Next::Fetching(Fetch::first(self.shared.clone(), from)));
                    continue;
                }
                Next::Fetching(fetch) => fetch,
            };
            // Dropped here, the fetch goes on, and the next poll finds it.
            let fetched = (&mut fetch.0).await;
            self.next = None;
            match fetched {
                Ok(Ok(page)) => {
                    if page.failed.is_none() && page.position.is_some() && page.position < page.end {
                        let (after, end) = (page.position, page.end);
                        self.next = Some(Next::Fetching(Fetch::behind(self.shared.clone(), after, end)));
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
                    return Some(Err(error.in_log(&self.shared.log.name).because(gone)));
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
        Self(tokio::spawn(async move {
            let at = match from {
                ReadFrom::After(id) => Position::at(Some(id)),
                ReadFrom::Snapshot => return from_snapshot(&shared).await,
                _ => Position::at(None),
            };
            page(&shared, at, None).await
        }))
    }

    fn behind(shared: Arc<Shared>, after: Option<EventId>, end: Option<EventId>) -> Self {
        Self(tokio::spawn(async move {
            let at = Position { after, follows: true };
            page(&shared, at, end).await
        }))
    }
}

/// Where a page begins.
#[derive(Clone, Copy)]
struct Position {
    after: Option<EventId>,
    /// Whether `after` is the event that the next one names as its predecessor, and not just any id.
    follows: bool,
}

impl Position {
    fn at(after: Option<EventId>) -> Self {
        Self { after, follows: false }
    }
}

struct Page {
    events: Vec<Event>,
    /// Told behind the events.
    failed: Option<Error>,
    /// The last event yielded, by this page or before it.
    position: Option<EventId>,
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
            Err(error)
                if matches!(error.kind(), hydrant::ErrorKind::Compacted { .. }) && looks < LOOKS_MAX => {}
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
        return Ok(Position { after, follows: true });
    }
    let rows = session.once(&log.settings, &log.sql.look, &[&log.name]).await.map_err(failed)?;
    let floor_after = rows.first().and_then(|row| row.get::<_, Option<i64>>(3));
    Ok(Position { after: floor_after.map(wire::event_id).transpose()?, follows: floor_after.is_some() })
}

/// Fetches a page.
///
/// # Errors
/// `Compacted` when it begins below the floor; `Corrupt` when rows are missing; whatever the server answers.
async fn page(shared: &Shared, at: Position, end: Option<EventId>) -> Result<Page> {
    let log = &shared.log;
    let after = at.after.map_or(-1, clamped);
    let until = end.map(clamped);
    let events_max = i64::try_from(log.options.page_events_max).unwrap_or(i64::MAX);
    let bytes_max = i64::try_from(log.options.page_bytes_max).unwrap_or(i64::MAX);
    let rows = shared
        .reading("reading", async |session| {
            let params: [&(dyn ToSql + Sync); 5] = [&log.name, &after, &until, &events_max, &bytes_max];
            let rows = session.once(&log.settings, &log.sql.page, &params).await;
            rows.map_err(|cause| server_error(Doing::Reading, "reading", cause))
        })
        .await?;
    decode(&rows, at, end).map_err(|error| error.in_log(&log.name)).map(|mut page| {
        page.failed = page.failed.map(|error| error.in_log(&log.name));
        page
    })
}

/// The columns of a page that come before those of an event: head, floor, oldest event kept.
const OF_HEAD: usize = 3;

fn decode(rows: &[Row], at: Position, end: Option<EventId>) -> Result<Page> {
    let column = |at: usize| -> Result<Option<EventId>> {
        let found = rows.first().and_then(|row| row.get::<_, Option<i64>>(at));
        found.map(wire::event_id).transpose()
    };
    let (head, floor_after, oldest) = (column(0)?, column(1)?, column(2)?);
    // Both are of the same snapshot: what is not there was pruned before it, and then the floor says so.
    if at.after < floor_after {
        return Err(Error::compacted(oldest.or(floor_after).unwrap_or(EventId::ZERO)));
    }
    if end > head {
        let message =
            "this server is behind the one that the read began on, as a standby may be; read on later";
        return Err(Error::new(hydrant::ErrorKind::Unavailable, hydrant::Retry::Safe, message));
    }
    let mut page = Page { events: Vec::new(), failed: None, position: at.after, end: end.or(head) };
    debug_assert_eq!(STORED.split(", ").count(), 8);
    let is_event = |row: &&Row| row.get::<_, Option<i64>>(OF_HEAD).is_some();
    let mut follows = at.follows;
    for row in rows.iter().filter(is_event) {
        match next(row, page.position, follows, head) {
            Ok(event) => {
                page.position = Some(event.id());
                page.events.push(event);
                follows = true;
            }
            Err(error) => {
                page.failed = Some(error);
                return Ok(page);
            }
        }
    }
    if page.events.is_empty() && page.position < page.end {
        page.failed = Some(missing(page.position, page.end));
    }
    Ok(page)
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

/// Rows that somebody removed.
fn missing(after: Option<EventId>, until: Option<EventId>) -> Error {
    let behind = after.map_or("from the beginning".to_owned(), |after| format!("behind event {after}"));
    let error = Error::corrupt(format!(
        "rows are missing {behind}: somebody removed them; restore them from another store of this log"
    ));
    match until {
        Some(until) => error.at(until),
        None => error,
    }
}
