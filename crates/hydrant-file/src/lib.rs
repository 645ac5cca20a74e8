//! Hydrant's embedded default: plain files, durable.
//!
//! | to | use |
//! |---|---|
//! | keep checkpoints on behalf of sinks | [`FileCheckpoints`] |

mod checkpoints;
mod error;

pub use checkpoints::FileCheckpoints;
