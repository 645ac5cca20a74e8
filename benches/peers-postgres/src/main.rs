//! Events in Postgres: Hydrant compared with postgres-es. Both take turns on one server, with `fsync` on.
//!
//! postgres-es is measured at its repository, `persist`, with the events that the framework would pass to it.
//! A command of the framework also loads the aggregate first. That is not measured.

mod peer;

use std::time::Duration;

use hydrant_benches::figure::{Bound, Figure, Section, Series, print};
use hydrant_benches::{Result, fresh, machine, ours, rate, scratch, workload};
use hydrant_postgres::{PostgresStoreOptions, PostgresStore};
use peer::PostgresEs;
use test_servers::native::Postgres;
use tokio::time::Instant;

const ROUNDS: usize = 5;
const EVENTS: u64 = 32_768;
const RUN: Duration = Duration::from_secs(2);
const CALLERS: usize = 256;

#[tokio::main]
async fn main() -> Result<()> {
    println!("== postgres-peers");
    let server = Postgres::start_with(&fresh("postgres-peers")?, &["fsync=on", "full_page_writes=on"])?;
    let peer = PostgresEs::connect(&server.url()).await?;
    let figures = vec![batches(&server, &peer, 64).await?, batches(&server, &peer, 1024).await?, crowd(&server, &peer).await?];
    Section { machine: machine::describe(&scratch()), figures }.save("postgres-peers")
}

/// One writer with equal batches.
async fn batches(server: &Postgres, peer: &PostgresEs, batch: usize) -> Result<Figure> {
    let events = workload::events(0, EVENTS)?;
    let (mut ours, mut theirs) = (Series::new("hydrant"), Series::new("postgres-es 0.5"));
    for round in 0..ROUNDS {
        let log = format!("batches-{batch}-{round}");
        let store = PostgresStore::open(server.url().as_str(), &log, PostgresStoreOptions::default()).await?;
        let start = Instant::now();
        workload::append(&store, None, &events, batch).await?;
        ours.push(rate(EVENTS, start.elapsed()));
        store.close().await?;
        theirs.push(rate(EVENTS, peer.append(&log, EVENTS, batch).await?));
    }
    let figure = Figure::new(format!("Postgres, one writer, {batch} events a call"), "events/s", vec![ours, theirs])
        .wants_ratio(1, "times postgres-es", Bound::AtLeast(1.0));
    print(&figure);
    Ok(figure)
}

/// Many tasks with one event a call. Hydrant's share commits on one log; those of postgres-es have an aggregate each.
async fn crowd(server: &Postgres, peer: &PostgresEs) -> Result<Figure> {
    let (mut ours, mut theirs) = (Series::new("hydrant, one log"), Series::new("postgres-es 0.5, an aggregate a task"));
    for round in 0..ROUNDS {
        let log = format!("crowd-{round}");
        let store = PostgresStore::open(server.url().as_str(), &log, PostgresStoreOptions::default()).await?;
        ours.push(ours::crowd_over(store.clone(), CALLERS, 1, RUN).await?.rate());
        store.close().await?;
        theirs.push(peer.crowd(&log, CALLERS, RUN).await?);
    }
    let figure = Figure::new(format!("Postgres, {CALLERS} tasks of one event a call"), "events/s", vec![ours, theirs])
        .wants_ratio(1, "times postgres-es", Bound::AtLeast(10.0))
        .note("postgres-es has a pool of 16 connections; with one aggregate for all tasks, its appends would collide.");
    print(&figure);
    Ok(figure)
}
