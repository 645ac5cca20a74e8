//! The laws, for each way in which a batch is written and a connection is made.

use std::sync::LazyLock;
use std::time::Duration;

use deadpool_postgres::{Manager, Pool};
use futures_util::future;
use hydrant::{Capabilities, Event, EventId, Result};
use hydrant_conformance::{Damage, Harness, Hook, Limits, Opened};
use hydrant_postgres::{
    PostgresCheckpoints, PostgresCheckpointsOptions, PostgresConnect, PostgresStore, PostgresStoreOptions,
};
use test_servers::proxy::{Fault, Tcp, When};
use tokio::sync::OnceCell;
use tokio_postgres::{Config, NoTls};

use crate::support::{self, Place, SCHEMA};

static URL: LazyLock<std::result::Result<String, String>> = LazyLock::new(test_servers::postgres);

/// How long a case may take: a server on a busy machine gets more patience than a store in the process.
const PATIENCE: Duration = Duration::from_secs(300);

/// How many connections a pool has.
const POOLED: usize = 6;

/// Logs in tables that all tests share.
struct InPostgres {
    options: PostgresStoreOptions,
    is_pooled: bool,
    pool: OnceCell<Pool>,
    /// The proxy to the server, in cases that break the connection.
    proxy: OnceCell<Tcp>,
}

fn url() -> &'static str {
    URL.as_deref().unwrap_or_default()
}

impl InPostgres {
    fn new() -> Self {
        let event_bytes_max = Limits::default().event_bytes_max;
        let options =
            PostgresStoreOptions::default().with_schema(SCHEMA).with_event_bytes_max(event_bytes_max);
        Self { options, is_pooled: false, pool: OnceCell::new(), proxy: OnceCell::new() }
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
        harness.is_pooled = true;
        harness.options = harness.options.with_page_events_max(7);
        harness
    }

    async fn connect(&self, namespace: &str) -> PostgresConnect {
        let broken = if is_broken(namespace) || is_replaced(namespace) {
            let place = Place { url: url().to_owned(), schema: SCHEMA.to_owned() };
            let proxy = self.proxy.get_or_init(|| place.proxy()).await;
            Some(place.config(proxy.address()))
        } else {
            None
        };
        if !self.is_pooled {
            return broken.map_or_else(|| url().into(), PostgresConnect::from);
        }
        let config = broken.unwrap_or_else(|| url().parse::<Config>().unwrap());
        let pool = || async {
            let pool = Pool::builder(Manager::new(config, NoTls)).max_size(POOLED).build().unwrap();
            // The pool's connections do not belong to the store: open them before the store.
            drop(future::join_all((0..POOLED).map(|_| pool.get())).await);
            pool
        };
        self.pool.get_or_init(pool).await.clone().into()
    }

    /// Some failures are made by triggers, in tables of the case's own.
    fn options_for(&self, namespace: &str) -> PostgresStoreOptions {
        let options = self.options.clone();
        if is_broken(namespace) {
            options.with_table(namespace).with_call_timeout(Duration::from_secs(4))
        } else {
            options
        }
    }
}

/// Returns whether the case of this namespace may replace what is stored.
fn is_replaced(namespace: &str) -> bool {
    namespace.starts_with("law13")
}

