//! Events of one log -> records of the stream, in order.

use hydrant::{Error, Event, EventId, Result};

use super::aggregate::Aggregate;
use super::chunk::Chunks;
use super::mark::closing;
use crate::sink::{Oversize, Packing};

/// How the events of one log are packed.
#[derive(Clone, Debug)]
pub(crate) struct Wire {
    /// The log's name, which is the partition key.
    pub(crate) log: String,
    /// The explicit hash key, where there is one.
    pub(crate) hash_key: Option<String>,
    pub(crate) packing: Packing,
    pub(crate) oversize: Oversize,
    /// The largest record, partition key included.
    pub(crate) record_bytes_max: usize,
    /// The largest event, in bytes of its envelope.
    pub(crate) event_bytes_max: usize,
}

/// One record, ready to be put.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Packed {
    pub(crate) data: Vec<u8>,
    /// How many events of the batch are in the stream, whole, once this record is. None for a chunk that is
    /// not the last.
    pub(crate) completes: usize,
}

impl Wire {
    /// The smallest `record_bytes_max` that this log can be written with.
    pub(crate) fn record_bytes_min(&self) -> usize {
        self.log.len() + Chunks::record_bytes_min(&self.log).max(self.aggregate().bytes() + 256)
    }

    /// The records of a batch that directly follows `after`. They are packed one by one, as they are asked for.
    ///
    /// # Errors
    /// `Invalid`, naming the first event that does not fit and its size; then nothing is packed at all.
    pub(crate) fn pack<'a>(&'a self, after: Option<EventId>, events: &'a [Event]) -> Result<Packer<'a>> {
        let mut before = after;
        for event in events {
            self.check(before, event)?;
            before = Some(event.id());
        }
        Ok(Packer { wire: self, after, events, chunks: None })
    }

    fn check(&self, after: Option<EventId>, event: &Event) -> Result<()> {
        let (bytes, id) = (event.size(), event.id());
        if bytes > self.event_bytes_max {
            return Err(Error::invalid(format!(
                "{bytes} bytes are more than `event_bytes_max` = {}; raise it for the sink and its readers, or \
                 keep large values elsewhere",
                self.event_bytes_max
            ))
            .at(id));
        }
        if self.oversize == Oversize::Park && !self.fits_alone(after, event) {
            return Err(Error::invalid(format!(
                "its {bytes} bytes do not fit into one record (`record_bytes_max` = {}, with the partition key \
                 and the framing); choose `Oversize::Chunk`, or raise `record_bytes_max` if the stream takes \
                 larger records",
                self.record_bytes_max
            ))
            .at(id));
        }
        Ok(())
    }

    /// What a record may hold beside its partition key.
    fn data_bytes_max(&self) -> usize {
        self.record_bytes_max - self.log.len()
    }

    fn aggregate(&self) -> Aggregate {
        Aggregate::new(&self.log, self.hash_key.as_deref())
    }

    /// Returns whether a record of its own takes the event.
    fn fits_alone(&self, after: Option<EventId>, event: &Event) -> bool {
        let line_bytes = event.open_envelope().len() + closing(after).len();
        let framed = match self.packing {
            Packing::Aggregated => {
                let record = self.aggregate();
                record.bytes() + record.bytes_of(line_bytes)
            }
            Packing::Lines => line_bytes + 1,
            Packing::Single => line_bytes,
        };
        framed <= self.data_bytes_max()
    }
}

/// Packs a batch, record by record.
#[derive(Debug)]
pub(crate) struct Packer<'a> {
    wire: &'a Wire,
    after: Option<EventId>,
    events: &'a [Event],
    chunks: Option<Chunks>,
}

impl Packer<'_> {
    /// As many of the next events as fit into one record.
    fn events_of_a_record(&mut self) -> Packed {
        let max = self.wire.data_bytes_max();
        let mut record = match self.wire.packing {
            Packing::Aggregated => Open::Aggregated(self.wire.aggregate()),
            Packing::Lines => Open::Lines(Vec::new()),
            Packing::Single => Open::Single(Vec::new()),
        };
        let mut completes = 0;
        for event in self.events {
            let tail = if completes == 0 { closing(self.after) } else { b"}".to_vec() };
            // That the first fits was checked.
            if completes > 0 && !record.takes(event.open_envelope().len() + tail.len(), max) {
                break;
            }
            record.push(event.open_envelope(), &tail);
            completes += 1;
        }
        self.move_on(completes);
        Packed { data: record.finish(), completes }
    }

    fn move_on(&mut self, count: usize) {
        let (packed, rest) = self.events.split_at(count);
        self.after = packed.last().map_or(self.after, |last| Some(last.id()));
        self.events = rest;
    }

    fn next_chunk(&mut self) -> Option<Packed> {
        let chunks = self.chunks.as_mut()?;
        let data = chunks.next()?;
        let completes = usize::from(chunks.is_done());
        if completes == 1 {
            self.chunks = None;
            self.move_on(1);
        }
        Some(Packed { data, completes })
    }
}

impl Iterator for Packer<'_> {
    type Item = Packed;

    fn next(&mut self) -> Option<Packed> {
        if self.chunks.is_some() {
            return self.next_chunk();
        }
        let first = self.events.first()?;
        if self.wire.fits_alone(self.after, first) {
            return Some(self.events_of_a_record());
        }
        let line = [first.open_envelope(), &closing(self.after)].concat();
        let chunks = Chunks::of(line.into(), first.id(), &self.wire.log, self.wire.data_bytes_max());
        self.chunks = Some(chunks.expect("`event_bytes_max` was checked, and is far below 4 GiB"));
        self.next_chunk()
    }
}

