//! A process that fans out to all places in its arguments, until it is killed: `everywhere PRIMARY COUNT
//! SECONDARY...`, where a primary is `file:DIR` or `SERVER URL-parts`, as the tests pass them.
//!
//! It prints the id of each acknowledged event on a line of its own.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use hydrant::{
    Deferred, EventSink, FanOut, FanOutOptions, Journal, JournalOptions, Primary, SecondaryOptions,
};
use hydrant_file::{FileStore, FileStoreOptions};
use integration_tests::places::Place;

#[tokio::main]
async fn main() -> hydrant::Result<()> {
    let mut args = std::env::args().skip(1);
    let primary = args.next().expect("a primary is named");
    let count = args.next().and_then(|count| count.parse().ok()).expect("a number of events is named");
    let secondaries = args.map(|place| Place::from_text(&place)).collect();
    if let Some(dir) = primary.strip_prefix("file:") {
        let store = FileStore::open(dir, FileStoreOptions::default()).await?;
        return run(store, count, secondaries).await;
    }
    let place = Place::from_text(&primary);
    match place.service() {
        test_servers::Service::Postgres => run(place.postgres_store("log").await?, count, secondaries).await,
        _ => run(place.s3_store("log").await?, count, secondaries).await,
    }
}

async fn run<P: Primary + 'static>(primary: P, count: u64, secondaries: Vec<Place>) -> hydrant::Result<()> {
    let log = FanOut::open(primary, FanOutOptions::default()).await?;
    for place in secondaries {
        let (name, opened) = (place.service().name(), place.clone());
        let sink = Deferred::new(move || sink(opened.clone()));
        log.attach(name, sink, SecondaryOptions::default().with_target(place.url("log"))).await?;
    }
    let journal = Journal::open(log.clone(), JournalOptions::default()).await?;
    for value in 0..count {
        let id = journal.append(&value).await?;
        writeln!(std::io::stdout(), "{id}").expect("the test listens");
    }
    drop(log.close(Duration::from_mins(1)).await);
    Ok(())
}

async fn sink(place: Place) -> hydrant::Result<Arc<dyn EventSink>> {
    Ok(match place.service() {
        test_servers::Service::Postgres => Arc::new(place.postgres_store("log").await?),
        test_servers::Service::S3 => Arc::new(place.s3_store("log").await?),
        test_servers::Service::Kinesis => Arc::new(place.kinesis_sink("log").await?),
    })
}
