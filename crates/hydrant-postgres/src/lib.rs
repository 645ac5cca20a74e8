//! Hydrant on Postgres: many logs in one table, fenced writers, and read models in one transaction with their
//! checkpoint.
//!
//! | to | use |
//! |---|---|
//! | write a log, and read it | [`PostgresStore`] |
//! | keep tables that each event changes, exactly once | [`Projection`], run by [`PostgresProjection`] |
//! | keep checkpoints of sinks that have no memory | [`PostgresCheckpoints`] |
//! | say how the server is reached | [`PostgresConnect`], from a URL, a configuration or a pool |
//!
//! The events are rows that people can query, with their text kept byte for byte. The format is specified in
//! `FORMAT.md` beside this crate's sources; `docs/postgres.md` has queries, permissions and what the server's
//! errors mean.

mod checkpoints;
mod connect;
mod error;
mod listener;
mod options;
mod projection;
mod prune;
mod schema;
mod session;
mod shared;
mod source;
mod sql;
mod store;
mod wire;
mod writer;

pub use checkpoints::{PostgresCheckpoints, PostgresCheckpointsOptions};
pub use connect::{PostgresClient, PostgresConnect};
pub use options::PostgresStoreOptions;
pub use projection::{
    PostgresProjection, PostgresProjectionOptions, Projection, ProjectionError, Transaction,
};
pub use store::PostgresStore;
