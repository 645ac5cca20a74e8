//! The listener: a source of what arrives.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::stream::{self, BoxStream};
use hydrant::{Event, EventId, EventSource, EventStream, ReadFrom, Result};
use tokio::task::JoinHandle;

use crate::options::UdpListenerOptions;
use crate::receiver::Receiver;
use crate::socket;
use crate::view::{Reader, Shared, Step, View, closed};

/// Receives events, puts chunks together, drops duplicates, restores the order within a small window, and
/// names every gap.
///
/// A task takes datagrams from the kernel as they come, also without a reader. The newest events are
/// held in bounded memory ([`held_events_max`](UdpListenerOptions::held_events_max)) for any number of readers,
/// none of which slows the task or another reader: one that falls too far behind finds a gap.
///
/// There are two views of what arrives:
/// - [`received`](Self::received) yields events and the gaps between them, as they are.
/// - As an [`EventSource`] it is complete and in order, or says that it cannot be. With a
///   [`refill`](UdpListenerOptions::refill), every read begins there, continues with the held events, and
///   fetches what was lost on the way (by asking now and then, also what was lost last). Without one, a read
///   that begins below the oldest event held ends with `Pruned`, and one that comes to a gap with `Gap`,
///   naming the ids. `read` ends at the newest event that was there when it began, `follow` continues.
///
/// Each datagram names the predecessor of its event. So a listener distinguishes a loss from a gap in the ids of
/// the log. Datagrams of other programs name none; see [`Unnamed`](crate::Unnamed).
///
/// Garbage is counted and logged, and costs nothing else. Anybody who can send to the port can, however, send
/// a valid event: see [`senders`](UdpListenerOptions::senders), and use networks that you trust.
#[derive(Debug)]
pub struct UdpListener {
    shared: Arc<Shared>,
    local_addr: SocketAddr,
    receive_buffer_bytes: usize,
    task: Mutex<Option<JoinHandle<()>>>,
}

/// What came: an event, or the knowledge that some are missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// The next event.
    Event(Event),
    /// At least one event between these two did not arrive in time. It is reported once, right before `before`
    /// is yielded; an event of it that arrives later is held for readers to come.
    Gap {
        /// The last event that this reader knows; `None` for the beginning of the log.
        after: Option<EventId>,
        /// The event behind the gap.
        before: EventId,
    },
}

/// Events and gaps, in order; an error is the last item.
pub type ReceivedStream = BoxStream<'static, Result<Received>>;

/// What a [`UdpListener`] saw since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct UdpListenerStats {
    /// Datagrams received, of every kind.
    pub datagrams: u64,
    /// Different events received, whole.
    pub events: u64,
    /// Events and chunks that were there already, or came after younger events had been dropped.
    pub duplicates: u64,
    /// Events that differ from the one held under their id: two senders, or another log. The first is kept.
    pub conflicts: u64,
    /// Datagrams that are no event and no chunk, or chunks that did not make the event they promised.
    pub garbage: u64,
    /// Events given up because chunks were missing: too late, or too many under way.
    pub incomplete: u64,
    /// Events dropped to make room for newer ones.
    pub evicted: u64,
    /// Datagrams of senders that are not in [`UdpListenerOptions::senders`].
    pub foreign: u64,
    /// How often the socket failed to receive.
    pub receive_errors: u64,
}

impl UdpListener {
    /// Listens on `bind`, `host:port`: an address of this machine, `0.0.0.0` or `[::]` for all of them, or a
    /// multicast group, which is joined. Port 0 lets the system choose ([`local_addr`](Self::local_addr)).
    ///
    /// # Errors
    /// `Unavailable` when the port is in use, `Invalid` for an address that is none or not of this machine,
    /// `Denied` for a port that needs a privilege.
    ///
    /// # Cancel safety
    /// A dropped future leaves no socket.
    pub async fn open(bind: &str, options: UdpListenerOptions) -> Result<Self> {
        let bind = socket::resolve(bind).await?;
        let (socket, receive_buffer_bytes) = socket::listening(bind, &options)?;
        let local_addr =
            socket.local_addr().map_err(|cause| crate::error::opening(cause, &bind.to_string()))?;
        if receive_buffer_bytes < options.receive_buffer_bytes {
            tracing::info!(
                asked = options.receive_buffer_bytes,
                granted = receive_buffer_bytes,
                "the receive buffer is smaller than asked for; raise net.core.rmem_max"
            );
        }
        let shared = Arc::new(Shared::new(options, local_addr.to_string()));
        let task = tokio::spawn(Receiver::new(socket, shared.clone()).run());
        Ok(Self { shared, local_addr, receive_buffer_bytes, task: Mutex::new(Some(task)) })
    }

    /// The address that it listens on.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Returns the size of the kernel's receive buffer, as the kernel reports it (Linux doubles it for its own needs).
    pub fn receive_buffer_bytes(&self) -> usize {
        self.receive_buffer_bytes
    }

    /// What it saw since it was opened.
    pub fn stats(&self) -> UdpListenerStats {
        self.shared.lock().stats
    }

    /// Events and gaps from `from` on: first what is held, then what comes. `Closed` ends it. The refill is not
    /// asked.
    ///
    /// What is missing before the first event held is a gap, too.
    pub fn received(&self, from: ReadFrom) -> ReceivedStream {
        let state = Some((Reader::following(self.shared.clone(), from), self.shared.address.clone()));
        Box::pin(stream::unfold(state, |state| async move {
            let (mut reader, address) = state?;
            match reader.step().await {
                Step::Event(event) => Some((Ok(Received::Event(event)), Some((reader, address)))),
                Step::Hole(hole) => {
                    let gap = Received::Gap { after: hole.after, before: hole.next.event.id() };
                    reader.position = hole.next.after;
                    Some((Ok(gap), Some((reader, address))))
                }
                Step::End => None,
                Step::Closed => Some((Err(closed(&address)), None)),
            }
        }))
    }

    /// Closes the socket and waits until it is released. What is held can still be read.
    ///
    /// # Cancel safety
    /// A dropped future closes it all the same, without waiting.
    pub async fn close(&self) {
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            task.abort();
            // Ends when the task, and its socket with it, is gone; that it was aborted is no news.
            drop(task.await);
        }
    }
}

impl Drop for UdpListener {
    fn drop(&mut self) {
        let task = self.task.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(task) = task.take() {
            task.abort();
        }
    }
}

impl EventSource for UdpListener {
    fn read(&self, from: ReadFrom) -> EventStream {
        View::new(Reader::reading(self.shared.clone(), from), from).into_stream()
    }

    fn follow(&self, from: ReadFrom) -> EventStream {
        View::new(Reader::following(self.shared.clone(), from), from).into_stream()
    }
}
