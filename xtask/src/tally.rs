//! Adds up what libtest prints, over all test programs of a run.

use std::fmt;

/// Tests that passed, failed and were skipped.
///
/// Skipped tests are those that libtest ignored, and those that passed after they printed a line `skipped: <reason>`,
/// for example because a server is missing.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
    /// The names of the failed tests, as far as their program printed them.
    pub(crate) names: Vec<String>,
    /// The output of the failed tests, line by line. It is printed again at the end, where it is seen.
    pub(crate) said: Vec<String>,
    /// A program has printed how many tests it runs, but not yet their result.
    running: bool,
    /// The current part of the output of a program's tests.
    shown: Shown,
    /// How many of this program's passed tests printed that they skipped.
    marked: u64,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Shown {
    /// None of the parts below.
    #[default]
    Nothing,
    /// The output of a test that passed.
    Test,
    /// The rest of the output of a test that passed and is counted as skipped.
    Skipped,
    /// The names of all tests that passed, which were printed before.
    Names,
    /// The output of a test that failed.
    Failed,
}

impl Tally {
    /// Takes the next line of the output of `cargo test -- --show-output`. Returns whether to print the line: the
    /// names of passed tests come twice.
    pub(crate) fn line(&mut self, line: &str) -> bool {
        if let Some((passed, failed, ignored)) = result(line) {
            let marked = std::mem::take(&mut self.marked).min(passed);
            self.passed += passed - marked;
            self.failed += failed;
            self.skipped += ignored + marked;
            self.running = false;
            self.shown = Shown::Nothing;
        } else if is_start(line) {
            self.close();
            self.running = true;
        } else if line == "failures:" {
            self.shown = if self.shown == Shown::Failed { Shown::Nothing } else { Shown::Failed };
        } else if self.shown == Shown::Failed {
            self.said.push(line.to_owned());
        } else if let Some(name) = failed(line) {
            self.names.push(name.to_owned());
        } else if line == "successes:" {
            self.shown = if self.shown == Shown::Nothing { Shown::Test } else { Shown::Names };
            return false;
        } else if self.shown == Shown::Skipped && line.starts_with("---- ") {
            self.shown = Shown::Test;
        } else if self.shown == Shown::Test && line.starts_with("skipped: ") {
            self.shown = Shown::Skipped;
            self.marked += 1;
        }
        self.shown != Shown::Names
    }

    /// Returns the sum after the end of the output. A run that failed without a failed test (for example because it
    /// did not compile) counts as one failure.
    pub(crate) fn finish(mut self, success: bool) -> Self {
        self.close();
        if !success && self.failed == 0 {
            self.failed = 1;
        }
        self
    }

    /// Counts one failure for a program that ended without a result: it was killed, or aborted.
    fn close(&mut self) {
        if std::mem::take(&mut self.running) {
            self.failed += 1;
            self.marked = 0;
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// Matches `running 3 tests`.
fn is_start(line: &str) -> bool {
    let count = line.strip_prefix("running ").and_then(|rest| rest.split_once(' '));
    count.is_some_and(|(count, noun)| count.parse::<u64>().is_ok() && matches!(noun, "test" | "tests"))
}

/// Returns passed, failed and ignored of `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; ...`. A child
/// process of a test may have printed half a line before it.
fn result(line: &str) -> Option<(u64, u64, u64)> {
    let (_, counts) = line.split_once("test result: ")?;
    let counts = counts.strip_prefix("ok. ").or_else(|| counts.strip_prefix("FAILED. "))?;
    let mut counts = counts.split("; ");
    let mut count = |noun: &str| counts.next()?.strip_suffix(noun)?.parse().ok();
    Some((count(" passed")?, count(" failed")?, count(" ignored")?))
}

/// Returns the name in `test module::name ... FAILED`.
fn failed(line: &str) -> Option<&str> {
    line.strip_prefix("test ")?.strip_suffix(" ... FAILED")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_is_named() {
        let mut tally = Tally::default();
        for line in [
            "running 2 tests",
            "test a::b ... FAILED",
            "test c ... ok",
            "test result: FAILED. 1 passed; 1 failed; 0 ignored",
        ] {
            tally.line(line);
        }
        assert_eq!(tally.finish(false).names, ["a::b"]);
    }

    fn tally(output: &str, success: bool) -> String {
        let mut tally = Tally::default();
        let shown = output.lines().filter(|line| tally.line(line)).count();
        assert!(shown > 0 || output.is_empty());
        tally.finish(success).to_string()
    }

    #[test]
    fn results_add_up_over_programs() {
        let output = "\
running 2 tests
test a ... ok
test b ... ignored
test result: ok. 1 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s

running 1 test
half a line of a childtest result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 3 filtered out; finished in 0.00s
";
        assert_eq!(tally(output, false), "1 passed, 1 failed, 1 skipped");
    }

    #[test]
    fn a_test_that_says_skipped_did_not_pass() {
        let output = "\
running 3 tests
successes:

---- a stdout ----
skipped: no server
skipped: said twice, counted once

---- b stdout ----
seed 7
skipped: no server either

successes:
    a
    b
    c

test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
";
        assert_eq!(tally(output, true), "1 passed, 0 failed, 2 skipped");
    }

    #[test]
    fn names_are_shown_once_and_output_always() {
        let output = "test a ... ok\n\nsuccesses:\n\n---- a stdout ----\nseed 7\n\nsuccesses:\n    a\n\ntest result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out";
        let mut tally = Tally::default();
        let shown: Vec<_> = output.lines().filter(|line| tally.line(line) && !line.is_empty()).collect();
        assert_eq!(shown[..3], ["test a ... ok", "---- a stdout ----", "seed 7"]);
        assert_eq!(shown.len(), 4);
    }

    #[test]
    fn what_a_failed_test_printed_is_kept() {
        let output = "\
running 2 tests
successes:

---- a stdout ----
seed 7

successes:
    a

failures:

---- b stdout ----
seed 8
thread 'b' panicked

failures:
    b

test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
";
        let mut tally = Tally::default();
        for line in output.lines() {
            tally.line(line);
        }
        assert_eq!(tally.said, ["", "---- b stdout ----", "seed 8", "thread 'b' panicked", ""]);
    }

    #[test]
    fn a_failed_test_that_says_skipped_failed() {
        let output = "\
running 1 test
failures:

---- a stdout ----
skipped: no server
thread 'a' panicked

failures:
    a

test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
";
        assert_eq!(tally(output, false), "0 passed, 1 failed, 0 skipped");
    }

    #[test]
    fn a_program_that_dies_and_a_build_that_breaks_are_failures() {
        let died = "\
running 9 tests
test a ... ok

running 1 test
test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
";
        assert_eq!(tally(died, false), "1 passed, 1 failed, 0 skipped");
        assert_eq!(tally("running 9 tests\n", false), "0 passed, 1 failed, 0 skipped");
        assert_eq!(tally("", false), "0 passed, 1 failed, 0 skipped");
        assert_eq!(tally("", true), "0 passed, 0 failed, 0 skipped");
    }
}
