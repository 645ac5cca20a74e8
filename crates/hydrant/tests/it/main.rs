//! The integration tests of the core, one binary.
#![allow(missing_docs, unreachable_pub, reason = "tests")]

mod fanout;
mod support;
