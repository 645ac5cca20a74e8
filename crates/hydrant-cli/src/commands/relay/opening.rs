//! A sink that is down when the relay starts: opened when it can be, while the others go on.

use std::sync::{Arc, Mutex, PoisonError};

use hydrant::Deferred;

use crate::stores::{Keeper, OpenSink};
use crate::url::StoreUrl;

/// A sink that is not there yet, with what closes it.
pub(crate) fn opening(url: StoreUrl, keeper: Option<Keeper>) -> OpenSink {
    let closing = Arc::new(Mutex::new(None));
    let kept = closing.clone();
    let sink = Deferred::new(move || {
        let (url, keeper, kept) = (url.clone(), keeper.clone(), kept.clone());
        async move {
            let OpenSink { sink, closing } = url.sink(keeper).await?;
            *kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(closing);
            tracing::info!(target = %url, "the sink can be reached now");
            Ok(sink)
        }
    });
    let closing = Box::pin(async move {
        let closing = closing.lock().unwrap_or_else(PoisonError::into_inner).take();
        match closing {
            Some(closing) => closing.await,
            None => Ok(()),
        }
    });
    OpenSink { sink: Arc::new(sink), closing }
}
