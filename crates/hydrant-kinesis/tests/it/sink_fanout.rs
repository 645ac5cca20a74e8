//! The sink as one secondary of several: whatever happens to the stream, the others do not notice.

use std::time::Duration;

use hydrant::{
    Batch, Checkpoint, ErrorKind, Event, EventSink, EventSourceExt, FanOut, FanOutOptions, MemoryStore,
    ReadFrom, SecondaryOptions, SecondaryState, SecondaryStatus,
};
use hydrant_conformance::Generator;
use hydrant_kinesis::KinesisSink;
use test_servers::proxy::{Action, Answer, Gate};
use tokio::runtime::Handle;

use crate::servers::{Server, remove_streams};
use crate::sink_faults::Broken;

const PATIENCE: Duration = Duration::from_mins(1);

/// A log in memory, with the stream and another log in memory behind it.
struct Log {
    fan_out: FanOut<MemoryStore>,
    other: MemoryStore,
    events: Vec<Event>,
}

impl Log {
    async fn open() -> Self {
        let fan_out = FanOut::open(MemoryStore::default(), FanOutOptions::default()).await.unwrap();
        let other = MemoryStore::default();
        fan_out.attach("other", other.clone(), quick()).await.unwrap();
        Self { fan_out, other, events: Vec::new() }
    }

    /// Appends so many events, one by one, and has the other secondary at the head.
    async fn append(&mut self, count: usize) {
        for event in Generator::new(self.events.len() as u64).gapped(self.events.last().map(Event::id), count)
        {
            let after = self.events.last().map(Event::id);
            self.fan_out.append(Batch::new(after, std::slice::from_ref(&event)).unwrap()).await.unwrap();
            self.events.push(event);
        }
        let head = self.events.last().map(Event::id);
        until(|| self.status("other").checkpoint == head).await;
        let other = self.status("other");
        assert!(other.last_error.is_none() && other.retries == 0, "{other:?}");
    }

    fn status(&self, name: &str) -> SecondaryStatus {
        let secondaries = self.fan_out.status().secondaries;
        secondaries.into_iter().find(|secondary| secondary.name == name).unwrap()
    }

    /// Everything is on the stream, and in the other log.
    async fn is_delivered(&self, broken: &Broken) {
        let head = self.events.last().unwrap().id();
        self.fan_out.delivered(head, PATIENCE).await.unwrap();
        assert_eq!(self.other.collect(ReadFrom::Origin).await.unwrap(), self.events);
        broken.holds(&self.events).await;
    }
}

fn quick() -> SecondaryOptions {
    SecondaryOptions::default().with_backoff(Duration::from_millis(5), Duration::from_millis(20))
}

async fn until(mut done: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    waited.await.expect("it comes to pass");
}

#[tokio::test]
async fn a_stream_that_is_down_at_first_catches_up_on_kinesalite() {
    let Some(broken) = Broken::stream(Server::Kinesalite).await else { return };
    let mut log = Log::open().await;
    broken.proxy.next(usize::MAX, |_| true, Action::Cut);
    log.fan_out.attach("stream", broken.sink(broken.options()).await, quick()).await.unwrap();
    log.append(20).await;
    until(|| log.status("stream").retries > 1).await;
    let status = log.status("stream");
    assert_eq!(status.last_error.unwrap().kind(), ErrorKind::Unavailable);
    assert_eq!(status.checkpoint, None);
    broken.proxy.heal();
    log.is_delivered(&broken).await;
    broken.remove().await;
}

#[tokio::test]
async fn a_failing_stream_delays_no_other_sink_on_kinesalite() {
    let Some(broken) = Broken::stream(Server::Kinesalite).await else { return };
    let mut log = Log::open().await;
    log.fan_out.attach("stream", broken.sink(broken.options()).await, quick()).await.unwrap();
    log.append(5).await;
    log.is_delivered(&broken).await;
    let answer = |status, code| Action::Answer(Answer::kinesis(status, code));
    for (action, kind, says) in [
        (Action::Cut, ErrorKind::Unavailable, "no answer came"),
        (Action::LoseAnswer, ErrorKind::Unavailable, "no answer came"),
        (answer(500, "InternalFailure"), ErrorKind::Unavailable, "InternalFailure"),
        (answer(503, "ServiceUnavailable"), ErrorKind::Unavailable, "ServiceUnavailable"),
    ] {
        let retries = log.status("stream").retries;
        broken.puts(usize::MAX, action);
        log.append(7).await;
        until(|| {
            let failed = log.status("stream").last_error;
            failed.is_some_and(|error| error.kind() == kind && error.to_string().contains(says))
        })
        .await;
        broken.proxy.heal();
        log.is_delivered(&broken).await;
        assert!(log.status("stream").retries > retries);
    }
    // A stream that hangs delays no other sink.
    let gate = Gate::new();
    broken.puts(usize::MAX, Action::Hold(gate.clone()));
    log.append(30).await;
    gate.arrived(1).await;
    assert_ne!(log.status("stream").checkpoint, log.events.last().map(Event::id));
    broken.proxy.heal();
    gate.open();
    log.is_delivered(&broken).await;
    broken.remove().await;
}

