//! The laws, the cases that test them, and what a broken one looks like.

use std::fmt;

use futures_util::future::BoxFuture;
use hydrant::{Capabilities, Error};

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

    /// Its number, from 1 to 14.
    pub fn number(self) -> u8 {
        self.0
    }

    /// The law in one sentence.
    pub fn sentence(self) -> &'static str {
        match self.0 {
            1 => "Acknowledged is held: after Ok, a crash loses nothing that the store promises.",
            2 => "Order: ids strictly grow, gaps allowed; the order of arrival is the order held.",
            3 => "Idempotent: appending what is held is Ok and changes nothing.",
            4 => "Compare-and-append: a hole is Gap, another event is Fenced, below the floor is Pruned.",
            5 => "Checkpoint = prefix: never ahead of what is durable, never hiding a hole.",
            6 => {
                "Whole batches: a crash or a dropped future leaves all of a batch or none, or else a prefix."
            }
            7 => "Honest errors: Safe only if nothing was applied.",
            8 => "Concurrent: appends and reads at once are safe; a reader never blocks the writer.",
            9 => "Released: closed, it leaves no lock, task, socket or descriptor.",
            10 => "Complete: a read yields every event acknowledged before it began, in order, each once.",
            11 => "Bounded: memory does not grow with the log, and no event is larger than readers accept.",
            12 => "Stable: a read yields nothing that may be taken back.",
            13 => "Loud: what cannot be decoded is an error that says where; nothing is skipped.",
            _ => "Lineage: a checkpoint tells by its digest whose history it belongs to.",
        }
    }
}

impl fmt::Display for Law {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "law {}", self.0)
    }
}

/// What a case found: nothing, or what it expected and what it saw instead.
pub(crate) type Verdict<T = ()> = Result<T, Broken>;

/// Something that is not as a law wants it.
#[derive(Clone, Debug)]
pub(crate) struct Broken {
    pub(crate) expected: String,
    pub(crate) saw: String,
}

/// A finding of a case: what the law wants, and what was there instead.
pub(crate) fn broken<T>(expected: impl Into<String>, saw: impl Into<String>) -> Verdict<T> {
    Err(Broken { expected: expected.into(), saw: saw.into() })
}

/// Turns an unexpected error into a finding that says what was expected.
pub(crate) trait Expected<T> {
    fn expected(self, what: impl FnOnce() -> String) -> Verdict<T>;
}

impl<T> Expected<T> for Result<T, Error> {
    fn expected(self, what: impl FnOnce() -> String) -> Verdict<T> {
        self.or_else(|error| broken(what(), format!("{error:?}")))
    }
}

/// Which side of a store a case looks at, so which suites it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// A sink: appends and checkpoints.
    Sink,
    /// A source: reads of what some writing side appends.
    Source,
    /// A store, both in one.
    Store,
}

/// One test of one law.
pub struct Case {
    /// The law that it tests.
    pub law: Law,
    /// Its name, which is the name of its test.
    pub name: &'static str,
    /// Which suites it belongs to.
    pub side: Side,
    /// What a store must declare for the case to mean anything.
    pub needs: Capabilities,
    pub(crate) run: for<'a> fn(&'a Trial) -> BoxFuture<'a, Verdict>,
}

impl Case {
    /// Whether it counts what the process holds, so that nothing else may run beside it.
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
/// shows it again.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Violation {
    /// The law.
    pub law: Law,
    /// The name of the case that found it.
    pub case: &'static str,
    /// What the law wants.
    pub expected: String,
    /// What was there instead.
    pub saw: String,
    /// The seed of the run; set it as `HYDRANT_SEED` to run with the same data again.
    pub seed: u64,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "law {} is broken. {}", self.law.number(), self.law.sentence())?;
        writeln!(f, "  expected: {}", self.expected)?;
        writeln!(f, "  saw:      {}", self.saw)?;
        write!(f, "  case:     {} (run it again with HYDRANT_SEED={})", self.case, self.seed)
    }
}

impl std::error::Error for Violation {}
