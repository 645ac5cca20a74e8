//! Models that break their own contract, and actors that report what is not so: each checker is shown one that it sees.

use serde::{Deserialize, Serialize};

/// What is broken on purpose, for the tests of the checkers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Broken {
    /// Sinks lose the second event of a batch.
    SinkDropsEvent,
    /// Sinks that are durable later report what they only accepted.
    SinkReportsAhead,
    /// Sinks refuse everything.
    SinkRefuses,
    /// Sinks take ten seconds for each append once the faults have stopped.
    SinkIsSlow,
    /// A handle of each sink is kept.
    SinkIsKept,
    /// The primary acknowledges, and stores nothing.
    PrimaryStoresNothing,
    /// The primary shows what is not durable.
    PrimaryShowsUndurable,
    /// The primary stores the first event of each batch twice.
    PrimaryRepeats,
    /// The primary refuses everything.
    PrimaryRefuses,
    /// The primary applies a batch, and reports that it applied nothing.
    PrimaryDeniesWrite,
    /// Appends end with an open outcome, and the log continues.
    AppendsStayOpen,
    /// Each id counts as published before.
    IdsComeAgain,
    /// What was acknowledged before counts as lost.
    IsAnotherHistory,
    /// A log that is open counts as closed.
    CountsAsClosed,
    /// The primary reports another event in the place of its newest.
    PrimaryReportsOther,
    /// The primary prunes up to its head.
    PrimaryPrunesAll,
    /// Reads keep all that they returned in memory.
    ReadsHoard,
    /// The journal returns ids that are too low by one.
    IdsAreShifted,
    /// Followers lose their second event.
    FollowSkips,
    /// Reads lose their second event.
    ReadSkips,
    /// A fold loses an event.
    FoldForgets,
    /// `delivered` returns at once.
    DeliveredAtOnce,
    /// All secondaries are shown as live, without lag.
    ShowsNoLag,
    /// All secondaries are shown as live.
    ShowsLive,
    /// More lag is shown than there are events.
    ShowsMoreLag,
    /// The primary is shown as stale.
    ShowsStale,
    /// Secondaries are shown as parked at the head.
    ShowsPoison,
    /// No head is shown.
    ShowsNoHead,
    /// A log that was closed is shown as open.
    ShowsOpen,
    /// Watchers of the status see only the first one.
    WatchStops,
    /// Calls never return.
    CallsHang,
    /// An actor sleeps for days.
    ActorSleeps,
    /// A task is polled again and again.
    TaskSpins,
    /// A task wakes each millisecond.
    TaskTicks,
    /// A task never ends.
    TaskStays,
    /// A task panics.
    TaskPanics,
    /// A poll does not return.
    PollLoops,
}
