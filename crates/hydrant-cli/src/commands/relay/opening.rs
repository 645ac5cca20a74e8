//! Sinks that are opened by their own pumps: one that is down, hangs or panics keeps no other from being served.

use std::sync::{Arc, Mutex, PoisonError};

use hydrant::store::caught;
use hydrant::{Deferred, Result, Retry};

use crate::stores::OpenSink;

/// What becomes of a sink that cannot be opened now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unopened {
    /// It is opened as soon as it can be.
    Retries,
    /// It parks.
    Parks,
}

/// A sink that `open` opens at its first call, with what closes it.
pub(crate) fn opening<F, O>(name: &str, unopened: Unopened, open: F) -> OpenSink
where
    F: Fn() -> O + Clone + Send + Sync + 'static,
    O: Future<Output = Result<OpenSink>> + Send + 'static,
{
    let closing = Arc::new(Mutex::new(None));
    let (kept, name) = (closing.clone(), name.to_owned());
    let sink = Deferred::new(move || {
        let (open, kept, name) = (open.clone(), kept.clone(), name.clone());
        async move {
            match caught("opening the sink", open).await {
                Ok(OpenSink { sink, closing }) => {
                    *kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(closing);
                    tracing::debug!(name, "the sink is open");
                    Ok(sink)
                }
                Err(error) => {
                    tracing::warn!(name, %error, "the sink cannot be opened");
                    Err(if unopened == Unopened::Parks { error.with_retry(Retry::Never) } else { error })
                }
            }
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hydrant::{
        Batch, Error, ErrorKind, Event, EventId, EventSink, FanOut, FanOutOptions, MemoryStore,
        SecondaryOptions, SecondaryState,
    };

    use super::*;

    fn opened(sink: MemoryStore) -> OpenSink {
        OpenSink { sink: Arc::new(sink), closing: Box::pin(std::future::ready(Ok(()))) }
    }

    #[tokio::test]
    async fn sinks_that_panic_fail_or_hang_in_opening_stop_no_other() {
        let good = MemoryStore::default();
        let kept = good.clone();
        let sinks = [
            ("panics", opening("panics", Unopened::Retries, || async { panic!("an SDK's own") })),
            (
                "fails",
                opening("fails", Unopened::Parks, || async {
                    Err(Error::new(ErrorKind::Unavailable, Retry::Safe, "down"))
                }),
            ),
            ("hangs", opening("hangs", Unopened::Retries, std::future::pending)),
            (
                "good",
                opening("good", Unopened::Retries, move || {
                    let kept = kept.clone();
                    async move { Ok(opened(kept)) }
                }),
            ),
        ];
        let log = FanOut::open(MemoryStore::default(), FanOutOptions::default()).await.unwrap();
        for (name, OpenSink { sink, .. }) in sinks {
            log.attach(name, sink, SecondaryOptions::default()).await.unwrap();
        }
        let events = [Event::new(EventId::ZERO, "a").unwrap()];
        log.append(Batch::new(None, &events).unwrap()).await.unwrap();
        let of = |name: &str| {
            let status = log.status();
            status.secondaries.into_iter().find(|secondary| secondary.name == name).unwrap()
        };
        while of("panics").state != SecondaryState::Parked
            || of("fails").state != SecondaryState::Parked
            || of("good").checkpoint != Some(EventId::ZERO)
        {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(of("panics").last_error.unwrap().kind(), ErrorKind::Bug);
        assert!(of("panics").last_error.unwrap().message().contains("an SDK's own"));
        assert_eq!(of("fails").last_error.unwrap().kind(), ErrorKind::Unavailable);
        assert_ne!(of("hangs").state, SecondaryState::Parked);
        assert_eq!(good.checkpoint().await.unwrap().id(), Some(EventId::ZERO));
        drop(log.close(Duration::ZERO).await);
    }
}
