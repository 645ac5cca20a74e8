//! The aggregated record of the Kinesis Producer Library, which KCL consumers take apart by themselves:
//! a magic number, a protobuf message, and the MD5 of that message.

use bytes::{BufMut, Bytes};
use hydrant::{Error, Result};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};

use super::md5_of;

/// The first bytes of an aggregated record. They begin no UTF-8 text.
pub(super) const MAGIC: [u8; 4] = [0xF3, 0x89, 0x9A, 0xC2];

const MD5_BYTES: usize = 16;

#[derive(Clone, PartialEq, Message)]
struct Aggregated {
    #[prost(string, repeated, tag = "1")]
    partition_key_table: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    explicit_hash_key_table: Vec<String>,
    #[prost(message, repeated, tag = "3")]
    records: Vec<SubRecord>,
}

#[derive(Clone, PartialEq, Message)]
struct SubRecord {
    #[prost(uint64, required, tag = "1")]
    partition_key_index: u64,
    #[prost(uint64, optional, tag = "2")]
    explicit_hash_key_index: Option<u64>,
    #[prost(bytes = "bytes", required, tag = "3")]
    data: Bytes,
    #[prost(message, repeated, tag = "4")]
    tags: Vec<Tag>,
}

#[derive(Clone, PartialEq, Message)]
struct Tag {
    #[prost(string, required, tag = "1")]
    key: String,
    #[prost(string, optional, tag = "2")]
    value: Option<String>,
}

/// Writes one aggregated record, whose sub-records all have one partition key, straight into its buffer.
#[derive(Debug)]
pub(super) struct Aggregate {
    out: Vec<u8>,
    has_hash_key: bool,
}

impl Aggregate {
    /// `hash_key` is the explicit one, where there is one: KCL drops a sub-record whose hash key is not in
    /// the range of its shard.
    pub(super) fn new(partition_key: &str, hash_key: Option<&str>) -> Self {
        let mut out = MAGIC.to_vec();
        put_bytes(1, partition_key.as_bytes(), &mut out);
        if let Some(hash_key) = hash_key {
            put_bytes(2, hash_key.as_bytes(), &mut out);
        }
        Self { out, has_hash_key: hash_key.is_some() }
    }

    /// The size of the record once it is finished.
    pub(super) fn bytes(&self) -> usize {
        self.out.len() + MD5_BYTES
    }

    /// How much a sub-record of so many bytes adds.
    pub(super) fn bytes_of(&self, data_bytes: usize) -> usize {
        let inner = self.inner_bytes(data_bytes);
        1 + encoded_len_varint(inner as u64) + inner
    }

    fn inner_bytes(&self, data_bytes: usize) -> usize {
        let indexes = if self.has_hash_key { 4 } else { 2 };
        indexes + 1 + encoded_len_varint(data_bytes as u64) + data_bytes
    }

    /// Adds a sub-record of two parts.
    pub(super) fn push(&mut self, head: &[u8], tail: &[u8]) {
        let data_bytes = head.len() + tail.len();
        let inner = self.inner_bytes(data_bytes);
        self.out.reserve(self.bytes_of(data_bytes));
        encode_key(3, WireType::LengthDelimited, &mut self.out);
        encode_varint(inner as u64, &mut self.out);
        put_zero(1, &mut self.out);
        if self.has_hash_key {
            put_zero(2, &mut self.out);
        }
        encode_key(3, WireType::LengthDelimited, &mut self.out);
        encode_varint(data_bytes as u64, &mut self.out);
        self.out.put_slice(head);
        self.out.put_slice(tail);
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        let digest = md5_of(&self.out[MAGIC.len()..]);
        self.out.extend_from_slice(&digest);
        self.out
    }
}

fn put_bytes(tag: u32, bytes: &[u8], out: &mut Vec<u8>) {
    encode_key(tag, WireType::LengthDelimited, out);
    encode_varint(bytes.len() as u64, out);
    out.put_slice(bytes);
}

fn put_zero(tag: u32, out: &mut Vec<u8>) {
    encode_key(tag, WireType::Varint, out);
    encode_varint(0, out);
}

