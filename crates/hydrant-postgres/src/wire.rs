//! Events as rows: as arrays for UNNEST, as binary COPY, and back.

use bytes::{BufMut, BytesMut};
use hydrant::store::Layout;
use hydrant::{Checkpoint, Digest, Error, Event, EventId, Result};
use jiff::Timestamp;
use tokio_postgres::Row;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};

/// The columns of an event, in the order of every statement here.
pub(crate) const COLUMNS: &str =
    "log, event_id, after_id, is_snapshot, time, time_text, payload, metadata, members, digest";

/// The types of [`Columns`], for UNNEST.
pub(crate) const ARRAYS: [&str; 9] =
    ["bigint", "bigint", "boolean", "timestamptz", "text", "text", "text", "text", "bytea"];

/// The largest id that a `bigint` holds.
pub(crate) const ID_MAX: u64 = i64::MAX.unsigned_abs();

/// An id as a `bigint`.
///
/// # Errors
/// `Invalid`, naming the event, above 2^63-1.
pub(crate) fn bigint(id: EventId) -> Result<i64> {
    i64::try_from(id.get()).map_err(|_| {
        Error::invalid(format!("Postgres holds ids up to {ID_MAX}; keep this log in another store")).at(id)
    })
}

/// The highest `bigint` that is not above an id: what a position beyond all ids means here.
pub(crate) fn clamped(id: EventId) -> i64 {
    i64::try_from(id.get()).unwrap_or(i64::MAX)
}

/// Returns the id of a column. A negative id is an error: no statement here writes one.
pub(crate) fn event_id(column: i64) -> Result<EventId> {
    u64::try_from(column)
        .map(EventId::new)
        .map_err(|_| Error::corrupt(format!("the id {column} is negative")))
}

/// A digest from its column.
pub(crate) fn digest(column: &[u8]) -> Result<Digest> {
    let bytes: [u8; 16] = column
        .try_into()
        .map_err(|_| Error::corrupt(format!("a digest has {} bytes, not 16", column.len())))?;
    Ok(bytes.into())
}

/// Microseconds since 2000-01-01, as `timestamptz` counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Micros(i64);

impl Micros {
    const EPOCH_SECONDS: i64 = 946_684_800;
    /// 4713 BC, before which Postgres has no time.
    const MIN: i64 = -211_813_488_000_000_000;

    /// The instant that a text names, cut to microseconds; `None` where it names none that Postgres has.
    fn parse(text: &str) -> Option<Self> {
        // hydra-node writes picoseconds.
        let fraction = text.find('.').map_or(text.len(), |dot| dot + 1);
        let digits = text[fraction..].bytes().take_while(u8::is_ascii_digit).count();
        let instant: Timestamp = if digits > 9 {
            [&text[..fraction + 9], &text[fraction + digits..]].concat().parse().ok()?
        } else {
            text.parse().ok()?
        };
        let micros = i64::try_from(instant.as_nanosecond().div_euclid(1_000)).ok()?;
        let since = micros.checked_sub(Self::EPOCH_SECONDS * 1_000_000)?;
        (since >= Self::MIN).then_some(Self(since))
    }
}

impl ToSql for Micros {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut BytesMut,
    ) -> std::result::Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        out.put_i64(self.0);
        Ok(IsNull::No)
    }

    fn accepts(of: &Type) -> bool {
        *of == Type::TIMESTAMPTZ
    }

    to_sql_checked!();
}

/// One event, with what its row holds beside it.
struct Cells<'a> {
    id: i64,
    after: Option<i64>,
    is_snapshot: bool,
    time: Option<Micros>,
    time_text: Option<&'a str>,
    payload: &'a str,
    metadata: Option<&'a str>,
    members: Option<&'a str>,
    digest: Digest,
}

