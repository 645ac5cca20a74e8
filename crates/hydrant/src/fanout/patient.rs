//! A source whose reads fail when they yield nothing for too long.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use tokio::time::{Instant, Sleep};

use super::guard::later;
use crate::{Error, Event, EventSource, EventStream, ReadFrom, Result};

/// If a poll comes this long after the wait asked for one, the reader was not waiting, so a new wait begins.
const LATE: Duration = Duration::from_secs(1);

/// A time-out of zero grows as if it were this one.
const LEAST: Duration = Duration::from_millis(1);

/// Fails a read that yields no event within a time-out. A read that yields events may take any time.
///
/// Each such failure doubles the time-out. Progress sets it to twice the slowest wait. So a source may search for an
/// hour before its first event, and a read that hangs is begun anew.
pub(crate) struct Patient {
    source: Arc<dyn EventSource>,
    patience: Arc<Mutex<Patience>>,
}

struct Patience {
    /// The time-out as configured.
    least: Duration,
    /// The time-out of the next wait.
    now: Duration,
    /// The longest wait for an event since the last progress.
    slowest: Duration,
}

impl Patient {
    pub(crate) fn new(source: Arc<dyn EventSource>, least: Duration) -> Self {
        let patience = Patience { least, now: least, slowest: Duration::ZERO };
        Self { source, patience: Arc::new(Mutex::new(patience)) }
    }

    /// Records that the events read led to progress. The time-out becomes twice the longest wait for them.
    pub(crate) fn progressed(&self) {
        with(&self.patience, |patience| {
            patience.now = patience.slowest.saturating_mul(2).max(patience.least);
            patience.slowest = Duration::ZERO;
        });
    }
}

fn with<R>(patience: &Mutex<Patience>, change: impl FnOnce(&mut Patience) -> R) -> R {
    change(&mut patience.lock().unwrap_or_else(PoisonError::into_inner))
}

impl EventSource for Patient {
    fn read(&self, from: ReadFrom) -> EventStream {
        let events = Some(self.source.read(from));
        Bounded { events, patience: self.patience.clone(), wait: None }.boxed()
    }

    /// Not bounded: a log may be silent.
    fn follow(&self, from: ReadFrom) -> EventStream {
        self.source.follow(from)
    }
}

struct Bounded {
    /// `None` once it has failed.
    events: Option<EventStream>,
    patience: Arc<Mutex<Patience>>,
    wait: Option<Wait>,
}

/// One wait for the next event. It counts only the time in which a reader waits: it asks for a poll several times per
/// time-out, and a reader that waits polls then.
struct Wait {
    timeout: Duration,
    waited: Duration,
    polled_at: Instant,
    /// When the wait asks for the next poll.
    due: Pin<Box<Sleep>>,
}

impl Wait {
    fn begin(patience: &Mutex<Patience>) -> Self {
        let timeout = with(patience, |patience| patience.now);
        let due = Box::pin(tokio::time::sleep_until(later(pause(timeout))));
        Self { timeout, waited: Duration::ZERO, polled_at: Instant::now(), due }
    }

    /// Counts the time since the last poll. Returns `None` if no reader waited.
    fn polled(mut self) -> Option<Self> {
        let since = self.polled_at.elapsed();
        self.polled_at += since;
        self.waited += since;
        (since < pause(self.timeout).saturating_add(LATE)).then_some(self)
    }

    /// Waits until the time-out is over.
    fn poll_over(&mut self, context: &mut Context<'_>) -> Poll<()> {
        while let Some(rest) = self.timeout.checked_sub(self.waited).filter(|rest| !rest.is_zero()) {
            ready!(self.due.as_mut().poll(context));
            self.due.as_mut().reset(later(rest.min(pause(self.timeout))));
        }
        Poll::Ready(())
    }
}

/// How long a wait goes without asking for a poll.
fn pause(timeout: Duration) -> Duration {
    timeout.min(LATE.max(timeout / 8))
}

