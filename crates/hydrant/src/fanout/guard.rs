//! A call into somebody else's code: bounded in time, and its panic is an error.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;

use crate::{Error, ErrorKind, Result, Retry};

/// Awaits `call` for at most `timeout`; a panic in it becomes an error of kind `Bug`.
///
/// After either, the outcome of the call is unknown.
pub(crate) async fn guarded<T>(
    what: &str,
    timeout: Duration,
    call: impl Future<Output = Result<T>>,
) -> Result<T> {
    tokio::time::timeout(timeout, caught(what, call)).await.unwrap_or_else(|_| {
        let message = format!("{what} did not end within {timeout:?}");
        Err(Error::new(ErrorKind::Unavailable, Retry::AfterCheckpoint, message))
    })
}

/// Awaits `call`; a panic in it becomes an error of kind `Bug`.
pub(crate) async fn caught<T>(what: &str, call: impl Future<Output = Result<T>>) -> Result<T> {
    AssertUnwindSafe(call).catch_unwind().await.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().copied();
        let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        let message =
            format!("{what} panicked: {}; report it, then resume or reopen", text.unwrap_or("no message"));
        Err(Error::new(ErrorKind::Bug, Retry::Never, message))
    })
}

/// Capped exponential backoff with full jitter: the pause before retry number `attempt`, from 0.
pub(crate) fn backoff(rng: &mut fastrand::Rng, attempt: u32, min: Duration, max: Duration) -> Duration {
    let ceiling = min.saturating_mul(1_u32.checked_shl(attempt).unwrap_or(u32::MAX)).min(max);
    ceiling.mul_f64(rng.f64())
}

pub(crate) fn rng(seed: Option<u64>) -> fastrand::Rng {
    seed.map_or_else(fastrand::Rng::new, fastrand::Rng::with_seed)
}
