//! State that tasks wait for, which cannot change without waking them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::mutants::mutant;

/// Wakes all tasks that wait for a condition over the state of one log.
#[derive(Clone, Default)]
pub(crate) struct Signal(Arc<watch::Sender<()>>);

impl Signal {
    pub(crate) fn wake(&self) {
        self.0.send_replace(());
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<()> {
        self.0.subscribe()
    }

    /// Waits until `done`.
    ///
    /// # Cancel safety
    /// Only waits.
    pub(crate) async fn until(&self, done: impl Fn() -> bool) {
        let mut woken = self.subscribe();
        loop {
            // Marked before the look, so that a change after the look wakes the wait.
            woken.mark_unchanged();
            if done() {
                return;
            }
            drop(woken.changed().await); // the sender lives in `self`
        }
    }
}

/// A value that waiting conditions read. Each change wakes them, so that no wake-up can be forgotten.
pub(crate) struct Watched<T> {
    value: Mutex<T>,
    signal: Signal,
}

impl<T> Watched<T> {
    pub(crate) fn new(value: T, signal: &Signal) -> Self {
        Self { value: Mutex::new(value), signal: signal.clone() }
    }

    fn lock(&self) -> MutexGuard<'_, T> {
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the value. `look` must not call into this value again.
    pub(crate) fn read<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        look(&self.lock())
    }

    /// Changes the value, and wakes all waiting tasks.
    pub(crate) fn update<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        let result = change(&mut self.lock());
        if !mutant("change-without-wake") {
            self.signal.wake();
        }
        result
    }
}