impl<'a> Cells<'a> {
    fn of(event: &'a Event, after: Option<i64>) -> Result<Self> {
        let text = |bytes: &'a [u8]| {
            let not_text = || Error::invalid("the event is not UTF-8").at(event.id());
            std::str::from_utf8(bytes).map_err(|cause| not_text().because(cause))
        };
        let members = text(event.members())?;
        Ok(Self {
            id: bigint(event.id())?,
            after,
            is_snapshot: event.is_snapshot(),
            time: event.time().and_then(Micros::parse),
            time_text: event.time(),
            payload: text(event.payload())?,
            metadata: event.metadata().map(text).transpose()?,
            members: (!members.is_empty()).then_some(members),
            digest: event.digest(),
        })
    }
}

/// Each event with its predecessor's id, the first one's being `after`.
fn cells(after: Option<EventId>, events: &[Event]) -> impl Iterator<Item = Result<Cells<'_>>> {
    let mut before = after;
    events.iter().map(move |event| {
        let after = before.replace(event.id()).map(bigint).transpose()?;
        Cells::of(event, after)
    })
}

/// Rows as one array a column: what one statement UNNESTs.
#[derive(Default)]
pub(crate) struct Columns<'a> {
    ids: Vec<i64>,
    afters: Vec<Option<i64>>,
    are_snapshots: Vec<bool>,
    times: Vec<Option<Micros>>,
    time_texts: Vec<Option<&'a str>>,
    payloads: Vec<&'a str>,
    metadata: Vec<Option<&'a str>>,
    members: Vec<Option<&'a str>>,
    digests: Vec<Vec<u8>>,
}

impl<'a> Columns<'a> {
    /// # Errors
    /// `Invalid`, naming the event that a row cannot hold.
    pub(crate) fn of(after: Option<EventId>, events: &'a [Event]) -> Result<Self> {
        let mut columns = Self::default();
        for cells in cells(after, events) {
            let cells = cells?;
            columns.ids.push(cells.id);
            columns.afters.push(cells.after);
            columns.are_snapshots.push(cells.is_snapshot);
            columns.times.push(cells.time);
            columns.time_texts.push(cells.time_text);
            columns.payloads.push(cells.payload);
            columns.metadata.push(cells.metadata);
            columns.members.push(cells.members);
            columns.digests.push(cells.digest.as_bytes().to_vec());
        }
        Ok(columns)
    }

    /// In the order of [`ARRAYS`].
    pub(crate) fn params(&self) -> [&(dyn ToSql + Sync); 9] {
        [
            &self.ids,
            &self.afters,
            &self.are_snapshots,
            &self.times,
            &self.time_texts,
            &self.payloads,
            &self.metadata,
            &self.members,
            &self.digests,
        ]
    }
}

/// Rows as binary COPY, to be sent piece by piece.
pub(crate) struct Copy<'a> {
    log: &'a str,
    out: BytesMut,
}

impl<'a> Copy<'a> {
    /// How many bytes a piece has, unless one row has more: little, so that the server is at work on the first
    /// rows while the last are encoded.
    pub(crate) const PIECE: usize = 32 << 10;
    const SIGNATURE: &'static [u8] = b"PGCOPY\n\xff\r\n\0";

    pub(crate) fn new(log: &'a str) -> Self {
        let mut out = BytesMut::with_capacity(Self::PIECE + (Self::PIECE >> 2));
        out.put_slice(Self::SIGNATURE);
        out.put_slice(&[0; 8]); // no flags, no extension
        Self { log, out }
    }

