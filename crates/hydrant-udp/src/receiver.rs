//! The task that empties the socket: datagrams in, events held.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hydrant::{Error, Result};
use tokio::net::UdpSocket;
use tokio::time::Instant;

use crate::held::{Arrival, Entry};
use crate::options::Unnamed;
use crate::partial::Partials;
use crate::view::Shared;
use crate::wire::{self, Datagram, Line, MARK_BYTES_MAX, Predecessor};

/// The largest datagram there is.
const DATAGRAM_BYTES_MAX: usize = 65_535;

/// How many datagrams are taken before other tasks get their turn.
const DATAGRAMS_PER_TURN: usize = 256;

/// How long a socket that fails is left alone.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(50);

/// Owns the socket; aborting its task closes it.
pub(crate) struct Receiver {
    socket: UdpSocket,
    shared: Arc<Shared>,
    partials: Partials,
    buffer: Vec<u8>,
    _closing: Closing,
}

impl Receiver {
    pub(crate) fn new(socket: UdpSocket, shared: Arc<Shared>) -> Self {
        let options = &shared.options;
        let partials =
            Partials::new(options.partial_events_max, options.partial_bytes_max, options.chunk_timeout);
        let closing = Closing(shared.clone());
        Self { socket, shared, partials, buffer: vec![0; DATAGRAM_BYTES_MAX], _closing: closing }
    }

    /// Runs until it is aborted. Its end wakes all followers, also after a panic.
    pub(crate) async fn run(mut self) {
        loop {
            let expired = async {
                match self.partials.deadline() {
                    Some(deadline) => tokio::time::sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            let ready = tokio::select! {
                ready = self.socket.readable() => ready,
                () = expired => Ok(()),
            };
            let received = ready.and_then(|()| self.receive_some());
            if let Err(cause) = received {
                self.shared.count(|stats| stats.receive_errors += 1);
                tracing::warn!(address = self.shared.address, %cause, "the socket fails; trying again");
                tokio::time::sleep(PAUSE_AFTER_ERROR).await;
            }
            tokio::task::yield_now().await;
        }
    }

    /// Takes what the kernel has, up to one turn.
    fn receive_some(&mut self) -> io::Result<()> {
        let now = Instant::now();
        let expired = self.partials.expire(now);
        if expired > 0 {
            self.shared.count(|stats| stats.incomplete += expired);
            metrics::counter!("hydrant_udp_listener_incomplete_total").increment(expired);
        }
        for _ in 0..DATAGRAMS_PER_TURN {
            match self.socket.try_recv_from(&mut self.buffer) {
                Ok((bytes, sender)) => {
                    let datagram = Bytes::copy_from_slice(&self.buffer[..bytes]);
                    self.take(&datagram, sender, now);
                }
                Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => break,
                Err(cause) => {
                    self.shared.wake();
                    return Err(cause);
                }
            }
        }
        self.shared.wake();
        Ok(())
    }

    fn take(&mut self, datagram: &Bytes, sender: SocketAddr, now: Instant) {
        self.shared.count(|stats| stats.datagrams += 1);
        metrics::counter!("hydrant_udp_listener_datagrams_total").increment(1);
        let senders = &self.shared.options.senders;
        if !senders.is_empty() && !senders.contains(&sender.ip().to_canonical()) {
            self.shared.count(|stats| stats.foreign += 1);
            return;
        }
        if let Err(error) = self.take_own(datagram, now) {
            let count = self.shared.count(|stats| {
                stats.garbage += 1;
                stats.garbage
            });
            metrics::counter!("hydrant_udp_listener_garbage_total").increment(1);
            // A flood of garbage must not become a flood of log lines.
            if count.is_power_of_two() {
                tracing::warn!(address = self.shared.address, %sender, count, %error, "a datagram is no event");
            }
        }
    }

    fn take_own(&mut self, datagram: &Bytes, now: Instant) -> Result<()> {
        let bytes_max = self.shared.options.event_bytes_max;
        match wire::decode(datagram)? {
            Datagram::Line(line) => self.hold(line, now),
            Datagram::Chunk(chunk)
                if chunk.of.total_bytes as usize > bytes_max.saturating_add(MARK_BYTES_MAX) =>
            {
                let bytes = chunk.of.total_bytes;
                Err(Error::invalid(format!("{bytes} bytes are more than `event_bytes_max` = {bytes_max}"))
                    .at(chunk.of.id))
            }
            Datagram::Chunk(chunk) => {
                let taken = self.partials.take(chunk, now);
                self.shared.count(|stats| {
                    stats.incomplete += taken.dropped;
                    stats.duplicates += u64::from(taken.duplicate);
                });
                match taken.line {
                    Some((of, line)) => self.hold(wire::decode_whole(&of, &line)?, now),
                    None => Ok(()),
                }
            }
        }
    }

    fn hold(&self, line: Line, arrived: Instant) -> Result<()> {
        let Line { event, predecessor } = line;
        let id = event.id();
        let (after, named) = match (predecessor, self.shared.options.unnamed) {
            (Predecessor::Named(after), _) => (after, true),
            (Predecessor::Unnamed, Unnamed::Contiguous) => (id.prev(), false),
            (Predecessor::Unnamed, Unnamed::Refuse) => {
                return Err(Error::invalid("the datagram does not name its predecessor").at(id));
            }
        };
        let conflict = self.shared.hold(Entry { event, after, named, arrived });
        if conflict.is_power_of_two() {
            tracing::warn!(
                address = self.shared.address, event = %id, count = conflict,
                "another event is held under this id: two senders, or another log"
            );
        }
        Ok(())
    }
}

impl Shared {
    /// Holds an event and counts what became of it. Returns the number of conflicts if this is one, else 0.
    fn hold(&self, entry: Entry) -> u64 {
        let mut state = self.lock();
        match state.held.insert(entry) {
            Arrival::New { evicted } => {
                state.stats.events += 1;
                state.stats.evicted += evicted;
                0
            }
            Arrival::Duplicate => {
                state.stats.duplicates += 1;
                0
            }
            Arrival::Conflict => {
                state.stats.conflicts += 1;
                state.stats.conflicts
            }
        }
    }
}

/// Wakes all followers when the task ends, also by a panic.
struct Closing(Arc<Shared>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close();
    }
}
