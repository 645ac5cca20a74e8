//! What a server for a test needs from the machine: a free port, and a shell script that ends it with the test.
//!
//! Std only. The package `test-servers` includes this file, because the command that starts servers builds without
//! the kit.

use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, TcpListener};

/// Runs a server (`$3`..) with a watcher in its process group. The watcher reads a pipe that the test holds open.
///
/// When the pipe is closed, because the test ended in any way, the watcher ends the group with the signal `$1`. If it
/// reads a line instead, the server continues until the file `$2` is removed.
#[cfg(unix)]
pub(crate) const LEASH: &str = r#"
exec 3<&0 </dev/null
signal=$1 file=$2
shift 2
{
    read -r _ <&3 && while kill -0 $$ && [ -e "$file" ]; do sleep 5 || exit; done
    kill -s "$signal" 0
} >/dev/null 2>&1 &
exec 3<&-
exec "$@"
"#;

/// Returns whether this port of 127.0.0.1 is free.
pub(crate) fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// A free port of 127.0.0.1 below those that the system gives to clients: no client takes it while a server restarts.
///
/// `None` if none of a hundred was free.
pub(crate) fn free_port() -> Option<u16> {
    let candidate =
        |nth: u64| 20_000 + u16::try_from(RandomState::new().hash_one(nth) % 12_000).expect("below 12,000");
    (0..100).map(candidate).find(|port| is_free(*port))
}
