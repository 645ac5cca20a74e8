//! Servers that are killed with SIGKILL under a fan-out, and restarted.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hydrant::{
    Deferred, EventSink, EventSourceExt as _, FanOut, FanOutOptions, Journal, JournalOptions, ReadFrom,
    SecondaryOptions, SecondaryState,
};
use hydrant_file::{FileStore, FileStoreOptions};
use integration_tests::places::Place;
use test_servers::Service;
use test_servers::native::{Kinesalite, MiniStack, Postgres};

/// A private server of any kind.
enum Server {
    Postgres(Postgres),
    S3(MiniStack),
    Kinesis(Kinesalite),
}

impl Server {
    fn start(service: Service) -> Option<Self> {
        let name = format!("{service}-{}", test_servers::namespace());
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        let started = match service {
            Service::Postgres => Postgres::start(&dir).map(Self::Postgres),
            Service::S3 => MiniStack::start(&dir).map(Self::S3),
            Service::Kinesis => Kinesalite::start(&dir).map(Self::Kinesis),
        };
        started.inspect_err(|reason| println!("skipped: {reason}")).ok()
    }

    fn url(&self) -> String {
        match self {
            Self::Postgres(server) => server.url(),
            Self::S3(server) => server.url(),
            Self::Kinesis(server) => server.url(),
        }
    }

    fn kill(&mut self) {
        match self {
            Self::Postgres(server) => server.kill(),
            Self::S3(server) => server.kill(),
            Self::Kinesis(server) => server.kill(),
        }
    }

    fn restart(&mut self) {
        match self {
            Self::Postgres(server) => server.restart(),
            Self::S3(server) => server.restart(),
            Self::Kinesis(server) => server.restart(),
        }
    }
}

async fn sink(place: Place) -> hydrant::Result<Arc<dyn EventSink>> {
    Ok(match place.service() {
        Service::Postgres => Arc::new(place.postgres_store("log").await?),
        Service::S3 => Arc::new(place.s3_store("log").await?),
        Service::Kinesis => Arc::new(place.kinesis_sink("log").await?),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn each_server_killed_in_turn_gets_what_it_missed() {
    let dir = tempfile::tempdir().unwrap();
    let store = FileStore::open(dir.path(), FileStoreOptions::default()).await.unwrap();
    let log = FanOut::open(store, FanOutOptions::default()).await.unwrap();
    let mut servers = Vec::new();
    for service in Service::ALL {
        let Some(server) = tokio::task::spawn_blocking(move || Server::start(service)).await.unwrap() else {
            continue;
        };
        let place = Place::at(service, server.url()).await;
        let opened = place.clone();
        let options =
            SecondaryOptions::default().with_backoff(Duration::from_millis(10), Duration::from_millis(200));
        log.attach(service.name(), Deferred::new(move || sink(opened.clone())), options).await.unwrap();
        servers.push((server, place));
    }
    let journal = Journal::open(log.clone(), JournalOptions::default()).await.unwrap();
    let delivered = async || {
        let head = log.status().head.unwrap();
        log.delivered(head, Duration::from_mins(1)).await.unwrap_or_else(|laggards| panic!("{laggards}"));
    };
    for _ in 0..2 {
        for (server, place) in &mut servers {
            for value in 0..50 {
                journal.append(&value).await.unwrap();
            }
            server.kill(); // with all calls that are in flight
            let mut last = None;
            for value in 0..50 {
                last = Some(journal.append(&value).await.unwrap());
            }
            let status = log.status();
            let broken = status.secondaries.iter().find(|it| it.name == place.service().name()).unwrap();
            assert_ne!(broken.state, SecondaryState::Parked, "{broken:?}");
            println!("{} was killed: {:?}", broken.name, broken.last_error);
            server.restart();
            delivered().await;
            assert_eq!(log.status().head, last);
        }
    }
    let events = log.collect(ReadFrom::Origin).await.unwrap();
    assert!(log.close(Duration::from_mins(1)).await.is_empty());
    for (_, place) in &servers {
        let held = match place.service() {
            Service::Postgres => place.postgres_store("log").await.unwrap().collect(ReadFrom::Origin).await,
            Service::S3 => place.s3_store("log").await.unwrap().collect(ReadFrom::Origin).await,
            Service::Kinesis => place.kinesis_source("log").await.unwrap().collect(ReadFrom::Origin).await,
        };
        assert!(held.unwrap() == events, "{}: each event once, in order", place.service());
    }
}
