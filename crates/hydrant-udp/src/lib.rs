//! Hydrant over UDP: one datagram an event, and a listener that notices what is missing.
//!
//! | to | use |
//! |---|---|
//! | send a log | [`UdpSink`] |
//! | receive it, with every gap named by its ids | [`UdpListener::received`] |
//! | receive it complete and in order | [`UdpListener`] as an [`EventSource`](hydrant::EventSource), given a [`refill`](UdpListenerOptions::refill) |
//!
//! UDP loses, doubles and re-orders datagrams, and any host can send: nothing here is authenticated or encrypted. Use
//! it on a network that you trust, for consumers that can live with a gap or have a refill. The bytes on the wire are
//! specified in `FORMAT.md`.
//!
//! Metrics, all counters: `hydrant_udp_sink_datagrams_total`, `hydrant_udp_sink_skipped_total`,
//! `hydrant_udp_sink_refused_total`, `hydrant_udp_listener_datagrams_total`, `hydrant_udp_listener_garbage_total`,
//! `hydrant_udp_listener_incomplete_total`. The rest is in [`UdpSink::stats`] and [`UdpListener::stats`].
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> hydrant::Result<()> {
//! use futures_util::StreamExt;
//! use hydrant::{Batch, Event, EventId, EventSink, ReadFrom};
//! use hydrant_udp::{Received, UdpListener, UdpListenerOptions, UdpSink, UdpSinkOptions};
//!
//! let listener = UdpListener::open("127.0.0.1:0", UdpListenerOptions::default()).await?;
//! let target = listener.local_addr().to_string();
//! let sink = UdpSink::open(&target, UdpSinkOptions::default()).await?;
//!
//! let events = [Event::new(EventId::ZERO, "hello")?];
//! sink.append(Batch::new(None, &events)?).await?;
//! let mut received = listener.received(ReadFrom::Origin);
//! assert_eq!(received.next().await.unwrap()?, Received::Event(events[0].clone()));
//! listener.close().await;
//! # Ok(()) }
//! ```

mod error;
mod held;
mod options;
mod partial;
mod receiver;
mod sink;
mod socket;
mod source;
mod view;
mod wire;

pub use options::{Interface, Oversize, UdpListenerOptions, UdpSinkOptions, Unnamed};
pub use sink::{UdpSink, UdpSinkStats};
pub use source::{Received, ReceivedStream, UdpListener, UdpListenerStats};
