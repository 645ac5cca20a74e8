//! Connection strings: the URL and the `name=value` form of libpq, read by libpq's rules.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hydrant::{Error, Result};
use tokio_postgres::Config;
use tokio_postgres::config::{ChannelBinding, LoadBalanceHosts, SslNegotiation, TargetSessionAttrs};

use super::hosts::{ATTEMPT_MAX, ConnectionString, Host, Server};
use super::tls::{Roots, SslMode, TlsSettings};

/// Parameters by name, decoded; the last of several wins, as in libpq.
type Params = BTreeMap<String, String>;

/// Reads a URL or `name=value` pairs. No error shows more than the name of a parameter.
pub(crate) fn parse(text: &str) -> Result<ConnectionString> {
    let url = ["postgres://", "postgresql://"].iter().find_map(|scheme| text.strip_prefix(scheme));
    let mut params = match url {
        Some(rest) => url_params(rest)?,
        None if text.contains("://") => {
            return Err(Error::invalid("this is not a URL of Postgres; begin with `postgres://`"));
        }
        None => pair_params(text)?,
    };
    let servers = servers(&mut params)?;
    let mut tls = TlsSettings::default();
    let mut config = Config::new();
    config.application_name("hydrant").connect_timeout(ATTEMPT_MAX);
    for (name, value) in &params {
        if !tls_param(&mut tls, &mut config, name, value)? {
            param(&mut config, name, value)?;
        }
    }
    tls.check()?;
    Ok(ConnectionString { config, servers, tls, silent: Arc::default() })
}

fn url_params(rest: &str) -> Result<Params> {
    let mut params = Params::new();
    let (before_query, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = before_query.split_once('/').unwrap_or((before_query, ""));
    if database.contains('@') {
        // Of a password with a `/`, the half before it would pass for a host, and be shown.
        return Err(Error::invalid(
            "the URL has an `@` behind a `/`; write `/` in a password as %2F, `@` elsewhere as %40",
        ));
    }
    if query.contains('@') && !authority.contains('@') {
        // Of a password with a `?`, the half behind it would pass for parameters, and be shown.
        return Err(Error::invalid(
            "the URL has an `@` behind a `?` and none before; write `?` in a password as %3F, `@` elsewhere as %40",
        ));
    }
    let (credentials, hosts) = match authority.rsplit_once('@') {
        Some((credentials, hosts)) => (Some(credentials), hosts),
        None => (None, authority),
    };
    let mut put = |name: &str, value: &str| {
        let decoded = decoded(value).ok_or_else(|| bad_escape(name))?;
        if !decoded.is_empty() {
            params.insert(name.to_owned(), decoded);
        }
        Ok(())
    };
    if let Some(credentials) = credentials {
        let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
        put("user", user)?;
        put("password", password)?;
    }
    put("dbname", database)?;
    let mut names = Vec::new();
    let mut ports = Vec::new();
    for host in hosts.split(',').filter(|_| !hosts.is_empty()) {
        let (name, port) = match host.strip_prefix('[').and_then(|host| host.split_once(']')) {
            Some((name, port)) => (name, port.strip_prefix(':').unwrap_or(port)),
            None => host.split_once(':').unwrap_or((host, "")),
        };
        names.push(name);
        ports.push(port);
    }
    put("host", &names.join(","))?;
    if ports.iter().any(|port| !port.is_empty()) {
        put("port", &ports.join(","))?;
    }
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').ok_or_else(|| {
            Error::invalid(
                "the URL has a parameter without `=`; write `?` and `&` in a password as %3F and %26",
            )
        })?;
        put(name, value)?;
    }
    Ok(params)
}

/// `name=value` pairs separated by white space; values in single quotes, `\` before a quote or a backslash.
fn pair_params(text: &str) -> Result<Params> {
    let mut params = Params::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (name, value) = rest
            .split_once('=')
            .ok_or_else(|| Error::invalid("the connection string has a parameter without `=`"))?;
        let mut chars = value.trim_start().chars();
        let quoted = chars.clone().next() == Some('\'');
        if quoted {
            chars.next();
        }
        let mut value = String::new();
        let mut closed = false;
        while let Some(char) = chars.next() {
            match char {
                '\\' => value.extend(chars.next()),
                '\'' if quoted => {
                    closed = true;
                    break;
                }
                char if !quoted && char.is_whitespace() => break,
                char => value.push(char),
            }
        }
        if quoted && !closed {
            return Err(Error::invalid("a quote in the connection string is not closed"));
        }
        params.insert(name.trim().to_owned(), value);
        rest = chars.as_str().trim_start();
    }
    Ok(params)
}

