//! The checkpoint that a store keeps for the sink, and a stream that goes away under it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_kinesis::Client;
use hydrant::{
    Batch, Checkpoint, CheckpointStore, Entry, Error, ErrorKind, Event, EventSink, MemoryCheckpoints, Result,
    Retry,
};
use hydrant_conformance::Generator;
use hydrant_kinesis::{KinesisSink, KinesisSinkOptions, connect};
use test_servers::proxy::{Fault, Tcp};

use crate::raw;
use crate::servers::{Server, at, make_stream, new_stream, remove_streams};
use crate::source_faults::address;

const LOG: &str = "orders";

const HOUR: Duration = Duration::from_hours(1);

async fn append(sink: &KinesisSink, after: Option<&Event>, events: &[Event]) {
    sink.append(Batch::new(after.map(Event::id), events).unwrap()).await.unwrap();
}

async fn open(client: &Client, stream: &str, options: KinesisSinkOptions) -> KinesisSink {
    KinesisSink::open(client.clone(), stream, LOG, options).await.unwrap()
}

/// Options of a sink on kinesalite that writes its checkpoint so often.
fn kept_in(store: &Arc<impl CheckpointStore + 'static>, interval: Duration) -> KinesisSinkOptions {
    let options = Server::Kinesalite.options().with_checkpoint_interval(interval);
    options.with_checkpoints(store.clone(), LOG)
}

/// A store that keeps nothing new while it is broken.
#[derive(Default)]
struct Breaking {
    entries: MemoryCheckpoints,
    is_broken: AtomicBool,
}

#[async_trait]
impl CheckpointStore for Breaking {
    async fn load(&self, name: &str) -> Result<Option<Entry>> {
        self.entries.load(name).await
    }

    async fn list(&self) -> Result<Vec<Entry>> {
        self.entries.list().await
    }

    async fn swap(&self, name: &str, expected: Option<&Entry>, new: Option<&Entry>) -> Result<()> {
        if self.is_broken.load(Ordering::Relaxed) {
            return Err(Error::new(ErrorKind::Unavailable, Retry::Safe, "broken for a test"));
        }
        self.entries.swap(name, expected, new).await
    }
}

#[tokio::test]
async fn a_sink_opened_anew_stands_where_it_said_that_it_stood_on_kinesalite() {
    let Some(client) = Server::Kinesalite.client().await else { return };
    let stream = new_stream(&client, 1).await;
    let events = Generator::new(5).log(40);
    let store = Arc::new(Breaking::default());
    append(&open(&client, &stream, kept_in(&store, Duration::ZERO)).await, None, &events[..10]).await;
    let mut said = Checkpoint::behind(&events[9]);
    for at in [10, 20, 30] {
        let sink = open(&client, &stream, kept_in(&store, HOUR)).await;
        assert_eq!(sink.checkpoint().await.unwrap(), said, "what it said before it was dropped");
        store.is_broken.store(at == 30, Ordering::Relaxed);
        append(&sink, Some(&events[at - 1]), &events[at..at + 10]).await;
        let now = sink.checkpoint().await.unwrap();
        let wanted = if at == 30 { said } else { Checkpoint::behind(&events[at + 9]) };
        assert_eq!(now, wanted, "only what it will know again, for others prune by it");
        said = now;
    }
    assert_eq!(raw::events(&client, &stream, LOG).await, events, "nothing was put twice");
    remove_streams(&client, &stream).await;
}

#[tokio::test]
async fn a_log_that_was_empty_when_the_sink_was_closed_is_read_back_all_the_same_on_kinesalite() {
    let Some(client) = Server::Kinesalite.client().await else { return };
    let stream = new_stream(&client, 1).await;
    let store = Arc::new(MemoryCheckpoints::default());
    let sink = open(&client, &stream, kept_in(&store, Duration::ZERO)).await;
    assert_eq!(sink.checkpoint().await.unwrap(), Checkpoint::Empty);
    sink.close().await.unwrap();
    assert_eq!(store.list().await.unwrap(), []);
    let events = Generator::new(6).log(3);
    append(&open(&client, &stream, Server::Kinesalite.options()).await, None, &events).await;
    let anew = open(&client, &stream, kept_in(&store, Duration::ZERO)).await;
    assert_eq!(anew.checkpoint().await.unwrap(), Checkpoint::behind(&events[2]));
    remove_streams(&client, &stream).await;
}

/// Deletes a stream, and waits until it is gone.
async fn delete(client: &Client, stream: &str) {
    remove_streams(client, stream).await;
    while client.describe_stream_summary().stream_name(stream).send().await.is_ok() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_stream_made_anew_under_an_open_sink_is_not_taken_for_the_old_one_on_kinesis_local() {
    let Some(client) = Server::KinesisLocal.client().await else { return };
    let stream = new_stream(&client, 1).await;
    let events = Generator::new(7).log(6);
    let sink = open(&client, &stream, Server::KinesisLocal.options()).await;
    append(&sink, None, &events[..3]).await;
    delete(&client, &stream).await;
    let next = Batch::new(Some(events[2].id()), &events[3..]).unwrap();
    let error = sink.append(next).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::Safe), "{error}");
    make_stream(&client, &stream, 1).await;
    assert_eq!(sink.append(next).await.unwrap_err().kind(), ErrorKind::Gap);
    assert_eq!(sink.checkpoint().await.unwrap(), Checkpoint::Empty);
    append(&sink, None, &events).await;
    assert_eq!(raw::events(&client, &stream, LOG).await, events);
    remove_streams(&client, &stream).await;
}

/// Nobody was told that it was gone: the server was away, and came back with another stream under the name.
#[tokio::test]
async fn a_stream_made_anew_while_nobody_answered_is_not_taken_for_the_old_one_on_kinesis_local() {
    let Some(client) = Server::KinesisLocal.client().await else { return };
    let events = Generator::new(8).log(6);
    let next = Batch::new(Some(events[2].id()), &events[3..]).unwrap();
    for is_kept in [false, true] {
        let stream = new_stream(&client, 1).await;
        let proxy = Tcp::start(address(Server::KinesisLocal)).await;
        let proxied = connect(&at(&format!("http://{}", proxy.address()))).await.unwrap();
        let store = Arc::new(MemoryCheckpoints::default());
        let mut options = Server::KinesisLocal.options();
        if is_kept {
            options = options.with_checkpoints(store, LOG).with_checkpoint_interval(Duration::ZERO);
        }
        let sink = open(&proxied, &stream, options).await;
        append(&sink, None, &events[..3]).await;
        proxy.always(Fault::CutBefore).await;
        assert_eq!(sink.append(next).await.unwrap_err().kind(), ErrorKind::Unavailable);
        delete(&client, &stream).await;
        // The time that a stream was made is told in seconds.
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        make_stream(&client, &stream, 1).await;
        proxy.heal().await;
        let error = sink.append(next).await.unwrap_err();
        if is_kept {
            assert_eq!((error.kind(), error.retry()), (ErrorKind::Invalid, Retry::Never), "{error}");
            assert!(error.message().contains("made anew"), "{error}");
        } else {
            assert_eq!(error.kind(), ErrorKind::Gap, "{error}");
            assert_eq!(sink.checkpoint().await.unwrap(), Checkpoint::Empty);
            append(&sink, None, &events).await;
            assert_eq!(raw::events(&client, &stream, LOG).await, events);
        }
        remove_streams(&client, &stream).await;
    }
}
