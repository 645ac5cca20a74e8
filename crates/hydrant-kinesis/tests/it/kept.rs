//! The checkpoint that a store keeps for the sink, and a stream that goes away under it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_kinesis::Client;
use hydrant::{
    Batch, Checkpoint, CheckpointEntry, CheckpointStore, Checkpointed, DeadLetter, Error, ErrorKind, Event,
    EventSink, EventSourceExt, Filtered, Mapped, MemoryCheckpoints, MemoryStore, ReadFrom, Result, Retry,
};
use hydrant_conformance::Generator;
use hydrant_kinesis::{KinesisSink, KinesisSinkOptions, KinesisSource, connect};
use test_servers::proxy::{Fault, Tcp};

use crate::raw;
use crate::servers::{Server, at, make_stream, new_stream, remove_streams};
use crate::source_faults::address;
use crate::stream::quick;

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
    async fn load(&self, name: &str) -> Result<Option<CheckpointEntry>> {
        self.entries.load(name).await
    }

    async fn list(&self) -> Result<Vec<CheckpointEntry>> {
        self.entries.list().await
    }

    async fn swap(
        &self,
        name: &str,
        expected: Option<&CheckpointEntry>,
        new: Option<&CheckpointEntry>,
    ) -> Result<()> {
        if self.is_broken.load(Ordering::Relaxed) {
            return Err(Error::new(ErrorKind::Unavailable, Retry::Safe, "broken for a test"));
        }
        self.entries.swap(name, expected, new).await
    }
}

#[tokio::test]
async fn a_reopened_sink_has_its_kept_checkpoint_on_kinesalite() {
    let Some(client) = Server::Kinesalite.client().await else { return };
    let stream = new_stream(&client, 1).await;
    let events = Generator::new(5).log(40);
    let store = Arc::new(Breaking::default());
    append(&open(&client, &stream, kept_in(&store, Duration::ZERO)).await, None, &events[..10]).await;
    let mut said = Checkpoint::at(&events[9]);
    for at in [10, 20, 30] {
        let sink = open(&client, &stream, kept_in(&store, HOUR)).await;
        assert_eq!(sink.checkpoint().await.unwrap(), said, "what it said before it was dropped");
        store.is_broken.store(at == 30, Ordering::Relaxed);
        append(&sink, Some(&events[at - 1]), &events[at..at + 10]).await;
        let now = sink.checkpoint().await.unwrap();
        let wanted = if at == 30 { said } else { Checkpoint::at(&events[at + 9]) };
        assert_eq!(now, wanted, "only what it will know again, for others prune by it");
        said = now;
    }
    assert_eq!(raw::events(&client, &stream, LOG).await, events, "nothing was put twice");
    remove_streams(&client, &stream).await;
}

/// Another runner moved the entry. Once it is ended, and this sink is resumed, this one continues.
#[tokio::test]
async fn a_fenced_sink_continues_once_it_is_asked_again_on_kinesalite() {
    let Some(client) = Server::Kinesalite.client().await else { return };
    let stream = new_stream(&client, 1).await;
    let events = Generator::new(11).log(30);
    let store = Arc::new(MemoryCheckpoints::default());
    let (one, other) = (
        open(&client, &stream, kept_in(&store, Duration::ZERO)).await,
        open(&client, &stream, kept_in(&store, Duration::ZERO)).await,
    );
    append(&one, None, &events[..10]).await;
    assert_eq!(other.checkpoint().await.unwrap(), Checkpoint::at(&events[9]));
    append(&one, Some(&events[9]), &events[10..20]).await;
    let next = Batch::new(Some(events[9].id()), &events[10..15]).unwrap();
    assert_eq!(other.append(next).await.unwrap_err().kind(), ErrorKind::Fenced);
    assert_eq!(other.checkpoint().await.unwrap(), Checkpoint::at(&events[19]), "read again");
    append(&other, Some(&events[19]), &events[20..]).await;
    assert_eq!(store.load(LOG).await.unwrap().unwrap().checkpoint, Checkpoint::at(&events[29]));
    assert_eq!(read(&client, &stream).await, events);
    remove_streams(&client, &stream).await;
}

#[tokio::test]
async fn a_log_closed_while_empty_is_read_back_on_kinesalite() {
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
    assert_eq!(anew.checkpoint().await.unwrap(), Checkpoint::at(&events[2]));
    remove_streams(&client, &stream).await;
}

/// What a source reads of the stream.
async fn read(client: &Client, stream: &str) -> Vec<Event> {
    let source = KinesisSource::open(client.clone(), stream, LOG, quick()).await.unwrap();
    source.collect(ReadFrom::Origin).await.unwrap()
}

