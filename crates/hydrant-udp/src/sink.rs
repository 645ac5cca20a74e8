//! The sink: one datagram an event.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use hydrant::{Batch, Checkpoint, Error, EventId, EventSink, Result};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::Mutex;
use tokio::time::timeout_at;

use crate::options::{Oversize, UdpSinkOptions};
use crate::wire::{Chunks, Frame};
use crate::{error, socket};

/// How many datagrams one system call takes at most.
const DATAGRAMS_PER_CALL: usize = 64;

/// How often in a row the target may refuse before anything is sent. One call can report one refusal of an
/// earlier datagram, so this is reached only when something else is wrong.
const REFUSALS_MAX: u32 = 64;

/// Sends each event as one UDP datagram.
///
/// Acknowledged means: handed to the kernel. UDP promises nothing beyond that. The sink has no memory (its
/// checkpoint is `Unknown`), so wrap it in `Checkpointed` if a restart should not begin at the first event
/// again, and let the receiver be a [`UdpListener`](crate::UdpListener), which watches ids for gaps. Several
/// sinks may send to one listener only if they send the same log.
///
/// Appends are sent one after the other, in order. When the kernel's buffer is full, an append waits, until the
/// deadline of its batch if it has one.
///
/// A target without a listener is no error, because `Ok` promises nothing about it. What the target's kernel
/// refuses is counted in [`refused`](UdpSinkStats::refused), and the datagram that met the refusal is still sent.
/// The name of the target is resolved once, to its first address.
#[derive(Debug)]
pub struct UdpSink {
    target: String,
    socket: Mutex<Option<UdpSocket>>,
    options: UdpSinkOptions,
    counters: Counters,
}

/// What a [`UdpSink`] did since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct UdpSinkStats {
    /// Datagrams handed to the kernel.
    pub datagrams: u64,
    /// Events larger than a datagram that were not sent ([`Oversize::Skip`]).
    pub skipped: u64,
    /// How many refusals came back, at least: the target has no listener. The kernel merges them.
    pub refused: u64,
}

#[derive(Debug, Default)]
struct Counters {
    datagrams: AtomicU64,
    skipped: AtomicU64,
    refused: AtomicU64,
}

/// A datagram to be: two slices, and the event that it belongs to.
struct Datagram<'a> {
    event: EventId,
    frame: Frame,
    body: &'a [u8],
    frame_first: bool,
}

impl Datagram<'_> {
    fn parts(&self) -> [&[u8]; 2] {
        let frame = self.frame.as_slice();
        if self.frame_first { [frame, self.body] } else { [self.body, frame] }
    }

    fn bytes(&self) -> usize {
        self.frame.as_slice().len() + self.body.len()
    }
}

impl UdpSink {
    /// Opens a socket that sends to `target`, `host:port`: the name or the IPv4 or IPv6 address of a host, a
    /// multicast group, or a broadcast address.
    ///
    /// # Errors
    /// `Invalid` for what is no address and for options that do not fit it, `Unavailable` for a name that
    /// cannot be resolved and a socket that cannot be opened.
    ///
    /// # Cancel safety
    /// A dropped future leaves no socket.
    pub async fn open(target: &str, options: UdpSinkOptions) -> Result<Self> {
        if !(128..=65_507).contains(&options.datagram_bytes_max) {
            let max = options.datagram_bytes_max;
            return Err(Error::invalid(format!(
                "`datagram_bytes_max` is {max}; take 128 to 65,507, or 1,472 for Ethernet"
            ))
            .at_target(target));
        }
        let address = socket::resolve(target).await?;
        let socket = socket::sending(address, &options)?;
        Ok(Self {
            target: target.to_owned(),
            socket: Mutex::new(Some(socket)),
            options,
            counters: Counters::default(),
        })
    }

    /// What the sink did since it was opened.
    pub fn stats(&self) -> UdpSinkStats {
        UdpSinkStats {
            datagrams: self.counters.datagrams.load(Ordering::Relaxed),
            skipped: self.counters.skipped.load(Ordering::Relaxed),
            refused: self.counters.refused.load(Ordering::Relaxed),
        }
    }

    /// Closes the socket, behind the append in flight. What comes later is answered `Closed`.
    ///
    /// # Cancel safety
    /// Dropped, it may have closed nothing; call it again.
    pub async fn close(&self) {
        drop(self.socket.lock().await.take());
    }

