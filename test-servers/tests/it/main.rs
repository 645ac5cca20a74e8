//! The servers themselves: they start, die, come back, and leave nothing behind. The proxies: each fault is one.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

mod http;
mod native;
