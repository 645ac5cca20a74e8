//! Hydrant's embedded default: an event log as plain JSON lines in a directory, durable and rotated.
//!
//! | to | use |
//! |---|---|
//! | write a log, and read it | [`FileStore`] |
//! | read a log that another process may be writing | [`FileSource`] |
//! | keep checkpoints on behalf of sinks | [`FileCheckpoints`] |
//!
//! The current segment is the file `state`, one event a line, in the envelope of [`hydrant::envelope`] with
//! a checksum in one member more; a snapshot event seals it as `state-<id of the last event inside>` and
//! opens the next. Directories written by hydra-node 0.13 to 2.0 are read, and written on. The format is
//! specified in `FORMAT.md` beside this crate's sources.
//!
//! For Unix: it needs `flock`, hard links and positioned writes.

mod checkpoints;
mod commit;
mod cursor;
mod directory;
mod disk;
mod error;
mod examine;
mod lines;
mod lock;
mod opening;
mod options;
mod recovery;
mod rotation;
#[cfg(test)]
#[allow(dead_code, reason = "the power-cut tests are written beside it")]
mod sim_disk;
mod source;
mod store;
mod stream;
mod wire;
mod writer;
#[allow(dead_code, reason = "compression at rotation is written beside it")]
mod zst;

pub use checkpoints::FileCheckpoints;
pub use options::{FileSourceOptions, FileStoreOptions, Fsync, TornTail};
pub use recovery::Recovered;
pub use source::FileSource;
pub use store::FileStore;