    /// Sends a batch behind the append in flight, and counts the datagrams that were handed over in `sent`.
    ///
    /// # Cancel safety
    /// As [`send`](Self::send).
    async fn send_batch(&self, batch: Batch<'_>, sent: &mut u64) -> Result<()> {
        let socket = self.socket.lock().await;
        let socket = socket
            .as_ref()
            .ok_or_else(|| Error::closed("the sink was closed; open it again").at_target(&self.target))?;
        let max = self.options.datagram_bytes_max;
        let mut group = Vec::with_capacity(DATAGRAMS_PER_CALL);
        let mut predecessor = batch.after();
        for event in batch.events() {
            let id = event.id();
            let frame =
                if self.options.name_predecessor { Frame::closing(predecessor) } else { Frame::plain() };
            predecessor = Some(id);
            let whole = Datagram { event: id, frame, body: event.open_envelope(), frame_first: false };
            if whole.bytes() <= max {
                group.push(whole);
                if group.len() == DATAGRAMS_PER_CALL {
                    self.send(socket, &mut group, sent).await?;
                }
                continue;
            }
            match self.options.oversize {
                Oversize::Skip => {
                    self.counters.skipped.fetch_add(1, Ordering::Relaxed);
                    metrics::counter!("hydrant_udp_sink_skipped_total").increment(1);
                    let (bytes, to) = (whole.bytes(), &self.target);
                    tracing::warn!(event = %id, bytes, max, to, "skipped: larger than a datagram may be");
                }
                Oversize::Park => {
                    self.send(socket, &mut group, sent).await?;
                    return Err(self.too_large(id, whole.bytes(), "datagram_bytes_max", max));
                }
                Oversize::Chunk => {
                    self.send(socket, &mut group, sent).await?;
                    if event.size() > self.options.event_bytes_max {
                        let max = self.options.event_bytes_max;
                        return Err(self.too_large(id, event.size(), "event_bytes_max", max));
                    }
                    let line = whole.parts().concat();
                    let mut chunks = Vec::with_capacity(DATAGRAMS_PER_CALL);
                    for (frame, body) in Chunks::of(&line, id, max)? {
                        chunks.push(Datagram { event: id, frame, body, frame_first: true });
                        if chunks.len() == DATAGRAMS_PER_CALL {
                            self.send(socket, &mut chunks, sent).await?;
                        }
                    }
                    self.send(socket, &mut chunks, sent).await?;
                }
            }
        }
        self.send(socket, &mut group, sent).await
    }

    /// Sends all of `group` and empties it.
    ///
    /// # Cancel safety
    /// A dropped future has sent a prefix; nothing is under way behind it.
    async fn send(&self, socket: &UdpSocket, group: &mut Vec<Datagram<'_>>, sent: &mut u64) -> Result<()> {
        let mut rest = &group[..];
        let mut refusals = 0;
        while let Some(first) = rest.first() {
            let hand_over = || {
                let parts: Vec<_> = rest.iter().map(Datagram::parts).collect();
                socket::send_many(socket, &parts)
            };
            match socket.async_io(Interest::WRITABLE, hand_over).await {
                Ok(count) => {
                    refusals = 0;
                    rest = &rest[count..];
                    *sent += count as u64;
                    self.counters.datagrams.fetch_add(count as u64, Ordering::Relaxed);
                    metrics::counter!("hydrant_udp_sink_datagrams_total").increment(count as u64);
                }
                // The answer to an *earlier* datagram: the target had no listener. This datagram was not sent yet.
                // That is no failure of a delivery, because the sink promises none.
                Err(cause) if cause.kind() == io::ErrorKind::ConnectionRefused && refusals < REFUSALS_MAX => {
                    refusals += 1;
                    self.counters.refused.fetch_add(1, Ordering::Relaxed);
                    metrics::counter!("hydrant_udp_sink_refused_total").increment(1);
                }
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
                // ENOBUFS and the like are returned, not retried here: the fan-out has the backoff.
                Err(cause) => {
                    return Err(error::sending(cause, &self.target, first.event, first.bytes(), *sent == 0));
                }
            }
        }
        group.clear();
        Ok(())
    }

    fn too_large(&self, event: EventId, bytes: usize, limit: &str, max: usize) -> Error {
        Error::invalid(format!(
            "{bytes} bytes are more than `{limit}` = {max}; raise it, or choose another `oversize`"
        ))
        .at(event)
        .at_target(&self.target)
    }
}

#[async_trait]
impl EventSink for UdpSink {
    /// Hands a batch to the kernel, datagram by datagram.
    ///
    /// # Errors
    /// `Invalid` for an event that is too large, by `oversize`; `Denied`; `Unavailable`, also where the deadline of the
    /// batch passes: `Safe` while nothing of it was sent.
    ///
    /// # Cancel safety
    /// A dropped future has sent a prefix; nothing is under way behind it.
    async fn append(&self, batch: Batch<'_>) -> Result<()> {
        let mut sent = 0;
        let Some(deadline) = batch.deadline() else { return self.send_batch(batch, &mut sent).await };
        let in_time = timeout_at(deadline, self.send_batch(batch, &mut sent)).await;
        in_time.unwrap_or_else(|_| Err(error::late(&self.target, sent == 0)))
    }

    async fn checkpoint(&self) -> Result<Checkpoint> {
        Ok(Checkpoint::Unknown)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hydrant::{ErrorKind, Event, Retry};
    use tokio::time::Instant;

    use super::*;

    #[tokio::test]
    async fn append_waits_for_its_turn_until_its_deadline() {
        let sink = UdpSink::open("127.0.0.1:9", UdpSinkOptions::default()).await.unwrap();
        let events = [Event::new(EventId::ZERO, "a").unwrap()];
        let batch = Batch::new(None, &events).unwrap();
        let under_way = sink.socket.lock().await;
        let late = batch.with_deadline(Some(Instant::now() + Duration::from_millis(50)));
        let error = sink.append(late).await.unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::Safe), "{error}");
        assert_eq!(sink.stats().datagrams, 0);
        drop(under_way);
        sink.append(batch).await.unwrap();
        assert_eq!(sink.stats().datagrams, 1);
    }
}
