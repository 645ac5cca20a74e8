//! What the laws do not ask: the records themselves, and the checkpoint.

use std::sync::Arc;
use std::time::Duration;

use hydrant::{Batch, Checkpoint, Event, EventSink, MemoryCheckpoints};
use hydrant_conformance::Generator;
use hydrant_kinesis::{KinesisSink, KinesisSinkOptions};

use crate::raw;
use crate::servers::{Server, new_stream, remove_streams};

async fn append(sink: &KinesisSink, after: Option<&Event>, events: &[Event]) {
    sink.append(Batch::new(after.map(Event::id), events).unwrap()).await.unwrap();
}

/// The records of a log stand in one shard, in order, each with a number above the one before.
async fn records_of_a_log_are_numbered_in_order(server: Server) {
    let Some(client) = server.client().await else { return };
    let stream = new_stream(&client, 4).await;
    let mut generator = Generator::new(7);
    for log in ["a", "b", "\u{1F6B0} of many bytes"] {
        let events = generator.log(40);
        let sink = KinesisSink::open(client.clone(), &stream, log, server.options()).await.unwrap();
        for at in 0..8 {
            append(&sink, events[..at * 5].last(), &events[at * 5..at * 5 + 5]).await;
        }
        assert_eq!(raw::events(&client, &stream, log).await, events);
        let records = raw::records(&client, &stream).await;
        let records: Vec<_> = records.iter().filter(|record| record.key == log).collect();
        assert_eq!(records.len(), 8, "one record a batch");
        assert!(records.iter().all(|record| record.shard == records[0].shard));
        let number = |number: &str| (number.len(), number.to_owned());
        assert!(records.windows(2).all(|pair| number(&pair[0].number) < number(&pair[1].number)));
    }
    remove_streams(&client, &stream).await;
}

#[tokio::test]
async fn records_of_a_log_are_numbered_in_order_on_kinesalite() {
    records_of_a_log_are_numbered_in_order(Server::Kinesalite).await;
}

#[tokio::test]
async fn records_of_a_log_are_numbered_in_order_on_kinesis_local() {
    records_of_a_log_are_numbered_in_order(Server::KinesisLocal).await;
}

#[tokio::test]
async fn a_reopened_sink_finds_its_checkpoint_on_kinesalite() {
    let Some(client) = Server::Kinesalite.client().await else { return };
    let stream = new_stream(&client, 1).await;
    let mut generator = Generator::new(3);
    let logs: Vec<_> = (0..5).map(|log| (format!("log {log}"), generator.log(20))).collect();
    for (log, events) in &logs {
        let sink =
            KinesisSink::open(client.clone(), &stream, log, Server::Kinesalite.options()).await.unwrap();
        append(&sink, None, &events[..15]).await;
    }
    for (log, events) in &logs {
        let sink =
            KinesisSink::open(client.clone(), &stream, log, Server::Kinesalite.options()).await.unwrap();
        assert_eq!(sink.checkpoint().await.unwrap(), Checkpoint::at(&events[14]));
        append(&sink, None, events).await;
        assert_eq!(raw::events(&client, &stream, log).await, *events, "nothing twice");
    }
    remove_streams(&client, &stream).await;
}

#[tokio::test]
async fn a_lost_kept_checkpoint_is_read_back_on_kinesalite() {
    let Some(client) = Server::Kinesalite.client().await else { return };
    let stream = new_stream(&client, 1).await;
    let events = Generator::new(4).log(30);
    let store = MemoryCheckpoints::default();
    let open = |store: &MemoryCheckpoints| {
        let options = Server::Kinesalite
            .options()
            .with_checkpoints(Arc::new(store.clone()), "orders")
            .with_checkpoint_interval(Duration::ZERO);
        KinesisSink::open(client.clone(), &stream, "orders", options)
    };
    let sink = open(&store).await.unwrap();
    append(&sink, None, &events[..10]).await;
    sink.close().await.unwrap();
    // Behind the entry's back, as a crash leaves it: read back, the stream is ahead.
    let direct =
        KinesisSink::open(client.clone(), &stream, "orders", Server::Kinesalite.options()).await.unwrap();
    append(&direct, Some(&events[9]), &events[10..20]).await;

    let kept = open(&store).await.unwrap();
    assert_eq!(kept.checkpoint().await.unwrap(), Checkpoint::at(&events[9]));
    append(&kept, Some(&events[9]), &events[10..]).await;
    let held = raw::events(&client, &stream, "orders").await;
    assert_eq!(held.len(), 40, "what a crash left behind the entry is put again");
    assert_eq!(raw::first_of_each(held), events);

    let lost = open(&MemoryCheckpoints::default()).await.unwrap();
    assert_eq!(lost.checkpoint().await.unwrap(), Checkpoint::at(&events[29]));
    remove_streams(&client, &stream).await;
}

#[tokio::test]
async fn a_recreated_stream_is_recognised_on_kinesis_local() {
    let Some(client) = Server::KinesisLocal.client().await else { return };
    let stream = new_stream(&client, 1).await;
    let store: Arc<MemoryCheckpoints> = Arc::default();
    let options = Server::KinesisLocal.options();
    let options = options.with_checkpoints(store, "orders").with_checkpoint_interval(Duration::ZERO);
    let open = || KinesisSink::open(client.clone(), &stream, "orders", options.clone());
    append(&open().await.unwrap(), None, &Generator::new(4).log(3)).await;
    remove_streams(&client, &stream).await;
    // The server reports the time of creation in seconds.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    crate::servers::make_stream(&client, &stream, 1).await;
    let error = open().await.unwrap().checkpoint().await.unwrap_err();
    assert!(error.to_string().contains("made anew"), "{error}");
    remove_streams(&client, &stream).await;
}

#[tokio::test]
async fn options_that_make_no_sense_are_refused_by_name() {
    let Ok(reach) = Server::Kinesalite.reach() else { return };
    let client = hydrant_kinesis::connect(&reach).await.unwrap();
    let options = KinesisSinkOptions::default;
    let open = |log: &'static str, options| KinesisSink::open(client.clone(), "stream", log, options);
    for (log, options, word) in [
        ("", options(), "1 to 256"),
        ("log", options().with_record_bytes_max(100), "record_bytes_max"),
        ("log", options().with_record_bytes_max(11 << 20), "record_bytes_max"),
    ] {
        let error = open(log, options).await.unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
    }
    let log: &'static str = Box::leak("\u{1F6B0}".repeat(257).into_boxed_str());
    assert!(open(log, Server::Kinesalite.options()).await.is_err());
    assert!(open("\u{1F6B0}", options()).await.is_ok());
}
