//! The table of checkpoints, and its statements.

use crate::session::BEGUN;

/// The statements, each written once. `$1` and `$2` are scope and name.
pub(super) struct Statements {
    /// The table, as SQL names it.
    pub(super) table: String,
    pub(super) version_1: String,
    pub(super) lock: String,
    pub(super) load: String,
    pub(super) list: String,
    pub(super) absent: String,
    pub(super) insert: String,
    pub(super) update: String,
    pub(super) delete: String,
}

impl Statements {
    pub(super) fn new(table: &str) -> Self {
        const KEY: &str = "scope = $1 AND name = $2";
        // Ids are text on the wire: a bigint does not hold them all.
        let is = |from: usize| {
            format!(
                "target = ${} AND state = ${} AND event_id IS NOT DISTINCT FROM ${}::text::numeric \
                 AND digest IS NOT DISTINCT FROM ${}::bytea AND beside IS NOT DISTINCT FROM ${}::text",
                from,
                from + 1,
                from + 2,
                from + 3,
                from + 4
            )
        };
        let columns = "name, target, state, event_id::text, digest, beside";
        Self {
            table: table.to_owned(),
            version_1: format!(
                r#"
CREATE TABLE {table} (
    scope text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL,
    target text NOT NULL,
    state text NOT NULL,
    event_id numeric(20, 0),
    digest bytea,
    beside text,
    changed_at timestamptz NOT NULL,
    PRIMARY KEY (scope, name)
) WITH (fillfactor = 50);
COMMENT ON TABLE {table} IS 'Hydrant: how far each sink is. Moved by compare-and-swap only.';
"#
            ),
            // Two names may share a lock; then they wait for each other a little.
            lock: format!(
                "SELECT pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended($2, \
                 pg_catalog.hashtextextended($1, '{}'::regclass::oid::bigint)))",
                table.replace('\'', "''")
            ),
            load: format!("SELECT {columns} FROM {table} WHERE {KEY}"),
            list: format!("SELECT {columns} FROM {table} WHERE scope = $1 ORDER BY name"),
            absent: format!("SELECT 1 WHERE NOT EXISTS (SELECT FROM {table} WHERE {KEY})"),
            insert: format!(
                "INSERT INTO {table} (scope, name, target, state, event_id, digest, beside, changed_at) \
                 SELECT $1::text, $2::text, $3::text, $4::text, $5::text::numeric, $6::bytea, $7::text, \
                 pg_catalog.now() \
                 WHERE {BEGUN} \
                 ON CONFLICT (scope, name) DO NOTHING RETURNING 1"
            ),
            update: format!(
                "UPDATE {table} SET target = $8, state = $9, event_id = $10::text::numeric, digest = $11, \
                 beside = $12, changed_at = pg_catalog.now() WHERE {KEY} AND {} AND {BEGUN} RETURNING 1",
                is(3)
            ),
            delete: format!("DELETE FROM {table} WHERE {KEY} AND {} AND {BEGUN} RETURNING 1", is(3)),
        }
    }
}
