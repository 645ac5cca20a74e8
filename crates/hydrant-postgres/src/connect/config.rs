//! A configuration of the driver, taken apart: its hosts are tried by us, one at a time.

use std::net::IpAddr;
use std::sync::Arc;

use hydrant::{Error, Result};
use tokio_postgres::Config;
use tokio_postgres::config::{Host as DriverHost, SslMode as DriverSslMode, SslNegotiation};

use super::hosts::{ATTEMPT_MAX, ConnectionString, Host, Server};
use super::tls::{SslMode, TlsSettings};

/// What a configuration says.
pub(crate) fn settings_of(config: &Config) -> Result<ConnectionString> {
    let count = config.get_hosts().len().max(config.get_hostaddrs().len());
    let addresses = config.get_hostaddrs();
    let ports = config.get_ports();
    if count == 0 {
        return Err(Error::invalid("the configuration names no host"));
    }
    let differ = |length: usize| length > 1 && length != count;
    if differ(ports.len())
        || (!config.get_hosts().is_empty()
            && !addresses.is_empty()
            && config.get_hosts().len() != addresses.len())
    {
        return Err(Error::invalid(
            "the configuration lists different numbers of hosts, addresses and ports",
        ));
    }
    let server = |at: usize| Server {
        host: match (config.get_hosts().get(at), addresses.get(at)) {
            (Some(DriverHost::Tcp(name)), _) => Host::Tcp(name.clone()),
            (Some(DriverHost::Unix(path)), _) => Host::Unix(path.clone()),
            (None, address) => Host::Tcp(address.map(IpAddr::to_string).unwrap_or_default()),
        },
        address: addresses.get(at).copied(),
        port: ports.get(at).or(ports.first()).copied().unwrap_or(5432),
    };
    let tls = TlsSettings {
        mode: Some(match config.get_ssl_mode() {
            DriverSslMode::Disable => SslMode::Disable,
            DriverSslMode::Prefer => SslMode::Prefer,
            _ => SslMode::Require,
        }),
        direct: config.get_ssl_negotiation() == SslNegotiation::Direct,
        ..TlsSettings::default()
    };
    tls.check()?;
    Ok(ConnectionString {
        config: without_hosts(config),
        servers: (0..count).map(server).collect(),
        tls,
        silent: Arc::default(),
    })
}

fn without_hosts(config: &Config) -> Config {
    let mut bare = Config::new();
    if let Some(user) = config.get_user() {
        bare.user(user);
    }
    if let Some(password) = config.get_password() {
        bare.password(password);
    }
    if let Some(database) = config.get_dbname() {
        bare.dbname(database);
    }
    if let Some(options) = config.get_options() {
        bare.options(options);
    }
    bare.application_name(config.get_application_name().unwrap_or("hydrant"));
    bare.ssl_negotiation(config.get_ssl_negotiation());
    bare.connect_timeout(config.get_connect_timeout().copied().unwrap_or(ATTEMPT_MAX));
    if let Some(limit) = config.get_tcp_user_timeout() {
        bare.tcp_user_timeout(*limit);
    }
    bare.keepalives(config.get_keepalives());
    bare.keepalives_idle(config.get_keepalives_idle());
    if let Some(interval) = config.get_keepalives_interval() {
        bare.keepalives_interval(interval);
    }
    if let Some(retries) = config.get_keepalives_retries() {
        bare.keepalives_retries(retries);
    }
    bare.target_session_attrs(config.get_target_session_attrs());
    bare.channel_binding(config.get_channel_binding());
    bare.load_balance_hosts(config.get_load_balance_hosts());
    bare
}
