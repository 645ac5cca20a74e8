//! A projection under faults: whatever is killed, each deposit counts once.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use hydrant::{
    Batch, Checkpoint, ErrorKind, Event, EventSink, FanOut, FanOutOptions, MemoryStore, Result, Retry,
    SecondaryOptions, SecondaryState,
};
use hydrant_postgres::{PostgresProjection, PostgresProjectionOptions};
use test_servers::native::Postgres;
use test_servers::proxy::{Fault, Tcp, When};
use tokio::time::{Instant, timeout};

use crate::balances::{Balances, after, deposits, sums};
use crate::database::{Schema, address, client, named, server, terminate, through};

/// As it stands on the wire; `READ COMMITTED` does not end with a zero.
const COMMIT: &[u8] = b"COMMIT\0";

fn options(schema: &str) -> PostgresProjectionOptions {
    PostgresProjectionOptions::default().with_schema(format!("{schema}_progress"))
}

async fn open(url: &str, schema: &str, projection: Balances) -> Result<PostgresProjection<Balances>> {
    PostgresProjection::open(url, schema, projection, options(schema)).await
}

async fn append(sink: &PostgresProjection<Balances>, log: &[Event], from: usize) -> Result<()> {
    let before = from.checked_sub(1).map(|at| log[at].id());
    sink.append(Batch::new(before, &log[from..]).unwrap()).await
}

#[tokio::test]
async fn a_lost_answer_to_commit_is_found_out() {
    let Some(url) = server() else { return };
    let eyes = client(&url).await;
    let log = deposits(0..20);
    for (fault, lands) in [(Fault::LoseAnswer, true), (Fault::CutAfter, true), (Fault::CutBefore, false)] {
        for asks in [true, false] {
            let schema = Schema::new(&url);
            let proxy = Tcp::start(address(&url)).await;
            let sink =
                open(&through(&url, proxy.address()), &schema.name, Balances::version(1)).await.unwrap();
            append(&sink, &log[..10], 0).await.unwrap();
            proxy.once(When::Sends(COMMIT.to_vec()), fault);
            let open = append(&sink, &log, 10).await.unwrap_err();
            assert_eq!(
                (open.kind(), open.retry()),
                (ErrorKind::Unavailable, Retry::AfterCheckpoint),
                "{open}"
            );
            if asks {
                let expected = Checkpoint::at(&log[if lands { 19 } else { 9 }]);
                assert_eq!(sink.checkpoint().await.unwrap(), expected, "{fault:?}");
            }
            // The same bytes again under the same ids.
            append(&sink, &log, 10).await.unwrap();
            assert_eq!(sums(&eyes, &schema.name).await, after(20), "{fault:?}");
        }
    }
}

#[tokio::test]
async fn what_is_lost_before_commit_is_safe() {
    let Some(url) = server() else { return };
    let eyes = client(&url).await;
    let log = deposits(0..20);
    let schema = Schema::new(&url);
    let proxy = Tcp::start(address(&url)).await;
    let sink = open(&through(&url, proxy.address()), &schema.name, Balances::version(1)).await.unwrap();
    append(&sink, &log[..10], 0).await.unwrap();
    for exchange in 1..=5 {
        proxy.once(When::Exchange(exchange), Fault::LoseAnswer);
        let lost = append(&sink, &log, 10).await.unwrap_err();
        assert_eq!((lost.kind(), lost.retry()), (ErrorKind::Unavailable, Retry::Safe), "{exchange}: {lost}");
        assert_eq!(sums(&eyes, &schema.name).await, after(10));
        proxy.heal().await;
    }
    append(&sink, &log, 10).await.unwrap();
    assert_eq!(sums(&eyes, &schema.name).await, after(20));
}

#[tokio::test]
async fn a_terminated_session_rolls_the_batch_back() {
    let Some(url) = server() else { return };
    let eyes = client(&url).await;
    let schema = Schema::new(&url);
    let log = deposits(0..20);
    let once = Arc::new(AtomicBool::new(false));
    let (to, name, armed) = (url.clone(), schema.name.clone(), once.clone());
    let projection = Balances::version(1).meanwhile(move |event| {
        let now = event.id().get() == 15 && armed.swap(false, Ordering::Relaxed);
        let (url, name) = (to.clone(), name.clone());
        async move {
            if now {
                assert_eq!(terminate(&url, &name).await, 1);
            }
        }
        .boxed()
    });
    let sink = open(&named(&url, &schema.name), &schema.name, projection).await.unwrap();
    append(&sink, &log[..10], 0).await.unwrap();
    once.store(true, Ordering::Relaxed);
    let ended = append(&sink, &log, 10).await.unwrap_err();
    assert_eq!((ended.kind(), ended.retry()), (ErrorKind::Unavailable, Retry::Safe), "{ended}");
    assert_eq!(sums(&eyes, &schema.name).await, after(10));
    append(&sink, &log, 10).await.unwrap();
    assert_eq!(sums(&eyes, &schema.name).await, after(20));
}

