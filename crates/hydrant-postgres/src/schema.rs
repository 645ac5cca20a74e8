//! The tables: their names, and how they come to be, version by version.

use hydrant::{Error, Result};
use tokio_postgres::types::Type;
use tokio_postgres::{Client, GenericClient, Transaction};

use crate::error::{Doing, server_error};

/// The advisory lock under which every Hydrant store makes its tables: one at a time in a database.
const MIGRATION_LOCK: i64 = 0x6879_6472_616e_7401;

/// The longest name of a schema or table, in bytes: Postgres cuts at 63, and some objects have a suffix.
const NAME_BYTES_MAX: usize = 50;

/// The same for a table of events, which has other tables beside it.
const TABLE_BYTES_MAX: usize = 40;

/// An identifier as SQL writes it: quoted, so that any name will do.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A name that Postgres can hold without cutting it.
pub(crate) fn check_name(what: &str, name: &str) -> Result<()> {
    check_length(what, name, NAME_BYTES_MAX)
}

fn check_length(what: &str, name: &str, max: usize) -> Result<()> {
    if name.is_empty() || name.len() > max || name.contains('\0') {
        return Err(Error::invalid(format!(
            "the name of the {what}, {name:?}, must have 1 to {max} bytes and no NUL; choose another"
        )));
    }
    Ok(())
}

/// Tables that have versions of their own: the events of a store, checkpoints, ...
pub(crate) struct Part<'a> {
    /// The schema they are in, not quoted.
    pub(crate) schema: &'a str,
    /// What the version is filed under: the table's name, not quoted.
    pub(crate) name: &'a str,
    /// The tables of the newest version, as SQL names them.
    pub(crate) tables: &'a [&'a str],
    /// The SQL that makes version `n + 1` out of version `n`.
    pub(crate) migrations: &'a [String],
}

impl Part<'_> {
    fn versions(&self) -> String {
        format!("{}.\"hydrant_versions\"", quoted(self.schema))
    }

    fn newest(&self) -> i32 {
        i32::try_from(self.migrations.len()).expect("there are few migrations")
    }

    /// Makes the tables, or brings them to the version of this program, unless they are there already.
    ///
    /// Safe when many begin at once: the work is one transaction, under an advisory lock. What is there already
    /// is found without any lock, so that a role that may only read can open a store too.
    ///
    /// # Errors
    /// `Unsupported` for tables of a newer version; `Unavailable` when they are missing and `create` is off;
    /// `Denied` when the role may not make them.
    ///
    /// # Cancel safety
    /// A dropped future leaves the old version or the new one, whole.
    pub(crate) async fn ensure(&self, client: &mut Client, create: bool) -> Result<()> {
        let what = "looking for the tables";
        let version =
            self.version(client).await.map_err(|cause| server_error(Doing::Reading, what, cause))?;
        if self.is_current(version)? {
            let what = "looking for the tables";
            return self
                .check_tables(client)
                .await
                .map_err(|cause| server_error(Doing::Reading, what, cause))?;
        }
        if !create {
            let message = format!(
                "the tables of {}.{} are {}; create them with a role that may, by opening with `create`",
                self.schema,
                self.name,
                version.map_or("missing".to_owned(), |version| format!("of version {version}")),
            );
            return Err(Error::unavailable(message));
        }
        let made = self.migrate(client).await;
        made.map_err(|cause| server_error(Doing::Writing, "making the tables", cause))?
    }

    /// Returns whether nothing is to be done.
    fn is_current(&self, version: Option<i32>) -> Result<bool> {
        match version {
            Some(version) if version > self.newest() => Err(Error::unsupported(format!(
                "the tables of {}.{} are of version {version}, this program knows {}; use a newer one",
                self.schema,
                self.name,
                self.newest()
            ))),
            version => Ok(version == Some(self.newest())),
        }
    }

    /// The version that is filed says nothing about who filed it: another part may have this one's name.
    async fn check_tables(&self, client: &Client) -> Result<Result<()>, tokio_postgres::Error> {
        let sql = "SELECT name FROM unnest($1) AS name WHERE to_regclass(name) IS NULL LIMIT 1";
        let missing = client.query_typed_opt(sql, &[(&self.tables, Type::TEXT_ARRAY)]).await?;
        Ok(match missing.map(|row| row.get::<_, String>(0)) {
            None => Ok(()),
            Some(missing) => Err(Error::unavailable(format!(
                "the tables of {}.{} are to be there, but {missing} is not; give the table a name that no other \
                     part of Hydrant has in this schema, or restore it",
                self.schema, self.name
            ))),
        })
    }

    async fn version(&self, client: &impl GenericClient) -> Result<Option<i32>, tokio_postgres::Error> {
        let table = self.versions();
        if !is_there(client, &table).await? {
            return Ok(None);
        }
        let sql = format!("SELECT version FROM {table} WHERE part = $1");
        let row = client.query_typed(&sql, &[(&self.name, Type::TEXT)]).await?;
        Ok(row.first().map(|row| row.get(0)))
    }

    async fn migrate(&self, client: &mut Client) -> Result<Result<()>, tokio_postgres::Error> {
        let transaction = client.transaction().await?;
        // However many make theirs first: it is the time of the whole call that bounds the wait.
        transaction.batch_execute("SET LOCAL lock_timeout = 0").await?;
        transaction.query_typed("SELECT pg_advisory_xact_lock($1)", &[(&MIGRATION_LOCK, Type::INT8)]).await?;
        self.make_versions_table(&transaction).await?;
        let version = self.version(&transaction).await?;
        // Another process may have done it meanwhile.
        match self.is_current(version) {
            Ok(false) => {}
            done => return Ok(done.map(drop)),
        }
        for migration in &self.migrations[usize::try_from(version.unwrap_or(0)).unwrap_or(0)..] {
            transaction.batch_execute(migration).await?;
        }
        let sql = format!(
            "INSERT INTO {} (part, version) VALUES ($1, $2) \
             ON CONFLICT (part) DO UPDATE SET version = excluded.version",
            self.versions()
        );
        transaction.execute_typed(&sql, &[(&self.name, Type::TEXT), (&self.newest(), Type::INT4)]).await?;
        transaction.commit().await?;
        Ok(Ok(()))
    }

    async fn make_versions_table(&self, transaction: &Transaction<'_>) -> Result<(), tokio_postgres::Error> {
        // `IF NOT EXISTS` would still ask for the right to create a schema that is there.
        let sql = "SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = $1";
        if transaction.query_typed_opt(sql, &[(&self.schema, Type::TEXT)]).await?.is_none() {
            transaction.batch_execute(&format!("CREATE SCHEMA {}", quoted(self.schema))).await?;
        }
        let versions = self.versions();
        if !is_there(transaction, &versions).await? {
            let sql = format!("CREATE TABLE {versions} (part text PRIMARY KEY, version integer NOT NULL)");
            transaction.batch_execute(&sql).await?;
        }
        Ok(())
    }
}

