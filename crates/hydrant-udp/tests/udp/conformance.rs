//! The sink under the laws of the kit, seen through a listener on the loopback interface.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt;
use hydrant::{Batch, Capabilities, Checkpoint, EventSink, EventSource, EventStream, ReadFrom, Result};
use hydrant_conformance::{Harness, Hook, Limits, Opened};
use hydrant_udp::{Oversize, UdpListener, UdpListenerOptions, UdpSink, UdpSinkOptions};

/// How many events are sent at once: few enough for the smallest receive buffer of a Linux machine.
const EVENTS_AT_ONCE: usize = 32;

/// A sink that never sends more than the listener's kernel has room for, and waits until the listener has received it:
/// the sink is not responsible for what the kernel loses or delays.
struct Paced {
    sink: UdpSink,
    listener: Arc<UdpListener>,
    /// What the listener had seen when the sink was opened.
    seen_before: u64,
}

impl Paced {
    /// Waits until the listener has received what was handed to the kernel.
    fn settled(&self) -> impl Future<Output = ()> + Send + 'static {
        let (listener, sent) = (self.listener.clone(), self.seen_before + self.sink.stats().datagrams);
        async move {
            while listener.stats().datagrams < sent {
                tokio::time::sleep(Duration::from_micros(50)).await;
            }
        }
    }
}

impl EventSource for Paced {
    fn read(&self, from: ReadFrom) -> EventStream {
        let (settled, listener) = (self.settled(), self.listener.clone());
        Box::pin(settled.map(move |()| listener.read(from)).flatten_stream())
    }

    fn follow(&self, from: ReadFrom) -> EventStream {
        self.listener.follow(from)
    }
}

#[async_trait]
impl EventSink for Paced {
    async fn append(&self, batch: Batch<'_>) -> Result<()> {
        let mut after = batch.after();
        for events in batch.events().chunks(EVENTS_AT_ONCE) {
            let part = Batch::new(after, events)?.with_deadline(batch.deadline());
            let result = self.sink.append(part).await;
            self.settled().await;
            result?;
            after = events.last().map(hydrant::Event::id);
        }
        Ok(())
    }

    async fn checkpoint(&self) -> Result<Checkpoint> {
        self.sink.checkpoint().await
    }
}

/// One listener for each namespace, which keeps the events that the sink does not keep.
#[derive(Default)]
struct Udp {
    listeners: Mutex<HashMap<String, Arc<UdpListener>>>,
}

#[async_trait]
impl Harness for Udp {
    fn capabilities(&self) -> Capabilities {
        Capabilities::NONE
    }

    fn limits(&self) -> Limits {
        Limits::default().with_event_bytes_max(100 << 10).with_events_max(2000)
    }

    fn impossible(&self, hook: Hook) -> Option<&'static str> {
        match hook {
            Hook::FailNextWrite | Hook::Delay => {
                Some("a send is over when the kernel has it, and it has it at once")
            }
            _ => None,
        }
    }

    async fn open(&self, namespace: &str) -> Result<Opened> {
        let open = self.listeners.lock().unwrap().get(namespace).cloned();
        let listener = if let Some(listener) = open {
            listener
        } else {
            let listener = Arc::new(UdpListener::open("127.0.0.1:0", UdpListenerOptions::default()).await?);
            self.listeners.lock().unwrap().insert(namespace.to_owned(), listener.clone());
            listener
        };
        let seen_before = listener.stats().datagrams;
        let options = UdpSinkOptions::default()
            .with_oversize(Oversize::Chunk)
            .with_event_bytes_max(self.limits().event_bytes_max);
        let sink = UdpSink::open(&listener.local_addr().to_string(), options).await?;
        let paced = Arc::new(Paced { sink, listener, seen_before });
        Ok(Opened::sink(paced.clone()).seen_through(paced))
    }
}

hydrant_conformance::sink_suite!(Udp::default());

/// The listener under the laws of a source: with a refill it is complete, although the network loses.
mod with_a_refill {
    use hydrant::MemoryStore;

    use super::{
        Arc, Batch, Capabilities, Checkpoint, Duration, EventSink, Harness, HashMap, Hook, Limits, Mutex,
        Opened, Oversize, Result, UdpListener, UdpListenerOptions, UdpSink, UdpSinkOptions, async_trait,
    };
    use crate::network::{Faults, Network};

    /// The log, and its sender.
    struct Writer {
        store: MemoryStore,
        sink: UdpSink,
    }

    #[async_trait]
    impl EventSink for Writer {
        async fn append(&self, batch: Batch<'_>) -> Result<()> {
            self.store.append(batch).await?;
            self.sink.append(batch).await
        }

        async fn checkpoint(&self) -> Result<Checkpoint> {
            self.store.checkpoint().await
        }
    }

    #[derive(Default)]
    struct Refilled {
        logs: Mutex<HashMap<String, MemoryStore>>,
    }

    #[async_trait]
    impl Harness for Refilled {
        fn capabilities(&self) -> Capabilities {
            Capabilities::SOURCE
        }

        fn limits(&self) -> Limits {
            Limits::default().with_events_max(5000)
        }

        fn impossible(&self, hook: Hook) -> Option<&'static str> {
            match hook {
                Hook::Damage(_) | Hook::Verify => Some("a listener stores nothing"),
                Hook::Replace => Some("its refill is in memory; `refill` gives it another history"),
                _ => None,
            }
        }

        async fn open(&self, namespace: &str) -> Result<Opened> {
            let store = self.logs.lock().unwrap().entry(namespace.to_owned()).or_default().clone();
            let options = UdpListenerOptions::default()
                .with_refill(Arc::new(store.clone()))
                .with_refill_interval(Duration::from_millis(20))
                .with_reorder_max(Duration::from_millis(1), 16)
                .with_held_max(500, 4 << 20);
            let listener = UdpListener::open("127.0.0.1:0", options).await?;
            let faults = Faults { lost: 10, doubled: 5, delayed: 5, damaged: 0 };
            let network = Network::before(listener.local_addr(), faults, hydrant_conformance::seed()).await;
            let options = UdpSinkOptions::default().with_oversize(Oversize::Chunk);
            let sink = UdpSink::open(&network.address.to_string(), options).await?;
            Ok(Opened::source(listener, Writer { store, sink }))
        }
    }

    hydrant_conformance::source_suite!(Refilled::default());
}
