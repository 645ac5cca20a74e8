//! The laws, the cases that test them, and the report of a broken law.

use std::fmt;

use futures_util::future::BoxFuture;
use hydrant::{Capabilities, Error, Retry};

use crate::Trial;

/// One of the fourteen laws of sinks and sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Law(u8);

impl Law {
    /// All laws, in order.
    pub fn all() -> impl Iterator<Item = Self> {
        (1..=14).map(Self)
    }

    pub(crate) const fn new(number: u8) -> Self {
        assert!(number >= 1 && number <= 14, "there are fourteen laws");
        Self(number)
    }

    /// The number of the law, from 1 to 14.
    pub fn number(self) -> u8 {
        self.0
    }

    /// The law in one sentence.
    ///
    /// The floor of law 4 is the first event that the sink keeps. Older events were pruned, or the sink started at a
    /// snapshot event and never had them: `Pruned` is right in both cases, for an append and for a read. A batch at
    /// the beginning of a log that was never pruned names an id that the log skipped, which is `Fenced`.
    pub fn sentence(self) -> &'static str {
        match self.0 {
            1 => "Acknowledged is held: after Ok, a crash loses nothing that the store promises.",
            2 => "Order: ids strictly increase, gaps allowed; the order of arrival is the order held.",
            3 => "Idempotent: appending what is held is Ok and changes nothing.",
            4 => {
                "Compare-and-append: a hole is Gap, another event is Fenced, below the first event kept is Pruned."
            }
            5 => "Checkpoint = prefix: never ahead of what is durable, never hiding a hole.",
            6 => {
                "Whole batches: a crash or a dropped future leaves all of a batch or none, or else a prefix."
            }
            7 => "Honest errors: Safe only if nothing was applied; after a retryable error the handle works.",
            8 => "Concurrent: appends and reads at once are safe; a reader never blocks the writer.",
            9 => "Released: closed, it leaves no lock, task, socket or descriptor.",
            10 => "Complete: a read yields every event acknowledged before it began, in order, each once.",
            11 => "Bounded: memory does not grow with the log, and no event is larger than readers accept.",
            12 => "Stable: a read yields nothing that may be taken back.",
            13 => "Loud: what cannot be decoded is an error that says where; nothing is skipped.",
            _ => "Lineage: the digest of a checkpoint names the history that it belongs to.",
        }
    }
}

impl fmt::Display for Law {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "law {}", self.0)
    }
}

/// The result of a case: nothing, or what it expected and what it saw instead.
pub(crate) type Verdict<T = ()> = Result<T, Broken>;

/// A difference between what a law wants and what a case saw.
#[derive(Clone, Debug)]
pub(crate) struct Broken {
    /// The law, if it is not the law of the case.
    pub(crate) law: Option<Law>,
    pub(crate) expected: String,
    pub(crate) saw: String,
    /// Whether waiting may still bring what was expected.
    pub(crate) may_pass: bool,
}

/// Returns a finding that waiting does not change.
pub(crate) fn broken<T>(expected: impl Into<String>, saw: impl Into<String>) -> Verdict<T> {
    Err(Broken { law: None, expected: expected.into(), saw: saw.into(), may_pass: false })
}

/// Returns a finding that may pass, for example because events are not shown yet.
pub(crate) fn not_yet<T>(expected: impl Into<String>, saw: impl Into<String>) -> Verdict<T> {
    broken(expected, saw).may_pass(true)
}

/// Changes what a finding says about itself.
pub(crate) trait Finding: Sized {
    /// Sets whether waiting may help.
    fn may_pass(self, may_pass: bool) -> Self;

    /// Reports the finding under another law than that of the case: wrong content is no leak.
    fn of_law(self, number: u8) -> Self;
}

impl<T> Finding for Verdict<T> {
    fn may_pass(self, may_pass: bool) -> Self {
        self.map_err(|broken| Broken { may_pass, ..broken })
    }

    fn of_law(self, number: u8) -> Self {
        self.map_err(|broken| Broken { law: broken.law.or(Some(Law::new(number))), ..broken })
    }
}

/// Turns an unexpected error into a finding.
pub(crate) trait Expected<T> {
    fn expected(self, what: impl FnOnce() -> String) -> Verdict<T>;
}

impl<T> Expected<T> for Result<T, Error> {
    fn expected(self, what: impl FnOnce() -> String) -> Verdict<T> {
        self.or_else(|error| broken(what(), format!("{error:?}")).may_pass(error.retry() != Retry::Never))
    }
}

/// The side of a store that a case looks at, which decides the suites that it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// A sink: appends and checkpoints.
    Sink,
    /// A source: reads of what some writing side appends.
    Source,
    /// A store, both in one.
    Store,
    /// Checkpoints that are kept for sinks.
    Roster,
}

/// One test of one law.
pub struct Case {
    /// The law that the case tests.
    pub law: Law,
    /// The name of the case, which is the name of its test.
    pub name: &'static str,
    /// The suites that the case belongs to.
    pub side: Side,
    /// What a store must declare for the case to mean anything.
    pub needs: Capabilities,
    pub(crate) run: for<'a> fn(&'a Trial) -> BoxFuture<'a, Verdict>,
}

impl Case {
    /// Returns whether the case counts what the process holds, so that nothing else may run beside it.
    pub(crate) fn runs_alone(&self) -> bool {
        matches!(self.law.0, 9 | 11)
    }
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// A law that a store broke: its number and sentence, what was expected, what was seen, and the seed that
/// reproduces it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Violation {
    /// The law.
    pub law: Law,
    /// The name of the case that found it.
    pub case: &'static str,
    /// What the law wants.
    pub expected: String,
    /// What the case saw instead.
    pub saw: String,
    /// What the case did last, for example `an append dropped at poll 2, then a read from Origin`.
    pub after: String,
    /// The seed of the run; set it as `HYDRANT_SEED` to run with the same data again.
    pub seed: u64,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "law {} is broken. {}", self.law.number(), self.law.sentence())?;
        writeln!(f, "  expected: {}", self.expected)?;
        writeln!(f, "  saw:      {}", self.saw)?;
        if !self.after.is_empty() {
            writeln!(f, "  after:    {}", self.after)?;
        }
        write!(f, "  case:     {} (run it again with HYDRANT_SEED={})", self.case, self.seed)
    }
}

impl std::error::Error for Violation {}