/// The hosts in the order they are tried.
fn servers(params: &mut Params) -> Result<Vec<Server>> {
    let mut list = |name: &str| -> Vec<String> {
        let value = params.remove(name).unwrap_or_default();
        if value.is_empty() { Vec::new() } else { value.split(',').map(str::to_owned).collect() }
    };
    let (hosts, addresses, ports) = (list("host"), list("hostaddr"), list("port"));
    let count = hosts.len().max(addresses.len());
    if count == 0 {
        return Err(Error::invalid("the connection string names no `host`; a directory is a Unix socket"));
    }
    let differ = |length: usize| length > 1 && length != count;
    if differ(ports.len()) || (!hosts.is_empty() && !addresses.is_empty() && hosts.len() != addresses.len()) {
        return Err(Error::invalid("`host`, `hostaddr` and `port` list different numbers of servers"));
    }
    (0..count)
        .map(|at| {
            let port = match ports.get(at).or(ports.first()).map_or("", String::as_str) {
                "" => 5432,
                port => port.parse().map_err(|_| wrong("port", "a number from 0 to 65,535"))?,
            };
            let address: Option<IpAddr> = match addresses.get(at).map_or("", String::as_str) {
                "" => None,
                address => Some(address.parse().map_err(|_| wrong("hostaddr", "an IP address"))?),
            };
            let host = match (hosts.get(at).map_or("", String::as_str), address) {
                ("", Some(address)) => Host::Tcp(address.to_string()),
                ("", None) => return Err(wrong("host", "names separated by commas, none of them empty")),
                (path, _) if path.starts_with('/') => Host::Unix(PathBuf::from(path)),
                (name, _) => Host::Tcp(name.to_owned()),
            };
            Ok(Server { host, address, port })
        })
        .collect()
}

