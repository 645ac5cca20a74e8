//! The table that says how far each version of each projection is, and its statements.

use crate::schema::quoted;

/// The name of the table.
pub(super) const TABLE: &str = "projections";

/// The statements, each written once. `$1` and `$2` are name and version.
pub(super) struct Statements {
    /// The table, as SQL names it.
    pub(super) table: String,
    pub(super) version_1: String,
    /// Makes those that open a projection do it one after the other.
    pub(super) open_lock: String,
    /// A row, locked, with the number of the transaction. Sets the search path: `$3` live, `$4` not yet.
    pub(super) lock: String,
    pub(super) look: String,
    pub(super) live: String,
    pub(super) lock_live: String,
    /// The number of a transaction in which nothing is locked yet. Sets the search path: `$1`.
    pub(super) enter: String,
    /// `$3` is the state, `$4` is the transaction that made the tables.
    pub(super) insert: String,
    /// `$3` and `$4` are the checkpoint, `$5` is the transaction that locked the row.
    pub(super) advance: String,
    pub(super) set_state: String,
    pub(super) below: String,
    pub(super) remove: String,
}

impl Statements {
    pub(super) fn new(schema: &str) -> Self {
        const KEY: &str = "name = $1 AND version = $2";
        // Ids are text on the wire: a bigint does not hold them all.
        const ROW: &str = "version, state, event_id::text, digest";
        const XACT: &str = "pg_catalog.pg_current_xact_id()::text";
        let table = format!("{}.{TABLE}", quoted(schema));
        Self {
            version_1: format!(
                r#"
CREATE TABLE {table} (
    name text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    state text NOT NULL CHECK (state IN ('building', 'live', 'replaced')),
    event_id numeric(20, 0),
    digest bytea,
    changed_at timestamptz NOT NULL,
    PRIMARY KEY (name, version)
) WITH (fillfactor = 50);
CREATE UNIQUE INDEX {TABLE}_live ON {table} (name) WHERE state = 'live';
COMMENT ON TABLE {table} IS 'Hydrant: how far each version of each projection is. Moved with its tables only.';
"#
            ),
            open_lock: format!(
                "SELECT pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended($1, \
                 '{}'::regclass::oid::bigint))",
                table.replace('\'', "''")
            ),
            lock: format!(
                "SELECT {ROW}, {XACT}, pg_catalog.set_config('search_path', \
                 CASE state WHEN 'live' THEN $3 ELSE $4 END, true) FROM {table} WHERE {KEY} FOR UPDATE"
            ),
            look: format!("SELECT {ROW} FROM {table} WHERE {KEY}"),
            live: format!("SELECT {ROW} FROM {table} WHERE name = $1 AND state = 'live'"),
            lock_live: format!("SELECT {ROW} FROM {table} WHERE name = $1 AND state = 'live' FOR UPDATE"),
            enter: format!("SELECT {XACT}, pg_catalog.set_config('search_path', $1, true)"),
            insert: format!(
                "INSERT INTO {table} (name, version, state, changed_at) \
                 SELECT $1::text, $2::bigint, $3::text, pg_catalog.now() WHERE {XACT} = $4"
            ),
            advance: format!(
                "UPDATE {table} SET event_id = $3::text::numeric, digest = $4, changed_at = pg_catalog.now() \
                 WHERE {KEY} AND {XACT} = $5"
            ),
            set_state: format!("UPDATE {table} SET state = $3, changed_at = pg_catalog.now() WHERE {KEY}"),
            below: format!(
                "SELECT version FROM {table} AS held WHERE name = $1 AND version < \
                 (SELECT version FROM {table} WHERE name = $1 AND state = 'live') ORDER BY version FOR UPDATE"
            ),
            remove: format!("DELETE FROM {table} WHERE {KEY}"),
            table,
        }
    }
}
