//! A sink that is down when the relay starts: opened when it can be, while the others go on.

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use hydrant::{Batch, Checkpoint, EventSink, Result};
use std::sync::Arc;
use tokio::sync::Mutex;

use crate::stores::OpenSink;
use crate::url::StoreUrl;

/// Opens its place at the first call that finds it there; until then each call gives the reason.
pub(crate) struct Opening {
    url: StoreUrl,
    opened: Mutex<Option<OpenSink>>,
}

impl Opening {
    /// A sink that is not there yet, with what closes it.
    pub(crate) fn sink(url: StoreUrl) -> OpenSink {
        let sink = Arc::new(Self { url, opened: Mutex::default() });
        let closing = sink.clone();
        OpenSink { sink, closing: Box::pin(async move { closing.close().await }) }
    }

    async fn opened(&self) -> Result<Arc<dyn EventSink>> {
        let mut opened = self.opened.lock().await;
        if opened.is_none() {
            *opened = Some(self.url.sink().await?);
            tracing::info!(target = %self.url, "the sink can be reached now");
        }
        Ok(opened.as_ref().expect("it was opened right above").sink.clone())
    }

    async fn close(&self) -> Result<()> {
        let closing: Option<BoxFuture<'static, Result<()>>> =
            self.opened.lock().await.take().map(|opened| opened.closing);
        match closing {
            Some(closing) => closing.await,
            None => Ok(()),
        }
    }
}

#[async_trait]
impl EventSink for Opening {
    async fn append(&self, batch: Batch<'_>) -> Result<()> {
        self.opened().await?.append(batch).await
    }

    async fn checkpoint(&self) -> Result<Checkpoint> {
        self.opened().await?.checkpoint().await
    }
}
