//! A coarse, bounded history of when events were published.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::EventId;

pub(crate) struct Marks {
    opened: Instant,
    history: VecDeque<(EventId, Instant)>,
    step: Duration,
}

impl Marks {
    const MAX: usize = 512;

    pub(crate) fn new() -> Self {
        Self { opened: Instant::now(), history: VecDeque::new(), step: Duration::from_millis(1) }
    }

    pub(crate) fn add(&mut self, head: EventId) {
        let now = Instant::now();
        if self.history.back().is_some_and(|(_, last)| now.duration_since(*last) < self.step) {
            return;
        }
        self.history.push_back((head, now));
        if self.history.len() > Self::MAX {
            // Keeps every second mark: the older an event, the coarser its time.
            let mut keep = false;
            self.history.retain(|_| {
                keep = !keep;
                keep
            });
            self.step *= 2;
        }
    }

    /// When the oldest event after `position` was published, to within a step.
    pub(crate) fn since(&self, position: Option<EventId>) -> Instant {
        let later = self.history.partition_point(|(id, _)| Some(*id) <= position);
        let first = self.history.get(later).or_else(|| self.history.back());
        first.map_or(self.opened, |(_, instant)| *instant)
    }
}