fn keep(event: &Event) -> bool {
    event.id().get() % 3 != 1
}

fn map(event: &Event) -> Result<Event> {
    Event::builder(event.id()).payload_json(format!("{{\"id\":{}}}", event.id())).build()
}

/// The sink under one of the wrappers, as its default is.
async fn wrapped(
    client: &Client,
    stream: &str,
    wrapper: &str,
    (own, above): (&Arc<Breaking>, &Arc<MemoryCheckpoints>),
) -> Checkpointed<Arc<dyn EventSink>> {
    let options = Server::Kinesalite.options().with_checkpoints(own.clone(), LOG);
    let sink = open(client, stream, options).await;
    let sink: Arc<dyn EventSink> = match wrapper {
        "filtered" => Arc::new(Filtered::new(sink, keep)),
        "mapped" => Arc::new(Mapped::new(sink, map)),
        _ => Arc::new(DeadLetter::new(sink, MemoryStore::default())),
    };
    Checkpointed::open(sink, above.clone(), LOG, stream).await.unwrap()
}

#[tokio::test]
async fn a_wrapper_knows_its_events_after_a_crash_on_kinesalite() {
    let Some(client) = Server::Kinesalite.client().await else { return };
    for wrapper in ["filtered", "mapped", "dead_letter"] {
        let stream = new_stream(&client, 1).await;
        let stores = (&Arc::default(), &Arc::default());
        let events = Generator::new(9).log(30);
        for at in (0..30).step_by(5) {
            let sink = wrapped(&client, &stream, wrapper, stores).await;
            for next in at..at + 5 {
                let after = events[..next].last().map(Event::id);
                sink.append(Batch::new(after, &events[next..=next]).unwrap()).await.unwrap();
            }
            // Nothing is closed.
        }
        assert_eq!(read(&client, &stream).await, given(wrapper, &events), "{wrapper}");
        assert_eq!(raw::events(&client, &stream, LOG).await, given(wrapper, &events), "nothing twice");
        remove_streams(&client, &stream).await;
    }
}

#[tokio::test]
async fn only_kept_checkpoints_acknowledge_on_kinesalite() {
    let Some(client) = Server::Kinesalite.client().await else { return };
    for (wrapper, crashes) in
        [("filtered", true), ("filtered", false), ("mapped", true), ("dead_letter", true)]
    {
        let stream = new_stream(&client, 1).await;
        let stores = (&Arc::<Breaking>::default(), &Arc::default());
        let events = Generator::new(10).log(30);
        let batch = |from: usize, to: usize| {
            Batch::new(events[..from].last().map(Event::id), &events[from..to]).unwrap()
        };
        let mut sink = wrapped(&client, &stream, wrapper, stores).await;
        sink.append(batch(0, 10)).await.unwrap();
        stores.0.is_broken.store(true, Ordering::Relaxed);
        let error = sink.append(batch(10, 20)).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.retry()),
            (ErrorKind::Unavailable, Retry::AfterCheckpoint),
            "{error}"
        );
        assert_eq!(sink.checkpoint().await.unwrap(), Checkpoint::at(&events[9]));
        assert_eq!(read(&client, &stream).await, given(wrapper, &events[..20]), "they are there, though");
        stores.0.is_broken.store(false, Ordering::Relaxed);
        if crashes {
            sink = wrapped(&client, &stream, wrapper, stores).await;
        }
        // In other batches than before.
        sink.append(batch(10, 13)).await.unwrap();
        let anew = wrapped(&client, &stream, wrapper, stores).await;
        anew.append(batch(13, 30)).await.unwrap();
        assert_eq!(read(&client, &stream).await, given(wrapper, &events), "{wrapper}");
        remove_streams(&client, &stream).await;
    }
}

/// What the wrapper gives to the sink.
fn given(wrapper: &str, events: &[Event]) -> Vec<Event> {
    match wrapper {
        "filtered" => events.iter().filter(|event| keep(event)).cloned().collect(),
        "mapped" => events.iter().map(|event| map(event).unwrap()).collect(),
        _ => events.to_vec(),
    }
}

/// Deletes a stream, and waits until it is gone.
async fn delete(client: &Client, stream: &str) {
    remove_streams(client, stream).await;
    while client.describe_stream_summary().stream_name(stream).send().await.is_ok() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn an_open_sink_detects_a_recreated_stream_on_kinesis_local() {
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

/// The sink did not see that the stream was gone: the server was away, and returned with another stream of the name.
#[tokio::test]
async fn a_stream_recreated_offline_is_detected_on_kinesis_local() {
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
        // The server reports the time of creation in seconds.
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
