//! What a bad network, an overloaded shard and a server that dies do to the sink. A proxy stands before the server.

use std::time::Duration;

use aws_sdk_kinesis::Client;
use futures_util::{FutureExt, StreamExt};
use hydrant::{Batch, Checkpoint, ErrorKind, Event, EventSink, EventSource, EventSourceExt, ReadFrom, Retry};
use hydrant_conformance::Generator;
use hydrant_kinesis::{KinesisSink, KinesisSinkOptions, KinesisSource, connect};
use test_servers::native::Kinesalite;
use test_servers::proxy::{Action, Answer, Fault, Gate, Http, Tcp, When, operation};
use tokio::time::{Instant, timeout};

use crate::raw;
use crate::servers::{self, Server, new_stream, remove_streams};
use crate::stream::quick;

const LOG: &str = "orders";

/// A stream, reached directly and through a proxy.
pub(crate) struct Broken {
    pub(crate) direct: Client,
    pub(crate) proxied: Client,
    pub(crate) proxy: Http,
    pub(crate) stream: String,
    server: Server,
}

impl Broken {
    /// `None` after saying why there is no server.
    pub(crate) async fn stream(server: Server) -> Option<Self> {
        let direct = server.client().await?;
        let endpoint = server.reach().unwrap().endpoint.expect("a server on loopback");
        let proxy = Http::start(endpoint.trim_start_matches("http://").parse().unwrap()).await;
        // With the SDK's own retries, which must not touch a put.
        let proxied = connect(&servers::at(&proxy.endpoint())).await.unwrap();
        let stream = new_stream(&direct, 1).await;
        Some(Self { direct, proxied, proxy, stream, server })
    }

    pub(crate) fn options(&self) -> KinesisSinkOptions {
        self.server.options()
    }

    pub(crate) async fn sink(&self, options: KinesisSinkOptions) -> KinesisSink {
        KinesisSink::open(self.proxied.clone(), &self.stream, LOG, options).await.unwrap()
    }

    /// Does this with the next `n` puts.
    pub(crate) fn puts(&self, n: usize, action: Action) {
        self.proxy.next(n, |request| operation(request) == "PutRecord", action);
    }

    pub(crate) async fn source(&self) -> KinesisSource {
        source(&self.direct, &self.stream).await
    }

    /// The log as it stands in the stream, with what stands there twice.
    pub(crate) async fn raw(&self) -> Vec<Event> {
        raw::events(&self.direct, &self.stream, LOG).await
    }

    /// Both readers must get exactly these events, in order, each once.
    pub(crate) async fn holds(&self, events: &[Event]) {
        assert_eq!(raw::first_of_each(self.raw().await), events);
        assert_eq!(self.source().await.collect(ReadFrom::Origin).await.unwrap(), events);
    }

    pub(crate) async fn remove(self) {
        remove_streams(&self.direct, &self.stream).await;
    }
}

async fn source(client: &Client, stream: &str) -> KinesisSource {
    KinesisSource::open(client.clone(), stream, LOG, quick()).await.unwrap()
}

fn batch(events: &[Event], range: std::ops::Range<usize>) -> Batch<'_> {
    let after = range.start.checked_sub(1).map(|before| events[before].id());
    Batch::new(after, &events[range]).unwrap()
}

/// Appends as a fan-out does: again from where the sink says that it stands, until it is acknowledged.
async fn insist(sink: &KinesisSink, events: &[Event]) {
    loop {
        let held = sink.checkpoint().await.unwrap().id();
        let from = events.partition_point(|event| Some(event.id()) <= held);
        if from == events.len() {
            return;
        }
        match sink.append(batch(events, from..events.len())).await {
            Ok(()) => return,
            Err(error) => assert_ne!(error.retry(), Retry::Never, "{error}"),
        }
    }
}

/// What breaks one put, and whether the server may take it all the same.
fn breaks() -> Vec<(Action, bool)> {
    vec![
        (Action::Cut, false),
        (Action::LoseAnswer, true),
        (Action::CutAnswer(0), true),
        (Action::CutAnswer(20), true),
        (Action::Answer(Answer::kinesis(500, "InternalFailure")), false),
        (Action::Answer(Answer::kinesis(503, "ServiceUnavailable")), false),
        (Action::Answer(Answer::new(502, "text/html", "<h1>Bad Gateway</h1>")), false),
        (Action::rewrite(|request| request, |_, _| (500, b"{}".to_vec())), true),
    ]
}

