//! `postgres://USER@HOST:PORT/DATABASE?log=NAME`: a log in a table of Postgres, beside as many others.

use std::sync::Arc;

use async_trait::async_trait;
use hydrant::{Error, ErrorKind, EventId, EventSink as _, EventSource, Result, Retry};
use hydrant_postgres::{PostgresConnect, PostgresStore, PostgresStoreOptions};
use tokio::sync::OnceCell;

use crate::options::{Options, bytes, duration, flag, interval, text};
use crate::stores::{
    self, Finding, Findings, Keeper, OpenSink, Place, Reads, Scheme, StoreStatus, by_reading,
};
use crate::url::{Query, percent_encode};
use crate::values::Parsed;

/// The scheme `postgres`.
pub(crate) const SCHEME: Scheme = Scheme {
    name: "postgres",
    syntax: "postgres://USER@HOST[:PORT]/DATABASE?log=NAME[&OPTION=VALUE&...]",
    about: "a log in a table of Postgres, beside as many others; the password also from PGPASSWORD",
    options: || options().rows(),
    parse,
};

/// Which log, and how it is read and written.
#[derive(Clone, Debug, Default)]
struct Settings {
    log: Option<String>,
    store: PostgresStoreOptions,
}

fn options() -> Options<Settings> {
    let store = Options::<Settings>::new()
        .with("log", text("NAME").or("none, it is required"), "which log of the table", |settings| {
            &mut settings.log
        })
        .with("schema", text("NAME"), "the schema of the tables", |settings| &mut settings.store.schema)
        .with(
            "table",
            text("NAME"),
            "the table of events; what belongs to it is named after it",
            |settings| &mut settings.store.table,
        )
        .with("create", flag(), "writing: whether tables that do not exist are made", |settings| {
            &mut settings.store.create
        })
        .with("event_bytes_max", bytes(), "writing: the largest event", |settings| {
            &mut settings.store.event_bytes_max
        })
        .with(
            "notify",
            flag(),
            "writing: NOTIFY with each append, following: LISTEN; takes a lock over the whole server at each commit",
            |settings| &mut settings.store.notify,
        )
        .with(
            "poll_interval",
            interval(),
            "following: how often to look for what another process wrote",
            |settings| &mut settings.store.poll_interval,
        )
        .with("page_bytes_max", bytes(), "reading: how much is fetched at once", |settings| {
            &mut settings.store.page_bytes_max
        })
        .with(
            "call_timeout",
            interval(),
            "how long one call to the server may take, connecting included",
            |settings| &mut settings.store.call_timeout,
        )
        .with(
            "lock_timeout",
            duration(),
            "writing: how long to wait for another transaction on the same log",
            |settings| &mut settings.store.lock_timeout,
        );
    connecting(store)
}

/// What libpq knows too, and the store's own URL takes.
fn connecting<O: Default + 'static>(options: Options<O>) -> Options<O> {
    options
        .passed_on(
            "sslmode",
            "MODE",
            "prefer",
            "connecting: disable, allow, prefer, require, verify-ca or verify-full, as libpq means them",
        )
        .passed_on(
            "sslrootcert",
            "FILE|system",
            "none",
            "connecting: the authorities that certificates are verified with",
        )
        .passed_on("sslcert", "FILE", "none", "connecting: the certificate shown to the server")
        .passed_on("sslkey", "FILE", "none", "connecting: its key")
        .passed_on("sslnegotiation", "postgres|direct", "postgres", "connecting: whether TLS begins at once")
        .passed_on(
            "connect_timeout",
            "SECONDS",
            "10",
            "connecting: how long an attempt at one address may take",
        )
        .passed_on(
            "target_session_attrs",
            "KIND",
            "any",
            "connecting: which of several servers will do: any, read-write or read-only",
        )
        .passed_on(
            "load_balance_hosts",
            "disable|random",
            "disable",
            "connecting: in which order servers are tried",
        )
        .passed_on(
            "application_name",
            "NAME",
            "hydrant",
            "connecting: what the server shows in pg_stat_activity",
        )
        .passed_on(
            "channel_binding",
            "MODE",
            "prefer",
            "connecting: whether the password is bound to TLS: disable, prefer or require",
        )
        .passed_on(
            "host",
            "DIR|NAME",
            "as in the URL",
            "connecting: the directory of a Unix socket, or a host",
        )
        .passed_on("port", "N", "5432", "connecting: its port")
        .passed_on("user", "NAME", "as in the URL", "connecting: the role")
        .passed_on(
            "password",
            "TEXT",
            "PGPASSWORD",
            "connecting: its password; `ps` shows it, so rather set PGPASSWORD",
        )
        .passed_on("options", "TEXT", "none", "connecting: settings of the session, `-c name=value`")
}

