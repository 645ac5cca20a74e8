//! Hydrant's embedded default: an event log as plain JSON lines in a directory, durable and rotated.
//!
//! | to | use |
//! |---|---|
//! | write a log, and read it | [`FileStore`] |
//! | read a log that another process may be writing | [`FileSource`] |
//! | check a log, and repair it | [`verify`], [`repair`] |
//! | keep checkpoints on behalf of sinks | [`FileCheckpoints`] |
//!
//! The current segment is the file `state`, one event a line, in the envelope of [`hydrant::store::envelope`] with
//! one extra member, a checksum; a snapshot event seals it as `state-<id of the last event inside>` and
//! opens the next. Directories written by hydra-node 0.13 to 2.0 can be read and continued. The format is
//! specified in `FORMAT.md` beside this crate's sources.
//!
//! For Unix: it needs `flock`, hard links and positioned writes.

mod checkpoints;
mod commit;
mod compress;
mod directory;
#[cfg_attr(not(feature = "sim"), expect(unreachable_pub, reason = "exported with the feature `sim`"))]
#[cfg_attr(feature = "sim", expect(clippy::missing_errors_doc, reason = "the traits say it once"))]
mod disk;
mod error;
mod examine;
mod foreign;
mod lines;
mod lock;
mod mutants;
mod opening;
mod options;
mod recovery;
mod repair;
mod rewrite;
mod rotation;
#[cfg(any(test, feature = "sim"))]
#[doc(hidden)]
pub mod sim;
mod source;
mod store;
mod stream;
#[cfg(test)]
mod tests;
mod verify;
mod walk;
mod wire;
mod work;
mod writer;
mod zst;
mod zst_file;

pub use checkpoints::FileCheckpoints;
pub use options::{FileSourceOptions, FileStoreOptions, Fsync, TornTail};
pub use recovery::Recovered;
pub use repair::{RepairReport, Repaired, repair};
pub use source::FileSource;
pub use store::FileStore;
pub use verify::{Finding, FindingStream, verify};
