//! The fan-out's seven promises.

mod accepted;
mod back_pressure;
mod closing;
mod commit;
mod deadline;
mod delivery;
mod edges;
mod failover;
mod isolation;
mod lineage;
mod lost_tail;
mod pacing;
mod panics;
mod poison;
mod relay;
mod relay_pruned;
pub(crate) mod rig;
mod roster;
mod roster_faults;
mod roster_late;
mod roster_shared;
mod simulation;
mod slow_source;
mod stale;
mod starts;
mod states;
mod unknown_outcome;

use std::time::Duration;

use futures_util::StreamExt;
use hydrant::{FanOut, Primary, SecondaryState, SecondaryStatus};

const SOON: Duration = Duration::from_secs(5);

/// The status of one secondary.
fn status<P: Primary + 'static>(log: &FanOut<P>, name: &str) -> SecondaryStatus {
    let mut found = log.status().secondaries;
    found.retain(|secondary| secondary.name == name);
    found.pop().expect("no such secondary")
}

/// Waits until a secondary is in this state.
async fn until<P: Primary + 'static>(log: &FanOut<P>, name: &str, state: SecondaryState) -> SecondaryStatus {
    let wait = async {
        let mut changes = Box::pin(log.watch());
        while changes.next().await.is_some() {
            let now = status(log, name);
            if now.state == state {
                return now;
            }
        }
        panic!("the fan-out ended")
    };
    tokio::time::timeout(Duration::from_secs(600), wait)
        .await
        .unwrap_or_else(|_| panic!("{name} is not {state} but {:?}", status(log, name)))
}
