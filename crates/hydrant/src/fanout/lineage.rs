//! Lineage: whether a log still has the event that was read from it last.

use futures_util::StreamExt;

use crate::{
    Checkpoint, Digest, Error, ErrorKind, Event, EventId, EventSource, EventStream, ReadFrom, Result,
};

/// An event of a log, and what identifies it among the events that another history has under the same id.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// The event itself. Its digest is computed where it is needed.
    Event(Event),
    /// What a checkpoint knows of the event.
    Mark { id: EventId, digest: Digest },
    /// A start that an operator named; the log may not have this event.
    Id(EventId),
}

impl Place {
    /// The place of a checkpoint. `None`: before the first event.
    pub(crate) fn of(checkpoint: Checkpoint) -> Option<Self> {
        match checkpoint {
            Checkpoint::At { id, digest } => Some(Self::Mark { id, digest }),
            Checkpoint::Empty | Checkpoint::Unknown => None,
        }
    }

    pub(crate) fn id(&self) -> EventId {
        match self {
            Self::Event(event) => event.id(),
            Self::Mark { id, .. } | Self::Id(id) => *id,
        }
    }

    pub(crate) fn digest(&self) -> Option<Digest> {
        match self {
            Self::Event(event) => Some(event.digest()),
            Self::Mark { digest, .. } => Some(*digest),
            Self::Id(_) => None,
        }
    }

    /// Returns whether the log may not have this event: an operator may have named a start between two events.
    pub(crate) fn may_be_absent(&self) -> bool {
        matches!(self, Self::Id(_))
    }

    /// Returns whether both name one event of one history. Two places without a digest are compared by their ids.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        if self.id() != other.id() {
            return false;
        }
        match (self, other) {
            (Self::Event(this), Self::Event(that)) => this == that,
            _ => match (self.digest(), other.digest()) {
                (Some(this), Some(that)) => this == that,
                _ => true,
            },
        }
    }
}

/// The id of a place, where there is one.
pub(crate) fn id_of(place: Option<&Place>) -> Option<EventId> {
    place.map(Place::id)
}

/// Opens a read after `place`, which the log must still have.
///
/// The source may be another copy of the log than before, as after a failover to a standby. So the read begins at the
/// event of `place` itself, and compares it.
///
/// # Errors
/// `Diverged` if the log continues without that event; `Unavailable` if it ends before it; any error of the source.
///
/// # Cancel safety
/// Reads only.
pub(crate) async fn open(
    read: impl Fn(ReadFrom) -> EventStream,
    place: Option<&Place>,
) -> Result<EventStream> {
    let after = id_of(place).into();
    let Some((place, digest)) = place.and_then(|place| Some((place, place.digest()?))) else {
        return Ok(read(after));
    };
    let mut events = read(ReadFrom::At(place.id()));
    match events.next().await {
        Some(Ok(event)) if event.id() == place.id() && event.digest() == digest => Ok(events),
        Some(Ok(other)) => Err(replaced(place, &other)),
        // The event was pruned since.
        Some(Err(error)) if matches!(error.kind(), ErrorKind::Pruned { .. }) => Ok(read(after)),
        Some(Err(error)) => Err(error),
        None => Err(behind(place)),
    }
}

/// Checks that the log still has the event of `place`.
///
/// # Errors
/// As [`open`].
pub(crate) async fn check(source: &dyn EventSource, place: &Place) -> Result<()> {
    open(|from| source.read(from), Some(place)).await.map(drop)
}

/// The error of a log that has another event in the place of one that was read from it, or that it had acknowledged.
pub(crate) fn replaced(place: &Place, other: &Event) -> Error {
    let ours = place.digest().map_or_else(String::new, |digest| format!(" (digest {digest})"));
    diverged(
        place.id(),
        format!(
            "the log lost this event{ours}, and has event {} (digest {}) in its place",
            other.id(),
            other.digest()
        ),
    )
}

/// The error of a log that has `other` in the place of an event that it had accepted, and that was not durable yet.
pub(crate) fn accepted_and_lost(id: EventId, other: &Place) -> Error {
    let digest = other.digest().map_or_else(String::new, |digest| format!(" (digest {digest})"));
    let message = format!(
        "the log lost this event, which it had accepted, and has event {}{digest} in its place, as after a failover to a \
         copy that did not have it; no sink holds it: stop, then bring back the copy that has it, or open the log again to \
         continue without it",
        other.id()
    );
    Error::diverged(message).at(id)
}

/// The error of a log that lost accepted events, and whose ring has too few of them to compare an append at `id`.
pub(crate) fn evicted_and_lost(id: EventId) -> Error {
    let message = "the log lost events that it had accepted, as after a failover to a copy that did not have them, and its \
                   ring is too small to compare what is appended in their place; no sink holds them: stop, then bring back \
                   the copy that has them, or open the log again to continue without them";
    Error::diverged(message).at(id)
}

/// The error of a log that continues without an event that it had before.
pub(crate) fn diverged(id: EventId, what: impl AsRef<str>) -> Error {
    let message = format!(
        "{}, as after a failover to a standby that did not have it yet, or a restored copy; stop, then bring back the \
         copy that has it, or rebuild the sinks that hold it",
        what.as_ref()
    );
    Error::diverged(message).at(id)
}

/// The error of a log that ends before an event that was read from it: perhaps a standby that catches up.
pub(crate) fn behind(place: &Place) -> Error {
    let message = "the log ends before this event, which was read from it; a standby may still catch up";
    Error::unavailable(message).at(place.id())
}
