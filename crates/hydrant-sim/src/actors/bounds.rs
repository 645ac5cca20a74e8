//! How long each call may take: the table of bounds.

use std::future::Future;
use std::time::Duration;

use crate::plan::{Broken, Config};
use crate::world::World;

/// The longest that each call may take, given the options of the run.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// One call into the primary, served behind the appends in flight.
    pub call: Duration,
    /// An append: each append before it may have to be resolved first.
    pub append: Duration,
    /// An append that waits for secondaries, which retry until their sinks work again.
    pub append_with_back_pressure: Duration,
    /// Attach, detach, open and prune: calls to the roster and the sinks.
    pub roster: Duration,
    /// What `close` (at least 100 ms) and `delivered` may take above their time-out.
    pub close: Duration,
    pub delivered: Duration,
    /// Until everything is delivered once faults have stopped.
    pub recovery: Duration,
}

impl Bounds {
    pub fn of(config: &Config) -> Self {
        let ms = Duration::from_millis;
        let call = ms(config.call_ms);
        let slowest = config
            .sinks
            .iter()
            .map(|sink| ms(sink.call_ms + sink.backoff_ms.1.min(5_000)))
            .max()
            .unwrap_or_default();
        let one = 2 * call + ms(config.resolve_ms);
        let append = 8 * one + ms(5_000);
        Self {
            call: append,
            append,
            append_with_back_pressure: append + 100 * slowest + ms(60_000),
            roster: 8 * call + 8 * slowest + ms(40_000),
            close: ms(250),
            delivered: ms(1_000),
            recovery: ms(120_000) + 60 * slowest,
        }
    }

    /// Awaits a call, and fails the run if it takes longer than `bound`.
    pub async fn within<T>(
        &self,
        world: &World,
        what: &str,
        bound: Duration,
        call: impl Future<Output = T>,
    ) -> Option<T> {
        let is_broken = world.is_broken(Broken::CallsHang);
        let call = Box::pin(call);
        let call = async {
            if is_broken {
                std::future::pending::<()>().await;
            }
            call.await
        };
        let ended = tokio::time::timeout(bound, call).await.ok();
        if ended.is_none() {
            world.fail("bound", format!("{what} did not end within {bound:?}"));
        }
        ended
    }
}
