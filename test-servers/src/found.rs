//! The servers that all tests share: whose, where, and what to do when there is none.

use std::env;
use std::fmt;
use std::fs;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

use crate::{StoreUrl, http, native};

/// What a store talks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// A Postgres server.
    Postgres,
    /// S3, or a server that speaks like it.
    S3,
    /// Kinesis, or a server that speaks like it.
    Kinesis,
}

impl Service {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Postgres, Self::S3, Self::Kinesis];

    /// `postgres`, `s3` or `kinesis`, as `HYDRANT_TEST_REQUIRE` and `cargo xtask servers` call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::S3 => "s3",
            Self::Kinesis => "kinesis",
        }
    }

    /// The environment variable that points the tests at a server.
    pub fn variable(self) -> &'static str {
        match self {
            Self::Postgres => "HYDRANT_TEST_POSTGRES_URL",
            Self::S3 => "HYDRANT_TEST_S3_URL",
            Self::Kinesis => "HYDRANT_TEST_KINESIS_URL",
        }
    }

    /// The file in which `cargo xtask servers up` leaves the URL.
    pub fn file(self) -> PathBuf {
        directory().join(format!("{}.url", self.name()))
    }

    /// Returns whether `HYDRANT_TEST_REQUIRE`, for example `postgres,s3`, names it.
    ///
    /// # Panics
    /// When that variable names something that there is not: a misspelt name must not switch tests off.
    pub fn is_required(self) -> bool {
        let required = env::var("HYDRANT_TEST_REQUIRE").unwrap_or_default();
        let names = required.split(',').map(str::trim).filter(|name| !name.is_empty());
        names.fold(false, |found, name| {
            let known = Self::ALL.iter().any(|service| service.name() == name);
            assert!(known, "HYDRANT_TEST_REQUIRE names {name:?}; there are postgres, s3 and kinesis");
            found || name == self.name()
        })
    }

    /// The URL of the server to test against: the variable's, else that of a living server which
    /// `cargo xtask servers up` started.
    ///
    /// # Errors
    /// The reason to skip, with the next action.
    pub fn find(self) -> Result<String, String> {
        let set = env::var(self.variable()).ok().filter(|url| !url.is_empty());
        set.map_or_else(|| self.find_started(), Ok)
    }

    /// The URL of a living server which `cargo xtask servers up` started.
    ///
    /// # Errors
    /// The reason to skip, with the next action.
    pub fn find_started(self) -> Result<String, String> {
        let (name, variable) = (self.name(), self.variable());
        let Ok(url) = fs::read_to_string(self.file()) else {
            return Err(format!("no {name} server: run `cargo xtask servers up`, or set {variable}"));
        };
        let url = url.trim().to_owned();
        if self.answers(&url) {
            return Ok(url);
        }
        Err(format!(
            "the {name} server that was started is gone: run `cargo xtask servers up`, or set {variable}"
        ))
    }

    /// Returns whether a server answers at this URL, as far as can be seen without credentials.
    pub fn answers(self, url: &str) -> bool {
        match self {
            Self::Postgres => postgres_address(url).is_some_and(native::postgres_answers),
            Self::S3 | Self::Kinesis => {
                let url = StoreUrl::parse(url);
                url.endpoint_address().and_then(resolved).is_some_and(|to| http::answers(to, "/"))
            }
        }
    }

    /// Turns an absence into a panic where the server is required.
    pub(crate) fn or_required<T>(self, found: Result<T, String>) -> Result<T, String> {
        found.inspect_err(|reason| {
            assert!(!self.is_required(), "HYDRANT_TEST_REQUIRE wants {self}, but: {reason}");
        })
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The URL of a Postgres database for tests, or why there is none.
///
/// # Errors
/// The reason to skip.
///
/// # Panics
/// When there is none and `HYDRANT_TEST_REQUIRE` names `postgres`.
pub fn postgres() -> Result<String, String> {
    Service::Postgres.or_required(Service::Postgres.find())
}

/// The URL of a prefix in a bucket for tests, or why there is none.
///
/// # Errors
/// The reason to skip.
///
/// # Panics
/// When there is none and `HYDRANT_TEST_REQUIRE` names `s3`.
pub fn s3() -> Result<String, String> {
    Service::S3.or_required(Service::S3.find())
}

/// The URL of a stream for tests, or why there is none.
///
/// # Errors
/// The reason to skip.
///
/// # Panics
/// When there is none and `HYDRANT_TEST_REQUIRE` names `kinesis`.
pub fn kinesis() -> Result<String, String> {
    Service::Kinesis.or_required(Service::Kinesis.find())
}

/// Where servers are installed and keep their data: `target/servers` of this workspace.
pub fn directory() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("test-servers is in a workspace");
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    workspace.join(target).join("servers")
}

/// `host:port` of `postgres://user:password@host:port/database?...`.
fn postgres_address(url: &str) -> Option<SocketAddr> {
    let rest = url.split_once("://")?.1;
    let authority = rest.split(['/', '?']).next()?;
    resolved(authority.rsplit('@').next()?)
}

fn resolved(address: &str) -> Option<SocketAddr> {
    address.to_socket_addrs().ok()?.next()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn an_address_is_found_behind_the_password() {
        let address = postgres_address("postgres://user:p@ss@127.0.0.1:5433/db?sslmode=disable");
        assert_eq!(address, Some("127.0.0.1:5433".parse().unwrap()));
        assert_eq!(postgres_address("nonsense"), None);
    }

    #[test]
    fn a_closed_port_gives_no_answer() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        assert!(!Service::S3.answers(&format!("s3://b?endpoint=http://127.0.0.1:{port}")));
        assert!(!Service::Kinesis.answers("kinesis://stream"));
        assert!(!Service::Postgres.answers(&format!("postgres://u:p@127.0.0.1:{port}/db")));
    }
}
