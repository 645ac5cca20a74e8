//! Real sockets on the loopback interface, with a proxy that loses, doubles and re-orders by seed.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod conformance;
mod listener;
mod network;
mod refill;
mod sink;

use futures_util::StreamExt;
use hydrant::{Batch, Event, EventId, EventSink, EventStream};
use hydrant_udp::{Received, ReceivedStream, UdpListener, UdpListenerOptions, UdpSink, UdpSinkOptions};

/// Events of these ids; the payload grows with the id, so that no two look alike.
pub(crate) fn log(ids: impl IntoIterator<Item = u64>) -> Vec<Event> {
    let event = |id: u64| {
        Event::builder(EventId::new(id))
            .payload(&serde_json::json!({"tag": "Deposited", "amount": id * 7}))
            .and_then(|event| event.time("2026-01-05T09:00:00Z").build())
            .unwrap()
    };
    ids.into_iter().map(event).collect()
}

/// An event whose payload is a string of so many bytes.
pub(crate) fn large(id: u64, bytes: usize) -> Event {
    let text: String = (0..bytes).map(|at| char::from(b'a' + u8::try_from(at % 26).unwrap())).collect();
    Event::new(EventId::new(id), &text).unwrap()
}

pub(crate) async fn listen(options: UdpListenerOptions) -> UdpListener {
    UdpListener::open("127.0.0.1:0", options).await.unwrap()
}

pub(crate) async fn sink_to(listener: &UdpListener, options: UdpSinkOptions) -> UdpSink {
    UdpSink::open(&listener.local_addr().to_string(), options).await.unwrap()
}

pub(crate) async fn send(sink: &UdpSink, events: &[Event]) {
    send_after(sink, None, events).await;
}

pub(crate) async fn send_after(sink: &UdpSink, after: Option<u64>, events: &[Event]) {
    let mut after = after.map(EventId::new);
    for segment in Batch::segments(events) {
        sink.append(Batch::new(after, segment).unwrap()).await.unwrap();
        after = segment.last().map(Event::id);
    }
}

/// The next `count` items of a stream that never ends by itself.
pub(crate) async fn take(stream: &mut EventStream, count: usize) -> Vec<Event> {
    stream.take(count).map(Result::unwrap).collect().await
}

/// The next `count` events and gaps.
pub(crate) async fn receive(stream: &mut ReceivedStream, count: usize) -> Vec<Received> {
    stream.take(count).map(Result::unwrap).collect().await
}

pub(crate) fn gap(after: Option<u64>, before: u64) -> Received {
    Received::Gap { after: after.map(EventId::new), before: EventId::new(before) }
}

/// Waits until the listener saw so many datagrams.
pub(crate) async fn seen(listener: &UdpListener, datagrams: u64) {
    while listener.stats().datagrams < datagrams {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
}
