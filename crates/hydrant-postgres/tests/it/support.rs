//! The server that these tests share, and what is done to it behind the store's back.

use std::future::Future;
use std::net::SocketAddr;

use hydrant::{Batch, Event, EventId, EventSink, Result};
use hydrant_postgres::{PostgresClient, PostgresConnect, PostgresStore, PostgresStoreOptions};
use test_servers::proxy::Tcp;

/// The schema of the laws. It stays; their rows do not.
pub(crate) const SCHEMA: &str = "hydrant_test";

/// A schema on the shared server for one test, removed at its end.
pub(crate) struct Place {
    pub(crate) url: String,
    pub(crate) schema: String,
}

/// Runs a test in a schema of its own, which is removed whether it passes or not, or says that it is skipped.
pub(crate) fn in_a_schema<F: Future<Output = ()>>(test: impl FnOnce(Place) -> F) {
    let url = match test_servers::postgres() {
        Ok(url) => url,
        Err(reason) => return println!("skipped: {reason}"),
    };
    let schema = test_servers::namespace();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let place = Place { url: url.clone(), schema: schema.clone() };
    let running = std::panic::AssertUnwindSafe(|| runtime.block_on(test(place)));
    let ended = std::panic::catch_unwind(running);
    runtime.block_on(sql(&url, &format!("DROP SCHEMA IF EXISTS {schema} CASCADE")));
    if let Err(panic) = ended {
        std::panic::resume_unwind(panic);
    }
}

impl Place {
    pub(crate) fn options(&self) -> PostgresStoreOptions {
        PostgresStoreOptions::default().with_schema(&self.schema)
    }

    pub(crate) async fn try_open(&self, log: &str) -> Result<PostgresStore> {
        PostgresStore::open(&*self.url, log, self.options()).await
    }

    pub(crate) async fn open(&self, log: &str) -> PostgresStore {
        self.try_open(log).await.unwrap()
    }

    /// The server as it is reached through a proxy.
    pub(crate) fn through(&self, proxy: &Tcp) -> PostgresConnect {
        self.config(proxy.address()).into()
    }

    /// The server as it is reached by another address.
    pub(crate) fn config(&self, address: SocketAddr) -> tokio_postgres::Config {
        let there: tokio_postgres::Config = self.url.parse().unwrap();
        let mut config = tokio_postgres::Config::new();
        config.host(address.ip().to_string()).port(address.port());
        config.user(there.get_user().unwrap()).password(there.get_password().unwrap_or_default());
        config.dbname(there.get_dbname().unwrap()).ssl_mode(tokio_postgres::config::SslMode::Disable);
        config.application_name(&self.schema);
        config
    }

    pub(crate) async fn proxy(&self) -> Tcp {
        Tcp::start(self.address().await).await
    }

    /// Where the server is.
    pub(crate) async fn address(&self) -> SocketAddr {
        use tokio_postgres::config::Host;
        let config: tokio_postgres::Config = self.url.parse().unwrap();
        let Host::Tcp(host) = &config.get_hosts()[0] else { panic!("a proxy needs a TCP address") };
        let port = config.get_ports().first().copied().unwrap_or(5432);
        tokio::net::lookup_host((host.as_str(), port)).await.unwrap().next().unwrap()
    }

    /// How many sessions the server has that call themselves by the name of this schema.
    pub(crate) async fn sessions(&self) -> i64 {
        let client = client(&self.url).await;
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1";
        client.query_one(sql, &[&self.schema]).await.unwrap().get(0)
    }

    /// A log that holds `events`.
    pub(crate) async fn holding(&self, log: &str, events: &[Event]) -> PostgresStore {
        let store = self.open(log).await;
        append(&store, None, events).await.unwrap();
        store
    }

    /// Runs SQL on a connection of its own, which finds the tables without their schema.
    pub(crate) async fn sql(&self, text: &str) {
        sql(&self.url, &format!("SET search_path TO {}; {text}", self.schema)).await;
    }
}

pub(crate) async fn client(url: &str) -> PostgresClient {
    PostgresConnect::parse(url).unwrap().connect().await.unwrap()
}

/// Runs SQL on a connection of its own.
pub(crate) async fn sql(url: &str, sql: &str) {
    let client = client(url).await;
    client.batch_execute(sql).await.unwrap();
    client.close().await;
}

pub(crate) fn id(id: u64) -> EventId {
    EventId::new(id)
}

pub(crate) fn event(at: u64) -> Event {
    Event::new(id(at), &format!("event {at}")).unwrap()
}

pub(crate) fn events(ids: std::ops::Range<u64>) -> Vec<Event> {
    ids.map(event).collect()
}

pub(crate) fn snapshot(at: u64) -> Event {
    Event::builder(id(at)).payload_json("{}").snapshot().build().unwrap()
}

/// Appends right behind an event, in as few batches as snapshot events allow.
pub(crate) async fn append(sink: &impl EventSink, after: Option<u64>, events: &[Event]) -> Result<()> {
    let mut after = after.map(EventId::new);
    for segment in Batch::segments(events) {
        sink.append(Batch::new(after, segment)?).await?;
        after = segment.last().map(Event::id);
    }
    Ok(())
}
