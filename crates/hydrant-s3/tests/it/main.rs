//! One binary for all integration tests: it links once.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod checkpoints;
mod compaction;
mod conformance;
mod costs;
mod faults;
mod faulty;
mod finding;
mod interleaved;
mod logs;
mod network;
mod pruning;
mod reading;
mod servers;
mod support;
mod together;
mod uploading;
mod verifying;
mod writers;
