//! One record of the stream -> the events of one log.

use bytes::Bytes;
use hydrant::{Error, EventId, Result};

use super::mark::{Marked, Predecessor, decode_line};
use super::{aggregate, chunk};

/// The contents of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unpacked {
    /// An event, whole.
    Event(Marked),
    /// A piece of one, for an [`Assembly`](super::Assembly).
    Chunk(chunk::Chunk),
}

/// What a record holds of `log`, in order; nothing when its partition key is another.
///
/// The sub-records of an aggregated record have partition keys of their own, and these count: the Producer Library
/// gives a record of several the key `a`.
///
/// Within a record, an event without a mark directly follows the one before it.
///
/// # Errors
/// `Corrupt`, naming the event where there is one, for what does not decode under this log's partition key;
/// `Unsupported` for a newer format. The caller adds the place of the record in the stream.
pub(crate) fn unpack(log: &str, partition_key: &str, record: &Bytes) -> Result<Vec<Unpacked>> {
    let is_aggregated = record.starts_with(&aggregate::MAGIC);
    if partition_key != log {
        // Bytes whose checksum is wrong are no aggregated record, but bytes of the owner of that key.
        let lines =
            if is_aggregated { aggregate::decode(record, log).unwrap_or_default() } else { Vec::new() };
        return from_lines(lines);
    }
    if is_aggregated {
        return from_lines(aggregate::decode(record, log)?);
    }
    if record.starts_with(&chunk::MAGIC) {
        let chunk = chunk::decode(record, log)?;
        return Ok(chunk.map(Unpacked::Chunk).into_iter().collect());
    }
    let mut lines = Vec::new();
    let mut start = 0;
    for line in record.split_inclusive(|&byte| byte == b'\n') {
        let end = start + line.len();
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        if !text.trim_ascii().is_empty() {
            lines.push(record.slice(start..start + text.len()));
        }
        start = end;
    }
    if lines.is_empty() {
        return Err(Error::corrupt("the record holds no event"));
    }
    from_lines(lines)
}

fn from_lines(lines: Vec<Bytes>) -> Result<Vec<Unpacked>> {
    let mut unpacked = Vec::with_capacity(lines.len());
    let mut before = None;
    for line in lines {
        push(&line, &mut before, &mut unpacked)?;
    }
    Ok(unpacked)
}

/// `before` is the event before this one in its record, and whether that one's predecessor was named.
fn push(line: &Bytes, before: &mut Option<(EventId, bool)>, unpacked: &mut Vec<Unpacked>) -> Result<()> {
    let mut marked = decode_line(line)?;
    let id = marked.event.id();
    if let Some((last, is_named)) = *before {
        if id <= last {
            return Err(Error::corrupt(format!("event {last} stands before it in the same record")).at(id));
        }
        if marked.predecessor == Predecessor::Unnamed && is_named {
            marked.predecessor = Predecessor::Named(Some(last));
        }
    }
    *before = Some((id, marked.predecessor != Predecessor::Unnamed));
    unpacked.push(Unpacked::Event(marked));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn predecessors(record: &str) -> Result<Vec<(u64, Predecessor)>> {
        let unpacked = unpack("log", "log", &Bytes::copy_from_slice(record.as_bytes()))?;
        let each = unpacked.into_iter().map(|unpacked| match unpacked {
            Unpacked::Event(marked) => (marked.event.id().get(), marked.predecessor),
            Unpacked::Chunk(_) => panic!("a chunk"),
        });
        Ok(each.collect())
    }

    #[test]
    fn only_the_first_event_of_a_record_needs_a_mark() {
        let named = |id| Predecessor::Named(Some(EventId::new(id)));
        let marked = "{\"eventId\":5,\"stateChanged\":1,\"_hydrant\":{\"kinesis\":1,\"after\":3}}\n\
                      {\"eventId\":7,\"stateChanged\":1}\r\n\n{\"eventId\":8,\"stateChanged\":1}";
        assert_eq!(predecessors(marked).unwrap(), [(5, named(3)), (7, named(5)), (8, named(7))]);
        let unmarked = "{\"eventId\":5,\"stateChanged\":1}\n{\"eventId\":7,\"stateChanged\":1}\n";
        let unnamed = Predecessor::Unnamed;
        assert_eq!(predecessors(unmarked).unwrap(), [(5, unnamed), (7, unnamed)]);
    }

    #[test]
    fn the_partition_keys_inside_an_aggregated_record_count() {
        let mut aggregate = aggregate::Aggregate::new("log", None);
        aggregate.push(b"{\"eventId\":5,", b"\"stateChanged\":1}");
        let record = Bytes::from(aggregate.finish());
        for outside in ["log", "a"] {
            assert_eq!(unpack("log", outside, &record).unwrap().len(), 1, "{outside}");
            assert!(unpack("other", outside, &record).unwrap().is_empty());
        }
        let cut = record.slice(..record.len() - 1);
        assert!(unpack("log", "log", &cut).is_err());
        assert!(unpack("log", "a", &cut).unwrap().is_empty());
    }

    #[test]
    fn invalid_records_are_errors_and_other_keys_are_skipped() {
        let falls = "{\"eventId\":5,\"stateChanged\":1}\n{\"eventId\":5,\"stateChanged\":1}";
        assert_eq!(predecessors(falls).unwrap_err().event(), Some(EventId::new(5)));
        for bad in ["", "\n", "hello", "{\"eventId\":5}"] {
            assert!(predecessors(bad).is_err(), "{bad:?}");
            assert!(unpack("log", "other", &Bytes::copy_from_slice(bad.as_bytes())).unwrap().is_empty());
        }
    }
}
