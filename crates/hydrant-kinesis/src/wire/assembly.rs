//! Events under way in chunks.

use std::collections::BTreeMap;

use bytes::Bytes;
use hydrant::{Error, EventId, Result};

use super::chunk::{Chunk, Whole};
use super::mark::{Marked, decode_line};
use super::md5_of;

/// How many events may be under way in chunks. A writer has one at a time; the others are left by writers that
/// crashed or were fenced off. The lowest id is dropped first. The next event then shows the loss, because it names
/// its predecessor.
const PARTIAL_EVENTS_MAX: usize = 4;

/// What a line may have beyond the envelope of its event: the mark.
const MARK_BYTES_MAX: usize = 64;

/// Puts events together from their chunks, which may come more than once and in any order.
#[derive(Debug)]
pub(crate) struct Assembly {
    event_bytes_max: usize,
    partial: BTreeMap<Whole, BTreeMap<u32, Bytes>>,
}

impl Assembly {
    /// `event_bytes_max`: the largest event that is put together, in bytes of its envelope.
    pub(crate) fn new(event_bytes_max: usize) -> Self {
        Self { event_bytes_max, partial: BTreeMap::new() }
    }

    /// Returns whether an event is under way.
    pub(crate) fn is_partial(&self) -> bool {
        !self.partial.is_empty()
    }

    /// Gives up what is under way up to `id`: a later event was written, so its writer did, too.
    pub(crate) fn forget_up_to(&mut self, id: EventId) {
        self.partial.retain(|of, _| of.id > id);
    }

    /// Takes a chunk; the event, once all of its chunks were there.
    ///
    /// # Errors
    /// `Unsupported` for an event that is larger than this reader takes, `Corrupt` when the checksum or the
    /// id is not what the chunks said.
    pub(crate) fn take(&mut self, chunk: Chunk) -> Result<Option<Marked>> {
        let of = chunk.of;
        if of.total_bytes as usize > self.event_bytes_max + MARK_BYTES_MAX {
            let message = format!(
                "{} bytes are more than `event_bytes_max` = {}; raise it for this reader",
                of.total_bytes, self.event_bytes_max
            );
            return Err(Error::unsupported(message).at(of.id));
        }
        let pieces = self.partial.entry(of).or_default();
        pieces.insert(chunk.index, chunk.piece);
        if pieces.len() < of.count as usize {
            if self.partial.len() > PARTIAL_EVENTS_MAX {
                self.partial.pop_first();
            }
            return Ok(None);
        }
        let line = pieces.values().map(Bytes::as_ref).collect::<Vec<_>>().concat();
        // What is below belongs to an event that was given up, and then sent again.
        self.partial.retain(|other, _| other.id > of.id);
        whole(&of, &line.into()).map(Some)
    }
}

fn whole(of: &Whole, line: &Bytes) -> Result<Marked> {
    if md5_of(line) != of.md5 {
        return Err(Error::corrupt("the checksum of the chunks differs").at(of.id));
    }
    let marked = decode_line(line)?;
    if marked.event.id() == of.id {
        Ok(marked)
    } else {
        Err(Error::corrupt(format!("the chunks hold event {} instead", marked.event.id())).at(of.id))
    }
}

#[cfg(test)]
mod tests {
    use hydrant::{ErrorKind, Event, EventId};

    use super::super::mark::{Predecessor, closing};
    use super::super::{chunk, chunk::Chunks};
    use super::*;

    fn chunks(id: u64, says: u64, after: Option<EventId>) -> (Event, Vec<Chunk>) {
        let event = Event::new(EventId::new(id), &"x".repeat(500)).unwrap();
        let line = [event.open_envelope(), &closing(after)].concat();
        let records = Chunks::of(line.into(), EventId::new(says), "log", 128).unwrap();
        let chunks = records.map(|record| chunk::decode(&record.into(), "log").unwrap().unwrap()).collect();
        (event, chunks)
    }

    #[test]
    fn chunks_make_the_event_in_any_order_and_however_often() {
        let after = Some(EventId::new(3));
        let (event, mut of_event) = chunks(7, 7, after);
        of_event.extend(of_event.clone());
        of_event.rotate_left(3);
        of_event.swap(0, 4);
        let mut assembly = Assembly::new(1 << 10);
        let whole: Vec<_> = of_event.into_iter().filter_map(|chunk| assembly.take(chunk).unwrap()).collect();
        // The chunks came twice: the reader gets the event twice, and drops the second by its id.
        assert!(!whole.is_empty());
        for marked in whole {
            assert_eq!(marked, Marked { event: event.clone(), predecessor: Predecessor::Named(after) });
        }
    }

    #[test]
    fn the_largest_event_is_taken_whatever_its_mark() {
        let (event, largest) = chunks(u64::MAX, u64::MAX, Some(EventId::new(u64::MAX - 1)));
        let mut assembly = Assembly::new(event.size());
        let whole = largest.into_iter().filter_map(|chunk| assembly.take(chunk).unwrap());
        assert_eq!(whole.map(|marked| marked.event).collect::<Vec<_>>(), [event]);
    }

    #[test]
    fn what_was_given_up_is_forgotten() {
        let mut assembly = Assembly::new(1 << 10);
        let (_, given_up) = chunks(6, 6, None);
        assert!(assembly.take(given_up[0].clone()).unwrap().is_none());
        assert!(assembly.is_partial());
        for chunk in chunks(7, 7, None).1 {
            assembly.take(chunk).unwrap();
        }
        assert!(!assembly.is_partial());
        for id in 10..100 {
            assembly.take(chunks(id, id, None).1[0].clone()).unwrap();
        }
        assert_eq!(assembly.partial.len(), PARTIAL_EVENTS_MAX);
    }

    #[test]
    fn a_wrong_checksum_is_an_error() {
        let mut assembly = Assembly::new(1 << 10);
        let mut take = |chunks: Vec<Chunk>| {
            chunks.into_iter().map(|chunk| assembly.take(chunk)).find_map(Result::err).unwrap()
        };
        let (_, of_another) = chunks(7, 8, None);
        assert!(take(of_another).to_string().contains("event 7 instead"));
        let (_, mut damaged) = chunks(7, 7, None);
        let mut piece = damaged[1].piece.to_vec();
        piece[0] ^= 1;
        damaged[1].piece = piece.into();
        assert!(take(damaged).to_string().contains("checksum"));
        let (_, large) = chunks(7, 7, None);
        let error = Assembly::new(100).take(large[0].clone()).unwrap_err();
        assert_eq!((error.kind(), error.event()), (ErrorKind::Unsupported, Some(EventId::new(7))));
    }
}
