//! One log over files with a secondary on every server, each behind a proxy that breaks it. Nothing is lost,
//! and the other secondaries are not affected.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use hydrant::{
    Batch, Checkpoint, Deferred, ErrorKind, Event, EventId, EventSink, EventSource, EventSourceExt as _,
    FanOut, FanOutOptions, ReadFrom, SecondaryOptions, SecondaryState, SecondaryStatus,
};
use hydrant_file::{FileStore, FileStoreOptions};
use integration_tests::places::Place;
use test_servers::Service;
use test_servers::proxy::{Action, Answer, Fault, Http, Tcp};

/// The name of the log.
const LOG: &str = "log";

/// How long the test waits for a state. It never takes nearly as long.
const PATIENCE: Duration = Duration::from_mins(1);

/// A secondary, and the proxies between it and its server.
struct Far {
    place: Place,
    tcp: Tcp,
    /// A proxy in front of the other one, if the service uses HTTP.
    http: Option<Http>,
}

impl Far {
    async fn new(place: Place) -> Self {
        let tcp = Tcp::start(place.address()).await;
        let http = match place.service() {
            Service::Postgres => None,
            Service::S3 | Service::Kinesis => Some(Http::start(tcp.address()).await),
        };
        Self { place, tcp, http }
    }

    fn name(&self) -> &'static str {
        self.place.service().name()
    }

    /// Returns the place, reached through its proxies.
    fn proxied(&self) -> Place {
        self.place.through(self.http.as_ref().map_or(self.tcp.address(), Http::address))
    }

    /// Returns all events that the server holds, and its checkpoint, read without the proxies.
    async fn held(&self) -> (Vec<Event>, Checkpoint) {
        let (source, sink): (Arc<dyn EventSource>, Arc<dyn EventSink>) = match self.place.service() {
            Service::Postgres => {
                let store = self.place.postgres_store(LOG).await.unwrap();
                (Arc::new(store.clone()), Arc::new(store))
            }
            Service::S3 => {
                let store = self.place.s3_store(LOG).await.unwrap();
                (Arc::new(store.clone()), Arc::new(store))
            }
            Service::Kinesis => (
                Arc::new(self.place.kinesis_source(LOG).await.unwrap()),
                Arc::new(self.place.kinesis_sink(LOG).await.unwrap()),
            ),
        };
        let events = source.collect(ReadFrom::Origin).await.unwrap();
        (events, sink.checkpoint().await.unwrap())
    }
}

/// Opens the sink of a place; can be called repeatedly.
async fn sink(place: Place) -> hydrant::Result<Arc<dyn EventSink>> {
    Ok(match place.service() {
        Service::Postgres => Arc::new(place.postgres_store(LOG).await?),
        Service::S3 => Arc::new(place.s3_store(LOG).await?),
        Service::Kinesis => Arc::new(place.kinesis_sink(LOG).await?),
    })
}

/// The fan-out, and all events that were appended to it.
struct Everywhere {
    log: FanOut<FileStore>,
    far: Vec<Far>,
    events: Vec<Event>,
    rng: Rng,
    _dir: tempfile::TempDir,
}

impl Everywhere {
    /// Opens the fan-out; `None` if there is no server.
    async fn open(places: Vec<Place>) -> Option<Self> {
        if places.is_empty() {
            return None;
        }
        let seed =
            std::env::var("HYDRANT_SEED").map_or_else(|_| Rng::new().u64(..), |seed| seed.parse().unwrap());
        println!("seed {seed} (HYDRANT_SEED={seed} replays this run)");
        let dir = tempfile::tempdir().unwrap();
        let store = FileStore::open(dir.path(), FileStoreOptions::default()).await.unwrap();
        let log = FanOut::open(store, FanOutOptions::default().with_seed(seed)).await.unwrap();
        let mut far = Vec::new();
        for place in places {
            let place = Far::new(place).await;
            let proxied = place.proxied();
            let options = SecondaryOptions::default()
                .with_backoff(Duration::from_millis(5), Duration::from_millis(50))
                .with_call_timeout(Duration::from_secs(6));
            log.attach(place.name(), Deferred::new(move || sink(proxied.clone())), options).await.unwrap();
            far.push(place);
        }
        let rng = Rng::with_seed(seed);
        Some(Self { log, far, events: Vec::new(), rng, _dir: dir })
    }

