//! How a server is reached: from a connection string, a configuration, or a pool.

mod client;
mod config;
mod error;
mod hosts;
mod offer;
mod params;
mod tls;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use hydrant::store::caught;
use hydrant::{Error, Result};
use tokio_postgres::{Config, Notification};

pub use client::PostgresClient;
use hosts::ConnectionString;
use tls::SslMode;

/// How a Postgres server is reached.
///
/// Made from a connection string as libpq knows it (`postgres://...` or `host=... user=...`), from a
/// [`tokio_postgres::Config`], or from a [`deadpool_postgres::Pool`]. No form of it shows the password.
///
/// ```
/// use hydrant_postgres::PostgresConnect;
///
/// let connect: PostgresConnect = "postgres://app:secret@db1,db2:5433/shop?target_session_attrs=read-write".into();
/// assert_eq!(connect.describe(), "postgres://app@db1:5432,db2:5433/shop");
/// ```
///
/// # What differs from libpq
/// | libpq | here |
/// |---|---|
/// | reads `PG...` variables, `~/.pgpass`, `~/.postgresql/` and service files | reads the connection string, and the files it names |
/// | without `host`: a Unix socket of its default | `host` is required |
/// | `connect_timeout`: none by default, at least 2 s | 10 s by default, for each address, TLS and authentication included; 0: none |
/// | begins at the first host each time | an address that gave no answer is tried last, until it answers |
/// | `target_session_attrs` knows `primary`, `standby`, `prefer-standby` | `any`, `read-write`, `read-only` |
/// | a name in the common name of a certificate counts if it has no other names | only subject alternative names count |
/// | a server may show a certificate that is an authority itself | refused when verified; sign one for the server |
/// | `sslkey` must not be readable by others | not checked |
/// | `sslcrl`, `sslpassword`, GSSAPI, Kerberos, `service`, `passfile`, `require_auth` | refused by name |
/// | `allow` and `prefer` try a server the other way when it refuses | the same |
/// | when a server refuses the credentials, the other hosts are not tried | the same |
/// | with `sslrootcert`, every `sslmode` with TLS verifies the chain | the same |
#[derive(Clone)]
pub struct PostgresConnect(Arc<Target>);

enum Target {
    Servers(Box<ConnectionString>),
    Pool {
        pool: deadpool_postgres::Pool,
        description: String,
    },
    /// A connection string that could not be read: the first connect says so.
    Wrong(Error),
}

/// What TLS, the driver or a pool did where one of them panics.
const CONNECTING: &str = "connecting to Postgres";

impl PostgresConnect {
    /// Connects as this URL or these `name=value` pairs say.
    ///
    /// # Errors
    /// `Invalid`, naming the parameter.
    pub fn parse(text: &str) -> Result<Self> {
        Ok(Self(Arc::new(Target::Servers(Box::new(params::parse(text)?)))))
    }

    /// Always encrypts, with a TLS configuration of your own, for example with roots that are kept in memory.
    /// It alone decides what is verified; `sslmode` and its files are not looked at. A Unix socket and a pool
    /// stay as they are.
    #[must_use]
    pub fn with_tls(self, config: rustls::ClientConfig) -> Self {
        let Target::Servers(settings) = &*self.0 else { return self };
        let mut settings = settings.clone();
        settings.tls.mode = Some(SslMode::Require);
        settings.tls.own = Some(Arc::new(config));
        Self(Arc::new(Target::Servers(settings)))
    }

    /// Returns what it connects to, without secrets: for rosters, logs and errors. A pool does not know its server;
    /// see [`with_description`](PostgresConnect::with_description).
    pub fn describe(&self) -> String {
        match &*self.0 {
            Target::Servers(settings) => settings.describe(),
            Target::Pool { description, .. } => description.clone(),
            Target::Wrong(_) => "postgres://?".to_owned(),
        }
    }

    /// Says where a pool leads, without secrets, for [`describe`](PostgresConnect::describe).
    #[must_use]
    pub fn with_description(self, description: impl Into<String>) -> Self {
        match &*self.0 {
            Target::Pool { pool, .. } => {
                Self(Arc::new(Target::Pool { pool: pool.clone(), description: description.into() }))
            }
            _ => self,
        }
    }

