//! The records of a stream as they stand there, by a reader that shares nothing with the crate's own.

use std::time::SystemTime;

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::types::ShardIteratorType;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use hydrant::store::{envelope, follow_by_reading};
use hydrant::{Error, Event, EventSource, EventStream, ReadFrom};

/// A record of a stream.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) shard: String,
    pub(crate) number: String,
    pub(crate) key: String,
    pub(crate) data: Bytes,
    pub(crate) arrived: SystemTime,
}

/// All records, shard by shard in the order of their names, which is parents before children.
pub(crate) async fn records(client: &Client, stream: &str) -> Vec<Record> {
    let answer = client.list_shards().stream_name(stream).send().await.unwrap();
    let mut shards: Vec<_> = answer.shards().iter().map(|shard| shard.shard_id().to_owned()).collect();
    shards.sort();
    let mut records = Vec::new();
    for shard in shards {
        let ask = client.get_shard_iterator().stream_name(stream).shard_id(&shard);
        let answer = ask.shard_iterator_type(ShardIteratorType::TrimHorizon).send().await.unwrap();
        let mut next = answer.shard_iterator;
        while let Some(iterator) = next {
            let answer = client.get_records().shard_iterator(iterator).send().await.unwrap();
            next = answer.next_shard_iterator.filter(|_| !answer.records.is_empty());
            records.extend(answer.records.into_iter().map(|record| Record {
                shard: shard.clone(),
                number: record.sequence_number,
                key: record.partition_key.unwrap_or_default(),
                data: record.data.into_inner().into(),
                arrived: record.approximate_arrival_timestamp.unwrap().try_into().unwrap(),
            }));
        }
    }
    records
}

/// Every event of a log as it stands in the stream, with those that stand there twice.
pub(crate) async fn events(client: &Client, stream: &str, log: &str) -> Vec<Event> {
    let mut chunks: Vec<u8> = Vec::new();
    let mut events = Vec::new();
    for record in records(client, stream).await.iter().filter(|record| record.key == log) {
        let lines = match record.data.as_ref() {
            [0xF3, 0x89, 0x9A, 0xC2, message @ ..] => sub_records(&message[..message.len() - 16]),
            [0xB5, b'h', b'k', 1, header @ ..] => {
                let number = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().unwrap());
                let log_bytes = usize::from(u16::from_be_bytes(header[36..38].try_into().unwrap()));
                if number(8) == 0 {
                    chunks.clear();
                }
                chunks.extend_from_slice(&header[38 + log_bytes..]);
                if chunks.len() == number(16) as usize { vec![std::mem::take(&mut chunks)] } else { vec![] }
            }
            text => text.split(|&byte| byte == b'\n').map(<[u8]>::to_vec).collect(),
        };
        let lines = lines.into_iter().filter(|line| !line.is_empty());
        events.extend(lines.map(|line| envelope::decode(line.into()).unwrap()));
    }
    events
}

/// The data of the sub-records of an aggregated record: fields 3 of fields 3.
fn sub_records(message: &[u8]) -> Vec<Vec<u8>> {
    let of_field = |message: &[u8]| -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        let mut rest = message;
        while !rest.is_empty() {
            let key = varint(&mut rest);
            let value = varint(&mut rest);
            if key & 7 == 2 {
                let (data, behind) = rest.split_at(usize::try_from(value).unwrap());
                rest = behind;
                if key >> 3 == 3 {
                    found.push(data.to_vec());
                }
            }
        }
        found
    };
    of_field(message).iter().flat_map(|record| of_field(record)).collect()
}

fn varint(rest: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..).step_by(7) {
        let (&byte, behind) = rest.split_first().unwrap();
        *rest = behind;
        value |= u64::from(byte & 0x7F) << shift;
        if byte < 0x80 {
            return value;
        }
    }
    unreachable!()
}

/// What a reader that drops what it has already makes of these events.
pub(crate) fn first_of_each(events: Vec<Event>) -> Vec<Event> {
    let mut held: Vec<Event> = Vec::new();
    for event in events {
        match held.iter().find(|held| held.id() == event.id()) {
            Some(same) => assert_eq!(*same, event, "two writers"),
            None => held.push(event),
        }
    }
    assert!(held.windows(2).all(|pair| pair[0].id() < pair[1].id()), "out of order: {held:?}");
    held
}

/// The stream as the kit sees it.
#[derive(Clone)]
pub(crate) struct RawSource {
    pub(crate) client: Client,
    pub(crate) stream: String,
    pub(crate) log: String,
}

impl EventSource for RawSource {
    fn read(&self, from: ReadFrom) -> EventStream {
        let Self { client, stream, log } = self.clone();
        stream::once(async move {
            let events = first_of_each(events(&client, &stream, &log).await);
            let start = match from {
                ReadFrom::After(id) => events.partition_point(|event| event.id() <= id),
                _ => 0,
            };
            stream::iter(events.into_iter().skip(start).map(Ok::<_, Error>))
        })
        .flatten()
        .boxed()
    }

    fn follow(&self, from: ReadFrom) -> EventStream {
        follow_by_reading(std::sync::Arc::new(self.clone()), from, || {
            tokio::time::sleep(std::time::Duration::from_millis(1))
        })
    }
}
