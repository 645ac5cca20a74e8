//! Makes a failing plan small, while the same checker fails.

use std::time::{Duration, Instant};

use crate::plan::{Act, Plan, SinkKind};
use crate::world::Failure;

/// Returns the smallest plan found within the given number of runs, and its failure. `run` returns how a plan fails.
#[expect(clippy::disallowed_methods, reason = "an engineer waits for it")]
pub fn minimise(
    plan: &Plan,
    failure: &Failure,
    run: &mut dyn FnMut(&Plan) -> Option<Failure>,
    runs_max: usize,
    time_max: Duration,
) -> (Plan, Failure) {
    let mut search = Search {
        best: plan.clone(),
        failure: failure.clone(),
        runs: runs_max,
        until: Instant::now() + time_max,
        run,
    };
    loop {
        let before = search.best.clone();
        search.shrink_list(|plan| &mut plan.ops);
        search.shrink_list(|plan| &mut plan.faults);
        search.shrink_list(|plan| &mut plan.disk_faults);
        search.simplify();
        if search.best == before || search.runs == 0 {
            return (search.best, search.failure);
        }
    }
}

struct Search<'a> {
    best: Plan,
    failure: Failure,
    runs: usize,
    until: Instant,
    run: &'a mut dyn FnMut(&Plan) -> Option<Failure>,
}

impl Search<'_> {
    /// Takes the candidate if it fails in the same way.
    #[expect(clippy::disallowed_methods, reason = "an engineer waits for it")]
    fn offer(&mut self, candidate: Plan) -> bool {
        if Instant::now() > self.until {
            self.runs = 0;
        }
        if self.runs == 0 || candidate == self.best {
            return false;
        }
        self.runs -= 1;
        let failure = (self.run)(&candidate);
        let same = failure.as_ref().is_some_and(|failure| failure.checker == self.failure.checker);
        if let (true, Some(failure)) = (same, failure) {
            (self.best, self.failure) = (candidate, failure);
        }
        same
    }

    /// Drops parts of a list, from halves to single items.
    fn shrink_list<T>(&mut self, list: fn(&mut Plan) -> &mut Vec<T>) {
        let mut size = list(&mut self.best).len().div_ceil(2);
        while size > 0 {
            let mut at = 0;
            while at < list(&mut self.best).len() {
                let mut candidate = self.best.clone();
                let items = list(&mut candidate);
                let end = (at + size).min(items.len());
                items.drain(at..end);
                if !self.offer(candidate) {
                    at += size;
                }
            }
            size /= 2;
        }
    }

    /// Sets each option to its plainest value, one by one.
    fn simplify(&mut self) {
        let plainer: [fn(&mut Plan); 9] = [
            |plan| plan.config.latency = 0,
            |plan| plan.config.accepts_ms = None,
            |plan| plan.config.retain_bytes = None,
            |plan| plan.config.ring_events = 1_000,
            |plan| plan.config.ring_bytes = 1 << 20,
            |plan| plan.config.call_ms = 1_000,
            |plan| plan.config.resolve_ms = 3_000,
            |plan| plan.config.sync_poll_ms = 5,
            |plan| plan.config.in_flight_events = 1_000,
        ];
        for change in plainer {
            self.change(change);
        }
        self.drop_sinks();
        for index in 0..self.best.config.sinks.len() {
            self.simplify_sink(index);
        }
        for index in 0..self.best.ops.len() {
            self.change(|plan| plan.ops[index].patience = None);
            self.change(|plan| {
                if let Act::Append { events, bytes, gaps } = &mut plan.ops[index].act {
                    (*events, *bytes, *gaps) = (1, 0, false);
                }
            });
        }
    }

    fn change(&mut self, change: impl FnOnce(&mut Plan)) {
        let mut candidate = self.best.clone();
        change(&mut candidate);
        self.offer(candidate);
    }

    /// Removes the last sinks first, so that the numbers of the others are kept.
    fn drop_sinks(&mut self) {
        while self.best.config.sinks.len() > 1 {
            let last = u8::try_from(self.best.config.sinks.len() - 1).unwrap_or(u8::MAX);
            let mut candidate = self.best.clone();
            candidate.config.sinks.pop();
            candidate.ops.retain(|op| op.act.sink() != Some(last));
            candidate.faults.retain(|fault| fault.site.store.sink() != Some(last));
            if !self.offer(candidate) {
                return;
            }
        }
    }

    fn simplify_sink(&mut self, index: usize) {
        self.change(|plan| plan.config.sinks[index].kind = SinkKind::Plain);
        self.change(|plan| plan.config.sinks[index].deferred = false);
        self.change(|plan| plan.config.sinks[index].batch_events = 1_024);
        self.change(|plan| plan.config.sinks[index].batch_bytes = 1 << 20);
        self.change(|plan| plan.config.sinks[index].linger_ms = 0);
        self.change(|plan| plan.config.sinks[index].call_ms = 1_000);
        self.change(|plan| plan.config.sinks[index].backoff_ms = (10, 100));
        self.change(|plan| plan.config.sinks[index].lag_events = None);
        self.change(|plan| plan.config.sinks[index].oldest_snapshot = false);
    }
}