impl Stream for Bounded {
    type Item = Result<Event>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let Some(events) = &mut this.events else { return Poll::Ready(None) };
        let next = events.poll_next_unpin(context);
        let wait = this.wait.take().and_then(Wait::polled);
        if next.is_ready() {
            let waited = wait.map_or(Duration::ZERO, |wait| wait.waited);
            with(&this.patience, |patience| patience.slowest = patience.slowest.max(waited));
            return next;
        }
        let wait = this.wait.insert(wait.unwrap_or_else(|| Wait::begin(&this.patience)));
        ready!(wait.poll_over(context));
        let timeout = wait.timeout;
        (this.events, this.wait) = (None, None);
        with(&this.patience, |patience| {
            patience.now = timeout.max(LEAST).saturating_mul(2).max(patience.now);
        });
        let message = format!("a read of the log yielded nothing for {timeout:?}; it is begun anew");
        Poll::Ready(Some(Err(Error::unavailable(message))))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;
    use crate::EventId;

    /// Yields one event after each of these pauses.
    struct Slow(Vec<Duration>);

    impl EventSource for Slow {
        fn read(&self, _: ReadFrom) -> EventStream {
            let pauses = stream::iter(self.0.clone().into_iter().zip(0..));
            let events = pauses.then(async |(pause, id)| {
                tokio::time::sleep(pause).await;
                Event::new(EventId::new(id), &id)
            });
            events.boxed()
        }

        fn follow(&self, from: ReadFrom) -> EventStream {
            self.read(from)
        }
    }

    const SECOND: Duration = Duration::from_secs(1);

    async fn read(source: &Patient) -> (usize, Option<Duration>) {
        let begun = Instant::now();
        let events: Vec<_> = source.read(ReadFrom::Origin).collect().await;
        let failed = events.last().is_some_and(Result::is_err);
        (events.iter().filter(|event| event.is_ok()).count(), failed.then(|| begun.elapsed()))
    }

    #[tokio::test(start_paused = true)]
    async fn only_silence_is_bounded() {
        let source = Patient::new(Arc::new(Slow(vec![SECOND * 9; 100])), SECOND * 10);
        assert_eq!(read(&source).await, (100, None));
        let source = Patient::new(Arc::new(Slow(vec![SECOND * 9, SECOND * 11])), SECOND * 10);
        assert_eq!(read(&source).await, (1, Some(SECOND * 19)));
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_out_follows_what_progress_needs() {
        let source = Patient::new(Arc::new(Slow(vec![SECOND * 35])), SECOND * 10);
        assert_eq!(read(&source).await, (0, Some(SECOND * 10)));
        assert_eq!(read(&source).await, (0, Some(SECOND * 20)));
        assert_eq!(read(&source).await, (1, None), "within 40 s");
        source.progressed();
        let slower =
            Patient { source: Arc::new(Slow(vec![SECOND * 100])), patience: source.patience.clone() };
        assert_eq!(read(&slower).await, (0, Some(SECOND * 70)), "twice 35 s");
        source.progressed();
        assert_eq!(read(&slower).await, (0, Some(SECOND * 10)), "nothing was waited for");
    }

    /// A reader polls once, and again after the time-out.
    #[tokio::test(start_paused = true)]
    async fn time_without_a_waiting_reader_does_not_count() {
        use futures_util::FutureExt;
        let source = Patient::new(Arc::new(Slow(vec![SECOND * 65])), SECOND * 10);
        let mut events = source.read(ReadFrom::Origin);
        assert!(events.next().now_or_never().is_none());
        tokio::time::sleep(SECOND * 60).await;
        assert!(events.next().await.unwrap().is_ok());
    }

    /// A reader that polls once and comes back later did not wait.
    #[tokio::test(start_paused = true)]
    async fn a_pause_of_the_reader_does_not_grow_the_time_out() {
        use futures_util::FutureExt;
        for pause in [9, 30, 3600] {
            let pauses = [vec![SECOND * 5; 10], vec![Duration::MAX]].concat();
            let source = Patient::new(Arc::new(Slow(pauses)), SECOND * 10);
            let mut events = source.read(ReadFrom::Origin);
            for _ in 0..10 {
                assert!(events.next().now_or_never().is_none());
                tokio::time::sleep(SECOND * pause).await;
                assert!(events.next().await.unwrap().is_ok());
                source.progressed();
            }
            let begun = Instant::now();
            assert!(events.next().await.unwrap().is_err());
            assert_eq!(begun.elapsed(), SECOND * 10, "after pauses of {pause} s");
        }
    }
}