#[tokio::test]
async fn a_refusal_parks_only_the_stream_on_kinesalite() {
    let Some(broken) = Broken::stream(Server::Kinesalite).await else { return };
    let mut log = Log::open().await;
    log.fan_out.attach("stream", broken.sink(broken.options()).await, quick()).await.unwrap();
    log.append(3).await;
    log.is_delivered(&broken).await;
    for code in ["UnrecognizedClientException", "AccessDeniedException", "KMSDisabledException"] {
        broken.puts(usize::MAX, Action::Answer(Answer::kinesis(400, code)));
        log.append(4).await;
        until(|| log.status("stream").state == SecondaryState::Parked).await;
        let error = log.status("stream").last_error.unwrap();
        assert!(error.kind() == ErrorKind::Denied && error.to_string().contains(code), "{error}");
        log.append(4).await;
        broken.proxy.heal();
        log.fan_out.resume("stream").unwrap();
        log.is_delivered(&broken).await;
    }
    broken.remove().await;
}

#[tokio::test]
async fn an_oversized_event_parks_the_stream_on_kinesalite() {
    let Some(broken) = Broken::stream(Server::Kinesalite).await else { return };
    let mut log = Log::open().await;
    let small = broken.options().with_record_bytes_max(2 << 10);
    log.fan_out.attach("stream", broken.sink(small).await, quick()).await.unwrap();
    log.append(2).await;
    let large = Generator::new(0).sized(log.events.last().unwrap().id().get() + 1, 4 << 10);
    let after = log.events.last().map(Event::id);
    log.fan_out.append(Batch::new(after, std::slice::from_ref(&large)).unwrap()).await.unwrap();
    log.events.push(large.clone());
    until(|| log.status("stream").state == SecondaryState::Parked).await;
    let error = log.status("stream").last_error.unwrap();
    assert_eq!((error.kind(), error.event()), (ErrorKind::Invalid, Some(large.id())), "{error}");
    assert!(error.to_string().contains("4096"), "{error}");
    // The same sink with chunks goes on where this one stopped.
    log.fan_out.detach("stream").await.unwrap();
    let chunks =
        broken.options().with_record_bytes_max(2 << 10).with_oversize(hydrant_kinesis::Oversize::Chunk);
    log.fan_out.attach("stream", broken.sink(chunks).await, quick()).await.unwrap();
    log.append(2).await;
    log.is_delivered(&broken).await;
    broken.remove().await;
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

#[tokio::test]
async fn a_thousand_attaches_and_detaches_leak_nothing_on_kinesalite() {
    let Some(broken) = Broken::stream(Server::Kinesalite).await else { return };
    let mut log = Log::open().await;
    let cycle = async |log: &Log| {
        let sink = KinesisSink::open(broken.direct.clone(), &broken.stream, "orders", broken.options()).await;
        log.fan_out.attach("stream", sink.unwrap(), quick()).await.unwrap();
        let head = log.events.last().map(Event::id);
        until(|| log.status("stream").checkpoint == head).await;
        log.fan_out.detach("stream").await.unwrap();
    };
    for _ in 0..5 {
        log.append(2).await;
        cycle(&log).await;
    }
    let (tasks, open) = (Handle::current().metrics().num_alive_tasks(), descriptors());
    for nth in 0..1_000 {
        if nth % 50 == 0 {
            log.append(1).await;
        }
        cycle(&log).await;
    }
    // Other tests of this process open some of their own meanwhile; a leak would be a thousand.
    until(|| Handle::current().metrics().num_alive_tasks() <= tasks + 5).await;
    assert!(descriptors() < open + 500, "{open} descriptors before, {} after", descriptors());
    assert_eq!(broken.raw().await, log.events, "nothing twice: each found its checkpoint");
    broken.remove().await;
}

#[tokio::test]
async fn the_checkpoint_survives_resharding_on_kinesis_local() {
    let Some(broken) = Broken::stream(Server::KinesisLocal).await else { return };
    let mut log = Log::open().await;
    log.fan_out.attach("stream", broken.sink(broken.options()).await, quick()).await.unwrap();
    for shards in [2, 4, 2, 1, 2] {
        log.append(10).await;
        let resharding = broken.direct.update_shard_count().stream_name(&broken.stream);
        let resharding = resharding.target_shard_count(shards);
        let resharding = resharding.scaling_type(aws_sdk_kinesis::types::ScalingType::UniformScaling);
        let (resharded, ()) = tokio::join!(resharding.send(), log.append(20));
        resharded.unwrap();
        crate::servers::until_active(&broken.direct, &broken.stream).await;
        log.append(10).await;
        log.is_delivered(&broken).await;
        let anew = broken.sink(broken.options()).await;
        assert_eq!(anew.checkpoint().await.unwrap(), Checkpoint::at(log.events.last().unwrap()));
    }
    remove_streams(&broken.direct, &broken.stream).await;
}
