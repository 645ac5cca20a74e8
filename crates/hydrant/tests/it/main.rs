//! The integration tests of the core, one binary.
#![allow(missing_docs, unreachable_pub, reason = "tests")]
#![allow(clippy::unwrap_used, reason = "a test, with its helpers, fails by panicking")]

mod decoder;
mod fanout;
mod journal;
mod support;
mod wrap;
