//! Dropping a future at each of its awaits.

use std::pin::pin;
use std::task::Poll;

/// Polls a future at most `polls` times, each time when it was woken, and then drops it.
///
/// `None`: it was dropped before it completed. Calling it with 0, 1, 2 ... until it completes drops a future
/// at each of its awaits in turn.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use hydrant_conformance::drop_after;
///
/// assert_eq!(drop_after(1, async { 7 }).await, Some(7));
/// assert_eq!(drop_after(1, async { tokio::task::yield_now().await; 7 }).await, None);
/// # }
/// ```
pub async fn drop_after<F: Future>(polls: usize, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = polls;
    std::future::poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match future.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}
