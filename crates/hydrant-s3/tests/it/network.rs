//! Connections that break, through a proxy that knows nothing of S3: before a request, in it, after it, in its
//! answer; slow ones, and ones that swallow everything.

use std::time::Duration;

use futures_util::StreamExt;
use hydrant::{Batch, ErrorKind, Event, EventSink, EventSource, EventSourceExt, ReadFrom, Retry};
use hydrant_s3::{S3Store, S3StoreOptions};
use test_servers::proxy::{Fault, Tcp, When};
use tokio::time::{Instant, timeout};

use crate::support::{Place, Scratch, event_by, log, or_skip, shared};

/// A proxy in front of the server that all tests share, and a log that is reached through it.
async fn through_a_proxy() -> Result<(Tcp, Scratch), String> {
    let direct = shared()?;
    let address = direct.endpoint.as_deref().and_then(|endpoint| endpoint.strip_prefix("http://"));
    let address = address.and_then(|address| address.parse().ok());
    let proxy = Tcp::start(address.ok_or("the server is not at a plain address on loopback")?).await;
    let endpoint = Some(format!("http://{}", proxy.address()));
    let scratch = Scratch::at(Place { endpoint, ..direct }).await;
    Ok((proxy, scratch))
}

fn options() -> S3StoreOptions {
    S3StoreOptions::default()
        .with_request_timeout(Duration::from_secs(1))
        .with_append_timeout(Duration::from_secs(5))
}

async fn append(store: &S3Store, events: &[Event], from: usize, to: usize) -> hydrant::Result<()> {
    let after = from.checked_sub(1).map(|last| events[last].id());
    store.append(Batch::new(after, &events[from..to]).unwrap()).await
}

#[tokio::test]
async fn an_append_whose_connection_breaks_anywhere_is_held_once() {
    let (proxy, scratch) = or_skip!(through_a_proxy().await);
    let store = scratch.open(options()).await;
    let mut events = log(0..3);
    append(&store, &events, 0, 3).await.unwrap();
    for fault in [
        Fault::Refuse,
        Fault::CutBefore,
        Fault::CutWithin(1),
        Fault::CutWithin(300),
        Fault::CutAfter,
        Fault::LoseAnswer,
        Fault::CutAnswer(1),
        Fault::CutAnswer(40),
        Fault::Reset,
    ] {
        let held = events.len();
        events.extend((held as u64..held as u64 + 3).map(|id| event_by(&format!("{fault:?}"), id)));
        let when = if fault == Fault::Refuse {
            proxy.cut();
            When::Connection
        } else {
            When::Exchange(1)
        };
        proxy.once(when, fault);
        append(&store, &events, held, held + 3).await.unwrap();
        assert_eq!(store.collect(ReadFrom::Origin).await.unwrap(), events, "{fault:?}");
    }
    assert_eq!(scratch.names().await.len(), 10, "one object a batch, however often it was sent");
    scratch.remove().await;
}

#[tokio::test]
async fn calls_on_a_dead_network_end_in_time_and_recover() {
    let (proxy, scratch) = or_skip!(through_a_proxy().await);
    let store = scratch.open(options()).await;
    let events = log(0..9);
    proxy.always(Fault::Delay(Duration::from_millis(60))).await;
    append(&store, &events, 0, 3).await.unwrap();
    proxy.always(Fault::BlackHole).await;
    let error = append(&store, &events, 3, 6).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::AfterCheckpoint), "{error}");
    let error = store.collect(ReadFrom::Origin).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::Safe), "{error}");
    // What the hole held arrives late, beside what settles it.
    proxy.heal().await;
    assert_eq!(store.checkpoint().await.unwrap().id(), Some(events[5].id()));
    append(&store, &events, 3, 9).await.unwrap();
    assert_eq!(store.collect(ReadFrom::Origin).await.unwrap(), events);
    scratch.remove().await;
}

#[tokio::test]
async fn append_returns_before_its_deadline() {
    let (proxy, scratch) = or_skip!(through_a_proxy().await);
    let store = scratch.open(options()).await;
    let events = log(0..6);
    append(&store, &events, 0, 3).await.unwrap();
    proxy.always(Fault::BlackHole).await;
    let batch = Batch::new(Some(events[2].id()), &events[3..]).unwrap();
    // The PUT, the look that comes before it is sent again, and the wait for that look.
    for retry in [Retry::AfterCheckpoint, Retry::AfterCheckpoint, Retry::Safe] {
        let batch = batch.with_deadline(Some(Instant::now() + Duration::from_millis(300)));
        // Far less than the time-outs of the store.
        let answer = timeout(Duration::from_secs(3), store.append(batch)).await;
        let error = answer.expect("an append outlived its deadline").unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, retry), "{error}");
    }
    proxy.heal().await;
    store.append(batch).await.unwrap();
    assert_eq!(store.collect(ReadFrom::Origin).await.unwrap(), events);
    scratch.remove().await;
}

#[tokio::test]
async fn a_broken_read_ends_with_an_error_after_a_correct_prefix() {
    let (proxy, scratch) = or_skip!(through_a_proxy().await);
    let store = scratch.open(options().with_prefetch(2, 1 << 20)).await;
    let events = log(0..40);
    for from in (0..40).step_by(2) {
        append(&store, &events, from, from + 2).await.unwrap();
    }
    for exchange in 1..30 {
        proxy.once(When::Exchange(exchange), Fault::CutAnswer(200));
        let mut seen = Vec::new();
        let mut read = store.read(ReadFrom::Origin);
        while let Some(event) = read.next().await {
            match event {
                Ok(event) => seen.push(event),
                Err(error) => {
                    let class = (error.kind(), error.retry());
                    assert_eq!(class, (ErrorKind::Unavailable, Retry::Safe), "{error}");
                    assert!(read.next().await.is_none(), "an error is the last item");
                    break;
                }
            }
        }
        proxy.heal().await;
        assert_eq!(seen, events[..seen.len()]);
        // A read that continues from there yields the rest.
        let from = seen.last().map(Event::id).into();
        seen.extend(store.collect(from).await.unwrap());
        assert_eq!(seen, events);
    }
    scratch.remove().await;
}
