//! The actors: callers, operators, readers and a foreign writer, each with its own steps in order.

mod act;
mod files;
pub(crate) use files::write_other_log;
pub mod bounds;
mod broken;
pub mod build;
mod hold;
mod submit;
pub mod system;
pub mod tokens;

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt;
use hydrant::EventId;

use crate::check;
use crate::plan::{Act, Op, Patience};
use crate::world::Process;
pub use act::facts;
pub use system::System;

/// One actor: what it knows between its steps.
pub struct Actor {
    pub system: Arc<System>,
    /// What its reader has seen.
    pub seen: Option<EventId>,
    /// The number of the event it saw last.
    pub seen_fact: Option<u64>,
    /// The process of an actor that is not part of the program.
    beside: Option<Arc<Process>>,
    /// The follower that it keeps.
    held: Option<hold::Kept>,
}

/// How a step ended.
enum Ended {
    Done(&'static str),
    Dropped,
    Crashed,
    Panicked,
}

impl Actor {
    pub fn new(system: Arc<System>) -> Self {
        Self { system, seen: None, seen_fact: None, held: None, beside: None }
    }

    /// Makes all steps in order.
    pub async fn run(mut self, ops: Vec<Op>) {
        self.system.misbehave().await;
        for op in ops {
            self.step(&op).await;
            if let Some(up) = self.system.is_up() {
                let status = self.system.shown(up.engine.status());
                check::status(&self.system.world, &status);
                check::stale(&self.system.world, &up, &status);
                check::lag(&self.system.world, &up, self.system.topology, &status);
                check::roster_is_shown(&self.system.world, &up, &status);
            }
        }
    }

    pub(crate) async fn step(&mut self, op: &Op) {
        let system = self.system.clone();
        if let Act::Pause { ms } = op.act {
            return tokio::time::sleep(Duration::from_millis(ms)).await;
        }
        if let Act::Files(act) = op.act {
            system.world.with(|state| {
                state.operations += 1;
                state.note(|| format!("->   op {} actor {}: {act:?}", op.id, op.actor));
                state.under_way.insert(op.id, act.name());
            });
            droppable(self.act_beside(act), op.patience).await;
            return system.world.with(|state| {
                state.under_way.remove(&op.id);
                state.note(|| format!("<-   op {}", op.id));
            });
        }
        let up = system.up().await;
        system.world.with(|state| {
            state.operations += 1;
            state.note(|| format!("->   op {} actor {}: {:?}", op.id, op.actor, op.act));
            if op.act.waits() {
                state.under_way.insert(op.id, op.act.name());
            }
        });
        let process = up.process.clone();
        // On the heap, because each layer around this large future would copy it.
        let step = Box::pin(self.act(up, op));
        let acting = AssertUnwindSafe(droppable(step, op.patience)).catch_unwind();
        let ended = tokio::select! {
            biased;
            () = process.death() => Ended::Crashed,
            done = acting => match done {
                Ok(Some(outcome)) => Ended::Done(outcome),
                Ok(None) => Ended::Dropped,
                Err(_) => Ended::Panicked,
            },
        };
        system.world.with(|state| {
            state.under_way.remove(&op.id);
            let outcome = match ended {
                Ended::Done(outcome) => outcome,
                Ended::Dropped => "dropped",
                Ended::Crashed => "crashed",
                Ended::Panicked => "panicked",
            };
            *state.outcomes.entry((op.act.name(), outcome)).or_default() += 1;
            state.note(|| match ended {
                Ended::Done(outcome) => format!("<-   op {}: {outcome}", op.id),
                Ended::Dropped => format!("<-   op {} was dropped", op.id),
                Ended::Crashed => format!("<-   op {} died with its process", op.id),
                Ended::Panicked => format!("<-   op {} panicked", op.id),
            });
            // A panic in a read reaches its reader. All other calls catch the panic.
            if matches!(ended, Ended::Panicked)
                && !matches!(
                    op.act,
                    Act::Follow { .. } | Act::Take { .. } | Act::Read | Act::Hydrate | Act::Snapshot
                )
            {
                state.fail("panic", format!("{} panicked because its store did", op.act.name()));
            }
        });
    }
}

/// Awaits a future, or drops it when the caller's patience ends; `None` if it was dropped.
async fn droppable<T>(future: impl Future<Output = T>, patience: Option<Patience>) -> Option<T> {
    let Some(Patience { polls, ms }) = patience else { return Some(future.await) };
    let counted = Polls { future: pin!(future), left: polls };
    tokio::time::timeout(Duration::from_millis(ms), counted).await.ok().flatten()
}

/// Gives up a future after so many polls.
struct Polls<'a, F> {
    future: Pin<&'a mut F>,
    left: u32,
}

impl<F: Future> Future for Polls<'_, F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<F::Output>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.left -= 1;
        match self.future.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            // The last poll is followed by a drop at once.
            Poll::Pending if self.left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    }
}
