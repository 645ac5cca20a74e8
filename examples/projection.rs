//! Account balances that any program can query by SQL, while the bank runs.
//!
//! ```console
//! $ cargo xtask servers up postgres && eval "$(cargo xtask servers env)"      # or a server of your own
//! $ cargo run --example projection                                            # or: -- postgres://user:password@host/database
//! ```
//!
//! Each event's effect and the checkpoint after it are written in one transaction. Kill the program anywhere and run
//! it again: no transfer is missing from the balances, and none counts twice. If you raise `version`, the balances are
//! built again from the first event, beside the old ones. They are swapped when they have caught up.

use std::time::Duration;

use async_trait::async_trait;
use hydrant::{Event, FanOut, FanOutOptions, Journal, JournalOptions, SecondaryOptions};
use hydrant_file::{FileStore, FileStoreOptions};
use hydrant_postgres::{
    PostgresClient, PostgresConnect, PostgresProjection, PostgresProjectionOptions, Projection,
    ProjectionError, Transaction,
};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "tag")]
enum Change {
    Deposited { to: String, amount: i64 },
    Sent { from: String, to: String, amount: i64 },
}

/// The read model of the balances. Its tables are in their own schema, `bank`.
struct Balances;

#[async_trait]
impl Projection for Balances {
    fn version(&self) -> u32 {
        1
    }

    async fn prepare(&self, tx: &mut Transaction<'_>) -> Result<(), ProjectionError> {
        tx.batch_execute("CREATE TABLE accounts (name text PRIMARY KEY, balance bigint NOT NULL)").await?;
        Ok(())
    }

    async fn apply(&self, tx: &mut Transaction<'_>, event: &Event) -> Result<(), ProjectionError> {
        match event.decode()? {
            Change::Deposited { to, amount } => add(tx, &to, amount).await?,
            Change::Sent { from, to, amount } => {
                add(tx, &from, -amount).await?;
                add(tx, &to, amount).await?;
            }
        }
        Ok(())
    }
}

async fn add(tx: &Transaction<'_>, name: &str, amount: i64) -> Result<(), ProjectionError> {
    let sql = "INSERT INTO accounts AS held VALUES ($1, $2) \
               ON CONFLICT (name) DO UPDATE SET balance = held.balance + excluded.balance";
    tx.execute(sql, &[&name, &amount]).await?;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let named =
        ["DATABASE_URL", "HYDRANT_TEST_POSTGRES_URL"].iter().find_map(|name| std::env::var(name).ok());
    let url =
        std::env::args().nth(1).or(named).unwrap_or_else(|| "postgres://postgres@localhost/postgres".into());
    let connect = PostgresConnect::parse(&url)?;
    let reader = match connect.connect().await {
        Ok(reader) => reader,
        Err(error) => {
            eprintln!("{error}\n\nThis example needs a Postgres server. One for trying things out:");
            eprintln!("  cargo xtask servers up postgres && eval \"$(cargo xtask servers env)\"");
            eprintln!(
                "Or one of your own:\n  cargo run --example projection -- postgres://user:password@host/database"
            );
            std::process::exit(1);
        }
    };

    // Here the primary is a plain file; it could also be `PostgresStore`. The balances are a sink like any other.
    let ledger = FileStore::open("target/projection/ledger", FileStoreOptions::default()).await?;
    let log = FanOut::open(ledger, FanOutOptions::default()).await?;
    let balances =
        PostgresProjection::open(&connect, "bank", Balances, PostgresProjectionOptions::default()).await?;
    let options = SecondaryOptions::default().with_target(connect.describe());
    log.attach("balances", balances, options).await?;
    let journal = Journal::open(log.clone(), JournalOptions::default()).await?;

    println!("{}, schema bank: try `SELECT * FROM bank.accounts` while this runs.\n", connect.describe());
    let names = ["alice", "bob", "carol"];
    for name in names {
        journal.append(&Change::Deposited { to: name.into(), amount: 1_000 }).await?;
    }
    for round in 0..600 {
        let (from, to) = (names[round % 3].into(), names[(round / 3) % 3].into());
        journal.append(&Change::Sent { from, to, amount: 7 }).await?;
        if round % 200 == 0 {
            show(&reader, "while it runs").await?; // it lags a little, but is never in the middle of a transfer
        }
    }
    let head = journal.head().ok_or("something was saved")?;
    match log.delivered(head, Duration::from_secs(10)).await {
        Ok(()) => show(&reader, &format!("behind event {head}")).await?,
        Err(laggards) => laggards.iter().for_each(|laggard| println!("{laggard}")),
    }
    journal.close().await?;
    drop(log.close(Duration::from_secs(5)).await);
    println!("\nRun it again: it goes on. To begin anew, remove target/projection, and");
    println!("  DROP SCHEMA bank CASCADE; DELETE FROM hydrant.projections WHERE name = 'bank';");
    Ok(())
}

/// Prints what any other program sees: plain tables.
async fn show(reader: &PostgresClient, when: &str) -> Result<(), Box<dyn std::error::Error>> {
    let mut total = 0;
    print!("{when:>18}:");
    for row in reader.query("SELECT name, balance FROM bank.accounts ORDER BY name", &[]).await? {
        let (name, balance): (String, i64) = (row.get(0), row.get(1));
        total += balance;
        print!("  {name} {balance:>6}");
    }
    println!("  together {total}");
    Ok(())
}
