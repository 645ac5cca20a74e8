//! Against real servers. One binary, so that it links once.

#![allow(clippy::unwrap_used, reason = "a test, with its helpers, fails where it stands")]

mod balances;
mod begin;
mod checkpoints;
mod commits;
mod conformance;
mod connecting;
mod database;
mod faults;
mod measure;
mod pool;
mod primary;
mod projection;
mod projection_faults;
mod projection_laws;
mod read_faults;
mod reading;
mod server;
mod support;
mod tables;
mod versions;
mod writers;
