//! Planted faults: the simulator proves itself by finding each of them.
//!
//! A mutant is a line or two in the code under test, behind `mutant("name")`, in a build with `--cfg sim_mutants`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::child::{self, Worker};
use crate::world::Failure;

/// Selects a mutant in the code under test.
pub const VARIABLE: &str = "HYDRANT_SIM_MUTANT";

pub struct Mutant {
    pub name: &'static str,
    pub what: &'static str,
    /// Whether only plans with file logs can find it.
    pub needs_files: bool,
}

const fn mutant(name: &'static str, what: &'static str) -> Mutant {
    Mutant { name, what, needs_files: false }
}

const fn file_mutant(name: &'static str, what: &'static str) -> Mutant {
    Mutant { name, what, needs_files: true }
}

pub const MUTANTS: &[Mutant] = &[
    mutant("lost-tail", "a primary that lost its tail is followed silently"),
    mutant("mixed-histories", "pumps do not compare what they read with the published head"),
    mutant("change-without-wake", "state that waiting conditions read changes without waking them"),
    mutant("finished-ignores-close", "`Relay::finished` waits when another handle closes the relay"),
    mutant("publish-unstaged", "a head that was never staged is published"),
    mutant("show-staged", "events are shown before they are durable"),
    mutant("publish-accepted", "an accepted event is published before it is durable"),
    mutant("retry-without-pause", "a pump retries without a pause"),
    mutant("resume-keeps-entry", "`resume` keeps the roster entry of a fenced secondary"),
    mutant("open-at-checkpoint", "a journal opens at the durable checkpoint, not at the accepted head"),
    mutant("close-without-sync", "`close` does not wait for what was accepted"),
    mutant("close-without-abort", "`close` waits for hung sinks"),
    mutant("linger-through-close", "a pump lingers although the log is closed"),
    mutant("linger-through-back-pressure", "a pump lingers while it holds back appends"),
    mutant("attach-after-close", "`attach` that races `close` starts a pump"),
    mutant("close-without-waiting", "`close` does not wait for the pumps"),
    mutant("failed-detach-hidden", "a failed `detach` disappears from the status"),
    mutant("dead-letter-fenced", "a dead letter before the checkpoint parks the sink"),
    mutant("error-is-ok", "a failed append counts as delivered"),
    mutant("entry-ahead", "the roster records what was acknowledged, not what is durable"),
    mutant("sparse-uncompared", "a filtered sink with an event of a lost log is fed"),
    mutant("no-lineage", "a sink of another history is fed"),
    mutant("prune-past-sinks", "`prune` ignores where the sinks are"),
    mutant("follow-into-another-log", "a follower passes into another history after a failover"),
    mutant("delivered-at-once", "`delivered` does not wait"),
    mutant("lag-is-zero", "no lag is shown"),
    mutant("unknown-is-refused", "an unknown outcome counts as refused"),
    mutant("reread-at-once", "a source that ends before the head is read again without a pause"),
    mutant("detach-without-waiting", "`detach` does not wait for the pump"),
    mutant("start-beyond-the-end", "a relay begins at a start beyond the end of its log"),
    mutant("poison-holds-prefix", "a poison event holds back the good ones before it"),
    mutant("panic-escapes", "a panic of a source ends the pump"),
    mutant("keeps-last-error", "recovery does not clear the last error"),
    mutant("live-by-lag-alone", "a sink that hangs is shown as live"),
    mutant("stale-unnoticed", "a primary that every sink contradicts is not shown as stale"),
    mutant("no-doubt", "after a failure, the primary is not compared before the next append"),
    mutant("unstaged-head-unchecked", "a head that was not staged is published without comparing histories"),
    mutant("back-pressure-without-end", "back-pressure ignores the deadline"),
    mutant("deadline-ignored", "an append returns after its deadline"),
    mutant("no-claim", "an append that was given up is written all the same"),
    mutant("refusal-settles", "the refusal of a later attempt settles an unknown outcome"),
    mutant("behind-is-diverged", "a log that ends early parks its sinks as diverged"),
    mutant("ready-chunks-unbounded", "what a relay takes at once is not bounded in bytes"),
    mutant("ring-unbounded", "the ring evicts nothing"),
    mutant("attach-no-absent", "the status hides a name that a dropped `attach` left in the roster"),
    mutant("accepted-replaced", "other events take the place of accepted ones"),
    mutant("drop-without-wake", "watchers wait for a log that was dropped"),
    mutant("parked-holds-appends", "a parked secondary holds back appends"),
    mutant("prune-acknowledged", "`prune` counts what a sink acknowledged and does not hold durably"),
    mutant("remembers-nothing", "a sink without memory starts anew after each error"),
    mutant("starts-at-the-event", "a start after an event begins with that event"),
    mutant("batch-of-zero", "a batch may be empty"),
    mutant("age-of-the-next", "an event that was published with another has the age of the next one"),
    mutant("submit-changes-ids", "the ids of a submission change after a failed commit"),
    mutant("slot-keeps-room", "a slot that is dropped gives no room back"),
    mutant("stop-without-answers", "a journal that stops leaves its callers waiting"),
    mutant("clock-out-of-range", "a clock beyond the calendar ends the journal"),
    mutant("checkpoint-before-sink", "`Checkpointed` records a batch before its sink has it"),
    mutant("stale-snapshot", "a snapshot of an older state is committed"),
    file_mutant("prune-meets-read", "a prune that meets a read of files ends it as `Corrupt`"),
    file_mutant("verify-old-listing", "`verify` beside a writer reports a missing segment"),
    file_mutant("follow-into-another-directory", "a follower of files passes into another log"),
    file_mutant("acknowledge-before-sync", "a file log acknowledges before it has synced"),
    file_mutant("sync-again", "a file log believes a sync behind one that failed"),
    file_mutant("no-sync-of-directory", "a file log does not sync its directory"),
    file_mutant("torn-tail-kept", "recovery keeps a torn tail"),
    file_mutant("half-commit-kept", "recovery keeps a part of a batch"),
    file_mutant("read-past-sync", "a reader beside the writer reads what is not synced"),
    file_mutant(
        "sync-without-look",
        "a file log believes a sync of a file that was cut or replaced in place",
    ),
    file_mutant("stale-record", "a reader believes the record of a writer that is gone"),
];

