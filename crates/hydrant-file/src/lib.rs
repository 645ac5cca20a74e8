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
#[cfg(test)]
#[allow(dead_code, reason = "tests of the store arrive with it")]
mod sim_disk;
#[allow(dead_code, reason = "the writer and the reader arrive with the store")]
mod wire;
#[allow(dead_code, reason = "the writer and the reader arrive with the store")]
mod zst;

pub use checkpoints::FileCheckpoints;
pub use options::{FileSourceOptions, FileStoreOptions, Fsync, TornTail};
