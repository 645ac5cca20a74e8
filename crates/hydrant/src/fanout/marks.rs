//! A coarse, bounded history of when events were published.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::EventId;
use crate::mutants::mutant;

pub(crate) struct Marks {
    opened: Instant,
    /// Each mark covers the events after the previous mark, up to its own id. Its time is that of the first of them.
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
        if let Some((last, at)) = self.history.back_mut()
            && now.duration_since(*at) < self.step
        {
            if !mutant("age-of-the-next") {
                *last = head;
            }
            return;
        }
        self.history.push_back((head, now));
        if self.history.len() > Self::MAX {
            self.thin();
        }
    }

    /// Joins marks that are close to each other: the longer the history, the coarser its times.
    fn thin(&mut self) {
        while self.history.len() > Self::MAX / 2 {
            self.step *= 2;
            let mut joined: VecDeque<(EventId, Instant)> = VecDeque::new();
            for (id, at) in self.history.drain(..) {
                match joined.back_mut() {
                    Some((last, first)) if at.duration_since(*first) < self.step => *last = id,
                    _ => joined.push_back((id, at)),
                }
            }
            self.history = joined;
        }
    }

    /// Returns when the oldest event after `position` was published: at most two steps too early, never too late.
    pub(crate) fn since(&self, position: Option<EventId>) -> Instant {
        let covers = self.history.partition_point(|(id, _)| Some(*id) <= position);
        let mark = self.history.get(covers).or_else(|| self.history.back());
        mark.map_or(self.opened, |(_, instant)| *instant)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn publish(marks: &mut Marks, id: u64, after_ms: u64) -> Instant {
        tokio::time::advance(Duration::from_millis(after_ms)).await;
        marks.add(EventId::new(id));
        Instant::now()
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_soon_after_another_keeps_its_time() {
        let mut marks = Marks::new();
        let first = publish(&mut marks, 1, 10).await;
        publish(&mut marks, 2, 0).await;
        let third = publish(&mut marks, 3, 100_000).await;
        assert_eq!(marks.since(Some(EventId::new(1))), first, "event 2 was published with event 1");
        assert_eq!(marks.since(Some(EventId::new(2))), third);
    }

    #[tokio::test(start_paused = true)]
    async fn an_age_is_never_shown_as_less_than_it_is() {
        let mut marks = Marks::new();
        let mut published = Vec::new();
        for id in 0..5_000 {
            published.push(publish(&mut marks, id, id % 3).await);
        }
        for (id, at) in (0..).zip(&published) {
            let position = EventId::new(id).prev();
            let since = marks.since(position);
            assert!(since <= *at && at.duration_since(since) <= marks.step * 2, "event {id}");
        }
        assert!(marks.history.len() <= Marks::MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_long_before_many_others_does_not_make_them_older() {
        let mut marks = Marks::new();
        publish(&mut marks, 0, 0).await;
        let second = publish(&mut marks, 1, 60_000).await;
        for id in 2..2_000 {
            publish(&mut marks, id, 1).await;
        }
        assert!(second.duration_since(marks.since(Some(EventId::new(0)))) <= marks.step * 2);
        assert!(marks.history.len() <= Marks::MAX);
    }
}
