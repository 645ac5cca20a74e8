//! Hydrant's embedded default: plain files, durable.
//!
//! | to | use |
//! |---|---|
//! | keep checkpoints on behalf of sinks | [`FileCheckpoints`] |

mod checkpoints;
#[allow(dead_code, reason = "the writer and the reader arrive with the store")]
mod disk;
mod error;
mod options;
#[allow(dead_code, reason = "the writer and the reader arrive with the store")]
mod wire;

pub use checkpoints::FileCheckpoints;
pub use options::{FileSourceOptions, FileStoreOptions, Fsync, TornTail};