#[tokio::test]
async fn broken_puts_lose_and_reorder_nothing_on_kinesalite() {
    let Some(broken) = Broken::stream(Server::Kinesalite).await else { return };
    let mut events = Generator::new(1).log(2);
    let sink = broken.sink(broken.options()).await;
    insist(&sink, &events).await;
    let mut twice = 0;
    for (action, lands) in breaks() {
        let said = format!("{action:?}");
        let next = Generator::new(2).gapped(events.last().map(Event::id), 3);
        let from = events.len();
        events.extend(next);
        broken.puts(1, action);
        let error = sink.append(batch(&events, from..events.len())).await.unwrap_err();
        // The sink cannot know whether it was taken.
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::AfterCheckpoint), "{said}");
        assert_eq!(error.event(), Some(events[from].id()));
        insist(&sink, &events).await;
        broken.holds(&events).await;
        twice += if lands { 3 } else { 0 };
        assert_eq!(broken.raw().await.len(), events.len() + twice, "{said}");
    }
    // Found again by reading back: the highest, each once.
    let anew = broken.sink(broken.options()).await;
    assert_eq!(anew.checkpoint().await.unwrap(), Checkpoint::at(events.last().unwrap()));
    broken.remove().await;
}

#[tokio::test]
async fn append_returns_before_its_deadline_on_kinesalite() {
    let Some(broken) = Broken::stream(Server::Kinesalite).await else { return };
    let proxy = Tcp::start(broken.proxy.address()).await;
    let client = connect(&servers::at(&format!("http://{}", proxy.address())).with_attempts_max(1)).await;
    let options = broken.options().with_put_timeout(Duration::from_secs(2));
    let sink = KinesisSink::open(client.unwrap(), &broken.stream, LOG, options).await.unwrap();
    let events = Generator::new(1).log(6);
    sink.append(batch(&events, 0..3)).await.unwrap();
    proxy.always(Fault::BlackHole).await;
    // The put, and the wait for it: it is under way until `put_timeout`.
    for retry in [Retry::AfterCheckpoint, Retry::Safe] {
        let deadline = Some(Instant::now() + Duration::from_millis(300));
        let append = sink.append(batch(&events, 3..6).with_deadline(deadline));
        let answer = timeout(Duration::from_secs(1), append).await;
        let error = answer.expect("an append outlived its deadline").unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, retry), "{error}");
    }
    proxy.heal().await;
    insist(&sink, &events).await;
    broken.holds(&events).await;
    broken.remove().await;
}

#[tokio::test]
async fn broken_connections_lose_and_reorder_nothing_on_kinesalite() {
    let Some(broken) = Broken::stream(Server::Kinesalite).await else { return };
    let proxy = Tcp::start(broken.proxy.address()).await;
    let client = connect(&servers::at(&format!("http://{}", proxy.address())).with_attempts_max(1)).await;
    let sink = KinesisSink::open(client.unwrap(), &broken.stream, LOG, broken.options()).await.unwrap();
    let mut events = Generator::new(1).log(2);
    insist(&sink, &events).await;
    for fault in [
        Fault::CutBefore,
        Fault::CutWithin(100),
        Fault::CutAfter,
        Fault::LoseAnswer,
        Fault::CutAnswer(30),
        Fault::Delay(Duration::from_millis(30)),
        Fault::Reset,
    ] {
        let next = Generator::new(2).gapped(events.last().map(Event::id), 3);
        events.extend(next);
        proxy.once(When::Exchange(1), fault);
        insist(&sink, &events).await;
        broken.holds(&events).await;
    }
    // The server refuses connections, so nothing can have been applied.
    proxy.always(Fault::Refuse).await;
    proxy.cut();
    let from = events.len();
    events.extend(Generator::new(2).gapped(events.last().map(Event::id), 3));
    let refused = loop {
        let error = sink.append(batch(&events, from..events.len())).await.unwrap_err();
        // A connection that was kept breaks first.
        if error.retry() == Retry::Safe {
            break error;
        }
    };
    assert_eq!(refused.kind(), ErrorKind::Unavailable);
    proxy.heal().await;
    insist(&sink, &events).await;
    broken.holds(&events).await;
    broken.remove().await;
}

#[tokio::test]
async fn throttling_is_waited_out_without_repeats_on_kinesalite() {
    let Some(broken) = Broken::stream(Server::Kinesalite).await else { return };
    let events = Generator::new(1).log(12);
    let sink = broken.sink(broken.options()).await;
    for (at, code) in
        ["ProvisionedThroughputExceededException", "LimitExceededException", "KMSThrottlingException"]
            .into_iter()
            .enumerate()
    {
        broken.puts(3, Action::Answer(Answer::kinesis(400, code)));
        sink.append(batch(&events, at * 4..at * 4 + 4)).await.unwrap();
    }
    assert_eq!(broken.raw().await, events);
    assert_eq!(broken.proxy.count(|request| operation(request) == "PutRecord"), 3 * 4);
    broken.remove().await;
}