/// What it took to find a mutant.
pub struct Found {
    pub seeds: u64,
    pub seconds: f64,
    pub failure: Failure,
}

/// Runs seeds with a mutant until one fails, in so many processes.
#[expect(clippy::disallowed_methods, reason = "the table shows time of the machine")]
pub fn hunt(name: &str, from: u64, jobs: u64, patience: Duration) -> Option<Found> {
    let begin = Instant::now();
    let (seeds, found) = (AtomicU64::new(0), Mutex::new(None));
    let is_found = || found.lock().unwrap_or_else(PoisonError::into_inner).is_some();
    std::thread::scope(|scope| {
        for job in 0..jobs {
            let (seeds, found, is_found) = (&seeds, &found, &is_found);
            scope.spawn(move || {
                let mut worker = Worker::spawn(from + job, jobs, Some(name));
                while begin.elapsed() < patience && !is_found() {
                    let failure = match worker.as_mut().and_then(Worker::outcome) {
                        Some(outcome) => outcome.failure,
                        None => Some(child::stuck()),
                    };
                    let seeds = seeds.fetch_add(1, Ordering::Relaxed) + 1;
                    if let Some(failure) = failure {
                        let seconds = begin.elapsed().as_secs_f64();
                        let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                        found.get_or_insert(Found { seeds, seconds, failure });
                    }
                }
            });
        }
    });
    found.into_inner().unwrap_or_else(PoisonError::into_inner)
}