/// A record that still takes events.
enum Open {
    Aggregated(Aggregate),
    Lines(Vec<u8>),
    Single(Vec<u8>),
}

impl Open {
    fn takes(&self, line_bytes: usize, max: usize) -> bool {
        match self {
            Self::Aggregated(record) => record.bytes() + record.bytes_of(line_bytes) <= max,
            Self::Lines(record) => record.len() + line_bytes < max,
            Self::Single(_) => false,
        }
    }

    fn push(&mut self, head: &[u8], tail: &[u8]) {
        match self {
            Self::Aggregated(record) => record.push(head, tail),
            Self::Lines(record) => record.extend([head, tail, b"\n"].concat()),
            Self::Single(record) => record.extend([head, tail].concat()),
        }
    }

    fn finish(self) -> Vec<u8> {
        match self {
            Self::Aggregated(record) => record.finish(),
            Self::Lines(record) | Self::Single(record) => record,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Assembly, Marked, Predecessor, Unpacked, unpack};
    use super::*;

    const LOG: &str = "orders-7";

    fn wire(packing: Packing, record_bytes_max: usize) -> Wire {
        Wire {
            log: LOG.into(),
            hash_key: None,
            packing,
            oversize: Oversize::Chunk,
            record_bytes_max,
            event_bytes_max: 1 << 20,
        }
    }

    fn log(sizes: &[usize]) -> Vec<Event> {
        let event = |(at, &bytes): (usize, &usize)| {
            Event::new(EventId::new(3 * at as u64 + 1), &"x".repeat(bytes)).unwrap()
        };
        sizes.iter().enumerate().map(event).collect()
    }

    /// What a reader gets from the records, which must name each predecessor.
    fn read(records: &[Packed], mut after: Option<EventId>) -> Vec<Event> {
        let mut assembly = Assembly::new(1 << 20);
        let mut events = Vec::new();
        for record in records {
            let mut whole = 0;
            for unpacked in unpack(LOG, LOG, &record.data.clone().into()).unwrap() {
                let marked = match unpacked {
                    Unpacked::Event(marked) => Some(marked),
                    Unpacked::Chunk(chunk) => assembly.take(chunk).unwrap(),
                };
                let Some(Marked { event, predecessor }) = marked else { continue };
                assert_eq!(predecessor, Predecessor::Named(after), "{event}");
                after = Some(event.id());
                events.push(event);
                whole += 1;
            }
            assert_eq!(record.completes, whole);
        }
        events
    }

    #[test]
    fn every_packing_and_size_is_read_back_in_order() {
        let sizes = [0, 10, 300, 800, 5_000, 1, 1, 1, 990, 40, 900, 20_000, 3];
        let events = log(&sizes);
        for packing in [Packing::Aggregated, Packing::Lines, Packing::Single] {
            for max in [700, 1_000, 1_024, 4_096, 1 << 20] {
                for hash_key in [None, Some(u128::MAX.to_string())] {
                    for after in [None, Some(EventId::ZERO)] {
                        let wire = Wire { hash_key: hash_key.clone(), ..wire(packing, max) };
                        let records: Vec<_> = wire.pack(after, &events).unwrap().collect();
                        assert_eq!(read(&records, after), events, "{packing:?} {max}");
                        assert!(records.iter().all(|record| record.data.len() + LOG.len() <= max));
                    }
                }
            }
        }
    }

    #[test]
    fn a_record_is_filled_to_the_byte() {
        for packing in [Packing::Aggregated, Packing::Lines] {
            let events = log(&[500, 500, 500]);
            let whole = wire(packing, 1 << 20).pack(None, &events).unwrap().next().unwrap();
            let exactly = whole.data.len() + LOG.len();
            let records = |max| wire(packing, max).pack(None, &events).unwrap().count();
            assert_eq!((records(exactly), records(exactly - 1)), (1, 2), "{packing:?}");
        }
    }

    #[test]
    fn one_event_a_record_is_one_event_a_record() {
        let events = log(&[1, 2, 3]);
        let records: Vec<_> = wire(Packing::Single, 1 << 20).pack(None, &events).unwrap().collect();
        assert_eq!(records.len(), 3);
        for (record, event) in records.iter().zip(&events) {
            assert!(record.data.starts_with(event.open_envelope()) && record.data.ends_with(b"}"));
        }
    }

    #[test]
    fn an_event_that_does_not_fit_is_refused_before_packing() {
        let events = log(&[10, 2_000, 10]);
        for packing in [Packing::Aggregated, Packing::Lines, Packing::Single] {
            let wire = Wire { oversize: Oversize::Park, ..wire(packing, 1_024) };
            let error = wire.pack(None, &events).unwrap_err();
            assert_eq!(error.event(), Some(events[1].id()));
            assert!(error.to_string().contains(&events[1].size().to_string()), "{error}");
        }
        let wire = Wire { event_bytes_max: 1_500, ..wire(Packing::Aggregated, 1_024) };
        let error = wire.pack(None, &events).unwrap_err();
        assert!(error.to_string().contains("event_bytes_max"), "{error}");
    }
}
