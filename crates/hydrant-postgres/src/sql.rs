//! The statements of a log, each written once.

use crate::schema::Tables;
use crate::session::{BEGUN, Change};
use crate::wire::{ARRAYS, COLUMNS, STORED};

/// What every answer about a head says, in this order.
const HEAD: &str = "epoch, head_id, head_digest, floor_after, oldest_id";

/// The statements, for the tables of one store.
#[derive(Debug)]
pub(crate) struct Statements {
    pub(crate) look: String,
    pub(crate) bump: Change,
    pub(crate) claim: Change,
    pub(crate) append: Change,
    /// For within a transaction.
    pub(crate) move_head: String,
    pub(crate) copy: String,
    pub(crate) notify: Option<String>,
    pub(crate) held: String,
    pub(crate) page: String,
    pub(crate) newest_snapshot: String,
    pub(crate) prunable: String,
    pub(crate) raise_floor: Change,
    pub(crate) delete: Change,
}

impl Statements {
    pub(crate) fn new(tables: &Tables, notify: bool) -> Self {
        let Tables { events, heads, .. } = tables;
        let channel = tables.channel();
        let notify_call = format!("pg_catalog.pg_notify('{}', $1)", channel.replace('\'', "''"));
        let move_head = |and: &str| format!("{}{and} RETURNING log", move_head(heads));
        // Rows behind the head do not count.
        let head = format!("(SELECT head_id FROM {heads} WHERE log = $1)");
        let arrays: Vec<_> =
            ARRAYS.iter().enumerate().map(|(at, of)| format!("${}::{of}[]", at + 9)).collect();
        // The outcome is the row of `moved`; `added` runs to its end whether it is looked at or not.
        let append = |and: &str| {
            format!(
                "WITH moved AS ({move_head}), added AS (INSERT INTO {events} ({COLUMNS}) \
             SELECT moved.log, new.* FROM moved, unnest({arrays}) AS new) \
             SELECT {seen} FROM moved",
                move_head = move_head(and),
                arrays = arrays.join(", "),
                seen = if notify { &notify_call } else { "NULL" },
            )
        };
        Self {
            look: format!("SELECT {HEAD} FROM {heads} WHERE log = $1"),
            bump: Change::new(|and| {
                format!("UPDATE {heads} SET epoch = epoch + 1 WHERE log = $1{and} RETURNING {HEAD}")
            }),
            claim: Change::new(|and| {
                format!(
                    "INSERT INTO {heads} AS held (log) SELECT $1::text WHERE true{and} \
                     ON CONFLICT (log) DO UPDATE SET epoch = held.epoch + 1 RETURNING {HEAD}"
                )
            }),
            append: Change::new(append),
            move_head: move_head(&format!(" AND {BEGUN}")),
            copy: format!("COPY {events} ({COLUMNS}) FROM STDIN BINARY"),
            notify: notify.then(|| format!("SELECT {notify_call}")),
            held: format!(
                "SELECT event_id, digest FROM {events} \
                 WHERE log = $1 AND event_id > $2 AND event_id <= $3 ORDER BY event_id LIMIT $4"
            ),
            page: page(events, heads),
            newest_snapshot: format!(
                "SELECT event_id, after_id FROM {events} \
                 WHERE log = $1 AND is_snapshot AND event_id <= {head} ORDER BY event_id DESC LIMIT 1"
            ),
            prunable: format!(
                "SELECT event_id, after_id FROM {events} \
                 WHERE log = $1 AND is_snapshot AND after_id < $2 AND event_id <= {head} \
                 ORDER BY event_id DESC LIMIT 1"
            ),
            raise_floor: Change::new(|and| {
                format!(
                    "UPDATE {heads} SET floor_after = greatest(floor_after, $2), \
                     oldest_id = greatest(oldest_id, $3) \
                     WHERE log = $1 AND head_id >= $3{and} RETURNING floor_after"
                )
            }),
            delete: Change::new(|and| {
                format!(
                    "WITH deleted AS (DELETE FROM {events} WHERE log = $1 AND event_id <= \
                     (SELECT max(event_id) FROM (SELECT event_id FROM {events} \
                     WHERE log = $1 AND event_id <= $2 ORDER BY event_id LIMIT $3) AS oldest){and} RETURNING 1) \
                     SELECT count(*) FROM deleted"
                )
            }),
        }
    }
}

/// Compare and append, the compare: moves the head from where the writer knows it to its last event.
///
/// `$1` log, `$2` `$3` the new head, `$4` `$5` the floor of a log that was empty, `$6` epoch, `$7` `$8` the old
/// head. The row's lock makes rivals wait for each other; the second then finds the head moved, and no row.
fn move_head(heads: &str) -> String {
    format!(
        "UPDATE {heads} SET head_id = $2::bigint, head_digest = $3::bytea, \
         floor_after = CASE WHEN head_id IS NULL THEN $4::bigint ELSE floor_after END, \
         oldest_id = CASE WHEN head_id IS NULL THEN $5::bigint ELSE oldest_id END \
         WHERE log = $1 AND epoch = $6::bigint AND head_id IS NOT DISTINCT FROM $7::bigint \
         AND head_digest IS NOT DISTINCT FROM $8::bytea"
    )
}

/// Selects events behind `$2`, up to `$3` or else the head, at most `$4` of them, and `$5` bytes but for the last
/// one. Head and floor come from the same snapshot, so that pruned events are reported and never skipped. The same
/// snapshot shows whether `$2` is still the event with the digest `$6`, if a digest is given.
///
/// The sizes are known without the values: the server fetches only the rows that it sends.
fn page(events: &str, heads: &str) -> String {
    let size =
        "octet_length(payload) + coalesce(octet_length(metadata), 0) + coalesce(octet_length(members), 0)";
    format!(
        "SELECT head.head_id, head.floor_after, head.oldest_id, $6::bytea IS NULL OR EXISTS (\
         SELECT FROM {events} AS last WHERE last.log = $1 AND last.event_id = $2::bigint AND last.digest = $6), \
         {stored} \
         FROM (VALUES ($1::text)) AS asked (log) LEFT JOIN {heads} AS head ON head.log = asked.log \
         LEFT JOIN LATERAL (SELECT {STORED} FROM (\
         SELECT {STORED}, sum({size}) OVER (ORDER BY event_id ROWS UNBOUNDED PRECEDING) - ({size}) AS bytes_before \
         FROM (SELECT {STORED} FROM {events} WHERE log = $1 AND event_id > $2::bigint \
         AND event_id <= coalesce($3::bigint, head.head_id, 9223372036854775807) \
         ORDER BY event_id LIMIT $4::bigint) AS behind) AS sized WHERE bytes_before < $5::bigint) AS event ON true \
         ORDER BY event.event_id",
        stored = STORED.split(", ").map(|column| format!("event.{column}")).collect::<Vec<_>>().join(", "),
    )
}