#[tokio::test]
async fn throttling_past_the_deadline_is_classified_on_kinesalite() {
    let Some(broken) = Broken::stream(Server::Kinesalite).await else { return };
    let throttled = || Action::Answer(Answer::kinesis(400, "ProvisionedThroughputExceededException"));
    // A record holds two of these events.
    let mut generator = Generator::new(1);
    let events: Vec<_> = (0..6).map(|id| generator.sized(id, 40 << 10)).collect();
    let options = broken.options().with_append_timeout(Duration::from_secs(2));
    let sink = broken.sink(options.with_record_bytes_max(100 << 10)).await;
    sink.append(batch(&events, 0..1)).await.unwrap();

    broken.puts(usize::MAX, throttled());
    let error = sink.append(batch(&events, 1..6)).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::Safe));
    assert_eq!(broken.raw().await, events[..1], "Safe: nothing was applied");

    broken.proxy.heal();
    let first = std::sync::atomic::AtomicBool::new(true);
    let others = move |request: &_| {
        operation(request) == "PutRecord" && !first.swap(false, std::sync::atomic::Ordering::Relaxed)
    };
    broken.proxy.next(usize::MAX, others, throttled());
    let error = sink.append(batch(&events, 1..6)).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::AfterCheckpoint));
    assert_eq!(error.event(), Some(events[3].id()), "the first that is not there");
    assert_eq!(broken.raw().await, events[..3], "a prefix");
    assert_eq!(sink.checkpoint().await.unwrap(), Checkpoint::at(&events[2]));

    broken.proxy.heal();
    insist(&sink, &events).await;
    assert_eq!(broken.raw().await, events, "nothing twice");
    broken.remove().await;
}

#[tokio::test]
async fn a_late_record_is_read_once_and_in_order_on_kinesalite() {
    let Some(broken) = Broken::stream(Server::Kinesalite).await else { return };
    let events = Generator::new(1).log(9);
    let sink = broken.sink(broken.options().with_put_timeout(Duration::from_secs(1))).await;
    insist(&sink, &events[..3]).await;
    let gate = Gate::new();
    broken.puts(1, Action::Hold(gate.clone()));
    let error = sink.append(batch(&events, 3..6)).await.unwrap_err();
    assert_eq!(error.retry(), Retry::AfterCheckpoint);
    insist(&sink, &events).await;
    broken.holds(&events).await;
    let mut follow = broken.source().await.follow(ReadFrom::Origin);
    for event in &events[..8] {
        assert_eq!(follow.next().await.unwrap().unwrap(), *event);
    }
    gate.open();
    while broken.raw().await.len() < events.len() + 3 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(broken.raw().await[9..], events[3..6], "late, behind what came later");
    broken.holds(&events).await;
    assert_eq!(follow.next().await.unwrap().unwrap(), events[8]);
    let anew = broken.sink(broken.options()).await;
    assert_eq!(anew.checkpoint().await.unwrap(), Checkpoint::at(&events[8]));
    broken.remove().await;
}

#[tokio::test]
async fn a_dropped_append_ends_before_the_next_call_on_kinesalite() {
    let Some(broken) = Broken::stream(Server::Kinesalite).await else { return };
    let events = Generator::new(1).log(9);
    let sink = broken.sink(broken.options().with_record_bytes_max(1 << 10)).await;
    insist(&sink, &events[..3]).await;
    let puts = || broken.proxy.count(|request| operation(request) == "PutRecord");
    let before = puts();
    let gate = Gate::new();
    broken.puts(1, Action::HoldAnswer(gate.clone()));
    tokio::select! {
        appended = sink.append(batch(&events, 3..9)) => panic!("{appended:?}"),
        () = gate.arrived(1) => {} // and the append is dropped
    }
    let asked = sink.checkpoint();
    tokio::pin!(asked);
    assert!(asked.as_mut().now_or_never().is_none(), "it waits for the record in flight");
    gate.open();
    let held = asked.await.unwrap().id();
    assert!(held > Some(events[2].id()), "the record in flight has landed, and counts");
    assert_eq!(puts(), before + 1, "nothing was put behind it");
    insist(&sink, &events).await;
    assert_eq!(broken.raw().await, events, "nothing twice");
    broken.remove().await;
}

