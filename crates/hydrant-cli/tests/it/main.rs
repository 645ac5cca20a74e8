//! The program as its users meet it: every test runs the real binary.

#![cfg(unix)] // signals, pipes with names and permissions are those of Unix
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod bad_input;
mod comparing;
mod copying;
#[cfg(feature = "kinesis")]
mod kinesis;
mod kit;
mod printing;
mod relaying;
mod stopping;
mod upkeep;
mod usage;