    /// Appends a few batches; ids have gaps.
    async fn append(&mut self) -> EventId {
        for _ in 0..self.rng.usize(2..6) {
            let after = self.events.last().map(Event::id);
            let mut id = after.map_or(0, |id| id.get() + self.rng.u64(1..3));
            let mut batch = Vec::new();
            for _ in 0..self.rng.usize(1..9) {
                batch.push(Event::new(EventId::new(id), &format!("payload {}", self.rng.u64(..))).unwrap());
                id += self.rng.u64(1..3);
            }
            self.log.append(Batch::new(after, &batch).unwrap()).await.unwrap();
            self.events.extend(batch);
        }
        self.events.last().unwrap().id()
    }

    fn status(&self, name: &str) -> SecondaryStatus {
        let status = self.log.status();
        status.secondaries.into_iter().find(|secondary| secondary.name == name).unwrap()
    }

    /// Waits until the status meets the condition.
    async fn until(
        &self,
        name: &str,
        what: &str,
        is_so: impl Fn(&SecondaryStatus) -> bool,
    ) -> SecondaryStatus {
        let waiting = async {
            loop {
                let status = self.status(name);
                if is_so(&status) {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, waiting).await;
        waited.unwrap_or_else(|_| panic!("{name}: never {what}: {:?}", self.status(name)))
    }

    async fn all_delivered(&self) {
        let Some(last) = self.events.last() else { return };
        self.log.delivered(last.id(), PATIENCE).await.unwrap_or_else(|laggards| panic!("{laggards}"));
    }

    /// Appends events while one secondary is broken. `fails`: whether it must show an error until it is mended.
    async fn breaks(&mut self, broken: usize, what: &str, fails: bool, cause: &[ErrorKind]) {
        let name = self.far[broken].name();
        let others: Vec<&'static str> =
            self.far.iter().map(Far::name).filter(|other| *other != name).collect();
        let retries: BTreeMap<_, _> =
            others.iter().map(|other| (*other, self.status(other).retries)).collect();
        let errors = self.status(name).retries;
        let head = self.append().await;
        for other in &others {
            let status = self.until(other, "delivered", |status| {
                status.checkpoint == Some(head) && status.lag_events == 0
            });
            let status = status.await;
            assert_eq!(status.retries, retries[other], "{other} noticed {what} of {name}: {status:?}");
            assert_ne!(
                status.state,
                SecondaryState::Parked,
                "{other} parked at {what} of {name}: {status:?}"
            );
        }
        if fails {
            let failed =
                |status: &SecondaryStatus| status.retries > errors || status.state == SecondaryState::Parked;
            let status = self.until(name, &format!("failed by {what}"), failed).await;
            let error = status.last_error.expect("what fails says why");
            println!("{name}, {what}: {error}");
            assert!(cause.contains(&error.kind()), "{name}, {what}: {error}");
            assert!(status.lag_events > 0, "{name}, {what}: it cannot have what it could not be given");
        }
    }

    /// Removes the cause, and resumes the secondary if it parked.
    async fn mended(&mut self, broken: usize) {
        let far = &self.far[broken];
        if let Some(http) = &far.http {
            http.heal();
        }
        far.tcp.heal().await;
        if self.status(far.name()).state == SecondaryState::Parked {
            self.log.resume(far.name()).unwrap();
        }
        self.all_delivered().await;
    }

    /// Checks that each server holds each event once, in order, and that checkpoints are right.
    async fn ends(self) {
        self.all_delivered().await;
        assert_eq!(self.log.collect(ReadFrom::Origin).await.unwrap(), self.events);
        assert!(self.log.close(PATIENCE).await.is_empty());
        drop(self.log);
        for far in self.far {
            let (held, checkpoint) = far.held().await;
            assert!(held == self.events, "{} holds each event once, in order", far.name());
            assert_eq!(checkpoint, Checkpoint::at(self.events.last().unwrap()), "{}", far.name());
            far.place.remove().await;
        }
    }
}

async fn places() -> Vec<Place> {
    let mut places = Vec::new();
    for service in Service::ALL {
        places.extend(Place::on(service).await);
    }
    places
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_breaks_one_secondary_delays_no_other() {
    let Some(mut all) = Everywhere::open(places().await).await else { return };
    all.append().await;
    all.all_delivered().await;
    for broken in 0..all.far.len() {
        let mut faults = vec![
            (Fault::Refuse, true),
            (Fault::CutBefore, true),
            (Fault::CutWithin(10), true),
            (Fault::CutAfter, true),
            (Fault::LoseAnswer, true),
            (Fault::CutAnswer(5), true),
            (Fault::Delay(Duration::from_millis(30)), false),
            (Fault::BlackHole, true),
            (Fault::Reset, true),
        ];
        all.rng.shuffle(&mut faults);
        for (fault, fails) in faults {
            all.far[broken].tcp.always(fault).await;
            if fault == Fault::Refuse {
                all.far[broken].tcp.cut();
            }
            all.breaks(broken, &format!("{fault:?}"), fails, &[ErrorKind::Unavailable]).await;
            all.mended(broken).await;
        }
    }
    all.ends().await;
}

/// Returns replies of a service, each with the kinds of errors that they may become.
fn answers(service: Service) -> Vec<(Answer, &'static [ErrorKind])> {
    const DOWN: &[ErrorKind] = &[ErrorKind::Unavailable];
    const DENIED: &[ErrorKind] = &[ErrorKind::Denied];
    match service {
        Service::Postgres => Vec::new(),
        Service::S3 => vec![
            (Answer::s3(500, "InternalError"), DOWN),
            (Answer::s3(503, "SlowDown"), DOWN),
            (Answer::s3(403, "AccessDenied"), DENIED),
            (Answer::s3(403, "SignatureDoesNotMatch"), DENIED),
            (Answer::s3(403, "RequestTimeTooSkewed"), &[ErrorKind::Unavailable, ErrorKind::Denied]),
            (Answer::s3(400, "ExpiredToken"), &[ErrorKind::Unavailable, ErrorKind::Denied]),
        ],
        Service::Kinesis => vec![
            (Answer::kinesis(400, "ProvisionedThroughputExceededException"), DOWN),
            (Answer::kinesis(500, "InternalFailure"), DOWN),
            (Answer::kinesis(503, "ServiceUnavailable"), DOWN),
            (Answer::kinesis(400, "AccessDeniedException"), DENIED),
            (Answer::kinesis(400, "ExpiredTokenException"), &[ErrorKind::Unavailable, ErrorKind::Denied]),
        ],
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_secondary_is_named_and_delays_no_other() {
    let Some(mut all) = Everywhere::open(places().await).await else { return };
    all.append().await;
    all.all_delivered().await;
    for broken in 0..all.far.len() {
        let mut answers = answers(all.far[broken].place.service());
        all.rng.shuffle(&mut answers);
        for (answer, cause) in answers {
            let what = format!("an answer with {}", answer.status);
            let http = all.far[broken].http.as_ref().unwrap();
            http.next(usize::MAX, |_| true, Action::Answer(answer));
            all.breaks(broken, &what, true, cause).await;
            all.mended(broken).await;
        }
    }
    all.ends().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_lost_one_in_three_lose_and_double_nothing() {
    let Some(mut all) = Everywhere::open(places().await).await else { return };
    for _ in 0..30 {
        for far in &all.far {
            let exchange = test_servers::proxy::When::Exchange(all.rng.u64(1..6));
            let faults = [Fault::LoseAnswer, Fault::CutBefore, Fault::CutAnswer(9), Fault::Reset];
            far.tcp.once(exchange, faults[all.rng.usize(..4)]);
        }
        all.append().await;
        if all.rng.bool() {
            all.all_delivered().await;
        }
    }
    for broken in 0..all.far.len() {
        all.mended(broken).await;
    }
    all.ends().await;
}