#[tokio::test]
async fn a_refusal_names_its_cause_and_is_one_put_on_kinesalite() {
    let Some(broken) = Broken::stream(Server::Kinesalite).await else { return };
    let events = Generator::new(1).log(4);
    let sink = broken.sink(broken.options()).await;
    insist(&sink, &events[..2]).await;
    let puts = || broken.proxy.count(|request| operation(request) == "PutRecord");
    for (code, kind, retry, word) in [
        ("ExpiredTokenException", ErrorKind::Denied, Retry::Safe, "session token"),
        ("UnrecognizedClientException", ErrorKind::Denied, Retry::Never, "AWS_SECRET_ACCESS_KEY"),
        ("InvalidSignatureException", ErrorKind::Denied, Retry::Safe, "clock"),
        ("AccessDeniedException", ErrorKind::Denied, Retry::Never, "policy"),
        ("KMSDisabledException", ErrorKind::Denied, Retry::Never, "KMS"),
        ("InvalidArgumentException", ErrorKind::Invalid, Retry::Never, "limits"),
    ] {
        let before = puts();
        broken.puts(1, Action::Answer(Answer::kinesis(400, code)));
        let error = sink.append(batch(&events, 2..4)).await.unwrap_err();
        assert_eq!((error.kind(), error.retry()), (kind, retry), "{error}");
        assert_eq!(error.pause_min().is_some(), retry == Retry::Safe, "{error}");
        assert!(error.to_string().contains(word) && error.to_string().contains(code), "{error}");
        assert!(error.target().unwrap().contains(LOG));
        assert!(kind != ErrorKind::Invalid || error.event().is_none(), "a dead letter by mistake: {error}");
        assert_eq!(puts(), before + 1, "{code} is not tried again");
    }
    insist(&sink, &events).await;
    assert_eq!(broken.raw().await, events);
    broken.remove().await;
}

#[tokio::test]
async fn the_first_call_reports_a_missing_stream_on_kinesalite() {
    let Some(client) = Server::Kinesalite.client().await else { return };
    let stream = test_servers::namespace();
    let options = Server::Kinesalite.options();
    let sink = KinesisSink::open(client.clone(), &stream, LOG, options).await.unwrap();
    for _ in 0..2 {
        let error = sink.checkpoint().await.unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::Safe), "{error}");
        assert!(error.to_string().contains(&stream) && error.to_string().contains("create it"), "{error}");
    }
    // Once it is there, the same handle goes on.
    servers::make_stream(&client, &stream, 1).await;
    assert_eq!(sink.checkpoint().await.unwrap(), Checkpoint::Empty);
    remove_streams(&client, &stream).await;
}

#[tokio::test]
async fn acknowledged_events_survive_kill_9_on_kinesalite() {
    let mut server = match Kinesalite::start(&servers::directory("killed")) {
        Ok(server) => server,
        Err(reason) => return println!("skipped: {reason}"),
    };
    let client = connect(&servers::at(&server.endpoint()).with_attempts_max(1)).await.unwrap();
    let stream = new_stream(&client, 2).await;
    let options = Server::Kinesalite.options();
    let sink = KinesisSink::open(client.clone(), &stream, LOG, options.clone()).await.unwrap();
    let events = Generator::new(1).log(120);
    for round in 0..3 {
        for at in 0..10 {
            let (from, to) = (round * 40 + at * 4, round * 40 + at * 4 + 4);
            sink.append(batch(&events, from..to)).await.unwrap();
        }
        server.kill();
        let to = (round * 40 + 44).min(events.len());
        let error = sink.append(Batch::new(None, &events[..to]).unwrap()).await;
        // The last round has nothing left to put.
        assert_eq!(error.is_err(), round < 2);
        server.restart();
        let anew = KinesisSink::open(client.clone(), &stream, LOG, options.clone()).await.unwrap();
        let held = anew.checkpoint().await.unwrap();
        assert_eq!(held, Checkpoint::at(&events[round * 40 + 39]), "all that was acknowledged");
    }
    insist(&sink, &events).await;
    assert_eq!(raw::first_of_each(raw::events(&client, &stream, LOG).await), events);
}

#[tokio::test]
async fn the_reader_detects_two_writers_of_a_log_on_kinesalite() {
    let Some(broken) = Broken::stream(Server::Kinesalite).await else { return };
    let mut generator = Generator::new(1);
    let events = generator.log(6);
    let (one, other) = (broken.sink(broken.options()).await, broken.sink(broken.options()).await);
    insist(&one, &events[..3]).await;
    assert_eq!(other.checkpoint().await.unwrap(), Checkpoint::at(&events[2]));
    insist(&one, &events).await;
    let foreign = [generator.event(3), generator.event(4)];
    other.append(Batch::new(Some(events[2].id()), &foreign).unwrap()).await.unwrap();
    let source = broken.source().await;
    let read: Vec<_> = source.read(ReadFrom::Origin).collect().await;
    let error = read.last().unwrap().as_ref().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Diverged, "{error}");
    assert_eq!(error.event(), Some(foreign[0].id()), "{error}");
    let before: Vec<_> = read.iter().flatten().cloned().collect();
    assert!(events.starts_with(&before), "nothing of the other writer was yielded");
    broken.remove().await;
}

