//! State that tasks wait for, which cannot change without waking them.

use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::mutants::mutant;

/// Wakes all tasks that wait for a condition over the state of one log, in the order in which they began to wait. (A
/// `watch` of tokio wakes in random order, and then a simulated run does not repeat.)
#[derive(Clone, Default)]
pub(crate) struct Signal(Arc<Shared>);

#[derive(Default)]
struct Shared {
    /// How often it was woken.
    version: AtomicU64,
    waiting: Notify,
}

impl Signal {
    pub(crate) fn wake(&self) {
        self.0.version.fetch_add(1, Ordering::SeqCst);
        self.0.waiting.notify_waiters();
    }

    pub(crate) fn subscribe(&self) -> Changes {
        let mut changes = Changes { signal: self.clone(), seen: 0 };
        changes.mark_unchanged();
        changes
    }

    fn version(&self) -> u64 {
        self.0.version.load(Ordering::SeqCst)
    }

    /// Waits until `done`.
    ///
    /// # Cancel safety
    /// Only waits.
    pub(crate) async fn until(&self, done: impl Fn() -> bool) {
        let mut changes = self.subscribe();
        loop {
            // Marked before the look, so that a change after the look wakes the wait.
            changes.mark_unchanged();
            if done() {
                return;
            }
            changes.changed().await;
        }
    }
}

/// The changes that a signal announced, as one task has seen them.
pub(crate) struct Changes {
    signal: Signal,
    seen: u64,
}

impl Changes {
    pub(crate) fn mark_unchanged(&mut self) {
        self.seen = self.signal.version();
    }

    #[cfg(test)]
    pub(crate) fn has_changed(&self) -> bool {
        self.seen != self.signal.version()
    }

    /// Waits for a change since the last mark, and marks it.
    ///
    /// # Cancel safety
    /// Only waits.
    pub(crate) async fn changed(&mut self) {
        loop {
            let mut woken = pin!(self.signal.0.waiting.notified());
            // Waits from here on, so that no wake-up is lost after the look.
            woken.as_mut().enable();
            let version = self.signal.version();
            if version != self.seen {
                self.seen = version;
                return;
            }
            woken.await;
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
