//! The ways in which the store on paper can be broken.

use futures_util::{StreamExt, stream};
use hydrant::{Event, EventId, EventStream, ReadFrom};

use crate::paper::Paper;

/// One way to be wrong. The name says how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Bug {
    None,
    // Law 1
    LosesOnReopen,
    AcknowledgesEarly,
    TruncatesLargeBatches,
    TruncatesTheDefaultOfAFanOut,
    RewritesNumbers,
    UnescapesText,
    DropsWhatIsLarge,
    DropsTime,
    DropsMetadata,
    DropsMembers,
    ForgetsSnapshotMarks,
    // Law 2
    Renumbers,
    StartsAtZero,
    Reorders,
    // Law 3
    ForgetsToDeduplicate,
    RefusesWhatIsHeld,
    // Law 4
    AcceptsHoles,
    NeverFenced,
    ComparesTheHeadOnly,
    ComparesPayloadsOnly,
    AcceptsSkipped,
    AcceptsOutdatedSnapshots,
    TrustsItsOwnHead,
    StartsNowhere,
    ForgetsTheFloor,
    CallsTheFloorFenced,
    // Law 5
    CheckpointOneTooHigh,
    CheckpointBeforeDurable,
    CheckpointHidesHoles,
    CheckpointForgottenOnReopen,
    PretendsToRemember,
    NothingIsZero,
    ReportsItsOwnHead,
    HeadIsTheCheckpoint,
    SwapsWithoutComparing,
    KeepsForeignEntries,
    FoldsNames,
    ListsInAnyOrder,
    KeepsKnownMembers,
    // Law 6
    HalfBatchWhenDropped,
    HalfBatchAfterACrash,
    LandsLate,
    LocksInItsTask,
    SwapsLandLate,
    HalfRefuses,
    HalfPrunesWhenDropped,
    StaysBusyWhenDropped,
    // Law 7
    SafeAfterApplying,
    GapIsForEver,
    FencedIsSafe,
    KeepsADeadConnection,
    StopsAfterAnError,
    WorksThoughItStopped,
    CommandLandsLate,
    MissesItsFault,
    IgnoresTheDeadline,
    CallsADeadlineNever,
    // Law 8
    ReadersBlockTheWriter,
    WritesWithoutTurns,
    SwapsWithoutTurns,
    UnreadableWhileRotating,
    ShowsHolesWhileWriting,
    BlocksItsThread,
    // Law 9
    LeaksATask,
    LeaksADescriptor,
    KeepsItsLock,
    LeaksFollowers,
    // Law 10
    ReadsOnePage,
    RefusesUnknownPositions,
    AfterIsInclusive,
    AtIsExclusive,
    SnapshotIsTheOldest,
    SilentBelowTheFloor,
    PrunesTheNewest,
    SkipsBehindASeal,
    SkipsWhatIsPruned,
    PruneTearsReads,
    NeverEndsARead,
    LosesWhenGivenUp,
    FollowEnds,
    FollowRepeats,
    FollowMissesWhatComesMeanwhile,
    // Law 11
    ReadsAllIntoMemory,
    FollowsReadAheadWithoutBound,
    AcceptsTooLarge,
    InvalidNamesNothing,
    MisstatesItsLimit,
    // Law 12
    ShowsWhatIsUnsynced,
    ShowsWhatIsInFlight,
    // Law 13
    SkipsWhatIsDamaged,
    EndsAtDamage,
    DamageIsUnavailable,
    GoesOnBehindAnError,
    CutsACommitWithTheTornTail,
    FollowsAnotherLog,
    VerifyMissesASegment,
    // Law 14
    DigestOfNothing,
}