#[tokio::test]
async fn a_killed_server_rolls_the_batch_back() {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(test_servers::namespace());
    let server = match Postgres::start(&directory) {
        Ok(server) => Arc::new(Mutex::new(server)),
        Err(reason) => return println!("skipped: {reason}"),
    };
    let url = server.lock().unwrap().url();
    let log = deposits(0..20);
    let kills = server.clone();
    let projection = Balances::version(1).meanwhile(move |event| {
        if event.id().get() == 15 {
            kills.lock().unwrap().kill();
        }
        async {}.boxed()
    });
    let sink = open(&url, "balances", projection).await.unwrap();
    append(&sink, &log[..10], 0).await.unwrap();
    let ended = append(&sink, &log, 10).await.unwrap_err();
    assert_eq!((ended.kind(), ended.retry()), (ErrorKind::Unavailable, Retry::Safe), "{ended}");
    let down = append(&sink, &log, 10).await.unwrap_err();
    assert_eq!((down.kind(), down.retry()), (ErrorKind::Unavailable, Retry::Safe), "{down}");
    server.lock().unwrap().restart();
    drop(sink);
    let sink = open(&url, "balances", Balances::version(1)).await.unwrap();
    assert_eq!(sink.checkpoint().await.unwrap(), Checkpoint::at(&log[9]));
    append(&sink, &log, 0).await.unwrap();
    assert_eq!(sums(&client(&url).await, "balances").await, after(20));
}

#[tokio::test]
async fn append_to_a_projection_returns_before_its_deadline() {
    let Some(url) = server() else { return };
    let (schema, log) = (Schema::new(&url), deposits(0..20));
    let proxy = Tcp::start(address(&url)).await;
    let sink = open(&through(&url, proxy.address()), &schema.name, Balances::version(1)).await.unwrap();
    append(&sink, &log[..10], 0).await.unwrap();
    proxy.always(Fault::BlackHole).await;
    let deadline = Some(Instant::now() + Duration::from_millis(300));
    let batch = Batch::new(Some(log[9].id()), &log[10..]).unwrap();
    // Far less than `call_timeout`.
    let answer = timeout(Duration::from_secs(3), sink.append(batch.with_deadline(deadline))).await;
    let error = answer.expect("an append outlived its deadline").unwrap_err();
    // It did not come to its COMMIT.
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::Safe), "{error}");
    proxy.heal().await;
    sink.append(batch).await.unwrap();
    assert_eq!(sums(&client(&url).await, &schema.name).await, after(20));
}

#[tokio::test]
async fn a_model_that_panics_parks_and_the_others_go_on() {
    let Some(url) = server() else { return };
    let eyes = client(&url).await;
    let (broken, whole) = (Schema::new(&url), Schema::new(&url));
    let all = deposits(0..30);
    let panics = Arc::new(AtomicBool::new(true));
    let armed = panics.clone();
    let projection = Balances::version(1).meanwhile(move |event| {
        assert!(event.id().get() != 15 || !armed.load(Ordering::Relaxed), "a bug of the model");
        async {}.boxed()
    });
    let log = FanOut::open(MemoryStore::default(), FanOutOptions::default()).await.unwrap();
    let options = SecondaryOptions::default;
    log.attach("broken", open(&url, &broken.name, projection).await.unwrap(), options()).await.unwrap();
    log.attach("whole", open(&url, &whole.name, Balances::version(1)).await.unwrap(), options())
        .await
        .unwrap();
    log.append(Batch::new(None, &all).unwrap()).await.unwrap();
    let of = |name: &str| {
        let status = log.status();
        status.secondaries.into_iter().find(|of| of.name == name).unwrap()
    };
    while of("broken").state != SecondaryState::Parked || of("whole").checkpoint != Some(all[29].id()) {
        tokio::time::sleep(Duration::from_millis(5)).await; // ends by the test's own limit
    }
    assert_eq!(of("broken").last_error.unwrap().kind(), ErrorKind::Bug);
    assert_eq!(sums(&eyes, &whole.name).await, after(30));
    assert_eq!(sums(&eyes, &broken.name).await.1 % 30, 0, "whole batches only");
    // An operator repaired it.
    panics.store(false, Ordering::Relaxed);
    log.resume("broken").unwrap();
    log.delivered(all[29].id(), Duration::from_secs(20)).await.unwrap();
    assert_eq!(sums(&eyes, &broken.name).await, after(30));
    drop(log.close(Duration::from_secs(5)).await);
}