/// Returns whether there is a table of this name, as SQL writes it.
async fn is_there(client: &impl GenericClient, table: &str) -> Result<bool, tokio_postgres::Error> {
    let sql = "SELECT to_regclass($1) IS NOT NULL";
    Ok(client.query_typed(sql, &[(&table, Type::TEXT)]).await?[0].get(0))
}

/// The tables of a store, quoted and with their schema.
#[derive(Clone, Debug)]
pub(crate) struct Tables {
    pub(crate) schema: String,
    pub(crate) table: String,
    /// One row an event.
    pub(crate) events: String,
    /// One row a log: its head, its floor.
    pub(crate) heads: String,
    /// The events for queries, with JSON as `jsonb` where it can be.
    json: String,
    /// Text as `jsonb`, or NULL.
    to_jsonb: String,
    snapshots: String,
}

impl Tables {
    pub(crate) fn new(schema: &str, table: &str) -> Result<Self> {
        check_name("schema", schema)?;
        check_length("table", table, TABLE_BYTES_MAX)?;
        let named = |suffix: &str| format!("{}.{}", quoted(schema), quoted(&format!("{table}{suffix}")));
        Ok(Self {
            schema: schema.to_owned(),
            table: table.to_owned(),
            events: named(""),
            heads: named("_heads"),
            json: named("_json"),
            to_jsonb: named("_to_jsonb"),
            snapshots: quoted(&format!("{table}_snapshots")),
        })
    }

    /// The table of the secondaries of a fan-out whose primary is here, not quoted.
    pub(crate) fn roster(&self) -> String {
        format!("{}_roster", self.table)
    }

    /// What followers LISTEN to. At most 63 bytes.
    pub(crate) fn channel(&self) -> String {
        format!("{}_appended", self.table)
    }

    pub(crate) async fn ensure(&self, client: &mut Client, create: bool) -> Result<()> {
        let migrations = [self.version_1()];
        let tables = [&*self.events, &*self.heads];
        let part = Part { schema: &self.schema, name: &self.table, tables: &tables, migrations: &migrations };
        part.ensure(client, create).await
    }

    fn version_1(&self) -> String {
        let Self { events, heads, json, to_jsonb, snapshots, .. } = self;
        format!(
            r#"
CREATE TABLE {events} (
    log text COLLATE "C" NOT NULL,
    event_id bigint NOT NULL,
    after_id bigint,
    is_snapshot boolean NOT NULL,
    time timestamptz,
    time_text text,
    payload text NOT NULL,
    metadata text,
    members text,
    digest bytea NOT NULL,
    PRIMARY KEY (log, event_id)
);
CREATE INDEX {snapshots} ON {events} (log, event_id) WHERE is_snapshot;

CREATE TABLE {heads} (
    log text COLLATE "C" PRIMARY KEY,
    head_id bigint,
    head_digest bytea,
    floor_after bigint,
    oldest_id bigint,
    epoch bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);

-- JSON that `jsonb` cannot hold (\u0000, numbers out of range, too deep) shows as NULL; the text stays.
CREATE FUNCTION {to_jsonb}(json text) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE STRICT AS $function$
BEGIN
    RETURN json::pg_catalog.jsonb;
EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
    RETURN NULL;
END
$function$;

CREATE VIEW {json} AS
SELECT log, event_id, after_id, is_snapshot, time, time_text,
       {to_jsonb}(payload) AS payload,
       {to_jsonb}(metadata) AS metadata,
       {to_jsonb}('{{' || members || '}}') AS members
FROM {events};

COMMENT ON TABLE {events} IS 'Hydrant: one row an event, text kept byte for byte. Only the store writes here.';
COMMENT ON TABLE {heads} IS 'Hydrant: one row a log. Only the store writes here.';
COMMENT ON VIEW {json} IS 'Hydrant: the events for queries. NULL where jsonb cannot hold what the text says.';
"#
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_name_is_quoted_and_long_ones_are_refused() {
        assert_eq!(Tables::new("a\"b", "events").unwrap().events, "\"a\"\"b\".\"events\"");
        for bad in ["", "a\0b", &"x".repeat(51)] {
            assert!(Tables::new(bad, "events").is_err());
            assert!(Tables::new("hydrant", bad).is_err());
        }
        assert!(Tables::new("s", &"x".repeat(41)).is_err());
        let longest = Tables::new("s", &"x".repeat(40)).unwrap();
        assert!(longest.channel().len() <= 63);
        check_name("table", &longest.roster()).unwrap();
    }
}
