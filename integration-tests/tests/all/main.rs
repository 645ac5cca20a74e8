//! Tests of whole processes, and of the workspace as a whole.
#![allow(clippy::unwrap_used, reason = "a test, with its helpers, fails by panicking")]

mod between_stores;
mod cycles;
mod documents;
mod fan_out;
mod guarantees;
mod killed_servers;
mod main_job;
mod timeouts;
mod whole_processes;
