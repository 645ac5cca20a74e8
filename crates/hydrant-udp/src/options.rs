//! Settings, with their units and defaults.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use hydrant::EventSource;

/// What a [`UdpSink`](crate::UdpSink) does with an event that is larger than one datagram may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Oversize {
    /// Answers `Invalid`, naming the event and its size; nothing is sent from this event on. A fan-out parks
    /// the sink, or, under `DeadLetter`, keeps the event aside and continues. The default.
    #[default]
    Park,
    /// Sends nothing for it and continues; counted in [`UdpSinkStats::skipped`](crate::UdpSinkStats::skipped).
    /// A listener reports the gap, because the next datagram names its predecessor.
    Skip,
    /// Sends it in several datagrams, which the listener puts together. One lost chunk loses the event.
    Chunk,
}

/// The network interface that multicast datagrams leave or arrive by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interface {
    /// By one of its addresses: the way of IPv4.
    Address(Ipv4Addr),
    /// By its index (`ip link` shows it): the way of IPv6.
    Index(u32),
}

/// Settings of a [`UdpSink`](crate::UdpSink).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct UdpSinkOptions {
    /// The largest payload of a datagram, in bytes. Default: 1,472, which an Ethernet frame carries over IPv4
    /// without fragments (take 1,452 over IPv6). A larger one is split by the kernel, and one lost fragment
    /// loses it whole. From 128 to 65,507.
    pub datagram_bytes_max: usize,
    /// What is done with an event that needs more. Default: [`Oversize::Park`].
    pub oversize: Oversize,
    /// The largest event sent in chunks, in bytes of its envelope. Default: 64 MiB, what listeners accept.
    pub event_bytes_max: usize,
    /// Whether each datagram names the predecessor of its event in the reserved member, so that a listener
    /// distinguishes a lost datagram from a gap in the ids of the log. Default: true.
    pub name_predecessor: bool,
    /// The size of the kernel's send buffer, in bytes. Default: what the system gives.
    pub send_buffer_bytes: Option<usize>,
    /// How many routers a multicast datagram may pass (TTL, hop limit). Default: 1, the local network.
    pub multicast_ttl: u8,
    /// The interface that multicast leaves by. Default: what the routing table says.
    pub multicast_interface: Option<Interface>,
}

impl Default for UdpSinkOptions {
    fn default() -> Self {
        Self {
            datagram_bytes_max: 1472,
            oversize: Oversize::default(),
            event_bytes_max: 64 << 20,
            name_predecessor: true,
            send_buffer_bytes: None,
            multicast_ttl: 1,
            multicast_interface: None,
        }
    }
}

impl UdpSinkOptions {
    /// Sets the largest payload of a datagram, in bytes.
    #[must_use]
    pub fn with_datagram_bytes_max(mut self, bytes: usize) -> Self {
        self.datagram_bytes_max = bytes;
        self
    }

    /// Sets what is done with an event that is larger than one datagram.
    #[must_use]
    pub fn with_oversize(mut self, oversize: Oversize) -> Self {
        self.oversize = oversize;
        self
    }

    /// Sets the largest event sent in chunks, in bytes of its envelope.
    #[must_use]
    pub fn with_event_bytes_max(mut self, bytes: usize) -> Self {
        self.event_bytes_max = bytes;
        self
    }

    /// Sets whether each datagram names the predecessor of its event.
    #[must_use]
    pub fn with_name_predecessor(mut self, named: bool) -> Self {
        self.name_predecessor = named;
        self
    }

    /// Sets the size of the kernel's send buffer, in bytes.
    #[must_use]
    pub fn with_send_buffer_bytes(mut self, bytes: usize) -> Self {
        self.send_buffer_bytes = Some(bytes);
        self
    }

    /// Sets how many routers a multicast datagram may pass.
    #[must_use]
    pub fn with_multicast_ttl(mut self, ttl: u8) -> Self {
        self.multicast_ttl = ttl;
        self
    }

    /// Sets the interface that multicast leaves by.
    #[must_use]
    pub fn with_multicast_interface(mut self, interface: Interface) -> Self {
        self.multicast_interface = Some(interface);
        self
    }
}

/// What a [`UdpListener`](crate::UdpListener) makes of a datagram that does not name its predecessor, as other
/// programs send it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unnamed {
    /// Takes the predecessor to be the id before it. In a log whose ids have gaps, these are reported too:
    /// a false alarm rather than a silent loss. The default.
    #[default]
    Contiguous,
    /// Refuses the datagram as garbage.
    Refuse,
}

