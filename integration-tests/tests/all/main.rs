//! Tests of whole processes, and of the workspace as a whole.
#![allow(clippy::unwrap_used, reason = "a test, with its helpers, fails by panicking")]

mod documents;
mod main_job;
