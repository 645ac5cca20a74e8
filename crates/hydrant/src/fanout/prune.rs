//! How far a log may be pruned: nothing is removed that a secondary of the roster still needs.

use std::time::Duration;

use futures_util::StreamExt;

use super::guard::guarded;
use super::hub::Hub;
use crate::{EventId, Result};

/// How long a sink may take to report its checkpoint.
const SINK_PATIENCE: Duration = Duration::from_secs(1);

/// The event before which all may be removed: `before`, or an earlier one that is the checkpoint of a secondary; `None`
/// if everything is needed.
///
/// A secondary with a backlog of more than `retain_bytes_max` does not count.
pub(crate) async fn needed(
    hub: &Hub,
    before: EventId,
    retain_bytes_max: Option<u64>,
) -> Result<Option<EventId>> {
    let mut positions = Vec::new();
    let entries = guarded("the roster", hub.settings.call_timeout, || hub.roster.list()).await?;
    for entry in entries {
        let attached = hub.secondaries().into_iter().find(|secondary| secondary.name == entry.name);
        // The sink knows better than the roster, which learns it only now and then, and better than the pump: the sink
        // may not hold durably yet what it acknowledged.
        let position = match attached {
            Some(secondary) => secondary.durable(SINK_PATIENCE).await.unwrap_or_else(|error| {
                tracing::warn!(secondary = entry.name, %error, "the sink does not report its checkpoint: pruning by the roster's");
                None
            }),
            None => None,
        };
        let position = position.unwrap_or(entry.checkpoint.id());
        if position < Some(before) {
            positions.push((entry.name, position));
        }
    }
    positions.sort_by_key(|(_, position)| *position);
    for (name, position) in positions {
        let left_behind = match retain_bytes_max {
            Some(bytes_max) => exceeds(hub, position, bytes_max).await?,
            None => false,
        };
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

/// Whether the events after `position` have more than so many bytes.
async fn exceeds(hub: &Hub, position: Option<EventId>, bytes_max: u64) -> Result<bool> {
    let mut events = hub.source.read(position.into());
    let mut bytes = 0;
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => bytes += event.size() as u64,
            // What was pruned already cannot be needed.
            Err(error) if matches!(error.kind(), crate::ErrorKind::Pruned { .. }) => return Ok(true),
            Err(error) => return Err(error),
        }
        if bytes > bytes_max {
            return Ok(true);
        }
    }
    Ok(false)
}