    /// Connects, to the first server that will have it.
    ///
    /// # Errors
    /// `Unavailable` when no server can be reached or none allows what is asked of it; `Denied` when the
    /// credentials, the certificate or the settings of TLS do not suit; `Invalid` for a connection string or
    /// a file that cannot be read; `Bug` where TLS, the driver or a pool panics. Nothing was applied in any case.
    ///
    /// # Cancel safety
    /// Dropped, it leaves no socket and no task.
    pub async fn connect(&self) -> Result<PostgresClient> {
        match &*self.0 {
            Target::Servers(settings) => caught(CONNECTING, || Box::pin(settings.connect(None))).await,
            Target::Pool { pool, description } => {
                let taken = async || Ok(pool.get().await);
                match caught(CONNECTING, taken).await? {
                    Ok(object) => Ok(PostgresClient::pooled(object)),
                    Err(cause) => Err(error::from_pool(cause).at_target(description)),
                }
            }
            Target::Wrong(error) => Err(error.clone()),
        }
    }

    /// Like `connect`, and passes each notification to `on`, which must not block.
    ///
    /// # Errors
    /// `Unsupported` for a pool, whose connections keep notifications to themselves; and what
    /// [`connect`](PostgresConnect::connect) answers.
    ///
    /// # Cancel safety
    /// Dropped, it leaves no socket and no task.
    pub async fn connect_listening(
        &self,
        on: impl FnMut(Notification) + Send + 'static,
    ) -> Result<PostgresClient> {
        match &*self.0 {
            Target::Servers(settings) => {
                caught(CONNECTING, || Box::pin(settings.connect(Some(Box::new(on))))).await
            }
            Target::Pool { description, .. } => {
                let message = "a pool does not pass notifications on; follow by polling, or connect by a URL";
                Err(Error::unsupported(message).at_target(description))
            }
            Target::Wrong(error) => Err(error.clone()),
        }
    }
}

impl fmt::Debug for PostgresConnect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PostgresConnect").field(&self.describe()).finish()
    }
}

impl FromStr for PostgresConnect {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

/// One that cannot be read is answered by the first connect, which every `open` makes.
impl From<&str> for PostgresConnect {
    fn from(text: &str) -> Self {
        Self::parse(text).unwrap_or_else(|error| Self(Arc::new(Target::Wrong(error))))
    }
}

/// One that cannot be read is answered by the first connect, which every `open` makes.
impl From<String> for PostgresConnect {
    fn from(text: String) -> Self {
        Self::from(text.as_str())
    }
}

impl From<&String> for PostgresConnect {
    fn from(text: &String) -> Self {
        Self::from(text.as_str())
    }
}

impl From<&PostgresConnect> for PostgresConnect {
    fn from(connect: &PostgresConnect) -> Self {
        connect.clone()
    }
}

/// `sslmode` has the three shades that tokio-postgres knows; for more, see
/// [`with_tls`](PostgresConnect::with_tls).
impl From<Config> for PostgresConnect {
    fn from(config: Config) -> Self {
        match config::settings_of(&config) {
            Ok(settings) => Self(Arc::new(Target::Servers(Box::new(settings)))),
            Err(error) => Self(Arc::new(Target::Wrong(error))),
        }
    }
}

impl From<deadpool_postgres::Pool> for PostgresConnect {
    fn from(pool: deadpool_postgres::Pool) -> Self {
        Self(Arc::new(Target::Pool { pool, description: "postgres (pool)".to_owned() }))
    }
}

#[cfg(test)]
mod tests {
    use deadpool_postgres::{Connect, Manager, ManagerConfig, Pool};
    use futures_util::future::BoxFuture;
    use hydrant::ErrorKind;
    use tokio::task::JoinHandle;
    use tokio_postgres::{Client, Error as ServerError};

    use super::*;

    struct Panics;

    impl Connect for Panics {
        fn connect(&self, _: &Config) -> BoxFuture<'_, Result<(Client, JoinHandle<()>), ServerError>> {
            panic!("a TLS library")
        }
    }

    #[tokio::test]
    async fn panic_of_foreign_code_is_an_error_of_connect() {
        let manager = Manager::from_connect(Config::new(), Panics, ManagerConfig::default());
        let pool = Pool::builder(manager).build().unwrap();
        let error = PostgresConnect::from(pool).connect().await.map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Bug, "{error}");
        assert!(error.message().contains("a TLS library"), "{error}");
    }
}
