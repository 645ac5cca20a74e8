//! The laws, for each way in which a batch is written and a connection is had.

use std::sync::LazyLock;

use deadpool_postgres::{Manager, Pool};
use futures_util::future;
use hydrant::{Capabilities, EventId, Result};
use hydrant_conformance::{Damage, Harness, Limits, Opened};
use hydrant_postgres::{PostgresConnect, PostgresStore, PostgresStoreOptions};
use tokio_postgres::NoTls;

use crate::support::{self, SCHEMA};

static URL: LazyLock<std::result::Result<String, String>> = LazyLock::new(test_servers::postgres);

/// How many connections a pool has.
const POOLED: usize = 6;

/// Logs in tables that all tests share.
struct InPostgres {
    options: PostgresStoreOptions,
    pool: Option<Pool>,
}

fn url() -> &'static str {
    URL.as_deref().unwrap_or_default()
}

impl InPostgres {
    fn new() -> Self {
        let event_bytes_max = Limits::default().event_bytes_max;
        let options =
            PostgresStoreOptions::default().with_schema(SCHEMA).with_event_bytes_max(event_bytes_max);
        Self { options, pool: None }
    }

    /// Every batch by COPY, and pages of few bytes.
    fn by_copy() -> Self {
        let mut harness = Self::new();
        harness.options = harness.options.with_copy_bytes_min(0).with_page_bytes_max(4 << 10);
        harness
    }

    /// Connections of a pool, and pages of few events.
    fn pooled() -> Self {
        let mut harness = Self::new();
        if let Ok(url) = &*URL {
            let manager = Manager::new(url.parse().unwrap(), NoTls);
            harness.pool = Some(Pool::builder(manager).max_size(POOLED).build().unwrap());
        }
        harness.options = harness.options.with_page_events_max(7);
        harness
    }

    fn connect(&self) -> PostgresConnect {
        self.pool.clone().map_or_else(|| url().into(), PostgresConnect::from)
    }

    /// Failures are made by triggers, in tables of the case's own.
    fn options_for(&self, namespace: &str) -> PostgresStoreOptions {
        let options = self.options.clone();
        if namespace.starts_with("law07") { options.with_table(namespace) } else { options }
    }
}

/// Ways in which the server fails in the middle of an append, as SQL for a trigger on each row.
const FAILURES: [&str; 6] = [
    "RAISE EXCEPTION USING ERRCODE = 'disk_full'",
    "RAISE EXCEPTION USING ERRCODE = 'serialization_failure'",
    "RAISE EXCEPTION USING ERRCODE = 'read_only_sql_transaction'",
    "RAISE EXCEPTION USING ERRCODE = 'lock_not_available'",
    "PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(1)",
    "PERFORM pg_cancel_backend(pg_backend_pid()); PERFORM pg_sleep(1)",
];

#[async_trait::async_trait]
impl Harness for InPostgres {
    fn capabilities(&self) -> Capabilities {
        PostgresStore::CAPABILITIES
    }

    async fn open(&self, namespace: &str) -> Result<Opened> {
        if let Some(pool) = &self.pool {
            // What the pool holds is not the store's: it is there before the store is.
            let all = (0..POOLED).map(|_| pool.get());
            drop(future::join_all(all).await);
        }
        let store = PostgresStore::open(self.connect(), namespace, self.options_for(namespace)).await?;
        Ok(Opened::prunable(store.clone()).closed_by(async move { store.close().await }))
    }

    fn limits(&self) -> Limits {
        // A server on a busy machine gets more patience than a store in the process.
        Limits::default()
            .with_id_max(EventId::new(i64::MAX.unsigned_abs()))
            .with_patience(std::time::Duration::from_secs(300))
    }

    fn unavailable(&self) -> Option<String> {
        URL.as_ref().err().cloned()
    }

    async fn remove(&self, prefix: &str) -> Result<()> {
        let client = support::client(url()).await;
        if prefix.starts_with("law07") {
            let sql = "SELECT tablename FROM pg_tables WHERE schemaname = $1 AND tablename LIKE $2";
            let found = client.query(sql, &[&SCHEMA, &format!("{prefix}%")]).await.unwrap();
            for table in found.iter().map(|row| row.get::<_, String>(0)) {
                let drop = format!(
                    "DROP TABLE IF EXISTS {SCHEMA}.{table} CASCADE; \
                     DROP FUNCTION IF EXISTS {SCHEMA}.{table}_to_jsonb; DROP FUNCTION IF EXISTS {SCHEMA}.{table}_fail; \
                     DROP SEQUENCE IF EXISTS {SCHEMA}.{table}_seq; \
                     DELETE FROM {SCHEMA}.hydrant_versions WHERE part = '{table}'"
                );
                client.batch_execute(&drop).await.unwrap();
            }
            return Ok(());
        }
        for table in ["events", "events_heads"] {
            let sql = format!("DELETE FROM {SCHEMA}.{table} WHERE log LIKE $1");
            client.execute(&sql, &[&format!("{prefix}%")]).await.unwrap();
        }
        Ok(())
    }

    async fn damage(&self, namespace: &str, damage: Damage) -> Result<bool> {
        match damage {
            Damage::Inside => {
                let damage = format!(
                    "UPDATE {SCHEMA}.events SET payload = payload || ' ' WHERE log = '{namespace}' AND event_id = 30"
                );
                support::sql(url(), &damage).await;
                Ok(true)
            }
            // A transaction is there or not; nothing of it is ever torn.
            _ => Ok(false),
        }
    }

    async fn fail_next_write(&self, namespace: &str, n: usize) -> Result<bool> {
        let Some(failure) = FAILURES.get(n / 2) else { return Ok(false) };
        // In the middle of the statement, or at COMMIT. What a sequence counts is not rolled back.
        let (kind, when) = match n % 2 {
            0 => ("", ""),
            _ => ("CONSTRAINT", "DEFERRABLE INITIALLY DEFERRED"),
        };
        let arm = format!(
            "CREATE SEQUENCE {SCHEMA}.{namespace}_seq; \
             CREATE FUNCTION {SCHEMA}.{namespace}_fail() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN \
             IF nextval('{SCHEMA}.{namespace}_seq') = 1 THEN {failure}; END IF; RETURN NEW; END $f$; \
             CREATE {kind} TRIGGER fail AFTER INSERT ON {SCHEMA}.{namespace} {when} FOR EACH ROW \
             EXECUTE FUNCTION {SCHEMA}.{namespace}_fail()"
        );
        support::sql(url(), &arm).await;
        Ok(true)
    }
}

mod by_one_statement {
    use super::*;
    hydrant_conformance::store_suite!(InPostgres::new());
}

mod by_copy {
    use super::*;
    hydrant_conformance::store_suite!(InPostgres::by_copy());
}

mod from_a_pool {
    use super::*;
    hydrant_conformance::store_suite!(InPostgres::pooled());
}