/// Changes events as a broken store does.
pub(crate) fn altered(events: &[Event], bug: Bug) -> Vec<Event> {
    let mut altered: Vec<_> = events.iter().map(|event| alter(event, bug)).collect();
    match bug {
        Bug::TruncatesLargeBatches => altered.truncate(1_000),
        Bug::TruncatesTheDefaultOfAFanOut => altered.truncate(1_024),
        Bug::DropsWhatIsLarge => altered.retain(|event| event.size() < 1 << 20),
        Bug::Reorders if altered.len() > 1 => altered.reverse(),
        _ => {}
    }
    altered
}

fn alter(event: &Event, bug: Bug) -> Event {
    let id = match bug {
        Bug::Renumbers if event.id().get() > 3 => event.id().get() - 1,
        Bug::StartsAtZero if event.id().get() == 41 => 0,
        _ => event.id().get(),
    };
    let payload = match bug {
        Bug::RewritesNumbers => reparsed(event).unwrap_or_else(|| event.payload().to_vec()),
        Bug::UnescapesText => String::from_utf8_lossy(event.payload()).replace("\\u0041", "A").into_bytes(),
        _ => event.payload().to_vec(),
    };
    let mut altered = Event::builder(EventId::new(id)).payload_json(payload);
    if let Some(time) = event.time().filter(|_| bug != Bug::DropsTime) {
        altered = altered.time(time);
    }
    if let Some(metadata) = event.metadata().filter(|_| bug != Bug::DropsMetadata) {
        altered = altered.metadata_json(metadata);
    }
    if event.is_snapshot() && bug != Bug::ForgetsSnapshotMarks {
        altered = altered.snapshot();
    }
    // Building does not keep the spelling of a member's name; such an event stays as it is.
    let rebuilds = bug == Bug::DropsMembers || event.members().is_empty() || id != event.id().get();
    if rebuilds { altered.build().expect("its parts were valid before") } else { event.clone() }
}

fn reparsed(event: &Event) -> Option<Vec<u8>> {
    serde_json::to_vec(&event.decode::<serde_json::Value>().ok()?).ok()
}

/// What a broken `follow` makes of one that is right.
pub(crate) fn follow(paper: &Paper, right: EventStream, from: ReadFrom) -> EventStream {
    match paper.shared.bug {
        Bug::FollowEnds => hydrant::EventSource::read(paper, from),
        Bug::FollowRepeats => {
            let head = paper.shared.page().events.last().map(Event::id);
            let repeat = move |event: hydrant::Result<Event>| {
                let times = if event.as_ref().is_ok_and(|event| Some(event.id()) == head) { 2 } else { 1 };
                stream::iter(vec![event; times])
            };
            right.flat_map(repeat).boxed()
        }
        Bug::FollowMissesWhatComesMeanwhile => {
            // History up to here, then what comes after the first look at the end: not what came between.
            let history = hydrant::EventSource::read(paper, from);
            let shared = paper.shared.clone();
            let live = stream::once(async move {
                let head = shared.page().events.last().map(Event::id);
                right.filter(move |event| {
                    let new = event.as_ref().map_or(true, |event| Some(event.id()) > head);
                    std::future::ready(new)
                })
            });
            history.chain(live.flatten()).boxed()
        }
        Bug::LeaksFollowers => {
            tokio::spawn(std::future::pending::<()>());
            right
        }
        Bug::FollowsReadAheadWithoutBound => {
            let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
            let mut right = right;
            tokio::spawn(async move {
                while let Some(event) = right.next().await {
                    if sender.send(event.map(|event| event.detached())).is_err() {
                        break;
                    }
                }
            });
            stream::unfold(receiver, |mut receiver| async { Some((receiver.recv().await?, receiver)) })
                .boxed()
        }
        _ => right,
    }
}

/// A read that takes an event, waits, and forgets it if the reader does not wait with it.
pub(crate) fn forgetful(mut right: EventStream) -> EventStream {
    let mut turn = 0;
    stream::poll_fn(move |context| {
        turn += 1;
        let next = right.poll_next_unpin(context);
        if turn % 50 == 0 && next.is_ready() {
            context.waker().wake_by_ref();
            return std::task::Poll::Pending;
        }
        next
    })
    .boxed()
}
