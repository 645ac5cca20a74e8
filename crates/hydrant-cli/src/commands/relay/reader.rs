//! Standard output as a sink, whose reader may have seen enough: `hydrant relay ... --to - | head`.

use std::sync::Arc;

use async_trait::async_trait;
use hydrant::{Batch, Checkpoint, ErrorKind, EventSink, Result};
use tokio::sync::watch;

/// Signals when the reader leaves, instead of failing. Then nothing more is acknowledged, and nothing is wrong.
pub(crate) struct UntilReaderLeaves {
    sink: Arc<dyn EventSink>,
    left: watch::Sender<bool>,
}

impl UntilReaderLeaves {
    /// Standard output, and whether its reader has left.
    pub(crate) fn new(sink: Arc<dyn EventSink>) -> (Arc<Self>, watch::Receiver<bool>) {
        let (left, has_left) = watch::channel(false);
        (Arc::new(Self { sink, left }), has_left)
    }
}

#[async_trait]
impl EventSink for UntilReaderLeaves {
    async fn append(&self, batch: Batch<'_>) -> Result<()> {
        match self.sink.append(batch).await {
            Err(error) if error.kind() == ErrorKind::Closed => {
                self.left.send_replace(true);
                std::future::pending().await
            }
            ended => ended,
        }
    }

    async fn checkpoint(&self) -> Result<Checkpoint> {
        self.sink.checkpoint().await
    }
}
