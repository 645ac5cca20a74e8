//! Actors that report what is not so, for the tests of the checkers.

use std::ops::RangeInclusive;
use std::time::Duration;

use hydrant::{Error, EventId, FanOutStatus, SecondaryState};

use super::System;
use crate::plan::Broken;

impl System {
    /// The status as it is shown to the checkers.
    pub fn shown(&self, mut status: FanOutStatus) -> FanOutStatus {
        let Some(broken) = self.world.lock().config.broken else { return status };
        let head = status.head;
        match broken {
            Broken::ShowsStale => status.stale = Some(Error::diverged("broken")),
            Broken::ShowsNoHead => status.head = None,
            Broken::ShowsOpen => status.stopped = None,
            _ => {}
        }
        for secondary in &mut status.secondaries {
            match broken {
                Broken::ShowsNoLag => (secondary.lag_events, secondary.state) = (0, SecondaryState::Live),
                Broken::ShowsLive => secondary.state = SecondaryState::Live,
                Broken::ShowsMoreLag => secondary.lag_events += 1_000_000,
                Broken::ShowsPoison => {
                    secondary.state = SecondaryState::Parked;
                    secondary.last_error = head.map(|head| Error::invalid("broken").at(head));
                }
                _ => {}
            }
        }
        status
    }

    /// The ids that a journal returned.
    pub fn ids(&self, ids: RangeInclusive<EventId>) -> RangeInclusive<EventId> {
        if !self.world.is_broken(Broken::IdsAreShifted) {
            return ids;
        }
        let shifted = |id: EventId| EventId::new(id.get().saturating_sub(1));
        shifted(*ids.start())..=shifted(*ids.end())
    }

    /// Makes this actor misbehave, or starts a task that does.
    pub(super) async fn misbehave(&self) {
        let Some(broken) = self.world.lock().config.broken else { return };
        match broken {
            Broken::ActorSleeps => tokio::time::sleep(Duration::from_secs(100 * 3600)).await,
            Broken::TaskSpins => drop(tokio::spawn(async {
                loop {
                    tokio::task::yield_now().await;
                }
            })),
            Broken::TaskTicks => drop(tokio::spawn(async {
                loop {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            })),
            Broken::TaskStays => drop(tokio::spawn(std::future::pending::<()>())),
            Broken::TaskPanics => drop(tokio::spawn(async { panic!("a task panics") })),
            Broken::PollLoops => loop {
                std::hint::spin_loop();
            },
            _ => {}
        }
    }
}
