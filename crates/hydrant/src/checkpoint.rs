//! The checkpoint: the last event that a sink holds durably, with all before it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Digest, Event, EventId};

/// What a sink holds durably, with all before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "camelCase")]
pub enum Checkpoint {
    /// Nothing yet.
    Empty,
    /// Everything from the sink's floor to this event.
    At {
        /// The last event held.
        id: EventId,
        /// The hash of that event, by which two histories are told apart.
        digest: Digest,
    },
    /// The sink has no memory: it cannot tell. Wrap it in [`Checkpointed`](crate::Checkpointed).
    Unknown,
}

impl Checkpoint {
    /// The checkpoint of a sink that holds everything up to `event`.
    pub fn at(event: &Event) -> Self {
        Self::At { id: event.id(), digest: event.digest() }
    }

    /// The id of the last event held, where there is one.
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