fn parse(target: &str, query: &Query) -> Parsed<Arc<dyn Place>> {
    if !target.starts_with("//") {
        return Err("write postgres://USER@HOST/DATABASE?log=NAME".to_owned());
    }
    let options = options();
    let Settings { log, store } = options.apply(query)?;
    let log = log.ok_or("it names no log; a table holds many: add log=NAME")?;
    let mut url = format!("postgres:{target}");
    let mut join = '?';
    let mut add = |name: &str, value: &str| {
        url.extend([&*join.to_string(), name, "=", &percent_encode(value)]);
        join = '&';
    };
    let passed_on = query.iter().filter(|(name, _)| options.passes_on(name));
    passed_on.for_each(|(name, value)| add(name, value));
    let given = has_password(target) || query.iter().any(|(name, _)| name == "password");
    if let (false, Ok(password)) = (given, std::env::var("PGPASSWORD")) {
        add("password", &password);
    }
    let connect = PostgresConnect::parse(&url).map_err(|error| error.message().to_owned())?;
    Ok(Arc::new(PostgresPlace { connect, log, options: store, reader: OnceCell::new() }))
}

/// Returns whether there is one in front of the host.
fn has_password(target: &str) -> bool {
    let authority = target.trim_start_matches('/').split('/').next().unwrap_or_default();
    authority.rsplit_once('@').is_some_and(|(credentials, _)| credentials.contains(':'))
}

#[derive(Debug)]
struct PostgresPlace {
    connect: PostgresConnect,
    log: String,
    options: PostgresStoreOptions,
    /// The handle that all reading shares.
    reader: OnceCell<PostgresStore>,
}

impl PostgresPlace {
    /// A reader makes no tables.
    async fn reader(&self) -> Result<&PostgresStore> {
        let options = self.options.clone().with_create(false);
        let open = || PostgresStore::open(&self.connect, &self.log, options);
        self.reader.get_or_try_init(open).await
    }
}

#[async_trait]
impl Place for PostgresPlace {
    fn target(&self) -> String {
        let mut target = format!("{}?log={}", self.connect.describe(), percent_encode(&self.log));
        let defaults = PostgresStoreOptions::default();
        for (name, value, default) in [
            ("schema", &self.options.schema, defaults.schema),
            ("table", &self.options.table, defaults.table),
        ] {
            if *value != default {
                target.extend(["&", name, "=", &percent_encode(value)]);
            }
        }
        target
    }

    fn reads(&self) -> Reads {
        Reads::Again
    }

    fn has_memory(&self) -> bool {
        true
    }

    async fn must_hold_a_log(&self) -> Result<()> {
        if self.reader().await?.checkpoint().await?.id().is_some() {
            return Ok(());
        }
        let (log, table) = (&self.log, &self.options.table);
        let message = format!("the table `{table}` holds no log `{log}`; check log=NAME, schema and table");
        Err(Error::new(ErrorKind::Unavailable, Retry::Never, message).at_target(self.target()))
    }

    async fn source(&self) -> Result<Arc<dyn EventSource>> {
        Ok(Arc::new(self.reader().await?.clone()))
    }

    async fn sink(&self, _: Option<Keeper>) -> Result<OpenSink> {
        let store = PostgresStore::open(&self.connect, &self.log, self.options.clone()).await?;
        let closing = store.clone();
        Ok(OpenSink { sink: Arc::new(store), closing: Box::pin(async move { closing.close().await }) })
    }

    async fn head(&self) -> Result<Option<EventId>> {
        Ok(self.reader().await?.checkpoint().await?.id())
    }

    async fn left_over(&self) -> Result<Option<Error>> {
        Ok(None)
    }

    async fn verify(&self) -> Result<Findings> {
        Ok(by_reading(self.target(), self.source().await?))
    }

    async fn repair(&self) -> Result<Vec<Finding>> {
        let message = "nothing is mended in a table; copy the log anew, from where it is whole, under another \
                       log=NAME";
        Err(Error::new(ErrorKind::Unsupported, Retry::Never, message).at_target(self.target()))
    }

    async fn prune(&self, before: EventId) -> Result<()> {
        let store = PostgresStore::open(&self.connect, &self.log, self.options.clone()).await?;
        let pruned = stores::prune(store.clone(), before).await;
        store.close().await.and(pruned)
    }

    async fn status(&self) -> Result<StoreStatus> {
        StoreStatus::by_reading(self.target(), self.reader().await?).await
    }
}
