//! Laws 7 and 8: the same handle after a failure, deadlines, and calls that leave their thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hydrant::{Batch, Capabilities, ErrorKind, Event, ReadFrom, Retry};
use tokio::time::{Instant, sleep};

use super::whole::stays;
use crate::law::{Expected, Verdict, broken};
use crate::log::{Log, last};
use crate::resources::queued;
use crate::trial::LOOK_AGAIN;
use crate::{Hook, Trial};

/// A call blocks its thread if it holds the thread this long in each try.
const BLOCKED_MAX: Duration = Duration::from_millis(250);

/// How many times a call that seemed to block its thread is repeated.
const TRIES: usize = 3;

/// Arms failure `n` of the harness. Returns `false` if there are no more.
pub(super) async fn arm(log: &Log<'_>, n: usize) -> Verdict<bool> {
    let armed = log.trial.harness.fail_next_write(&log.namespace, n).await;
    let armed = armed.expected(|| format!("the harness arms failure {n}"))?;
    if !armed && n == 0 {
        log.trial.skip_without(Hook::FailNextWrite);
    }
    Ok(armed)
}

/// Ends the armed failure, which must have fired: a fault that misses proves nothing.
pub(super) async fn disarm(log: &Log<'_>, n: usize) -> Verdict {
    let unfired = log.trial.harness.unfired(&log.namespace);
    if !unfired.is_empty() {
        return broken(
            format!("failure {n} of the harness to fire"),
            format!("armed, but not met by the append: {}", unfired.join(", ")),
        );
    }
    let healed = log.trial.harness.heal(&log.namespace).await;
    healed.expected(|| format!("the harness ends failure {n}"))
}

pub(super) async fn works_again(trial: &Trial) -> Verdict {
    let mut generator = trial.generator();
    for n in 0.. {
        let events = generator.log(9);
        let log = trial.open_another(&format!("_{n}")).await?;
        log.append(None, &events[..3]).await?;
        log.holds(&events[..3]).await?;
        if !arm(&log, n).await? {
            return log.close().await;
        }
        let appended = log.try_append(last(&events[..3]), &events[3..8]).await?;
        disarm(&log, n).await?;
        let retry = appended.as_ref().map_or_else(hydrant::Error::retry, |()| Retry::Safe);
        match appended {
            Ok(()) => trial.step(format!("an append that met failure {n}")),
            Err(error) => trial.step(format!("an append that met failure {n} ({error:?})")),
        }
        if retry != Retry::Never && trial.harness.stops(n) {
            continues_when_reopened(log, &events).await?;
            continue;
        }
        // A handle that stopped for good says `Never`; a caller opens it again.
        if retry != Retry::Never {
            if trial.has(Capabilities::MEMORY) && trial.is_durable() {
                stays(&log, reported(&log).await?).await?;
            }
            send_rest(&log, &events[..8], 3).await?;
            log.append(last(&events[..8]), &events[8..]).await?;
            log.holds(&events).await?;
        }
        drop(log.close().await);
    }
    Ok(())
}

/// Checks that a handle that a failure stopped reports so, and that the log takes the rest once it is opened again.
async fn continues_when_reopened(log: Log<'_>, events: &[Event]) -> Verdict {
    let trial = log.trial;
    trial.calling("reading the checkpoint of a handle that stopped");
    match trial.call(log.opened.sink.checkpoint()).await? {
        Err(error) if error.kind() == ErrorKind::Closed => {}
        other => return broken("Closed from a handle that stopped", format!("{other:?}")),
    }
    let namespace = log.namespace.clone();
    // The close may report once more what stopped the handle.
    drop(log.close().await);
    let log = trial.open_once_released(&namespace).await?;
    let held = log.prefix(&events[..8]).await?;
    send_rest(&log, &events[..8], held).await?;
    log.append(last(&events[..8]), &events[8..]).await?;
    log.holds(events).await?;
    log.close().await
}

/// Returns the checkpoint, once the handle works again after a retryable error.
async fn reported(log: &Log<'_>) -> Verdict<hydrant::Checkpoint> {
    let deadline = Instant::now() + log.trial.settle_max();
    loop {
        match log.checkpoint().await {
            Ok(checkpoint) => return Ok(checkpoint),
            Err(found) if found.may_pass && Instant::now() < deadline => sleep(LOOK_AGAIN).await,
            Err(found) => {
                return broken("the same handle to report its checkpoint after a retryable error", found.saw);
            }
        }
    }
}

/// Appends what the log does not hold of `events`, of which `before` were acknowledged.
///
/// Like a pump, uses the same handle, and tries again as long as the error is retryable.
async fn send_rest(log: &Log<'_>, events: &[Event], before: usize) -> Verdict {
    let from = if log.trial.has(Capabilities::IDEMPOTENT) { before } else { log.prefix(events).await? };
    let deadline = Instant::now() + log.trial.settle_max();
    while from < events.len() {
        match log.try_append(last(&events[..from]), &events[from..]).await? {
            Ok(()) => break,
            Err(error) if error.retry() != Retry::Never && Instant::now() < deadline => {
                sleep(LOOK_AGAIN).await;
            }
            Err(error) => {
                let expected = "the same handle to take the same batch again after a retryable error";
                return broken(expected, format!("{error:?}"));
            }
        }
    }
    Ok(())
}

