//! The store as its callers see it. One binary, so that it links once.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]
#![expect(clippy::format_collect, reason = "small fixtures, read more easily")]

mod bad_input;
mod common;
mod conformance;
mod hydra_node;
mod kill;
mod recovery;
mod replaced;
mod store;
mod stress;
mod support;
