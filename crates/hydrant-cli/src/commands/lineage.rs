//! Where a copy begins: behind what the target holds, if that is of the same history.

use futures_util::{StreamExt as _, stream};
use hydrant::{
    Checkpoint, Digest, Error, ErrorKind, Event, EventId, EventSource, EventStream, ReadFrom, Result, Retry,
};

/// The events that a target misses, and the event before them.
pub(crate) struct Missing {
    pub(crate) after: Option<EventId>,
    /// The first of them, where it was read already.
    pub(crate) first: Option<Event>,
    pub(crate) events: EventStream,
}

/// Finds the events of a log that a target with this checkpoint misses.
///
/// `rewinds`: the log can be read from anywhere; standard input cannot. `from_snapshot`: an empty target may
/// start at the floor of a pruned log.
///
/// # Errors
/// `Diverged` when the target holds events of another history, `Gap` when nothing proves that none is missing
/// in between, `Pruned` when the log no longer has them.
pub(crate) async fn missing(
    source: &dyn EventSource,
    checkpoint: Checkpoint,
    rewinds: bool,
    from_snapshot: bool,
) -> Result<Missing> {
    let Checkpoint::At { id, digest } = checkpoint else {
        let mut missing = beginning(source, from_snapshot).await?;
        if let (Checkpoint::Unknown, false, Some(first)) = (checkpoint, rewinds, &missing.first) {
            // Input may begin anywhere. The batch names a predecessor, so that a listener reports a gap and not
            // a beginning.
            missing.after = first.id().prev();
        }
        return Ok(missing);
    };
    let before = if rewinds { id.prev() } else { None };
    let mut events = source.read(ReadFrom::from(before));
    let mut seen = None;
    loop {
        match events.next().await {
            Some(Ok(event)) if event.id() < id => seen = Some(event.id()),
            Some(Ok(event)) if event.id() == id => {
                check(&event, digest)?;
                return Ok(Missing { after: Some(id), first: None, events });
            }
            // There can be no event in between.
            Some(Ok(event)) if !rewinds && seen.is_none() && Some(event.id()) == id.next() => {
                return Ok(Missing { after: Some(id), first: Some(event), events });
            }
            Some(Ok(event)) if !rewinds && seen.is_none() => {
                return Err(Error::gap(format!(
                    "the target ends at event {id}; begin the input with that event or the one with the next \
                     id, so that nothing can be missing in between"
                ))
                .at(event.id()));
            }
            Some(Ok(event)) => return Err(other_history(id, &format!("has event {} there", event.id()))),
            Some(Err(error)) if error.kind() == at_floor(id) => {
                let after = Some(id);
                return Ok(Missing { after, first: None, events: source.read(ReadFrom::from(after)) });
            }
            Some(Err(error)) => return Err(error),
            None => {
                let ends =
                    seen.map_or_else(|| "ends before it".to_owned(), |seen| format!("ends at event {seen}"));
                return Err(other_history(id, &ends));
            }
        }
    }
}

/// All that there is, for an empty target.
async fn beginning(source: &dyn EventSource, from_snapshot: bool) -> Result<Missing> {
    let mut events = source.read(ReadFrom::Origin);
    match events.next().await.transpose() {
        Ok(None) => Ok(Missing { after: None, first: None, events: stream::empty().boxed() }),
        Ok(first) => Ok(Missing { after: None, first, events }),
        Err(error) => {
            let ErrorKind::Pruned { oldest } = error.kind() else { return Err(error) };
            if !from_snapshot {
                let message = format!(
                    "the events before {oldest} were pruned; start the target at event {oldest} with --from-snapshot"
                );
                return Err(Error::new(error.kind(), Retry::Never, message));
            }
            let after = oldest.prev();
            Ok(Missing { after, first: None, events: source.read(ReadFrom::from(after)) })
        }
    }
}

/// The log was pruned up to right behind the checkpoint: the event to compare is gone, none that is needed is.
fn at_floor(id: EventId) -> ErrorKind {
    ErrorKind::Pruned { oldest: id.next().unwrap_or(id) }
}

fn check(event: &Event, held: Digest) -> Result<()> {
    let digest = event.digest();
    if digest == held {
        return Ok(());
    }
    Err(other_history(
        event.id(),
        &format!("has another event under this id: digest {digest}, the target {held}"),
    ))
}

fn other_history(id: EventId, how: &str) -> Error {
    let message = format!(
        "the target holds events of another history: it ends at event {id}, and the log {how}; choose another target"
    );
    Error::new(ErrorKind::Diverged, Retry::Never, message).at(id)
}