/// What tokio-postgres does not know, or knows in fewer shades. `false`: not one of these.
fn tls_param(tls: &mut TlsSettings, config: &mut Config, name: &str, value: &str) -> Result<bool> {
    match name {
        "sslmode" => {
            tls.mode = Some(match value {
                "disable" => SslMode::Disable,
                "allow" => SslMode::Allow,
                "prefer" => SslMode::Prefer,
                "require" => SslMode::Require,
                "verify-ca" => SslMode::VerifyCa,
                "verify-full" => SslMode::VerifyFull,
                _ => {
                    return Err(wrong(
                        name,
                        "`disable`, `allow`, `prefer`, `require`, `verify-ca` or `verify-full`",
                    ));
                }
            });
        }
        "sslrootcert" if value == "system" => tls.roots = Roots::System,
        "sslrootcert" => tls.roots = Roots::File(value.into()),
        "sslcert" => tls.cert = Some(value.into()),
        "sslkey" => tls.key = Some(value.into()),
        "sslsni" => tls.sni = flag(name, value)?,
        "ssl_min_protocol_version" => {
            tls.only_1_3 = match value {
                "TLSv1" | "TLSv1.1" | "TLSv1.2" => false, // older ones are never spoken
                "TLSv1.3" => true,
                _ => return Err(wrong(name, "`TLSv1.2` or `TLSv1.3`")),
            }
        }
        "sslnegotiation" => {
            config.ssl_negotiation(match value {
                "postgres" => SslNegotiation::Postgres,
                "direct" => SslNegotiation::Direct,
                _ => return Err(wrong(name, "`postgres` or `direct`")),
            });
            tls.direct = value == "direct";
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn param(config: &mut Config, name: &str, value: &str) -> Result<()> {
    let _ = match name {
        "user" => config.user(value),
        "password" => config.password(value),
        "dbname" => config.dbname(value),
        "options" => config.options(value),
        "application_name" => config.application_name(value),
        "connect_timeout" => config.connect_timeout(Duration::from_secs(number(name, value)?)),
        // libpq counts these in milliseconds, tokio-postgres in seconds.
        "tcp_user_timeout" => config.tcp_user_timeout(Duration::from_millis(number(name, value)?)),
        "keepalives" => config.keepalives(flag(name, value)?),
        "keepalives_idle" => match number(name, value)? {
            0 => config, // the default
            idle => config.keepalives_idle(Duration::from_secs(idle)),
        },
        "keepalives_interval" => match number(name, value)? {
            0 => config,
            interval => config.keepalives_interval(Duration::from_secs(interval)),
        },
        "keepalives_count" | "keepalives_retries" => {
            let count = value.parse().map_err(|_| wrong(name, "a number"))?;
            config.keepalives_retries(count)
        }
        "target_session_attrs" => config.target_session_attrs(match value {
            "any" => TargetSessionAttrs::Any,
            "read-write" => TargetSessionAttrs::ReadWrite,
            "read-only" => TargetSessionAttrs::ReadOnly,
            _ => return Err(wrong(name, "`any`, `read-write` or `read-only`")),
        }),
        "channel_binding" => config.channel_binding(match value {
            "disable" => ChannelBinding::Disable,
            "prefer" => ChannelBinding::Prefer,
            "require" => ChannelBinding::Require,
            _ => return Err(wrong(name, "`disable`, `prefer` or `require`")),
        }),
        "load_balance_hosts" => config.load_balance_hosts(match value {
            "disable" => LoadBalanceHosts::Disable,
            "random" => LoadBalanceHosts::Random,
            _ => return Err(wrong(name, "`disable` or `random`")),
        }),
        // What it would say is so in any case.
        "fallback_application_name" => config,
        "client_encoding" if ["utf8", "utf-8", "auto"].contains(&value.to_ascii_lowercase().as_str()) => {
            config
        }
        "client_encoding" => return Err(wrong(name, "`UTF8`")),
        "gssencmode" if ["disable", "prefer"].contains(&value) => config,
        "gssencmode" => return Err(wrong(name, "`disable` or `prefer`")),
        "sslcompression" if value == "0" => config,
        "sslcompression" => return Err(wrong(name, "`0`")),
        other => {
            // Half a password may be where a name is expected.
            let is_name =
                other.len() < 40 && other.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
            let named = if is_name { format!("the parameter `{other}`") } else { "a parameter".to_owned() };
            return Err(Error::invalid(format!(
                "the connection string has {named}, which is not known here; remove it, or correct its name"
            )));
        }
    };
    Ok(())
}

fn number(name: &str, value: &str) -> Result<u64> {
    // libpq takes a negative number for zero.
    value.parse::<i64>().map(|number| number.max(0).cast_unsigned()).map_err(|_| wrong(name, "a number"))
}

fn flag(name: &str, value: &str) -> Result<bool> {
    value.parse::<i64>().map(|number| number != 0).map_err(|_| wrong(name, "`0` or `1`"))
}

fn wrong(name: &str, allowed: &str) -> Error {
    Error::invalid(format!("`{name}` of the connection string is to be {allowed}"))
}

fn bad_escape(name: &str) -> Error {
    Error::invalid(format!("`{name}` of the URL has a `%` without two hexadecimal digits, or is not UTF-8"))
}

/// Undoes percent-encoding.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digit =
                    |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
                digit(rest.next()?)? << 4 | digit(rest.next()?)?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        parse(text).unwrap_err().to_string()
    }

    #[test]
    fn a_url_is_read_as_libpq_reads_it() {
        let settings = parse(
            "postgresql://al%40ice:p%3Aw@h1:1234,[::1]:5,h3/d%62?application_name=a@b&tcp_user_timeout=1500&sslmode=allow",
        )
        .unwrap();
        let config = &settings.config;
        assert_eq!(config.get_user(), Some("al@ice"));
        assert_eq!(config.get_password(), Some(&b"p:w"[..]));
        assert_eq!(config.get_dbname(), Some("db"));
        assert_eq!(config.get_application_name(), Some("a@b"));
        assert_eq!(config.get_tcp_user_timeout(), Some(&Duration::from_millis(1500)));
        let servers: Vec<_> =
            settings.servers.iter().map(|server| (server.host.clone(), server.port)).collect();
        let host = |name: &str| Host::Tcp(name.to_owned());
        assert_eq!(servers, [(host("h1"), 1234), (host("::1"), 5), (host("h3"), 5432)]);
        assert_eq!(settings.tls.mode, Some(SslMode::Allow));
    }

    #[test]
    fn pairs_are_read_as_libpq_reads_them() {
        let settings =
            parse(r"host=/run/a,h2 port=1,2 user = 'a\'b c' password=x\\y dbname='' connect_timeout=-1")
                .unwrap();
        assert_eq!(settings.config.get_user(), Some("a'b c"));
        assert_eq!(settings.config.get_password(), Some(&br"x\y"[..]));
        assert_eq!(settings.servers[0].host, Host::Unix("/run/a".into()));
        assert_eq!((settings.servers[0].port, settings.servers[1].port), (1, 2));
        assert_eq!(settings.config.get_connect_timeout(), Some(&Duration::ZERO));
    }

    #[test]
    fn a_unix_socket_may_stand_in_the_authority_or_in_the_query() {
        for url in [
            "postgres://u@%2Frun%2Fpg/d",
            "postgres:///d?user=u&host=/run/pg",
            "postgres://other/d?host=%2Frun%2Fpg",
        ] {
            assert_eq!(parse(url).unwrap().servers[0].host, Host::Unix("/run/pg".into()), "{url}");
        }
    }

    #[test]
    fn a_host_and_its_address_may_differ() {
        let settings = parse("host=db.example hostaddr=10.0.0.1").unwrap();
        assert_eq!(settings.servers[0].address, Some("10.0.0.1".parse().unwrap()));
        assert_eq!(settings.servers[0].host, Host::Tcp("db.example".into()));
        let only = parse("hostaddr=10.0.0.1").unwrap();
        assert_eq!(only.servers[0].host, Host::Tcp("10.0.0.1".into()));
    }

    #[test]
    fn what_is_wrong_is_named_and_no_secret_is_shown() {
        assert!(refused("postgres://h/d?sslmode=full").contains("`sslmode`"));
        assert!(refused("postgres://h/d?sslmoed=require").contains("`sslmoed`"));
        assert!(refused("postgres:///d").contains("`host`"));
        assert!(refused("postgres://a,b:1,c:2/d?port=1,2").contains("different numbers"));
        assert!(refused("postgres://h/d?sslrootcert=system&sslmode=require").contains("verify-full"));
        assert!(refused("postgres://h/d?sslmode=verify-ca").contains("sslrootcert"));
        assert!(refused("postgres://h/d?sslnegotiation=direct").contains("sslmode"));
        assert!(refused("mysql://h/d").contains("postgres://"));
        for text in [
            "postgres://u:hunter2@h/d?port=x",
            "postgres://u:hunt?er2@h/d",
            "postgres://u:1?options=hunter2@h/d",
            "postgres://u:hunt?host=h&application_name=er2@h",
            "postgres://hunt:12/er2@h/d",
            "postgres://u:1/er2@h",
            "postgres://u:hunter2%zz@h/d",
            "host=h password='hunter2",
            "host=h password=hunter2 nonsense",
            "host=h Hunter2=1",
        ] {
            let message = refused(text).to_lowercase();
            assert!(!message.contains("hunt") && !message.contains("er2"), "{message}");
        }
    }

    #[test]
    fn half_a_password_is_not_a_parameter() {
        assert!(refused("postgres://u:1?options=2@h/d").contains("%3F"));
        let settings = parse("postgres://h/d?user=u%40x&application_name=a%40b").unwrap();
        assert_eq!(settings.config.get_user(), Some("u@x"));
        assert_eq!(settings.config.get_application_name(), Some("a@b"));
    }

    #[test]
    fn system_roots_mean_verify_full() {
        let settings = parse("postgres://h/d?sslrootcert=system").unwrap();
        assert_eq!(settings.tls.mode(), SslMode::VerifyFull);
        assert_eq!(parse("postgres://h/d").unwrap().tls.mode(), SslMode::Prefer);
    }
}
