//! Whole processes that fan out to every server: killed at seeded points, and two with one log.

use std::collections::BTreeSet;

use fastrand::Rng;
use hydrant::{EventSource, EventSourceExt as _, ReadFrom};
use hydrant_file::{FileSource, FileSourceOptions};
use integration_tests::places::Place;
use integration_tests::program::Running;
use test_servers::Service;

const EVERYWHERE: &str = env!("CARGO_BIN_EXE_everywhere");

fn seeded() -> Rng {
    let seed =
        std::env::var("HYDRANT_SEED").map_or_else(|_| Rng::new().u64(..), |seed| seed.parse().unwrap());
    println!("seed {seed} (HYDRANT_SEED={seed} replays this run)");
    Rng::with_seed(seed)
}

fn start(primary: &str, count: u64, secondaries: &[Place]) -> Running {
    let mut args = vec![primary.to_owned(), count.to_string()];
    args.extend(secondaries.iter().map(Place::to_text));
    Running::start_program(EVERYWHERE, args)
}

/// Returns the ids of a log.
async fn ids(source: &dyn EventSource) -> Vec<u64> {
    let events = source.collect(ReadFrom::Origin).await.unwrap();
    events.iter().map(|event| event.id().get()).collect()
}

async fn source(place: &Place) -> Box<dyn EventSource> {
    match place.service() {
        Service::Postgres => Box::new(place.postgres_store("log").await.unwrap()),
        Service::S3 => Box::new(place.s3_store("log").await.unwrap()),
        Service::Kinesis => Box::new(place.kinesis_source("log").await.unwrap()),
    }
}

/// Reads acknowledged ids until there were `most` of them, or the process ends.
async fn acknowledged(process: &mut Running, most: usize, to: &mut BTreeSet<u64>) {
    for _ in 0..most {
        let Some(line) = process.line().await else { return };
        assert!(to.insert(line.parse().unwrap()), "event {line} was acknowledged twice");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_with_all_stores_attached_loses_no_acknowledged_event() {
    let (mut places, mut rng) = (Vec::new(), seeded());
    for service in Service::ALL {
        places.extend(Place::on(service).await);
    }
    let dir = tempfile::tempdir().unwrap();
    let primary = format!("file:{}", dir.path().display());
    let mut acked = BTreeSet::new();
    for _ in 0..6 {
        let mut process = start(&primary, u64::MAX, &places);
        acknowledged(&mut process, rng.usize(1..400), &mut acked).await;
        process.kill();
        acknowledged(&mut process, usize::MAX, &mut acked).await; // what was in the pipe
        process.end().await;
    }
    let mut process = start(&primary, 10, &places);
    acknowledged(&mut process, usize::MAX, &mut acked).await;
    assert!(process.end().await.success());
    let log = FileSource::open(dir.path(), FileSourceOptions::default()).await.unwrap();
    let log = log.collect(ReadFrom::Origin).await.unwrap();
    let held: BTreeSet<u64> = log.iter().map(|event| event.id().get()).collect();
    assert!(acked.is_subset(&held), "lost: {:?}", acked.difference(&held).collect::<Vec<_>>());
    println!("{} events were acknowledged, {} are held", acked.len(), held.len());
    for place in places {
        let held = source(&place).await.collect(ReadFrom::Origin).await.unwrap();
        assert!(held == log, "{} holds the log, each event once, in order", place.service());
        place.remove().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_processes_with_one_primary_one_wins() {
    for service in [Service::Postgres, Service::S3] {
        let Some(place) = Place::on(service).await else { continue };
        let mut acked = [BTreeSet::new(), BTreeSet::new()];
        let [mut one, mut other] = [0, 1].map(|_| start(&place.to_text(), u64::MAX, &[]));
        // The fenced process ends. The winner continues, and is then killed.
        let [first, second] = &mut acked;
        let loser = tokio::select! {
            () = acknowledged(&mut one, usize::MAX, first) => 0,
            () = acknowledged(&mut other, usize::MAX, second) => 1,
        };
        let (mut winner, lost) = if loser == 0 { (other, one) } else { (one, other) };
        assert!(!lost.end().await.success(), "{service}: the loser fails");
        acknowledged(&mut winner, 20, &mut acked[1 - loser]).await;
        winner.kill();
        acknowledged(&mut winner, usize::MAX, &mut acked[1 - loser]).await;
        winner.end().await;
        assert!(acked[0].is_disjoint(&acked[1]), "{service}: no event was acknowledged to both");
        let held = ids(&*source(&place).await).await;
        assert!(held.is_sorted_by(|one, next| one < next), "{service}");
        let held = BTreeSet::from_iter(held);
        for acked in &acked {
            assert!(acked.is_subset(&held), "{service}: what was acknowledged is held");
        }
        println!("{service}: {} and {} acknowledged, {} held", acked[0].len(), acked[1].len(), held.len());
        place.remove().await;
    }
}