/// The data of the sub-records that have this partition key, in order: slices of the record, or copies where they are
/// less than half of it, so that a few events do not keep what others wrote in memory.
///
/// # Errors
/// `Corrupt` when the record is cut off or its checksum differs.
pub(super) fn decode(record: &Bytes, partition_key: &str) -> Result<Vec<Bytes>> {
    if record.len() < MAGIC.len() + MD5_BYTES {
        return Err(Error::corrupt("the aggregated record is cut off"));
    }
    let message = record.slice(MAGIC.len()..record.len() - MD5_BYTES);
    if md5_of(&message)[..] != record[record.len() - MD5_BYTES..] {
        return Err(Error::corrupt("the checksum of the aggregated record differs"));
    }
    let message = Aggregated::decode(message)
        .map_err(|cause| Error::corrupt("the aggregated record does not decode").because(cause))?;
    let keys = &message.partition_key_table;
    let mut data = Vec::with_capacity(message.records.len());
    for sub_record in message.records {
        let index = usize::try_from(sub_record.partition_key_index).unwrap_or(usize::MAX);
        let key = keys.get(index).ok_or_else(|| {
            Error::corrupt("the aggregated record names a partition key that its table does not have")
        })?;
        if key == partition_key {
            data.push(sub_record.data);
        }
    }
    if data.iter().map(Bytes::len).sum::<usize>() < record.len() / 2 {
        for slice in &mut data {
            *slice = Bytes::copy_from_slice(slice);
        }
    }
    Ok(data)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn aggregate(hash_key: Option<&str>, data: &[&[u8]]) -> Vec<u8> {
        let mut record = Aggregate::new("a log", hash_key);
        for data in data {
            let (head, tail) = data.split_at(data.len() / 2);
            let before = record.bytes();
            let adds = record.bytes_of(data.len());
            record.push(head, tail);
            assert_eq!(record.bytes(), before + adds);
        }
        let bytes = record.bytes();
        let record = record.finish();
        assert_eq!(record.len(), bytes);
        record
    }

    #[test]
    fn it_is_what_the_protobuf_of_the_producer_library_says() {
        let large = vec![7; 70_000];
        let data: [&[u8]; 4] = [b"one", b"", &[9; 200], &large];
        for hash_key in [None, Some("340282366920938463463374607431768211455")] {
            let record = aggregate(hash_key, &data);
            let message = &record[4..record.len() - 16];
            let expected = Aggregated {
                partition_key_table: vec!["a log".into()],
                explicit_hash_key_table: hash_key.map(str::to_owned).into_iter().collect(),
                records: data
                    .iter()
                    .map(|data| SubRecord {
                        partition_key_index: 0,
                        explicit_hash_key_index: hash_key.map(|_| 0),
                        data: Bytes::copy_from_slice(data),
                        tags: Vec::new(),
                    })
                    .collect(),
            };
            assert_eq!(message, expected.encode_to_vec());
            assert_eq!(decode(&record.clone().into(), "a log").unwrap(), data);
            assert!(decode(&record.into(), "another").unwrap().is_empty());
        }
    }

    #[test]
    fn the_bytes_are_those_of_the_specification() {
        let record = aggregate(None, &[b"hi"]);
        let message = [
            b"\x0A\x05a log".as_slice(),   // partition_key_table
            b"\x1A\x06\x08\x00\x1A\x02hi", // a record: the first key, its data
        ]
        .concat();
        let expected = [&[0xF3, 0x89, 0x9A, 0xC2], message.as_slice(), &md5_of(&message)].concat();
        assert_eq!(record, expected);
    }

    #[test]
    fn sub_records_of_other_keys_are_skipped_and_tags_are_read() {
        let sub = |partition_key_index, data: &'static str, tags| SubRecord {
            partition_key_index,
            explicit_hash_key_index: None,
            data: data.into(),
            tags,
        };
        let tag = Tag { key: "k".into(), value: None };
        let seal = |message: &Aggregated| {
            let message = message.encode_to_vec();
            Bytes::from([&MAGIC, message.as_slice(), &md5_of(&message)].concat())
        };
        let mut message = Aggregated {
            partition_key_table: vec!["other".into(), "log".into()],
            explicit_hash_key_table: Vec::new(),
            records: vec![sub(1, "x", vec![tag]), sub(0, "y", Vec::new()), sub(1, "z", Vec::new())],
        };
        assert_eq!(decode(&seal(&message), "log").unwrap(), ["x", "z"]);
        message.records[1].partition_key_index = 2;
        assert!(decode(&seal(&message), "log").unwrap_err().to_string().contains("table"));
    }

    #[test]
    fn a_small_part_of_a_record_does_not_keep_all_of_it() {
        let sub = |partition_key_index, data: Vec<u8>| SubRecord {
            partition_key_index,
            explicit_hash_key_index: None,
            data: data.into(),
            tags: Vec::new(),
        };
        let message = Aggregated {
            partition_key_table: vec!["few".into(), "many".into()],
            explicit_hash_key_table: Vec::new(),
            records: vec![sub(0, vec![1; 100]), sub(1, vec![2; 1_000]), sub(0, vec![3; 100])],
        };
        let message = message.encode_to_vec();
        let record = Bytes::from([&MAGIC, message.as_slice(), &md5_of(&message)].concat());
        let are_slices = |data: &[Bytes]| {
            let whole = record.as_ptr_range();
            data.iter().map(|data| whole.contains(&data.as_ptr())).collect::<Vec<_>>()
        };
        let few = decode(&record, "few").unwrap();
        assert_eq!(few, [vec![1; 100], vec![3; 100]]);
        assert_eq!(are_slices(&few), [false, false]);
        assert_eq!(are_slices(&decode(&record, "many").unwrap()), [true]);
    }

    #[test]
    fn every_damaged_byte_is_an_error() {
        let good = aggregate(None, &[b"some data", b"and more"]);
        for end in 4..good.len() {
            assert!(decode(&good[..end].to_vec().into(), "a log").is_err(), "cut at {end}");
        }
        for at in 4..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(decode(&bad.into(), "a log").is_err(), "byte {at}");
        }
    }
}
