//! Wakes tasks in the order in which they wait. (A `watch` of tokio wakes in random order, and no run would repeat.)

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

/// Counts how often it was rung, and wakes all that wait for the next time.
#[derive(Clone, Debug, Default)]
pub struct Bell(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    rung: AtomicU64,
    waiting: Notify,
}

impl Bell {
    pub fn ring(&self) {
        self.0.rung.fetch_add(1, Ordering::SeqCst);
        self.0.waiting.notify_waiters();
    }

    /// How many times it was rung.
    pub fn rung(&self) -> u64 {
        self.0.rung.load(Ordering::SeqCst)
    }

    /// Waits until it was rung more often than `seen`.
    pub async fn after(&self, seen: u64) {
        loop {
            let mut next = pin!(self.0.waiting.notified());
            next.as_mut().enable();
            if self.rung() > seen {
                return;
            }
            next.await;
        }
    }
}
