//! Work for the processor, away from the threads that wait for requests.

use hydrant::{Error, ErrorKind, Result, Retry};

/// Work on this many bytes is done where it is wanted: to hand it over would take longer.
pub(crate) const INLINE_BYTES_MAX: usize = 256 << 10;

/// Computes on a thread of its own.
pub(crate) async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(call).await.unwrap_or_else(|join| {
        Err(Error::new(ErrorKind::Closed, Retry::Safe, "the runtime is shutting down").because(join))
    })
}
