//! postgres-es, used as its documentation shows, at its repository.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cqrs_es::event_sink::EventSink;
use cqrs_es::persist::{PersistedEventRepository, SerializedEvent};
use cqrs_es::{Aggregate, DomainEvent};
use hydrant_benches::workload::{Change, change};
use hydrant_benches::{Result, rate};
use postgres_es::PostgresEventRepository;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::postgres::PgPoolOptions;
use tokio::time::Instant;

/// The table of its `init.sql`.
const SCHEMA: &str = "CREATE TABLE IF NOT EXISTS events (
    aggregate_type text NOT NULL,
    aggregate_id text NOT NULL,
    sequence bigint CHECK (sequence >= 0) NOT NULL,
    event_type text NOT NULL,
    event_version text NOT NULL,
    payload json NOT NULL,
    metadata json NOT NULL,
    PRIMARY KEY (aggregate_type, aggregate_id, sequence)
)";

/// The repository of postgres-es, over a pool.
pub struct PostgresEs(Arc<PostgresEventRepository>);

impl PostgresEs {
    pub async fn connect(url: &str) -> Result<Self> {
        let pool = PgPoolOptions::new().max_connections(16).connect(url).await?;
        sqlx::query(SCHEMA).execute(&pool).await?;
        Ok(Self(Arc::new(PostgresEventRepository::new(pool))))
    }

    /// Appends from one writer, and returns how long it took.
    pub async fn append(&self, aggregate: &str, events: u64, batch: usize) -> Result<Duration> {
        let all: Vec<_> = (0..events).map(|n| event(aggregate, n)).collect::<Result<_>>()?;
        let start = Instant::now();
        for batch in all.chunks(batch) {
            self.0.persist::<Ledger>(batch, None).await?;
        }
        Ok(start.elapsed())
    }

    /// Appends from `tasks` tasks with one event a call, and returns the events a second.
    pub async fn crowd(&self, name: &str, tasks: usize, run: Duration) -> Result<f64> {
        let stop = Arc::new(AtomicBool::new(false));
        let start = Instant::now();
        let tasks: Vec<_> = (0..tasks)
            .map(|task| {
                let (repository, stop, aggregate) = (self.0.clone(), stop.clone(), format!("{name}-{task}"));
                tokio::spawn(async move {
                    let mut events = 0;
                    while !stop.load(Ordering::Relaxed) {
                        repository.persist::<Ledger>(&[event(&aggregate, events)?], None).await?;
                        events += 1;
                    }
                    Ok::<u64, Box<dyn std::error::Error + Send + Sync>>(events)
                })
            })
            .collect();
        tokio::time::sleep(run).await;
        stop.store(true, Ordering::Relaxed);
        let mut events = 0;
        for task in tasks {
            events += task.await??;
        }
        Ok(rate(events, start.elapsed()))
    }
}

/// The event as the framework serialises it.
fn event(aggregate: &str, n: u64) -> Result<SerializedEvent> {
    let happened = Happened(change(n));
    Ok(SerializedEvent::new(
        aggregate.to_owned(),
        usize::try_from(n)? + 1,
        Ledger::TYPE.to_owned(),
        happened.event_type(),
        happened.event_version(),
        serde_json::to_value(&happened)?,
        json!({"time": "2026-01-05T09:00:00.000000001Z"}),
    ))
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Happened(Change);

impl PartialEq for Happened {
    fn eq(&self, _: &Self) -> bool {
        false
    }
}

impl DomainEvent for Happened {
    fn event_type(&self) -> String {
        "Changed".to_owned()
    }

    fn event_version(&self) -> String {
        "1.0".to_owned()
    }
}

#[derive(Default, Serialize, Deserialize)]
struct Ledger;

impl Aggregate for Ledger {
    const TYPE: &'static str = "ledger";
    type Command = ();
    type Event = Happened;
    type Error = std::fmt::Error;
    type Services = ();

    async fn handle(&mut self, (): (), (): &(), _: &EventSink<Self>) -> std::result::Result<(), Self::Error> {
        Ok(())
    }

    fn apply(&mut self, _: Happened) {}
}