#[tokio::test]
async fn a_server_that_hangs_is_given_up_and_found_again() {
    let Some(url) = server() else { return };
    let eyes = client(&url).await;
    let schema = Schema::new(&url);
    let log = deposits(0..20);
    let proxy = Tcp::start(address(&url)).await;
    let patient = options(&schema.name).with_call_timeout(Duration::from_secs(2));
    let through = through(&url, proxy.address());
    let opened = PostgresProjection::open(through.as_str(), &schema.name, Balances::version(1), patient);
    let sink = opened.await.unwrap();
    append(&sink, &log[..10], 0).await.unwrap();
    proxy.always(Fault::BlackHole).await;
    for _ in 0..2 {
        let hung = append(&sink, &log, 10).await.unwrap_err();
        assert_eq!((hung.kind(), hung.retry()), (ErrorKind::Unavailable, Retry::Safe), "{hung}");
    }
    // And in the commit, which arrives when everybody has given it up.
    proxy.heal().await;
    proxy.once(When::Sends(COMMIT.to_vec()), Fault::Delay(Duration::from_secs(5)));
    let hung = append(&sink, &log, 10).await.unwrap_err();
    assert_eq!((hung.kind(), hung.retry()), (ErrorKind::Unavailable, Retry::AfterCheckpoint), "{hung}");
    // Until the server ends the session that holds the row and says nothing.
    while let Err(waits) = append(&sink, &log, 10).await {
        assert_eq!(waits.kind(), ErrorKind::Unavailable, "{waits}");
    }
    assert_eq!(sums(&eyes, &schema.name).await, after(20));
}

/// What goes wrong in a round.
#[derive(Clone, Copy, Debug)]
enum Kill {
    Server,
    Session,
    Connection,
    LostCommit,
    CutCommit,
    Runner,
}

#[tokio::test]
async fn sums_are_right_behind_fifty_random_kills() {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(test_servers::namespace());
    let mut server = match Postgres::start(&directory) {
        Ok(server) => server,
        Err(reason) => return println!("skipped: {reason}"),
    };
    let seed = hydrant_conformance::seed();
    println!("HYDRANT_SEED={seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let proxy = Tcp::start(server.address()).await;
    let url = named(&through(&server.url(), proxy.address()), "runner");
    let log = FanOut::open(MemoryStore::default(), FanOutOptions::default()).await.unwrap();
    let options = || {
        let (min, max) = (Duration::from_millis(1), Duration::from_millis(20));
        SecondaryOptions::default().with_backoff(min, max).with_batch(7, 1 << 20)
    };
    let runner = async || loop {
        match open(&url, "balances", Balances::version(1)).await {
            Ok(sink) => break sink,
            // A fault that was meant for the last one.
            Err(error) => assert_ne!(error.retry(), Retry::Never, "{error}"),
        }
    };
    log.attach("balances", runner().await, options()).await.unwrap();
    let mut appended = 0_u64;
    let mut kinds = [0; 6];
    for round in 0..50 {
        let events = deposits(appended..appended + rng.u64(20..120));
        let before = appended.checked_sub(1).map(hydrant::EventId::new);
        log.append(Batch::new(before, &events).unwrap()).await.unwrap();
        appended += events.len() as u64;
        tokio::time::sleep(Duration::from_micros(rng.u64(0..20_000))).await;
        let all =
            [Kill::Server, Kill::Session, Kill::Connection, Kill::LostCommit, Kill::CutCommit, Kill::Runner];
        let kill = all[rng.usize(..all.len())];
        kinds[kill as usize] += 1;
        match kill {
            Kill::Server => {
                server.kill();
                server.restart();
            }
            Kill::Session => drop(terminate(&server.url(), "runner").await),
            Kill::Connection => proxy.cut(),
            Kill::LostCommit => proxy.once(When::Sends(COMMIT.to_vec()), Fault::LoseAnswer),
            Kill::CutCommit => proxy.once(When::Sends(COMMIT.to_vec()), Fault::CutBefore),
            Kill::Runner => {
                // As a process that dies: its append is dropped where it stands.
                log.detach("balances").await.unwrap();
                log.attach("balances", runner().await, options()).await.unwrap();
            }
        }
        let state = log.status().secondaries[0].state;
        assert_ne!(state, SecondaryState::Parked, "round {round}, {kill:?}: {:?}", log.status());
    }
    proxy.heal().await;
    let delivered = log.delivered(hydrant::EventId::new(appended - 1), Duration::from_secs(60)).await;
    delivered.unwrap_or_else(|laggards| panic!("seed {seed}: {laggards}"));
    drop(log.close(Duration::from_secs(5)).await);
    let deposits = usize::try_from(appended).unwrap();
    assert_eq!(
        sums(&client(&server.url()).await, "balances").await,
        after(deposits),
        "seed {seed}, {kinds:?}"
    );
}
