//! Balances of accounts: a model whose sums show each event that is missing or counts twice.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use hydrant::{Error, Event, EventId};
use hydrant_postgres::{PostgresClient, Projection, ProjectionError, Transaction};
use serde::Deserialize;

#[derive(Deserialize)]
struct Deposited {
    account: String,
    amount: i64,
}

/// What a test does while an event is being applied, behind its effect.
type Meanwhile = Arc<dyn Fn(&Event) -> BoxFuture<'static, ()> + Send + Sync>;

#[derive(Clone)]
pub(crate) struct Balances {
    version: u32,
    meanwhile: Option<Meanwhile>,
}

impl Balances {
    pub(crate) fn version(version: u32) -> Self {
        Self { version, meanwhile: None }
    }

    pub(crate) fn meanwhile(
        mut self,
        does: impl Fn(&Event) -> BoxFuture<'static, ()> + Send + Sync + 'static,
    ) -> Self {
        self.meanwhile = Some(Arc::new(does));
        self
    }
}

#[async_trait]
impl Projection for Balances {
    fn version(&self) -> u32 {
        self.version
    }

    async fn prepare(&self, tx: &mut Transaction<'_>) -> Result<(), ProjectionError> {
        tx.batch_execute(
            "CREATE TABLE balances (account text PRIMARY KEY, balance bigint NOT NULL CHECK (balance < 1000000000));
             CREATE TABLE deposits (count bigint NOT NULL);
             INSERT INTO deposits VALUES (0);",
        )
        .await?;
        Ok(())
    }

    async fn apply(&self, tx: &mut Transaction<'_>, event: &Event) -> Result<(), ProjectionError> {
        let Deposited { account, amount } = event.decode()?;
        if amount < 0 {
            return Err(Error::invalid("a deposit is not negative").into());
        }
        let sql = "INSERT INTO balances AS held VALUES ($1, $2) \
                   ON CONFLICT (account) DO UPDATE SET balance = held.balance + excluded.balance";
        tx.execute(sql, &[&account, &(amount * i64::from(self.version))]).await?;
        tx.execute("UPDATE deposits SET count = count + 1", &[]).await?;
        if let Some(does) = &self.meanwhile {
            does(event).await;
        }
        Ok(())
    }
}

/// Deposits of 1, 2, 3 ... to three accounts in turn.
pub(crate) fn deposits(ids: std::ops::Range<u64>) -> Vec<Event> {
    let deposit = |id: u64| {
        let account = ["ada", "bob", "eve"][(id % 3) as usize];
        let payload = format!(r#"{{"account":"{account}","amount":{}}}"#, id + 1);
        Event::builder(EventId::new(id)).payload_json(payload).build().unwrap()
    };
    ids.map(deposit).collect()
}

/// What the model of this schema says: the sum of all balances, and how many deposits there were.
pub(crate) async fn sums(client: &PostgresClient, schema: &str) -> (i64, i64) {
    let sql = format!(
        "SELECT (SELECT coalesce(sum(balance), 0)::bigint FROM \"{schema}\".balances), \
         (SELECT count FROM \"{schema}\".deposits)"
    );
    let row = client.query_one(&sql, &[]).await.unwrap();
    (row.get(0), row.get(1))
}

/// What it is to say behind this many deposits.
pub(crate) fn after(deposits: usize) -> (i64, i64) {
    let deposits = i64::try_from(deposits).unwrap();
    (deposits * (deposits + 1) / 2, deposits)
}
