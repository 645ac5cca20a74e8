//! Counts the events that a process has read and holds in memory.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use hydrant::Event;
use tokio::time::Instant;

/// A call into a store or a roster takes no longer.
const CALL_MAX: Duration = Duration::from_secs(60);

/// How many events, and their bytes, are alive.
#[derive(Debug, Default)]
pub struct Held {
    events: AtomicUsize,
    bytes: AtomicUsize,
    readers: AtomicUsize,
    openings: AtomicUsize,
    /// When openings were dropped.
    closed: Mutex<Vec<Instant>>,
}

/// Counts a reader while it lives.
#[derive(Debug)]
pub struct Alive {
    held: Arc<Held>,
    count: fn(&Held) -> &AtomicUsize,
}

impl Alive {
    fn new(held: &Arc<Held>, count: fn(&Held) -> &AtomicUsize) -> Self {
        count(held).fetch_add(1, Ordering::Relaxed);
        Self { held: held.clone(), count }
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        (self.count)(&self.held).fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counts an opening of the program while it lives.
#[derive(Debug)]
pub struct Opening(Alive);

impl Drop for Opening {
    fn drop(&mut self) {
        self.0.held.closed.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now());
    }
}

impl Held {
    /// Counts a reader whose chunks no option bounds.
    pub fn reader(self: &Arc<Self>) -> Alive {
        Alive::new(self, |held| &held.readers)
    }

    pub fn opening(self: &Arc<Self>) -> Opening {
        Opening(Alive::new(self, |held| &held.openings))
    }

    pub fn readers(&self) -> usize {
        self.readers.load(Ordering::Relaxed)
    }

    /// The openings that hold memory, with those that were dropped so short ago that a call may still hold their ring.
    pub fn openings(&self) -> usize {
        let mut closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        closed.retain(|at| at.elapsed() <= CALL_MAX);
        self.openings.load(Ordering::Relaxed) + closed.len()
    }

    pub fn events(&self) -> usize {
        self.events.load(Ordering::Relaxed)
    }

    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Returns a copy of the event, which counts as long as any clone of it lives.
    pub fn copy(self: &Arc<Self>, event: &Event) -> Event {
        let line = event.open_envelope().to_vec();
        self.events.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(line.len(), Ordering::Relaxed);
        let line = Bytes::from_owner(Counted { line, held: self.clone() });
        Event::from_layout(line, *event.layout()).expect("the layout is the event's own")
    }
}

/// A line that counts while it lives.
struct Counted {
    line: Vec<u8>,
    held: Arc<Held>,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.line
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.held.events.fetch_sub(1, Ordering::Relaxed);
        self.held.bytes.fetch_sub(self.line.len(), Ordering::Relaxed);
    }
}
