//! Hydrant on S3: a log in a bucket, one object a batch, fenced by conditional writes.
//!
//! | to | use |
//! |---|---|
//! | reach S3, or a server that speaks like it | [`connect`], with [`ClientOptions`] |
//! | write a log, and read it | [`S3Store`], with [`S3StoreOptions`] |
//! | read one, with the right to read alone | [`S3Source`] |
//! | keep checkpoints on behalf of sinks | [`S3Checkpoints`], with [`S3CheckpointsOptions`] |
//!
//! Objects are JSON lines, one event a line, in the envelope of [`hydrant::store::envelope`], compressed or not. The
//! key of each is the id of the event before it, so that two writers behind the same head collide there.
//! The format, and why it is safe, is specified in `FORMAT.md` beside this crate's sources.

mod ahead;
mod append;
mod backoff;
mod blocking;
mod bucket;
mod chain;
mod checkpoints;
mod client;
mod error;
mod head;
mod keys;
mod options;
mod probe;
mod reading;
mod source;
mod store;
mod upkeep;
mod upload;
mod wire;

pub use checkpoints::{S3Checkpoints, S3CheckpointsOptions};
pub use client::{ClientOptions, connect};
pub use options::{Encoding, Encryption, S3StoreOptions};
pub use source::S3Source;
pub use store::S3Store;
pub use upkeep::{CompactOptions, CompactionReport, Finding, FindingStream, verify};
