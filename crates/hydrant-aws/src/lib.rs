//! How Hydrant's stores on AWS reach it: one set of options, and the SDK's own chain.
//!
//! Use it through `hydrant-s3` and `hydrant-kinesis`, which export [`ClientOptions`] and make clients of it. It knows
//! no service and no store.

mod config;
mod options;

use std::error::Error as StdError;

pub use config::connect;
pub use options::ClientOptions;

/// The first error of a type among an error and what it was caused by.
pub fn caused_by<'e, E: StdError + 'static>(error: &'e (dyn StdError + 'static)) -> Option<&'e E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}