/// Returns whether the case of this namespace breaks or delays the traffic between store and server.
fn is_broken(namespace: &str) -> bool {
    namespace.starts_with("law07") || namespace.starts_with("law08")
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
        let connect = self.connect(namespace).await;
        let store = PostgresStore::open(connect, namespace, self.options_for(namespace)).await?;
        Ok(Opened::primary(store.clone()).closed_by(async move { store.close().await }))
    }

    fn limits(&self) -> Limits {
        Limits::default().with_id_max(EventId::new(i64::MAX.unsigned_abs())).with_patience(PATIENCE)
    }

    fn impossible(&self, hook: Hook) -> Option<&'static str> {
        match hook {
            Hook::Crash => {
                Some("all tests share the server; `server` and `integration-tests` kill one of their own")
            }
            Hook::Damage(Damage::TornTail) => {
                Some("a transaction is there or not; nothing of it is ever torn")
            }
            Hook::Verify => Some("there is none: each read checks the digest of each row"),
            _ => None,
        }
    }

    fn unavailable(&self) -> Option<String> {
        URL.as_ref().err().cloned()
    }

    async fn remove(&self, prefix: &str) -> Result<()> {
        let client = support::client(url()).await;
        if is_broken(prefix) {
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
        for (table, column) in [("events", "log"), ("events_heads", "log"), ("events_roster", "scope")] {
            let sql = format!("DELETE FROM {SCHEMA}.{table} WHERE {column} LIKE $1");
            // The table of the roster exists once a roster has been used.
            client.execute(&sql, &[&format!("{prefix}%")]).await.ok();
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
            _ => Ok(false),
        }
    }

    async fn replace(&self, namespace: &str, events: &[Event]) -> Result<bool> {
        let other = format!("{namespace}_other");
        let store = PostgresStore::open(url(), &other, self.options_for(namespace)).await?;
        support::append(&store, None, events).await?;
        store.close().await?;
        let moved = |table: &str| {
            format!(
                "DELETE FROM {SCHEMA}.{table} WHERE log = '{namespace}'; \
                 UPDATE {SCHEMA}.{table} SET log = '{namespace}' WHERE log = '{other}';"
            )
        };
        let replace = format!("BEGIN; {} {} COMMIT", moved("events"), moved("events_heads"));
        support::sql(url(), &replace).await;
        // A restore and a failover end all sessions.
        self.proxy.get().expect("the log is open").cut();
        Ok(true)
    }

    async fn fail_next_write(&self, namespace: &str, n: usize) -> Result<bool> {
        let Some(failure) = FAILURES.get(n / 2) else {
            // An append sends the name of its log.
            let proxy = self.proxy.get().expect("the log is open");
            return Ok(proxy.arm(n - 2 * FAILURES.len(), When::Sends(namespace.into())));
        };
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

    fn unfired(&self, _namespace: &str) -> Vec<String> {
        self.proxy.get().map(Tcp::unfired).unwrap_or_default()
    }

    async fn delay(&self, _namespace: &str, delay: Duration) -> Result<bool> {
        self.proxy.get().expect("the log is open").always(Fault::Delay(delay)).await;
        Ok(true)
    }

    async fn heal(&self, _namespace: &str) -> Result<()> {
        if let Some(proxy) = self.proxy.get() {
            proxy.heal().await;
        }
        Ok(())
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

/// Checkpoints in a table, those of each case under their own scope.
struct Checkpoints;

#[async_trait::async_trait]
impl Harness for Checkpoints {
    fn capabilities(&self) -> Capabilities {
        Capabilities::NONE
    }

    fn limits(&self) -> Limits {
        Limits::default().with_patience(PATIENCE)
    }

    fn unavailable(&self) -> Option<String> {
        URL.as_ref().err().cloned()
    }

    async fn open(&self, namespace: &str) -> Result<Opened> {
        let options = PostgresCheckpointsOptions::default().with_schema(SCHEMA).with_scope(namespace);
        let checkpoints = PostgresCheckpoints::open(url(), options).await?;
        Ok(Opened::checkpoints(checkpoints))
    }

    async fn remove(&self, prefix: &str) -> Result<()> {
        let client = support::client(url()).await;
        let sql = format!("DELETE FROM {SCHEMA}.checkpoints WHERE scope LIKE $1");
        client.execute(&sql, &[&format!("{prefix}%")]).await.unwrap();
        Ok(())
    }
}

mod checkpoints {
    use super::*;
    hydrant_conformance::checkpoints_suite!(Checkpoints);
}
