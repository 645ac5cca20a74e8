//! How far a log may be pruned without removing what a secondary of the roster still needs.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;

use super::hub::Hub;
use crate::mutants::mutant;
use crate::{Checkpoint, CheckpointEntry, ErrorKind, EventId, EventSource, Result};

/// How long a sink may take to report its checkpoint.
const SINK_PATIENCE: Duration = Duration::from_secs(1);

/// The event before which all may be removed: `before`, or an earlier one that is the checkpoint of a secondary; `None`
/// if everything is needed.
///
/// The names of the roster and the attached secondaries count. A secondary with a backlog of more than
/// `retain_bytes_max` does not.
pub(crate) async fn needed(
    hub: &Hub,
    before: EventId,
    retain_bytes_max: Option<u64>,
) -> Result<Option<EventId>> {
    let mut entries = hub.list_roster().await?;
    // A late removal, or another runner's `detach`, may have removed the entry of a sink that is attached here.
    let is_listed = |name: &str| entries.iter().any(|entry| entry.name == name);
    let mut unlisted = hub.secondaries();
    unlisted.retain(|secondary| !is_listed(&secondary.name) && !mutant("prune-by-roster-alone"));
    let unlisted = unlisted.iter().map(|it| CheckpointEntry::new(&*it.name, &*it.target, Checkpoint::Empty));
    entries.extend(unlisted);
    let positions = entries.into_iter().map(|entry| async { (position(hub, &entry).await, entry.name) });
    let mut positions = join_all(positions).await;
    positions.retain(|(position, _)| *position < Some(before));
    positions.sort();
    for (position, name) in positions {
        let left_behind = match retain_bytes_max {
            Some(bytes_max) => exceeds(&hub.pruned, position, bytes_max).await?,
            None => false,
        };
        hub.pruned.progressed();
        if !left_behind {
            // The event of the checkpoint is kept too: histories are compared by it.
            return Ok(position);
        }
        tracing::warn!(
            secondary = name,
            "pruning events that it still needs: its backlog is over `retain_bytes_max`"
        );
    }
    Ok(Some(before))
}

/// The newest event that a secondary holds durably.
async fn position(hub: &Hub, entry: &CheckpointEntry) -> Option<EventId> {
    let attached = hub.secondaries().into_iter().find(|secondary| secondary.name == entry.name);
    // The sink's own checkpoint counts first: the roster's is older, and the sink may have acknowledged more than it
    // holds durably.
    let durable = match attached {
        Some(_) if mutant("prune-past-sinks") => return None.max(hub.feed.head()),
        Some(secondary) => secondary.durable(SINK_PATIENCE).await.unwrap_or_else(|error| {
            tracing::warn!(
                secondary = entry.name, %error,
                "the sink does not report its checkpoint: pruning by the roster's"
            );
            None
        }),
        None => None,
    };
    durable.unwrap_or(entry.checkpoint.id())
}

/// Returns whether the events after `position` have more than so many bytes.
async fn exceeds(source: &dyn EventSource, position: Option<EventId>, bytes_max: u64) -> Result<bool> {
    let mut events = source.read(position.into());
    let mut bytes = 0;
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => bytes += event.size() as u64,
            Err(error) if matches!(error.kind(), ErrorKind::Pruned { .. }) => return Ok(true),
            Err(error) => return Err(error),
        }
        if bytes > bytes_max {
            return Ok(true);
        }
    }
    Ok(false)
}
