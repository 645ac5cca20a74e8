//! Real servers for tests and examples: where they are, how they start, how they break.
//!
//! - [`postgres`], [`s3`] and [`kinesis`] name the shared servers: those of the environment, else those that
//!   `cargo xtask servers up` started. Each answers with a store's URL, or with the reason to skip.
//! - [`native`] starts private servers without a Docker engine, for tests that kill them.
//! - [`proxy`] stands between a client and a server and breaks what passes.
//!
//! ```no_run
//! let url = match test_servers::s3() {
//!     Ok(url) => url,
//!     Err(reason) => return println!("skipped: {reason}"),
//! };
//! let prefix = test_servers::namespace();
//! ```
//!
//! Tests share these servers with each other and with people: each works in namespaces of its own, and
//! removes what it made.

pub mod aws;
mod found;
mod http;
pub mod native;
#[cfg(feature = "proxy")]
pub mod proxy;
mod url;

use std::hash::{BuildHasher, Hasher, RandomState};

pub use found::{Service, directory, kinesis, postgres, s3};
pub use http::request;
pub use url::StoreUrl;

/// The access key that the servers of [`native`] and docker-compose.yml take: any will do, and this one is easy
/// to recognise. For the SDK's environment variable `AWS_ACCESS_KEY_ID`.
pub const ACCESS_KEY_ID: &str = "test";

/// The secret beside [`ACCESS_KEY_ID`]. For the SDK's environment variable `AWS_SECRET_ACCESS_KEY`.
pub const SECRET_ACCESS_KEY: &str = "test";

/// The region of the servers of [`native`] and docker-compose.yml.
pub const REGION: &str = "us-east-1";

/// A name that was not used before: `t` and 19 random lower-case letters and digits.
///
/// It needs no quotes and no escapes as a schema, table, bucket, key, stream or log.
pub fn namespace() -> String {
    const LETTERS: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut name = String::from("t");
    let mut bits = 0;
    while name.len() < 20 {
        if bits == 0 {
            bits = random();
        }
        let letter = usize::try_from(bits % 36).expect("below 36");
        name.push(char::from(LETTERS[letter]));
        bits /= 36;
    }
    name
}

/// 64 bits by the operating system's generator, which seeds each of std's hash maps.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_new_and_valid_everywhere() {
        let (one, other) = (namespace(), namespace());
        assert_ne!(one, other);
        for name in [one, other] {
            assert_eq!(name.len(), 20);
            assert!(name.starts_with('t'));
            assert!(name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit()), "{name}");
        }
    }
}