    /// The pieces that hold these events, the last one closed off.
    pub(crate) fn pieces(
        mut self,
        after: Option<EventId>,
        events: &'a [Event],
    ) -> impl Iterator<Item = Result<bytes::Bytes>> + 'a {
        let mut cells = cells(after, events);
        let mut is_done = false;
        std::iter::from_fn(move || {
            if is_done {
                return None;
            }
            while self.out.len() < Self::PIECE {
                match cells.next() {
                    Some(Ok(row)) => self.put(&row),
                    Some(Err(error)) => {
                        is_done = true;
                        return Some(Err(error));
                    }
                    None => {
                        self.out.put_i16(-1);
                        is_done = true;
                        break;
                    }
                }
            }
            Some(Ok(self.out.split().freeze()))
        })
    }

    fn put(&mut self, row: &Cells<'_>) {
        let log = self.log;
        self.out.put_i16(10);
        self.put_bytes(Some(log.as_bytes()));
        self.put_bytes(Some(&row.id.to_be_bytes()));
        self.put_bytes(row.after.map(i64::to_be_bytes).as_ref().map(<[u8; 8]>::as_slice));
        self.put_bytes(Some(&[u8::from(row.is_snapshot)]));
        self.put_bytes(row.time.map(|time| time.0.to_be_bytes()).as_ref().map(<[u8; 8]>::as_slice));
        self.put_bytes(row.time_text.map(str::as_bytes));
        self.put_bytes(Some(row.payload.as_bytes()));
        self.put_bytes(row.metadata.map(str::as_bytes));
        self.put_bytes(row.members.map(str::as_bytes));
        self.put_bytes(Some(row.digest.as_bytes()));
    }

    fn put_bytes(&mut self, field: Option<&[u8]>) {
        match field {
            Some(bytes) => {
                // An event has at most 4 GiB; the server refuses what is above its own limit of 1 GiB.
                self.out.put_i32(i32::try_from(bytes.len()).unwrap_or(i32::MAX));
                self.out.put_slice(bytes);
            }
            None => self.out.put_i32(-1),
        }
    }
}

/// An event read back, and the id of the one before it.
pub(crate) struct Stored {
    pub(crate) event: Event,
    pub(crate) after: Option<EventId>,
}

/// The columns that [`stored`] reads, each named.
pub(crate) const STORED: &str =
    "event_id, after_id, is_snapshot, time_text, payload, metadata, members, digest";

/// The event of a row whose columns [`STORED`] begin at `first`.
///
/// # Errors
/// `Corrupt`, naming the event, when the row is not what was once written.
pub(crate) fn stored(row: &Row, first: usize) -> Result<Stored> {
    let id = event_id(row.get(first))?;
    let read = || -> std::result::Result<_, tokio_postgres::Error> {
        Ok((
            row.try_get::<_, Option<i64>>(first + 1)?,
            row.try_get::<_, bool>(first + 2)?,
            row.try_get::<_, Option<&str>>(first + 3)?,
            row.try_get::<_, &str>(first + 4)?,
            row.try_get::<_, Option<&str>>(first + 5)?,
            row.try_get::<_, Option<&str>>(first + 6)?,
            row.try_get::<_, &[u8]>(first + 7)?,
        ))
    };
    let (after, is_snapshot, time, payload, metadata, members, stored) =
        read().map_err(|cause| Error::corrupt("a column is not as it was made").at(id).because(cause))?;
    let event = encode(id, is_snapshot, time, payload, metadata, members.unwrap_or_default())?;
    if event.digest() != digest(stored).map_err(|error| error.at(id))? {
        return Err(Error::corrupt(
            "the row does not match its digest: it was changed by hand, or the server's disk is faulty; \
             restore it from another store of this log",
        )
        .at(id));
    }
    Ok(Stored { event, after: after.map(event_id).transpose()? })
}