/// Settings of a [`UdpListener`](crate::UdpListener).
#[derive(Clone)]
#[non_exhaustive]
pub struct UdpListenerOptions {
    /// Where missing events are fetched from, for the listener as an [`EventSource`]: the log that the sender
    /// sends, or a copy of it. Default: none; then a gap ends a read with an error.
    pub refill: Option<Arc<dyn EventSource>>,
    /// How long nothing may arrive before a follower asks the refill whether the newest datagrams were lost.
    /// Default: 1 second.
    pub refill_interval: Duration,
    /// How long a follower waits for the next event of a gap from the refill. Default: 30 seconds.
    pub refill_timeout: Duration,
    /// How many events are held for readers; the oldest go first. Default: 65,536.
    pub held_events_max: usize,
    /// How many bytes of events are held for readers; the oldest go first. Default: 64 MiB.
    pub held_bytes_max: usize,
    /// How long an event waits for one with a lower id before the gap is reported. Default: 50 ms.
    pub reorder_max: Duration,
    /// How many events wait behind a gap until it is reported early. Default: 128.
    pub reorder_events_max: usize,
    /// What is made of a datagram that does not name its predecessor. Default: [`Unnamed::Contiguous`].
    pub unnamed: Unnamed,
    /// The largest event put together from chunks, in bytes of its envelope. Default: 64 MiB.
    pub event_bytes_max: usize,
    /// How many events may be under way in chunks; the oldest go first. Default: 1,024.
    pub partial_events_max: usize,
    /// How many bytes of chunks (and 64 for each) may wait for the rest; the oldest go first. Default: 128 MiB.
    pub partial_bytes_max: usize,
    /// How long a chunk waits for the rest of its event. Default: 5 seconds.
    pub chunk_timeout: Duration,
    /// Whose datagrams are taken; those of others are counted and dropped. Default: empty, everybody's.
    pub senders: Vec<IpAddr>,
    /// The size of the kernel's receive buffer to ask for, in bytes. The system may grant less
    /// ([`UdpListener::receive_buffer_bytes`](crate::UdpListener::receive_buffer_bytes) returns it; on Linux
    /// `net.core.rmem_max` is the limit). What overflows it is lost. Default: 4 MiB.
    pub receive_buffer_bytes: usize,
    /// The interface on which a multicast group is joined. Default: the system's choice.
    pub multicast_interface: Option<Interface>,
}

impl Default for UdpListenerOptions {
    fn default() -> Self {
        Self {
            refill: None,
            refill_interval: Duration::from_secs(1),
            refill_timeout: Duration::from_secs(30),
            held_events_max: 65_536,
            held_bytes_max: 64 << 20,
            reorder_max: Duration::from_millis(50),
            reorder_events_max: 128,
            unnamed: Unnamed::default(),
            event_bytes_max: 64 << 20,
            partial_events_max: 1024,
            partial_bytes_max: 128 << 20,
            chunk_timeout: Duration::from_secs(5),
            senders: Vec::new(),
            receive_buffer_bytes: 4 << 20,
            multicast_interface: None,
        }
    }
}

impl UdpListenerOptions {
    /// Sets where missing events are fetched from.
    #[must_use]
    pub fn with_refill(mut self, refill: Arc<dyn EventSource>) -> Self {
        self.refill = Some(refill);
        self
    }

    /// Sets how long nothing may arrive before a follower asks the refill.
    #[must_use]
    pub fn with_refill_interval(mut self, interval: Duration) -> Self {
        self.refill_interval = interval;
        self
    }

    /// Sets how long a follower waits for the next event of a gap from the refill.
    #[must_use]
    pub fn with_refill_timeout(mut self, timeout: Duration) -> Self {
        self.refill_timeout = timeout;
        self
    }

    /// Sets how many events, and bytes of events, are held for readers.
    #[must_use]
    pub fn with_held_max(mut self, events: usize, bytes: usize) -> Self {
        self.held_events_max = events;
        self.held_bytes_max = bytes;
        self
    }

    /// Sets how long an event, and how many of them, wait for one with a lower id.
    #[must_use]
    pub fn with_reorder_max(mut self, wait: Duration, events: usize) -> Self {
        self.reorder_max = wait;
        self.reorder_events_max = events;
        self
    }

    /// Sets what is made of a datagram that does not name its predecessor.
    #[must_use]
    pub fn with_unnamed(mut self, unnamed: Unnamed) -> Self {
        self.unnamed = unnamed;
        self
    }

    /// Sets the largest event put together from chunks, in bytes of its envelope.
    #[must_use]
    pub fn with_event_bytes_max(mut self, bytes: usize) -> Self {
        self.event_bytes_max = bytes;
        self
    }

    /// Sets how many events, and bytes of their chunks, may be under way.
    #[must_use]
    pub fn with_partial_max(mut self, events: usize, bytes: usize) -> Self {
        self.partial_events_max = events;
        self.partial_bytes_max = bytes;
        self
    }

    /// Sets how long a chunk waits for the rest of its event.
    #[must_use]
    pub fn with_chunk_timeout(mut self, timeout: Duration) -> Self {
        self.chunk_timeout = timeout;
        self
    }

    /// Sets whose datagrams are taken; none means everybody's.
    #[must_use]
    pub fn with_senders(mut self, senders: impl IntoIterator<Item = IpAddr>) -> Self {
        self.senders = senders.into_iter().collect();
        self
    }

    /// Sets the size of the kernel's receive buffer to ask for, in bytes.
    #[must_use]
    pub fn with_receive_buffer_bytes(mut self, bytes: usize) -> Self {
        self.receive_buffer_bytes = bytes;
        self
    }

    /// Sets the interface on which a multicast group is joined.
    #[must_use]
    pub fn with_multicast_interface(mut self, interface: Interface) -> Self {
        self.multicast_interface = Some(interface);
        self
    }
}

impl fmt::Debug for UdpListenerOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UdpListenerOptions")
            .field("refill", &self.refill.as_ref().map(|_| "a source"))
            .field("refill_interval", &self.refill_interval)
            .field("refill_timeout", &self.refill_timeout)
            .field("held_events_max", &self.held_events_max)
            .field("held_bytes_max", &self.held_bytes_max)
            .field("reorder_max", &self.reorder_max)
            .field("reorder_events_max", &self.reorder_events_max)
            .field("unnamed", &self.unnamed)
            .field("event_bytes_max", &self.event_bytes_max)
            .field("partial_events_max", &self.partial_events_max)
            .field("partial_bytes_max", &self.partial_bytes_max)
            .field("chunk_timeout", &self.chunk_timeout)
            .field("senders", &self.senders)
            .field("receive_buffer_bytes", &self.receive_buffer_bytes)
            .field("multicast_interface", &self.multicast_interface)
            .finish()
    }
}
