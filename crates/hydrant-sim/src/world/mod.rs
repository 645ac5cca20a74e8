//! The world around the code under test: stores that fail, processes that die, and the truth to compare with.

pub mod bell;
pub mod files;
pub mod held;
pub mod log;
mod memory;
mod primary;
pub mod process;
mod read;
mod roster;
mod seen;
pub mod sink;
pub mod state;
pub mod truth;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bell::Bell;
pub use files::{FileLog, FileReader};
pub use primary::{ModelPrimary, commit};
pub use process::Process;
pub use roster::{ModelRoster, sink_of};
pub use sink::ModelSink;
pub use state::{Failure, State};

use hydrant::{Primary, Prune};

use crate::plan::{Broken, Plan};

/// A primary that can be pruned: a model or files.
pub trait AnyPrimary: Primary + Prune {}

impl<T: Primary + Prune> AnyPrimary for T {}

/// The one world of a run.
pub struct World {
    state: Mutex<State>,
    pub seed: u64,
    failed: Bell,
    healed: Bell,
}

impl World {
    pub fn new(plan: &Plan, traced: bool) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State::new(plan, traced)),
            seed: plan.seed,
            failed: Bell::default(),
            healed: Bell::default(),
        })
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.look_at_files();
        state
    }

    pub fn try_lock(&self) -> Option<MutexGuard<'_, State>> {
        self.state.try_lock().ok()
    }

    /// Acts on the state, and ends the run if a checker failed in it.
    pub fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        let result = act(&mut state);
        if state.failure.is_some() {
            self.failed.ring();
        }
        result
    }

    pub fn is_broken(&self, broken: Broken) -> bool {
        self.lock().config.broken == Some(broken)
    }

    pub fn note(&self, text: impl FnOnce() -> String) {
        self.lock().note(text);
    }

    pub fn fail(&self, checker: &'static str, message: impl Into<String>) {
        self.with(|state| state.fail(checker, message));
    }

    /// Ends all faults: nothing fails any more, and what hangs fails now.
    pub fn heal(&self) {
        self.with(|state| {
            state.healed = true;
            state.land(|_, _| true);
            state.note(|| "## the faults stop".to_owned());
            state.heal_files();
        });
        self.healed.ring();
    }

    /// Hangs until the faults stop.
    pub async fn hang(&self) {
        self.healed.after(0).await;
    }

    /// Waits until a checker failed.
    pub async fn failed(&self) {
        self.failed.after(0).await;
    }
}