pub(super) async fn deadline(trial: &Trial) -> Verdict {
    let mut events = trial.generator().log(2);
    let log = trial.holding(&events).await?;
    log.holds(&events).await?;
    for remaining in [0, 0, 1, 20].map(Duration::from_millis) {
        ends_by(&log, &mut events, remaining, trial.call_max() / 2).await?;
    }
    let delay = trial.call_max() / 2;
    let slow = trial.harness.delay(&log.namespace, delay).await;
    if slow.expected(|| "the harness delays answers".to_owned())? {
        ends_by(&log, &mut events, Duration::from_millis(50), delay / 2).await?;
    } else {
        trial.without(Hook::Delay);
    }
    log.close().await
}

/// Appends five events with a deadline. The append must return soon after it, and the handle must work afterwards.
async fn ends_by(log: &Log<'_>, events: &mut Vec<Event>, remaining: Duration, grace: Duration) -> Verdict {
    let before = events.len();
    let mut generator = log.trial.generator();
    events.extend((before as u64..before as u64 + 5).map(|id| generator.event(id)));
    let begun = Instant::now();
    let batch = Batch::new(last(&events[..before]), &events[before..]).expect("ids grow");
    let appended = log.appended(batch.with_deadline(Some(begun + remaining))).await?;
    let took = begun.elapsed();
    let outcome =
        format!("an append with a deadline {remaining:?} ahead that returned {appended:?} after {took:?}");
    log.trial.step(outcome.as_str());
    let healed = log.trial.harness.heal(&log.namespace).await;
    healed.expected(|| "the harness ends the delay".to_owned())?;
    if took > remaining + grace {
        return broken(format!("an append to return within {grace:?} after its deadline"), outcome);
    }
    match &appended {
        Err(error) if error.retry() == Retry::Never => {
            return broken("Ok, Safe or AfterCheckpoint for an append past its deadline", outcome);
        }
        Err(error) if error.retry() == Retry::Safe && log.trial.has(Capabilities::MEMORY) => {
            log.holds(&events[..before]).await?;
        }
        _ => {}
    }
    if appended.is_err() {
        send_rest(log, events, before).await?;
    }
    log.holds(events).await
}

#[expect(clippy::unused_async, reason = "each case is a future")]
pub(super) async fn blocks_its_thread(trial: &Trial) -> Verdict {
    // A runtime of one thread, beside the two of the case: a call that holds the thread holds the ticker too.
    tokio::task::block_in_place(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("the system gives a runtime");
        let verdict = runtime.block_on(leaves_its_thread(trial));
        runtime.shutdown_timeout(Duration::from_secs(1));
        verdict
    })
}

async fn leaves_its_thread(trial: &Trial) -> Verdict {
    let ticker = Ticker::start();
    let mut events = trial.generator().log(3);
    trial.holding(&events).await?.close().await?;
    ticker.free("opening and closing", async || trial.open().await?.close().await).await?;
    let log = trial.open().await?;
    calls_leave_the_thread(&ticker, &log, &mut events).await?;
    let slow = trial.harness.delay(&log.namespace, 3 * BLOCKED_MAX).await;
    if slow.expected(|| "the harness delays answers".to_owned())? {
        trial.step(format!("delaying each answer by {:?}", 3 * BLOCKED_MAX));
        calls_leave_the_thread(&ticker, &log, &mut events).await?;
        trial.harness.heal(&log.namespace).await.expected(|| "the harness ends the delay".to_owned())?;
    } else {
        trial.without(Hook::Delay);
    }
    log.close().await
}

async fn calls_leave_the_thread(ticker: &Ticker, log: &Log<'_>, events: &mut Vec<Event>) -> Verdict {
    let append = async || {
        let event = [log.trial.generator().event(events.len() as u64)];
        log.append(last(events), &event).await?;
        events.extend(event);
        Ok(())
    };
    ticker.free("append", append).await?;
    ticker.free("checkpoint", async || log.checkpoint().await.map(drop)).await?;
    if log.trial.has(Capabilities::SOURCE) {
        ticker.free("read", async || log.read(ReadFrom::Origin).await.map(drop)).await?;
    }
    Ok(())
}

/// A task that wakes each millisecond, and measures how late it ran although a processor was free.
struct Ticker {
    late_ms: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

impl Ticker {
    fn start() -> Self {
        let late_ms = Arc::new(AtomicU64::new(0));
        let latest = Arc::clone(&late_ms);
        let task = tokio::spawn(async move {
            loop {
                let (before, queued_before) = (Instant::now(), queued());
                sleep(Duration::from_millis(1)).await;
                let late = before.elapsed().saturating_sub(queued().saturating_sub(queued_before));
                latest.fetch_max(u64::try_from(late.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
            }
        });
        Self { late_ms, task }
    }

    /// Makes a call, which must leave the thread to the ticker in at least one of [`TRIES`] tries.
    async fn free(&self, name: &str, mut call: impl AsyncFnMut() -> Verdict) -> Verdict {
        for nth in 1..=TRIES {
            self.late_ms.store(0, Ordering::Relaxed);
            call().await?;
            // The ticker measures the delay once it runs again.
            sleep(Duration::from_millis(2)).await;
            let late = Duration::from_millis(self.late_ms.load(Ordering::Relaxed));
            if late < BLOCKED_MAX {
                break;
            }
            if nth == TRIES {
                return broken(
                    format!("{name} to leave its thread to other tasks, for at most {BLOCKED_MAX:?}"),
                    format!("a thread that was blocked for {late:?}, in each of {TRIES} tries"),
                );
            }
        }
        Ok(())
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.task.abort();
    }
}
