//! The hosts of a connection string, tried one after the other.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hydrant::{Error, ErrorKind, Result, Retry};
use tokio::time::timeout;
use tokio_postgres::config::LoadBalanceHosts;
use tokio_postgres::tls::{MakeTlsConnect, NoTls, TlsConnect};
use tokio_postgres::{Config, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::client::{OnNotification, PostgresClient};
use super::offer::Noted;
use super::tls::{TlsSettings, Way};
use super::{error, offer};

/// How long an attempt at one address may take where nothing else is said.
pub(crate) const ATTEMPT_MAX: Duration = Duration::from_secs(10);

/// What a connection string says.
#[derive(Clone, Debug)]
pub(crate) struct ConnectionString {
    /// Everything but hosts and TLS.
    pub(crate) config: Config,
    /// In the order they are tried; at least one.
    pub(crate) servers: Vec<Server>,
    pub(crate) tls: TlsSettings,
    /// Which address was the last to give no answer in time: the next connect begins behind it, or a call that has
    /// no time for more than the first few would never reach the others.
    pub(crate) silent: Arc<Mutex<Option<Silent>>>,
}

/// One of the servers, and which of its addresses.
type Silent = (usize, Option<IpAddr>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Server {
    pub(crate) host: Host,
    /// Where it is, if its name is not to be looked up.
    pub(crate) address: Option<IpAddr>,
    pub(crate) port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Host {
    Tcp(String),
    Unix(PathBuf),
}

impl ConnectionString {
    pub(crate) fn describe(&self) -> String {
        let servers: Vec<_> = self.servers.iter().map(Server::to_string).collect();
        let user = self.config.get_user().map(|user| format!("{user}@")).unwrap_or_default();
        let database = self.config.get_dbname().or(self.config.get_user()).unwrap_or_default();
        format!("postgres://{user}{}/{database}", servers.join(","))
    }

    pub(crate) async fn connect(&self, on: Option<OnNotification>) -> Result<PostgresClient> {
        let shuffled = self.config.get_load_balance_hosts() == LoadBalanceHosts::Random;
        let silent = self.silent().filter(|_| !shuffled);
        let count = self.servers.len();
        let first = silent.map_or(0, |(server, _)| server);
        // The server whose address was silent has two turns: the addresses behind that one come first of all, it
        // and those before it last.
        let last = count - usize::from(silent.is_none());
        let mut turns: Vec<usize> = (0..=last).map(|turn| (first + turn) % count).collect();
        if shuffled {
            // Each process is to find another order; nothing else hangs on it.
            fastrand::Rng::new().shuffle(&mut turns);
        }
        let mut on = on;
        let mut failed = None;
        for (turn, server) in turns.into_iter().enumerate() {
            let mut addresses = match self.servers[server].addresses().await {
                Ok(addresses) => addresses,
                Err(error) => {
                    failed = Some(error);
                    continue;
                }
            };
            if shuffled {
                fastrand::Rng::new().shuffle(&mut addresses);
            } else if let Some((_, silent)) = silent {
                let behind = addresses.iter().position(|address| *address == silent).map_or(0, |at| at + 1);
                match turn {
                    0 => drop(addresses.drain(..behind)),
                    turn if turn == count => addresses.truncate(behind),
                    _ => {}
                }
            }
            for address in addresses {
                match self.attempt(server, address, &mut on).await {
                    Ok(client) => return Ok(client),
                    // Another server would refuse them as well, and might count it as an attack.
                    Err(error) if error.kind() == ErrorKind::Denied || error.retry() == Retry::Never => {
                        return Err(error);
                    }
                    Err(error) => failed = Some(error),
                }
            }
        }
        Err(failed.unwrap_or_else(|| Error::invalid("no `host` to connect to")))
    }

    fn silent(&self) -> MutexGuard<'_, Option<Silent>> {
        self.silent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tries one address, within its time, in each way that `sslmode` allows.
    async fn attempt(
        &self,
        at: usize,
        address: Option<IpAddr>,
        on: &mut Option<OnNotification>,
    ) -> Result<PostgresClient> {
        let server = &self.servers[at];
        let config = self.config_for(server, address);
        // The caller's patience may end before ours does: dropped without an answer, it was silent all the same.
        let waiting = Waiting { connection: self, address: Some((at, address)) };
        let all = async {
            let connected = self.every_way(config, server, on).await;
            waiting.answered();
            connected
        };
        let limit = self.config.get_connect_timeout().copied().filter(|limit| !limit.is_zero());
        let connected = match limit {
            Some(limit) => timeout(limit, all).await.unwrap_or_else(|_| {
                let message = format!("no connection within {limit:?}; is this the right host and port?");
                Err(Error::unavailable(message))
            }),
            None => all.await,
        };
        connected.map_err(|error| error.at_target(server.to_string()))
    }

    async fn every_way(
        &self,
        mut config: Config,
        server: &Server,
        on: &mut Option<OnNotification>,
    ) -> Result<PostgresClient> {
        // As in libpq, `sslmode` is nothing to a Unix socket.
        let ways = if matches!(server.host, Host::Unix(_)) { &[Way::Plain] } else { self.tls.ways() };
        let mut failed: Option<Error> = None;
        for way in ways {
            config.ssl_mode(match way {
                Way::Plain => tokio_postgres::config::SslMode::Disable,
                Way::TlsIfThere => tokio_postgres::config::SslMode::Prefer,
                Way::Tls => tokio_postgres::config::SslMode::Require,
            });
            let (tls_began, connected) = match way {
                Way::Plain => (true, one_way(&config, NoTls, on).await),
                Way::TlsIfThere | Way::Tls => {
                    let tls = Noted::new(self.connector().await?);
                    let began = tls.began();
                    let connected = one_way(&config, tls, on).await;
                    (began.load(Ordering::Acquire), connected)
                }
            };
            match connected {
                Ok(client) => return Ok(client),
                Err(cause) if *way == Way::Tls && !tls_began && error::is_drivers_own(&cause) => {
                    let said = offer::not_taken(server, &config, cause).await;
                    // "No TLS here" says less than what the way before was answered, which may pass.
                    if failed.is_none() || said.retry() != Retry::Never {
                        failed = Some(said);
                    }
                }
                // "No encryption is not allowed" says less than "wrong password" on the way before.
                Err(cause) if failed.is_some() && error::is_refused_by_rule(&cause) => {}
                Err(cause) => failed = Some(error::connecting(cause)),
            }
        }
        Err(failed.unwrap_or_else(|| Error::invalid("`sslmode` leaves no way to connect")))
    }

    /// Reads certificates, off the threads that drive tasks.
    async fn connector(&self) -> Result<MakeRustlsConnect> {
        let tls = self.tls.clone();
        tokio::task::spawn_blocking(move || tls.connector()).await.unwrap_or_else(|cause| {
            Err(Error::new(ErrorKind::Bug, Retry::Safe, "reading the certificates panicked").because(cause))
        })
    }

    fn config_for(&self, server: &Server, address: Option<IpAddr>) -> Config {
        let mut config = self.config.clone();
        match &server.host {
            Host::Tcp(name) => config.host(name),
            Host::Unix(path) => config.host_path(path),
        };
        if let Some(address) = address {
            config.hostaddr(address);
        }
        config.port(server.port);
        if config.get_connect_timeout().is_some_and(Duration::is_zero) {
            // tokio-postgres would take no time literally.
            config.connect_timeout(Duration::from_secs(u32::MAX.into()));
        }
        config
    }
}

/// An attempt at an address that has not answered yet. Dropped, it says that the address is silent.
struct Waiting<'c> {
    connection: &'c ConnectionString,
    address: Option<Silent>,
}

impl Waiting<'_> {
    /// It is not silent. What another one is, it says nothing about.
    fn answered(mut self) {
        let Some(address) = self.address.take() else { return };
        let mut silent = self.connection.silent();
        *silent = silent.filter(|silent| *silent != address);
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(address) = self.address {
            *self.connection.silent() = Some(address);
        }
    }
}

async fn one_way<T>(
    config: &Config,
    tls: T,
    on: &mut Option<OnNotification>,
) -> Result<PostgresClient, tokio_postgres::Error>
where
    T: MakeTlsConnect<Socket>,
    T::Stream: Send + 'static,
    T::TlsConnect: Send,
    <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
{
    let (client, connection) = config.connect(tls).await?;
    Ok(PostgresClient::own(client, connection, on.take()))
}

impl Server {
    /// All addresses of its name; `None` for a Unix socket.
    async fn addresses(&self) -> Result<Vec<Option<IpAddr>>> {
        let name = match (&self.host, self.address) {
            (Host::Unix(_), _) => return Ok(vec![None]),
            (Host::Tcp(_), Some(address)) => return Ok(vec![Some(address)]),
            (Host::Tcp(name), None) => name,
        };
        let unknown = || {
            let message = "the name of the host is not known; check it, and the name service";
            Error::unavailable(message).at_target(self.to_string())
        };
        let found = tokio::net::lookup_host((name.as_str(), self.port)).await;
        let found: Vec<_> = found
            .map_err(|cause| unknown().because(cause))?
            .map(|address: SocketAddr| Some(address.ip()))
            .collect();
        if found.is_empty() { Err(unknown()) } else { Ok(found) }
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Tcp(name) if name.contains(':') => write!(f, "[{name}]:{}", self.port),
            Host::Tcp(name) => write!(f, "{name}:{}", self.port),
            Host::Unix(path) => write!(f, "{}:{}", path.display(), self.port),
        }
    }
}
