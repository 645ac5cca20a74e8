//! Events under way in chunks: bounded in number, bytes and time.

use std::collections::BTreeMap;

use bytes::Bytes;
use tokio::time::{Duration, Instant};

use crate::wire::{Chunk, Whole};

/// What one chunk costs beside its bytes.
const CHUNK_OVERHEAD_BYTES: usize = 64;

/// Incomplete lines. Memory follows what was received, never what a header claims.
#[derive(Debug)]
pub(crate) struct Partials {
    lines: BTreeMap<Whole, Partial>,
    bytes: usize,
    events_max: usize,
    bytes_max: usize,
    timeout: Duration,
}

#[derive(Debug)]
struct Partial {
    since: Instant,
    bytes: usize,
    pieces: BTreeMap<u32, Bytes>,
}

/// What a chunk led to.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    /// The line, when this chunk was the last one missing.
    pub(crate) line: Option<(Whole, Bytes)>,
    /// Whether the chunk was there already.
    pub(crate) duplicate: bool,
    /// How many other lines were given up to make room.
    pub(crate) dropped: u64,
}

impl Partials {
    pub(crate) fn new(events_max: usize, bytes_max: usize, timeout: Duration) -> Self {
        Self { lines: BTreeMap::new(), bytes: 0, events_max, bytes_max, timeout }
    }

    pub(crate) fn take(&mut self, chunk: Chunk, now: Instant) -> Taken {
        let Chunk { of, index, piece } = chunk;
        let line =
            self.lines.entry(of).or_insert_with(|| Partial { since: now, bytes: 0, pieces: BTreeMap::new() });
        let cost = piece.len() + CHUNK_OVERHEAD_BYTES;
        if line.pieces.contains_key(&index) {
            return Taken { duplicate: true, ..Taken::default() };
        }
        line.pieces.insert(index, piece);
        line.bytes += cost;
        self.bytes += cost;
        let complete = line.pieces.len() == of.count as usize;
        if complete {
            let pieces = self.remove(&of).map(|line| line.pieces).unwrap_or_default();
            let mut whole = Vec::with_capacity(of.total_bytes as usize);
            for piece in pieces.values() {
                whole.extend_from_slice(piece);
            }
            return Taken { line: Some((of, whole.into())), ..Taken::default() };
        }
        let mut taken = Taken::default();
        while self.lines.len() > self.events_max || self.bytes > self.bytes_max {
            let Some((oldest, _)) = self.oldest() else { break };
            self.remove(&oldest);
            taken.dropped += 1;
        }
        taken
    }

    /// Gives up what waited too long; says how many lines that were.
    pub(crate) fn expire(&mut self, now: Instant) -> u64 {
        let mut dropped = 0;
        while let Some((oldest, since)) = self.oldest() {
            if now < since + self.timeout {
                break;
            }
            self.remove(&oldest);
            dropped += 1;
        }
        dropped
    }

    /// When the next line has waited too long.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.oldest().map(|(_, since)| since + self.timeout)
    }

    fn oldest(&self) -> Option<(Whole, Instant)> {
        self.lines.iter().map(|(of, line)| (*of, line.since)).min_by_key(|(_, since)| *since)
    }

    fn remove(&mut self, of: &Whole) -> Option<Partial> {
        let line = self.lines.remove(of)?;
        self.bytes -= line.bytes;
        Some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{self, Chunks, Datagram};
    use hydrant::EventId;

    fn chunks(id: u64, bytes: usize) -> Vec<Chunk> {
        let line = vec![b'x'; bytes];
        let cut = Chunks::of(&line, EventId::new(id), 128).unwrap();
        cut.map(|(frame, piece)| match wire::decode(&[frame.as_slice(), piece].concat().into()).unwrap() {
            Datagram::Chunk(chunk) => chunk,
            Datagram::Line(_) => panic!("a line"),
        })
        .collect()
    }

    fn partials(events_max: usize, bytes_max: usize) -> Partials {
        Partials::new(events_max, bytes_max, Duration::from_secs(5))
    }

    #[test]
    fn chunks_in_any_order_and_doubled_make_the_line() {
        let mut partials = partials(9, 1 << 20);
        let mut pieces = chunks(1, 1000);
        let twice = chunks(1, 1000).remove(3);
        pieces.reverse();
        let now = Instant::now();
        let last = pieces.pop().unwrap();
        for piece in pieces {
            assert!(partials.take(piece, now).line.is_none());
        }
        assert!(partials.take(twice, now).duplicate);
        assert_eq!(partials.take(last, now).line.unwrap().1, vec![b'x'; 1000]);
        assert_eq!((partials.lines.len(), partials.bytes), (0, 0));
    }

    #[test]
    fn partial_events_are_bounded_and_the_oldest_go_first() {
        let start = Instant::now();
        let mut by_events = partials(2, 1 << 20);
        let mut dropped = 0;
        for id in 0..5 {
            dropped += by_events.take(chunks(id, 1000).remove(0), start + Duration::from_millis(id)).dropped;
        }
        assert_eq!((by_events.lines.len(), dropped), (2, 3));
        assert!(by_events.lines.keys().all(|of| of.id >= EventId::new(3)));

        let mut by_bytes = partials(100, 500);
        for id in 0..9 {
            by_bytes.take(chunks(id, 1000).remove(0), start + Duration::from_millis(id));
            assert!(by_bytes.bytes <= 500);
        }
    }

    #[test]
    fn what_waits_too_long_is_given_up() {
        let start = Instant::now();
        let mut partials = partials(9, 1 << 20);
        partials.take(chunks(1, 1000).remove(0), start);
        partials.take(chunks(2, 1000).remove(0), start + Duration::from_secs(3));
        assert_eq!(partials.deadline(), Some(start + Duration::from_secs(5)));
        assert_eq!(partials.expire(start + Duration::from_secs(4)), 0);
        assert_eq!(partials.expire(start + Duration::from_secs(5)), 1);
        assert_eq!(partials.expire(start + Duration::from_secs(50)), 1);
        assert_eq!((partials.bytes, partials.deadline()), (0, None));
    }
}
