//! Against real servers. One binary, so that it links once.

#![allow(clippy::unwrap_used, reason = "a test, with its helpers, fails where it stands")]

mod conformance;
mod enhanced;
mod kept;
mod positions;
mod raw;
mod resharding;
mod servers;
mod sink;
mod sink_fanout;
mod sink_faults;
mod source;
mod source_faults;
mod stream;
