//! Counts the states that were seen, for the tables of coverage.

use hydrant::{ErrorKind, FanOutStatus, SecondaryState};

use super::roster::sink_of;
use super::state::State;
use crate::plan::{SinkKind, Topology};

impl State {
    /// Counts the states that a status shows.
    pub fn see(&mut self, status: &FanOutStatus) {
        let log = match (self.config.topology, self.config.accepts_ms) {
            (Topology::Relay, _) => "log: relay",
            (Topology::FanOut, None) => "log: fan-out",
            (Topology::FanOut, Some(_)) => "log: accepting",
            (Topology::Journal, None) => "log: journal",
            (Topology::Journal, Some(_)) => "log: acc. journal",
        };
        let is_open = status.stopped.is_none();
        let stopped = status.stopped.as_ref().map(|error| match error.kind() {
            ErrorKind::Diverged => "diverged",
            _ => "closed",
        });
        let stale = status.stale.as_ref().map(|_| "stale");
        for column in is_open.then_some("open").into_iter().chain(stopped).chain(stale) {
            *self.states.entry((log, column)).or_default() += 1;
        }
        for secondary in &status.secondaries {
            let Some(sink) = sink_of(&secondary.name) else { continue };
            let row = kind_name(self.kind(sink));
            *self.states.entry((row, state_name(secondary.state))).or_default() += 1;
        }
    }
}

fn kind_name(kind: SinkKind) -> &'static str {
    match kind {
        SinkKind::Plain => "plain",
        SinkKind::Buffered => "buffered",
        SinkKind::Forgetful => "forgetful",
        SinkKind::Checkpointed => "checkpointed",
        SinkKind::Filtered => "filtered",
        SinkKind::Mapped => "mapped",
        SinkKind::DeadLetter => "dead letter",
        SinkKind::Picky => "picky",
        SinkKind::Nested => "nested",
    }
}

fn state_name(state: SecondaryState) -> &'static str {
    match state {
        SecondaryState::Detached => "detached",
        SecondaryState::Starting => "starting",
        SecondaryState::CatchingUp => "catching-up",
        SecondaryState::Live => "live",
        SecondaryState::Retrying => "retrying",
        SecondaryState::Parked => "parked",
        _ => "other",
    }
}
