//! Where a pump starts, and whether sink and primary share one history.

use futures_util::StreamExt;

use super::lineage::{self, Place};
use super::options::StartAt;
use crate::mutants::mutant;
use crate::{Checkpoint, Error, ErrorKind, Event, EventId, EventSource, ReadFrom, Result, Retry};

/// A position to continue after, and the floor, if that is not the origin.
#[derive(Clone, Debug)]
pub(crate) struct Begin {
    pub(crate) position: Option<Place>,
    pub(crate) floor: Option<EventId>,
}

impl Begin {
    fn after(position: Option<Place>) -> Self {
        Self { position, floor: None }
    }

    /// After the newest event of a log, where [`StartAt::Head`] begins.
    pub(crate) fn at_head(head: Option<Place>) -> Self {
        let floor = head.as_ref().and_then(|head| head.id().next());
        Self { position: head, floor }
    }
}

/// Where to continue, by the sink's checkpoint and the options of the secondary. `recorded` is what the roster has.
///
/// # Errors
/// `Diverged` if sink and primary have different histories, `Unsupported` if a sink without memory was given no
/// start, `Unavailable` if the primary is a standby that does not have all events yet, and any error of reading it.
///
/// # Cancel safety
/// Reads only.
pub(crate) async fn begin(
    source: &dyn EventSource,
    checkpoint: Checkpoint,
    recorded: Checkpoint,
    start: StartAt,
    head: Option<EventId>,
) -> Result<Begin> {
    match (checkpoint, start) {
        (Checkpoint::At { .. }, _) => {
            let position = Place::of(checkpoint);
            compare(source, position.as_ref(), recorded, head).await?;
            Ok(Begin::after(position))
        }
        (Checkpoint::Empty | Checkpoint::Unknown, StartAt::OldestSnapshot) => oldest_snapshot(source).await,
        (Checkpoint::Empty, _) | (Checkpoint::Unknown, StartAt::Origin) => Ok(Begin::after(None)),
        (Checkpoint::Unknown, StartAt::After(id)) if mutant("starts-at-the-event") => {
            Ok(Begin::after(id.prev().map(Place::Id)))
        }
        (Checkpoint::Unknown, StartAt::After(id)) => Ok(Begin::after(Some(Place::Id(id)))),
        (Checkpoint::Unknown, StartAt::Head) => end(source, head).await.map(Begin::at_head),
        (Checkpoint::Unknown, StartAt::Checkpoint) => Err(Error::unsupported(
            "the sink has no memory of its own; wrap it in `Checkpointed`, or attach it with an explicit start",
        )),
    }
}

/// The end of the log now: a relay may not have read so far, or not begun.
///
/// # Errors
/// Any error of the source. `Pruned` is retryable: the log has moved on, and so has its newest snapshot.
pub(crate) async fn end(source: &dyn EventSource, head: Option<EventId>) -> Result<Option<Place>> {
    let from_head = match head {
        Some(head) => last(source, ReadFrom::At(head)).await,
        None => last(source, ReadFrom::Snapshot).await,
    };
    match from_head {
        Err(error) if is_pruned(&error) => last(source, ReadFrom::Snapshot).await.map_err(retry_if_pruned),
        found => Ok(found?.or(head.map(Place::Id))),
    }
}

/// The last event of a read.
async fn last(source: &dyn EventSource, from: ReadFrom) -> Result<Option<Place>> {
    let mut last = None;
    let mut events = source.read(from);
    while let Some(event) = events.next().await.transpose()? {
        last = Some(event);
    }
    Ok(last.map(Place::Event))
}

fn is_pruned(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Pruned { .. })
}

/// A place that was just found, and was pruned before it could be read, is found again at the next attempt.
fn retry_if_pruned(error: Error) -> Error {
    if is_pruned(&error) { error.with_retry(Retry::Safe) } else { error }
}

/// Lineage: the event that the sink ends with must be the primary's event of that id. A position without a digest is not
/// compared.
///
/// If that event was pruned, the roster may still know it, which recorded the checkpoint of the sink once it was compared.
/// If the roster is older, nothing is left to compare with.
///
/// # Errors
/// As [`begin`].
///
/// # Cancel safety
/// Reads only.
pub(crate) async fn compare(
    source: &dyn EventSource,
    position: Option<&Place>,
    recorded: Checkpoint,
    head: Option<EventId>,
) -> Result<()> {
    let Some((id, digest)) = position.and_then(|place| Some((place.id(), place.digest()?))) else {
        return Ok(());
    };
    if mutant("no-lineage") {
        return Ok(());
    }
    let before = id.prev();
    let diverged = |what: String| {
        let message = format!(
            "{what}; the primary was restored from an older copy, or the sink belongs to another log: \
             rebuild one of the two"
        );
        Err(Error::diverged(message).at(id))
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
            if let Checkpoint::At { id: same, digest: known } = recorded
                && same == id
                && known != digest
            {
                return diverged(format!(
                    "event {id}, which was pruned, has the digest {digest} in the sink and {known} in the roster"
                ));
            }
            // The event itself was pruned. Everything after it may still be there.
            match source.read(ReadFrom::After(id)).next().await {
                Some(Err(error)) => Err(error),
                _ => Ok(()),
            }
        }
        Some(Err(error)) => Err(error),
        None if Some(id) <= head && !mutant("behind-is-diverged") => {
            Err(lineage::behind(&Place::Mark { id, digest }))
        }
        None => {
            diverged(format!("the sink ends with event {id} (digest {digest}), beyond the primary's head"))
        }
    }
}

/// The oldest snapshot that is kept; the origin if nothing was pruned.
async fn oldest_snapshot(source: &dyn EventSource) -> Result<Begin> {
    let oldest = match source.read(ReadFrom::Origin).next().await {
        Some(Err(error)) => match error.kind() {
            ErrorKind::Pruned { oldest } => oldest,
            _ => return Err(error),
        },
        _ => return Ok(Begin::after(None)),
    };
    let mut position = oldest.prev().map(Place::Id);
    let mut events = source.read(ReadFrom::At(oldest));
    while let Some(event) = events.next().await.transpose().map_err(retry_if_pruned)? {
        if Event::is_snapshot(&event) {
            return Ok(Begin { position, floor: Some(event.id()) });
        }
        position = Some(Place::Event(event));
    }
    Err(Error::pruned(oldest))
}
