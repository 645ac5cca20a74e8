//! One case on one store: what it opened, and which operation it is in.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hydrant::{Capabilities, Durability, Event, Result};
use tokio::time::{Instant, sleep, timeout};

use crate::law::{Expected, Verdict, broken};
use crate::log::Log;
use crate::{Generator, Harness, Hook, Limits};

/// How many times the kit polls for events that may take a moment to show.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// One run of one case: the store under test, the run's own namespace, and a seed.
pub(crate) struct Trial {
    pub(crate) harness: Arc<dyn Harness>,
    pub(crate) limits: Limits,
    seed: u64,
    namespace: String,
    notes: Mutex<Notes>,
    skipped: AtomicBool,
    done: Mutex<Done>,
}

/// What could not be tried.
#[derive(Clone, Debug, Default)]
pub(crate) struct Notes {
    /// Because a hook is missing.
    pub(crate) not_exercised: Vec<String>,
    /// Because the store cannot have the hook, with the reason.
    pub(crate) not_possible: Vec<String>,
}

/// What a failure names as the operations before it.
#[derive(Default)]
struct Done {
    /// What the case does, where it names that.
    step: String,
    /// The call that the case made last.
    call: String,
}

fn note(notes: &mut Vec<String>, what: String) {
    if !notes.contains(&what) {
        notes.push(what);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Trial {
    pub(crate) fn new(harness: Arc<dyn Harness>, seed: u64, namespace: String) -> Self {
        let limits = harness.limits();
        Self {
            harness,
            limits,
            seed,
            namespace,
            notes: Mutex::default(),
            skipped: AtomicBool::new(false),
            done: Mutex::default(),
        }
    }

    pub(crate) fn has(&self, capabilities: Capabilities) -> bool {
        self.harness.capabilities().has(capabilities)
    }

    /// Returns whether `Ok` already means durable and shown.
    pub(crate) fn is_durable(&self) -> bool {
        self.harness.durability() == Durability::Durable
    }

    /// Returns whether acknowledged events may take a moment to be seen.
    pub(crate) fn shows_late(&self) -> bool {
        !self.is_durable() || !self.has(Capabilities::SOURCE)
    }

    pub(crate) fn generator(&self) -> Generator {
        Generator::new(self.seed)
    }

    /// How many events a case of this size appends here.
    pub(crate) fn events(&self, count: usize) -> usize {
        count.min(self.limits.events_max)
    }

    /// Reports in the run that something could not be tried.
    pub(crate) fn not_exercised(&self, what: &str) {
        note(&mut lock(&self.notes).not_exercised, what.to_owned());
    }

    /// Reports in the run what could not be tried without this hook, and why, if there is a reason.
    pub(crate) fn without(&self, hook: Hook) {
        match self.harness.impossible(hook) {
            Some(why) => note(&mut lock(&self.notes).not_possible, format!("{}: {why}", hook.tries())),
            None => self.not_exercised(hook.tries()),
        }
    }

    /// Reports in the run that nothing of the case could be tried without this hook.
    pub(crate) fn skip_without(&self, hook: Hook) {
        self.skipped.store(true, Ordering::Relaxed);
        self.without(hook);
    }

    /// Reports in the run that nothing of the case could be tried.
    pub(crate) fn skip(&self, what: &str) {
        self.skipped.store(true, Ordering::Relaxed);
        self.not_exercised(what);
    }

    /// What could not be tried, and whether that was all.
    pub(crate) fn notes(&self) -> (Notes, bool) {
        (lock(&self.notes).clone(), self.skipped.load(Ordering::Relaxed))
    }

    /// Names what the case does from here on, for the message of a failure.
    pub(crate) fn step(&self, step: impl Into<String>) {
        lock(&self.done).step = step.into();
    }

    /// Names the call that follows.
    pub(crate) fn calling(&self, call: impl Into<String>) {
        lock(&self.done).call = call.into();
    }

    /// Describes the operations before this moment.
    pub(crate) fn after(&self) -> String {
        let done = lock(&self.done);
        match (done.step.as_str(), done.call.as_str()) {
            ("", call) => call.to_owned(),
            (step, "") => step.to_owned(),
            (step, call) => format!("{step}, then {call}"),
        }
    }

    /// How long one call may take.
    pub(crate) fn call_max(&self) -> Duration {
        self.limits.patience / 6
    }

    /// How long it may take until acknowledged events are seen, and dropped handles are gone.
    pub(crate) fn settle_max(&self) -> Duration {
        self.limits.patience / 12
    }

    /// Makes a call, which must return in time.
    pub(crate) async fn call<T>(&self, call: impl Future<Output = Result<T>>) -> Verdict<Result<T>> {
        self.timely(call).await
    }

    /// Waits for calls, which must return in time.
    pub(crate) async fn timely<T>(&self, calls: impl Future<Output = T>) -> Verdict<T> {
        let call_max = self.call_max();
        match timeout(call_max, calls).await {
            Ok(result) => Ok(result),
            Err(_) => broken(
                format!("a call to return within {call_max:?} (a sixth of `Limits::patience`)"),
                format!("no return from {}", lock(&self.done).call),
            ),
        }
    }

    /// The namespace of this case, or with a suffix another one beside it.
    pub(crate) fn namespace(&self, suffix: &str) -> String {
        format!("{}{suffix}", self.namespace)
    }

    /// Opens the log of this case.
    pub(crate) async fn open(&self) -> Verdict<Log<'_>> {
        self.open_another("").await
    }

    /// Opens a log once dropped handles released it, which may take until a call in flight ends.
    pub(crate) async fn open_once_released(&self, namespace: &str) -> Verdict<Log<'_>> {
        let deadline = Instant::now() + self.settle_max();
        loop {
            match self.open_at(namespace).await {
                Err(_) if Instant::now() < deadline => sleep(LOOK_AGAIN).await,
                opened => return opened,
            }
        }
    }

    /// Opens another log of this case.
    pub(crate) async fn open_another(&self, suffix: &str) -> Verdict<Log<'_>> {
        self.open_at(&self.namespace(suffix)).await
    }

    async fn open_at(&self, namespace: &str) -> Verdict<Log<'_>> {
        self.calling("opening the log");
        let opened = self.call(self.harness.open(namespace)).await?;
        let opened = opened.expected(|| "the log opens".to_owned())?;
        Ok(Log { trial: self, opened, namespace: namespace.to_owned() })
    }

    /// Opens a log that holds `events`.
    pub(crate) async fn holding(&self, events: &[Event]) -> Verdict<Log<'_>> {
        let log = self.open().await?;
        log.append_all(None, events, 1_000).await?;
        Ok(log)
    }

    /// Looks again until the verdict is good, if that may take a moment (`late`).
    ///
    /// Returns at once with a finding that waiting does not change.
    pub(crate) async fn settled<F>(&self, late: bool, mut look: impl FnMut() -> F) -> Verdict
    where
        F: Future<Output = Verdict>,
    {
        let deadline = Instant::now() + self.settle_max();
        loop {
            match look().await {
                Err(found) if late && found.may_pass && Instant::now() < deadline => sleep(LOOK_AGAIN).await,
                verdict => return verdict,
            }
        }
    }
}
