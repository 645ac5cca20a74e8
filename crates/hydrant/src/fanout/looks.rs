//! When the committer asks the primary how far it is durable.

use std::time::Duration;

use tokio::time::Instant;

use super::guard::later;
use super::options::FanOutOptions;
use crate::Error;

/// The shortest pause between two looks: a loop without a pause starves its runtime.
const POLL_MIN: Duration = Duration::from_millis(1);

/// The longest pause between two looks while events wait to be published.
pub(super) const PAUSE_MAX: Duration = Duration::from_secs(1);

/// The schedule of the looks.
pub(super) struct Looks {
    poll: Duration,
    idle_poll: Duration,
    /// When the primary was asked last.
    asked_at: Instant,
    /// When events were last accepted or published. The longer ago, the rarer the looks.
    progress_at: Instant,
    next: Instant,
    fails: bool,
}

impl Looks {
    pub(super) fn new(options: &FanOutOptions) -> Self {
        let now = Instant::now();
        Self {
            poll: options.sync_poll.max(POLL_MIN),
            idle_poll: options.idle_poll.max(POLL_MIN),
            asked_at: now,
            progress_at: now,
            next: now,
            fails: false,
        }
    }

    /// Returns when to look next while events wait to be published.
    pub(super) fn next(&self) -> Instant {
        self.next
    }

    /// Returns when to look at an idle log.
    pub(super) fn next_idle(&self) -> Instant {
        later(self.idle_poll.saturating_sub(self.asked_at.elapsed()))
    }

    /// Records that the primary was asked.
    pub(super) fn asked(&mut self) {
        self.asked_at = Instant::now();
    }

    /// Schedules the next look soon. The looks after it get rarer.
    pub(super) fn soon(&mut self) {
        self.progress_at = Instant::now();
        self.next = self.next.min(later(self.poll));
    }

    /// Schedules the next look. `has_published` says whether the last one published events.
    pub(super) fn looked(&mut self, has_published: bool) {
        if has_published {
            self.progress_at = Instant::now();
        }
        let pause = (self.progress_at.elapsed() / 8).min(PAUSE_MAX);
        self.next = later(pause.max(self.poll));
    }

    /// Logs the first failure, and the first success after it.
    pub(super) fn log(&mut self, failed: Option<&Error>) {
        match failed {
            Some(error) if !self.fails => {
                tracing::warn!(%error, "the primary does not report its checkpoint: retrying");
            }
            None if self.fails => tracing::info!("the primary reports its checkpoint again"),
            _ => {}
        }
        self.fails = failed.is_some();
    }
}
