//! What wrappers do around calls: catch panics of closures, and keep deadlines.

use std::panic::{AssertUnwindSafe, catch_unwind};

use tokio::time::{Instant, timeout_at};

use crate::{Error, Event, Result};

/// Calls a closure for one event. A panic becomes `Bug` at that event.
pub(super) fn guarded<T>(what: &str, event: &Event, call: impl FnOnce() -> T) -> Result<T> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|panic| Error::panicked(what, &*panic).at(event.id()))
}

/// Splits results into the items before the first failure, and that failure.
pub(super) fn until_failure<T>(results: impl Iterator<Item = Result<T>>) -> (Vec<T>, Result<()>) {
    let mut items = Vec::new();
    for result in results {
        match result {
            Ok(item) => items.push(item),
            Err(error) => return (items, Err(error)),
        }
    }
    (items, Ok(()))
}

/// Awaits `call` until the deadline, if there is one. After it, the error is `late` with a message.
pub(super) async fn before<T>(
    deadline: Option<Instant>,
    call: impl Future<Output = Result<T>>,
    late: fn(&'static str) -> Error,
) -> Result<T> {
    let Some(deadline) = deadline else { return call.await };
    timeout_at(deadline, call).await.unwrap_or_else(|_| Err(late("the deadline of the append has passed")))
}
