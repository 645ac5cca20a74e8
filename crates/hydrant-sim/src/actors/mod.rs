//! The actors: callers, operators, readers and a foreign writer, each with its own steps in order.

mod act;
mod files;
pub(crate) use files::write_other_log;
pub mod bounds;
pub mod build;
pub mod system;

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
}

/// How a step ended.
enum Ended {
    Done,
    Dropped,
    Crashed,
    Panicked,
}

impl Actor {
    pub fn new(system: Arc<System>) -> Self {
        Self { system, seen: None, seen_fact: None, beside: None }
    }

    /// Makes all steps in order.
    pub async fn run(mut self, ops: Vec<Op>) {
        for op in ops {
            self.step(&op).await;
            if let Some(up) = self.system.is_up() {
                let status = up.engine.status();
                check::status(&self.system.world, &status);
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
        let acting = AssertUnwindSafe(droppable(self.act(up, op), op.patience)).catch_unwind();
        let ended = tokio::select! {
            biased;
            () = process.death() => Ended::Crashed,
            done = acting => match done {
                Ok(true) => Ended::Done,
                Ok(false) => Ended::Dropped,
                Err(_) => Ended::Panicked,
            },
        };
        system.world.with(|state| {
            state.under_way.remove(&op.id);
            state.note(|| match ended {
                Ended::Done => format!("<-   op {}", op.id),
                Ended::Dropped => format!("<-   op {} was dropped", op.id),
                Ended::Crashed => format!("<-   op {} died with its process", op.id),
                Ended::Panicked => format!("<-   op {} panicked", op.id),
            });
            // A panic in a read reaches its reader. All other calls catch it.
            if matches!(ended, Ended::Panicked)
                && !matches!(op.act, Act::Follow { .. } | Act::Read | Act::Hydrate | Act::Snapshot)
            {
                state.fail("panic", format!("{} panicked because its store did", op.act.name()));
            }
        });
    }
}

/// Awaits a future, or drops it when the caller's patience ends; returns whether it ended.
async fn droppable(future: impl Future<Output = ()>, patience: Option<Patience>) -> bool {
    let Some(Patience { polls, ms }) = patience else {
        future.await;
        return true;
    };
    let counted = Polls { future: pin!(future), left: polls };
    tokio::time::timeout(Duration::from_millis(ms), counted).await.unwrap_or(false)
}

/// Gives up a future after so many polls.
struct Polls<'a, F> {
    future: Pin<&'a mut F>,
    left: u32,
}

impl<F: Future<Output = ()>> Future for Polls<'_, F> {
    type Output = bool;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<bool> {
        if self.left == 0 {
            return Poll::Ready(false);
        }
        self.left -= 1;
        match self.future.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(true),
            // The last poll is followed by a drop at once.
            Poll::Pending if self.left == 0 => Poll::Ready(false),
            Poll::Pending => Poll::Pending,
        }
    }
}