/// The envelope in its canonical form, laid out without being parsed: the digest proves the parts.
fn encode(
    id: EventId,
    is_snapshot: bool,
    time: Option<&str>,
    payload: &str,
    metadata: Option<&str>,
    members: &str,
) -> Result<Event> {
    let length = payload.len() + time.map_or(0, str::len) + metadata.map_or(0, str::len) + members.len();
    if length > (u32::MAX >> 1) as usize {
        return Err(Error::corrupt("the row is larger than any event").at(id));
    }
    let mut line = Vec::with_capacity(96 + length);
    let put = |line: &mut Vec<u8>, before: &str, part: &str| {
        line.extend_from_slice(before.as_bytes());
        let start = offset(line.len());
        line.extend_from_slice(part.as_bytes());
        (start, offset(line.len()))
    };
    line.extend_from_slice(b"{\"eventId\":");
    line.extend_from_slice(id.get().to_string().as_bytes());
    let payload = put(&mut line, ",\"stateChanged\":", payload);
    let time = time.map_or((0, 0), |text| {
        let time = put(&mut line, ",\"time\":\"", text);
        line.push(b'"');
        time
    });
    let metadata = metadata.map_or((0, 0), |json| put(&mut line, ",\"metadata\":", json));
    if is_snapshot {
        line.extend_from_slice(b",\"isSnapshot\":true");
    }
    let members = if members.is_empty() { (0, 0) } else { put(&mut line, ",", members) };
    let end = offset(line.len());
    Event::from_layout(line.into(), Layout { id, payload, time, metadata, members, is_snapshot, end })
}

/// Offsets fit: `encode` refuses what is larger first.
#[expect(clippy::cast_possible_truncation, reason = "checked by the caller")]
fn offset(at: usize) -> u32 {
    at as u32
}

/// A checkpoint from the two columns of a head.
pub(crate) fn checkpoint(id: Option<i64>, stored: Option<&[u8]>) -> Result<Checkpoint> {
    match (id, stored) {
        (None, None) => Ok(Checkpoint::Empty),
        (Some(id), Some(stored)) => Ok(Checkpoint::At { id: event_id(id)?, digest: digest(stored)? }),
        _ => Err(Error::corrupt(
            "the row of the log's head has an id without a digest, or a digest without an id",
        )),
    }
}

/// A checkpoint from columns of a table that holds ids of every size, as text. `None`: it is damaged.
pub(crate) fn checkpoint_from_text(id: &str, digest: &[u8]) -> Option<Checkpoint> {
    let digest = Digest::from(<[u8; 16]>::try_from(digest).ok()?);
    Some(Checkpoint::At { id: EventId::new(id.parse().ok()?), digest })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_cut_to_microseconds_and_may_name_no_instant() {
        let micros = |text: &str| Micros::parse(text).map(|micros| micros.0);
        assert_eq!(micros("2000-01-01T00:00:00Z"), Some(0));
        assert_eq!(micros("2000-01-01T00:00:00.000001999999Z"), Some(1));
        assert_eq!(micros("1999-12-31T23:59:59.999999999999Z"), Some(-1));
        assert_eq!(micros("2000-01-01T02:00:00+02:00"), Some(0));
        assert_eq!(micros("-009999-01-01T00:00:00Z"), None);
        for none in ["", "not a time", "2000-13-01T00:00:00Z", ".", "1.2.3", "é.123456789012é"] {
            assert_eq!(micros(none), None, "{none}");
        }
    }

    #[test]
    fn a_row_is_laid_out_as_the_envelope_is_written() {
        let event = Event::builder(EventId::new(7))
            .time("t")
            .payload_json(r#"{"a":1.0}"#)
            .metadata_json("[]")
            .snapshot()
            .member("m", "1")
            .build()
            .unwrap();
        let again = encode(event.id(), true, Some("t"), r#"{"a":1.0}"#, Some("[]"), r#""m":1"#).unwrap();
        assert_eq!(again, event);
        assert_eq!(again.to_vec(), event.to_vec());
        let bare = Event::builder(EventId::new(u64::MAX)).payload_json("1").build().unwrap();
        assert_eq!(encode(bare.id(), false, None, "1", None, "").unwrap().to_vec(), bare.to_vec());
    }

    #[test]
    fn an_id_above_a_bigint_is_refused_by_name() {
        assert_eq!(bigint(EventId::new(ID_MAX)).unwrap(), i64::MAX);
        assert_eq!(bigint(EventId::new(ID_MAX + 1)).unwrap_err().event(), Some(EventId::new(ID_MAX + 1)));
    }
}
