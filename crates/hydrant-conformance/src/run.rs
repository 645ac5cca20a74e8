//! Runs a case: a runtime of its own, a deadline, and lines that name what was not tried.

use std::hash::{BuildHasher, RandomState};
use std::io::Write;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, LazyLock, PoisonError, RwLock};
use std::time::Duration;

use futures_util::FutureExt;
use hydrant::Capabilities;

use crate::cases::CASES;
use crate::law::{Broken, broken};
use crate::trial::Notes;
use crate::{Case, Harness, Side, Trial, Violation};

/// How long a harness may take to remove a namespace.
const REMOVAL: Duration = Duration::from_secs(30);

/// Cases that count what the process holds run alone; all others share.
static ALONE: RwLock<()> = RwLock::new(());

static SEED: LazyLock<u64> = LazyLock::new(|| match std::env::var("HYDRANT_SEED") {
    Ok(text) => text.parse().expect("HYDRANT_SEED is a number from 0 to 2^64-1"),
    Err(_) => RandomState::new().hash_one("seed"),
});

/// What a case that found nothing wrong could not try.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Why the store could not be tried here ([`Harness::unavailable`]); `None` if it was.
    pub unavailable: Option<String>,
    /// What the store does not declare, so that the case had nothing to try; `None` if it ran.
    pub not_declared: Option<Capabilities>,
    /// What would have needed a hook of the harness that is not there.
    pub not_exercised: Vec<String>,
    /// What the store cannot have, and why ([`Harness::impossible`]).
    pub not_possible: Vec<String>,
    /// Whether the case had nothing to try.
    pub skipped: bool,
}

/// All cases of all laws.
pub fn cases() -> &'static [Case] {
    CASES
}

/// The seed of this process: `HYDRANT_SEED`, or a random one.
pub fn seed() -> u64 {
    *SEED
}

/// Tries one case on a store.
///
/// # Errors
/// The law that the store broke.
pub fn check<H: Harness>(
    harness: impl FnOnce() -> H,
    case: &'static Case,
    seed: u64,
) -> Result<Report, Violation> {
    // Lock before the harness opens anything: the case counts that too.
    let shared;
    let alone;
    if case.runs_alone() {
        alone = ALONE.write().unwrap_or_else(PoisonError::into_inner);
        let _ = &alone;
    } else {
        shared = ALONE.read().unwrap_or_else(PoisonError::into_inner);
        let _ = &shared;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("the system gives two threads");
    // Some stores need a runtime when they are made.
    let harness = runtime.block_on(async { harness() });
    if let Some(reason) = harness.unavailable() {
        return Ok(Report { unavailable: Some(reason), skipped: true, ..Report::default() });
    }
    let missing = case.needs.without(harness.capabilities());
    if missing != Capabilities::NONE {
        return Ok(Report { not_declared: Some(missing), skipped: true, ..Report::default() });
    }
    let harness = Arc::new(harness);
    let namespace = namespace(case);
    let trial = Arc::new(Trial::new(harness.clone(), seed, namespace.clone()));
    let verdict = runtime.block_on(async {
        let patience = trial.limits.patience;
        let running = Arc::clone(&trial);
        // On a worker, so that a store that blocks its thread does not block the deadline as well.
        let task = tokio::spawn(async move { AssertUnwindSafe((case.run)(&running)).catch_unwind().await });
        match tokio::time::timeout(patience, task).await {
            Ok(Ok(Ok(verdict))) => verdict,
            Ok(Ok(Err(panic))) => broken("no panic", format!("a panic: {}", panic_text(panic.as_ref()))),
            Ok(Err(error)) => broken("the case to end", error.to_string()),
            Err(_) => broken(
                format!("the case to end within {patience:?} (`Limits::patience`)"),
                "a call that does not return",
            ),
        }
    });
    let (Notes { not_exercised, not_possible }, skipped) = trial.notes();
    let after = trial.after();
    drop(trial);
    runtime.block_on(async {
        match tokio::time::timeout(REMOVAL, harness.remove(&namespace)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => say(&format!("left behind: {namespace}: {error}")),
            Err(_) => say(&format!("left behind: {namespace}: removing it took longer than {REMOVAL:?}")),
        }
    });
    drop(harness);
    runtime.shutdown_timeout(Duration::from_secs(5));
    match verdict {
        Ok(()) => Ok(Report { not_exercised, not_possible, skipped, ..Report::default() }),
        Err(Broken { law, expected, saw, .. }) => {
            Err(Violation { law: law.unwrap_or(case.law), case: case.name, expected, saw, after, seed })
        }
    }
}

/// The body of each test that a suite expands to.
///
/// # Panics
/// With the [`Violation`], if the store breaks the law.
pub fn run<H: Harness>(harness: impl FnOnce() -> H, name: &str) {
    let case = CASES.iter().find(|case| case.name == name).expect("the suites name cases that exist");
    match check(harness, case, seed()) {
        Ok(report) => {
            if let Some(reason) = report.unavailable {
                println!("skipped: {reason}");
            }
            if let Some(missing) = report.not_declared {
                say(&format!("not declared: {missing} ({name})"));
                // Also in the captured output, where `cargo test -- --show-output` shows it, so that a tally can
                // count the test as skipped: it passes without having tried anything.
                println!("skipped: not declared: {missing}");
            }
            for what in report.not_exercised {
                say(&format!("not exercised: {what} ({name})"));
            }
            for what in report.not_possible {
                say(&format!("not possible: {what} ({name})"));
            }
        }
        Err(violation) => panic!("{violation}"),
    }
}

/// The body of the test that reports what a suite holds its store to.
///
/// # Panics
/// If something is declared that this suite cannot try: another suite is the right one.
pub fn declare<H: Harness>(harness: impl FnOnce() -> H, sides: &[Side]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("the system gives a runtime");
    let harness = runtime.block_on(async { harness() });
    let declared = harness.capabilities();
    let not_declared = Capabilities::ALL.without(declared);
    let name = std::any::type_name::<H>();
    say(&format!("{name} declares: {declared}; not declared: {not_declared}; seed {}", seed()));

    let is_source = declared.has(Capabilities::SOURCE);
    let reads = sides.contains(&Side::Source);
    let appends = sides.contains(&Side::Sink);
    assert!(reads || !is_source, "{name} declares Source, which only `store_suite!` and `source_suite!` try");
    assert!(is_source || !reads, "{name} does not declare Source: enrol it with `sink_suite!`");
    let of_a_sink = declared.without(Capabilities::SOURCE);
    assert!(
        appends || of_a_sink == Capabilities::NONE,
        "{name} declares {of_a_sink}, which only `store_suite!` and `sink_suite!` try"
    );
}

/// Prints a line past the capture of the test runner, which hides the output of a passing test.
fn say(line: &str) {
    // A run without an open standard error is valid, so the line may be lost.
    drop(writeln!(std::io::stderr(), "{line}"));
}

/// Returns a short name, because some systems allow 63 bytes, that was never used before, because servers keep data.
fn namespace(case: &'static Case) -> String {
    let index = CASES.iter().position(|other| other.name == case.name).unwrap_or(CASES.len());
    let unique = RandomState::new().hash_one(index);
    format!("law{:02}_case{index}_{unique:016x}", case.law.number())
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a message")
}
