//! Where a pump starts, and whether sink and primary share one history.

use futures_util::StreamExt;

use super::options::StartAt;
use crate::{Checkpoint, Digest, Error, ErrorKind, Event, EventId, EventSource, ReadFrom, Result, Retry};

/// A position to go on from, and the floor, where that is not the origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Begin {
    pub(crate) position: Option<EventId>,
    pub(crate) floor: Option<EventId>,
}

impl Begin {
    fn behind(position: Option<EventId>) -> Self {
        Self { position, floor: None }
    }
}

/// Where to go on, from what the sink says and what its options allow.
///
/// # Errors
/// `Diverged` when sink and primary have another history, `Unsupported` when a sink without memory was
/// given no start, and what reading the primary meets.
///
/// # Cancel safety
/// It only reads.
pub(crate) async fn begin(
    source: &dyn EventSource,
    checkpoint: Checkpoint,
    start: StartAt,
    head: Option<EventId>,
) -> Result<Begin> {
    match (checkpoint, start) {
        (Checkpoint::At { id, digest }, _) => {
            compare(source, id, digest).await?;
            Ok(Begin::behind(Some(id)))
        }
        (Checkpoint::Empty | Checkpoint::Unknown, StartAt::OldestSnapshot) => oldest_snapshot(source).await,
        (Checkpoint::Empty, _) | (Checkpoint::Unknown, StartAt::Origin) => Ok(Begin::behind(None)),
        (Checkpoint::Unknown, StartAt::After(id)) => Ok(Begin::behind(Some(id))),
        (Checkpoint::Unknown, StartAt::Head) => {
            let head = end(source, head).await?;
            Ok(Begin { position: head, floor: head.and_then(EventId::next) })
        }
        (Checkpoint::Unknown, StartAt::Checkpoint) => Err(Error::new(
            ErrorKind::Unsupported,
            Retry::Never,
            "the sink has no memory of its own; wrap it in `Checkpointed`, or attach it with an explicit start",
        )),
    }
}

/// The end of the log now: a relay may not have read so far, or not begun.
async fn end(source: &dyn EventSource, head: Option<EventId>) -> Result<Option<EventId>> {
    let mut last = head;
    let mut events = source.read(head.map_or(ReadFrom::Snapshot, ReadFrom::After));
    while let Some(event) = events.next().await.transpose()? {
        last = Some(event.id());
    }
    Ok(last)
}

/// Lineage: the event that the sink ends with must be the primary's event of that id.
async fn compare(source: &dyn EventSource, id: EventId, digest: Digest) -> Result<()> {
    let before = id.prev();
    let diverged = |what: String| {
        let message = format!(
            "{what}; the primary was restored from an older copy, or the sink belongs to another log: \
             rebuild one of the two"
        );
        Err(Error::new(ErrorKind::Diverged, Retry::Never, message).at(id))
    };
    match source.read(before.into()).next().await {
        Some(Ok(event)) if event.id() != id => diverged(format!(
            "the sink ends with event {id} (digest {digest}), which the primary does not have; \
             its next is event {}",
            event.id()
        )),
        Some(Ok(event)) if event.digest() != digest => diverged(format!(
            "event {id} has the digest {digest} in the sink and {} in the primary",
            event.digest()
        )),
        Some(Ok(_)) => Ok(()),
        Some(Err(error)) if matches!(error.kind(), ErrorKind::Pruned { .. }) => {
            // The event itself was pruned. What comes behind it may still be there, whole.
            match source.read(ReadFrom::After(id)).next().await {
                Some(Err(error)) => Err(error),
                _ => Ok(()),
            }
        }
        Some(Err(error)) => Err(error),
        None => {
            diverged(format!("the sink ends with event {id} (digest {digest}), beyond the primary's head"))
        }
    }
}

/// The oldest snapshot that is kept; the origin where nothing was pruned.
async fn oldest_snapshot(source: &dyn EventSource) -> Result<Begin> {
    let oldest = match source.read(ReadFrom::Origin).next().await {
        Some(Err(error)) => match error.kind() {
            ErrorKind::Pruned { oldest } => oldest,
            _ => return Err(error),
        },
        _ => return Ok(Begin::behind(None)),
    };
    let mut position = oldest.prev();
    let mut events = source.read(position.into());
    while let Some(event) = events.next().await.transpose()? {
        if Event::is_snapshot(&event) {
            return Ok(Begin { position, floor: Some(event.id()) });
        }
        position = Some(event.id());
    }
    Err(Error::pruned(oldest))
}
