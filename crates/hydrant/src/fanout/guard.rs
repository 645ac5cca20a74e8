//! A call into foreign code: bounded in time, and its panic is an error.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::Instant;

use crate::{Error, Result};

/// The instant `timeout` from now; a time-out beyond what the clock can count never ends.
pub(crate) fn later(timeout: Duration) -> Instant {
    const NEVER: Duration = Duration::from_secs(30 * 365 * 24 * 3600);
    let now = Instant::now();
    now.checked_add(timeout.min(NEVER)).unwrap_or(now)
}

/// Makes a call and awaits it for at most `timeout`; a panic in it is an error of kind `Bug`.
///
/// After either, the outcome of the call is unknown.
pub(crate) async fn guarded<T, F>(what: &str, timeout: Duration, call: impl FnOnce() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    guarded_until(what, later(timeout), call).await
}

/// Makes a call and awaits it until `deadline`; a panic in it is an error of kind `Bug`.
///
/// After either, the outcome of the call is unknown.
pub(crate) async fn guarded_until<T, F>(what: &str, deadline: Instant, call: impl FnOnce() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let begun = Instant::now();
    // The time-out drops the call inside of `caught`, because that may panic too.
    let bounded = || async {
        tokio::time::timeout_at(deadline, call()).await.unwrap_or_else(|_| {
            let message =
                format!("{what} did not end within {:?}", deadline.saturating_duration_since(begun));
            Err(Error::outcome_unknown(message))
        })
    };
    caught(what, bounded).await
}

/// Makes a call and awaits it; a panic in it, or before it returns its future, is an error of kind `Bug`.
///
/// # Errors
/// Any error of the call, and `Bug` with [`Retry::Never`](crate::Retry::Never) for a panic; the outcome of the call is unknown then.
pub async fn caught<T, F>(what: &str, call: impl FnOnce() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    // Called inside of the future, so that a panic of the call itself is caught too.
    let call = async move { call().await };
    AssertUnwindSafe(call).catch_unwind().await.unwrap_or_else(|panic| Err(Error::panicked(what, &*panic)))
}

/// Capped exponential backoff with full jitter: the pause before retry number `attempt`, from 0. Never zero: a loop
/// without a pause starves its runtime. A first pause of zero grows like one of a millisecond.
pub(crate) fn backoff(rng: &mut fastrand::Rng, attempt: u32, min: Duration, max: Duration) -> Duration {
    const LEAST: Duration = Duration::from_millis(1);
    let ceiling = min.max(LEAST).saturating_mul(1_u32.checked_shl(attempt).unwrap_or(u32::MAX)).min(max);
    ceiling.mul_f64(rng.f64()).max(LEAST)
}

pub(crate) fn rng(seed: Option<u64>) -> fastrand::Rng {
    seed.map_or_else(fastrand::Rng::new, fastrand::Rng::with_seed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_pause_of_zero_grows_too() {
        let mut rng = rng(Some(7));
        let max = Duration::from_secs(10);
        let pauses: Vec<_> = (0..40).map(|attempt| backoff(&mut rng, attempt, Duration::ZERO, max)).collect();
        assert!(pauses.iter().all(|pause| (Duration::from_millis(1)..=max).contains(pause)), "{pauses:?}");
        assert!(pauses[20..].iter().any(|pause| *pause > Duration::from_secs(1)), "{pauses:?}");
        assert_eq!(backoff(&mut rng, 40, Duration::ZERO, Duration::ZERO), Duration::from_millis(1));
    }
}
