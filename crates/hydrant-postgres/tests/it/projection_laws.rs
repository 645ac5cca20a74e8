//! The laws of a sink, held by a projection that keeps events as they are.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use hydrant::store::follow_by_reading;
use hydrant::{Capabilities, Event, EventSource, EventStream, ReadFrom, Result};
use hydrant_conformance::{Harness, Limits, Opened};
use hydrant_postgres::{
    PostgresProjection, PostgresProjectionOptions, Projection, ProjectionError, Transaction,
};

use crate::database::{client, remove_schemas};

/// Keeps events as they are: what the kit looks at.
struct Rows;

#[async_trait]
impl Projection for Rows {
    fn version(&self) -> u32 {
        1
    }

    async fn prepare(&self, tx: &mut Transaction<'_>) -> Result<(), ProjectionError> {
        tx.batch_execute("CREATE TABLE rows (event_id numeric(20, 0) PRIMARY KEY, line bytea NOT NULL)")
            .await?;
        Ok(())
    }

    async fn apply(&self, tx: &mut Transaction<'_>, event: &Event) -> Result<(), ProjectionError> {
        let sql = "INSERT INTO rows VALUES ($1::text::numeric, $2)";
        tx.execute(sql, &[&event.id().to_string(), &event.to_vec()]).await?;
        Ok(())
    }
}

/// The rows, as the kit reads them.
struct Seen {
    url: String,
    schema: String,
}

impl EventSource for Seen {
    fn read(&self, from: ReadFrom) -> EventStream {
        let (url, schema) = (self.url.clone(), self.schema.clone());
        let rows = async move {
            let client = client(&url).await;
            let sql = format!("SELECT line FROM \"{schema}\".rows ORDER BY event_id");
            let events = client.query(&sql, &[]).await.unwrap();
            let events: Vec<_> = events
                .iter()
                .map(|row| hydrant::store::envelope::decode(row.get::<_, Vec<u8>>(0).into()))
                .collect();
            client.close().await;
            let skipped = move |event: &Result<Event>| match (event, from) {
                (Ok(event), ReadFrom::After(id)) => event.id() <= id,
                _ => false,
            };
            futures_util::stream::iter(events.into_iter().skip_while(skipped).collect::<Vec<_>>())
        };
        Box::pin(futures_util::FutureExt::flatten_stream(rows))
    }

    fn follow(&self, from: ReadFrom) -> EventStream {
        let source = Arc::new(Self { url: self.url.clone(), schema: self.schema.clone() });
        follow_by_reading(source, from, || tokio::time::sleep(std::time::Duration::from_millis(10)))
    }
}

struct Kit(Result<String, String>);

impl Default for Kit {
    fn default() -> Self {
        Self(test_servers::postgres())
    }
}

/// The schemas of the kit's namespaces, whose names may be longer than Postgres takes.
static SCHEMAS: Mutex<Vec<(String, String)>> = Mutex::new(Vec::new());

fn schema_of(namespace: &str) -> String {
    let mut schemas = SCHEMAS.lock().unwrap();
    if let Some((_, schema)) = schemas.iter().find(|(of, _)| of == namespace) {
        return schema.clone();
    }
    let schema = test_servers::namespace();
    schemas.push((namespace.to_owned(), schema.clone()));
    schema
}

#[async_trait]
impl Harness for Kit {
    fn capabilities(&self) -> Capabilities {
        PostgresProjection::<Rows>::CAPABILITIES
    }

    async fn open(&self, namespace: &str) -> Result<Opened> {
        let url = self.0.as_ref().unwrap();
        let name = schema_of(namespace);
        let options = PostgresProjectionOptions::default()
            .with_schema(format!("{name}_progress"))
            .with_event_bytes_max(self.limits().event_bytes_max);
        let sink = Arc::new(PostgresProjection::open(url.as_str(), &name, Rows, options).await?);
        let opened = Opened::sink(sink.clone()).seen_through(Seen { url: url.clone(), schema: name });
        Ok(opened.closed_by(async move { sink.close().await }))
    }

    fn limits(&self) -> Limits {
        Limits::default().with_events_max(2_000)
    }

    fn unavailable(&self) -> Option<String> {
        self.0.as_ref().err().cloned()
    }

    async fn remove(&self, prefix: &str) -> Result<()> {
        let made: Vec<_> = SCHEMAS
            .lock()
            .unwrap()
            .extract_if(.., |(namespace, _)| namespace.starts_with(prefix))
            .map(|(_, schema)| schema)
            .collect();
        for schema in made {
            remove_schemas(self.0.as_ref().unwrap(), &schema).await;
        }
        Ok(())
    }
}

hydrant_conformance::sink_suite!(Kit::default());
