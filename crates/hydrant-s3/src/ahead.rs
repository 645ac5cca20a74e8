//! Requests that are under way before a reader waits for them.

use std::pin::Pin;
use std::task::{Context, Poll};

use hydrant::{Error, Result};
use tokio::task::JoinHandle;

/// A request in a task of its own: what it takes is measured against its own time-out, not against the patience
/// of a reader that is busy with what came before. Dropped, it is given up.
pub(crate) struct Ahead<T>(JoinHandle<Result<T>>);

impl<T: Send + 'static> Ahead<T> {
    pub(crate) fn new(request: impl Future<Output = Result<T>> + Send + 'static) -> Self {
        Self(tokio::spawn(request))
    }
}

impl<T> Future for Ahead<T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<T>> {
        let ended = |_| Err(Error::closed("the runtime is shutting down"));
        Pin::new(&mut self.0).poll(context).map(|joined| joined.unwrap_or_else(ended))
    }
}

impl<T> Drop for Ahead<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