#[tokio::test]
async fn the_checkpoint_detects_two_runners_on_kinesalite() {
    let Some(broken) = Broken::stream(Server::Kinesalite).await else { return };
    let events = Generator::new(1).log(6);
    let store = std::sync::Arc::new(hydrant::MemoryCheckpoints::default());
    let options = broken.options().with_checkpoints(store, LOG).with_checkpoint_interval(Duration::ZERO);
    let (one, other) = (broken.sink(options.clone()).await, broken.sink(options).await);
    insist(&one, &events[..2]).await;
    insist(&other, &events[..4]).await;
    let error = one.append(batch(&events, 2..6)).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Fenced, Retry::Never), "{error}");
    broken.remove().await;
}

/// A sink as it should not be: it puts events one a record with `PutRecords`, and again only what failed.
async fn put_records_and_retry_only_what_failed(client: &Client, stream: &str, events: &[Event]) {
    use aws_sdk_kinesis::primitives::Blob;
    use aws_sdk_kinesis::types::PutRecordsRequestEntry;

    let mut after = None;
    let entry = |event: &Event| {
        let mark = after.replace(event.id().get()).map_or("null".to_owned(), |after| after.to_string());
        let mark = format!(",\"_hydrant\":{{\"kinesis\":1,\"after\":{mark}}}}}");
        let line = [event.open_envelope(), mark.as_bytes()].concat();
        PutRecordsRequestEntry::builder().partition_key(LOG).data(Blob::new(line)).build().unwrap()
    };
    let mut entries: Vec<_> = events.iter().map(entry).collect();
    while !entries.is_empty() {
        let put = client.put_records().stream_name(stream).set_records(Some(entries.clone()));
        let answer = put.send().await.unwrap();
        let failed = entries.into_iter().zip(answer.records()).filter(|(_, put)| put.error_code().is_some());
        entries = failed.map(|(entry, _)| entry).collect();
    }
}

/// A `PutRecords` whose second record fails, as a shard that is written too fast does it.
fn second_record_fails() -> Action {
    const FAILED: &str =
        r#"{"ErrorCode":"ProvisionedThroughputExceededException","ErrorMessage":"Rate exceeded"}"#;
    let without_the_second = |request: Vec<u8>| {
        let mut request: serde_json::Value = serde_json::from_slice(&request).unwrap();
        request["Records"].as_array_mut().unwrap().remove(1);
        request.to_string().into_bytes()
    };
    let with_a_failure = |status, answer: Vec<u8>| {
        let mut answer: serde_json::Value = serde_json::from_slice(&answer).unwrap();
        answer["Records"].as_array_mut().unwrap().insert(1, serde_json::from_str(FAILED).unwrap());
        answer["FailedRecordCount"] = 1.into();
        (status, answer.to_string().into_bytes())
    };
    Action::rewrite(without_the_second, with_a_failure)
}

#[tokio::test]
async fn retrying_failed_records_alone_reorders_on_kinesalite() {
    let Some(broken) = Broken::stream(Server::Kinesalite).await else { return };
    let events = Generator::new(1).log(6);
    let fails = |broken: &Broken| {
        broken.proxy.next(1, |request| operation(request) == "PutRecords", second_record_fails());
    };
    fails(&broken);
    put_records_and_retry_only_what_failed(&broken.proxied, &broken.stream, &events).await;
    let ids: Vec<_> = broken.raw().await.iter().map(|event| event.id().get()).collect();
    assert_eq!(ids, [0, 2, 3, 4, 5, 1], "the mutant reorders");
    let error = broken.source().await.collect(ReadFrom::Origin).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Diverged, "and a reader reports it: {error}");

    let Some(ours) = Broken::stream(Server::Kinesalite).await else { return };
    fails(&ours);
    for packing in [hydrant_kinesis::Packing::Single, hydrant_kinesis::Packing::Aggregated] {
        insist(&ours.sink(ours.options().with_packing(packing)).await, &events).await;
    }
    assert_eq!(ours.raw().await, events);
    assert_eq!(ours.proxy.count(|request| operation(request) == "PutRecords"), 0);
    broken.remove().await;
    ours.remove().await;
}
