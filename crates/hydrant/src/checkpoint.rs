//! The checkpoint: the newest event that a sink holds durably, together with all before it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Digest, Event, EventId};

/// The newest event that a sink holds durably, together with all before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "camelCase")]
pub enum Checkpoint {
    /// The sink holds no event yet.
    Empty,
    /// The sink holds every event from its floor to this one.
    At {
        /// The last event held.
        id: EventId,
        /// The hash of that event. Two histories differ if their hashes at one id differ.
        digest: Digest,
    },
    /// The sink has no memory, so it has no checkpoint of its own. Wrap it in [`Checkpointed`](crate::Checkpointed).
    Unknown,
}

impl Checkpoint {
    /// Returns the checkpoint of a sink that holds everything up to `event`.
    pub fn at(event: &Event) -> Self {
        Self::At { id: event.id(), digest: event.digest() }
    }

    /// Returns the id of the newest event held, if there is one.
    pub fn id(&self) -> Option<EventId> {
        match self {
            Self::At { id, .. } => Some(*id),
            Self::Empty | Self::Unknown => None,
        }
    }
}

impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("empty"),
            Self::At { id, .. } => write!(f, "event {id}"),
            Self::Unknown => f.write_str("unknown"),
        }
    }
}
