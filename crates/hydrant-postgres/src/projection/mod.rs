//! Read models that move in one transaction with their checkpoint.

mod model;
mod options;
mod sink;
mod statements;
mod transaction;

use async_trait::async_trait;
use hydrant::{Error, Event};

pub use options::PostgresProjectionOptions;
pub use sink::PostgresProjection;
pub use transaction::Transaction;

/// A read model of a log: tables that each event changes.
///
/// The tables live in a schema of the projection's own, which is the search path inside of each transaction:
/// SQL names them without a schema, and anything outside of it with one (`public.citext`).
///
/// It takes `&self` on purpose. Its state is in its tables, so that a transaction that is rolled back
/// takes all of it back; a counter in memory would count an event twice that was applied, rolled back and
/// applied again. For the same reason it must not do anything that a roll-back cannot undo: no mail, no call
/// to another service. Those belong to a sink of their own.
///
/// ```
/// use async_trait::async_trait;
/// use hydrant::{Error, Event};
/// use hydrant_postgres::{Projection, ProjectionError, Transaction};
///
/// #[derive(serde::Deserialize)]
/// struct Deposited { account: String, amount: i64 }
///
/// struct Balances;
///
/// #[async_trait]
/// impl Projection for Balances {
///     fn version(&self) -> u32 {
///         1
///     }
///
///     async fn prepare(&self, tx: &mut Transaction<'_>) -> Result<(), ProjectionError> {
///         tx.batch_execute("CREATE TABLE balances (account text PRIMARY KEY, balance bigint NOT NULL)").await?;
///         Ok(())
///     }
///
///     async fn apply(&self, tx: &mut Transaction<'_>, event: &Event) -> Result<(), ProjectionError> {
///         let Deposited { account, amount } = event.decode()?; // what is no deposit is poison, by name
///         if amount <= 0 {
///             return Err(Error::invalid("a deposit is positive").into());
///         }
///         let sql = "INSERT INTO balances AS held VALUES ($1, $2) \
///                    ON CONFLICT (account) DO UPDATE SET balance = held.balance + excluded.balance";
///         tx.execute(sql, &[&account, &amount]).await?;
///         Ok(())
///     }
/// }
/// ```
#[async_trait]
pub trait Projection: Send + Sync {
    /// The version of the tables and of what they mean. One that is raised is built from the first event,
    /// beside the old one, and takes its place when it has caught up.
    fn version(&self) -> u32;

    /// Makes the tables, empty. Called once for each version, in the transaction that makes its schema.
    ///
    /// # Errors
    /// What the server answers; then nothing was made.
    ///
    /// # Cancel safety
    /// A dropped future has made nothing.
    async fn prepare(&self, tx: &mut Transaction<'_>) -> Result<(), ProjectionError>;

    /// Changes the tables as this event says. Its transaction is committed with the checkpoint behind it and
    /// with the other events of its batch, or not at all.
    ///
    /// # Errors
    /// [`Error::invalid`] says that this event can never be applied, which a
    /// [`DeadLetter`](hydrant::DeadLetter) puts aside. What the server answers keeps the class of its SQLSTATE:
    /// a deadlock is retried; a constraint that does not hold parks the projection until an operator resumes
    /// it, because the model may be wrong and not the event.
    ///
    /// # Cancel safety
    /// A dropped future has changed nothing.
    async fn apply(&self, tx: &mut Transaction<'_>, event: &Event) -> Result<(), ProjectionError>;
}

/// Why `apply` or `prepare` failed.
#[derive(Debug)]
#[non_exhaustive]
pub enum ProjectionError {
    /// What the server answered to a statement.
    Sql(tokio_postgres::Error),
    /// What the projection itself says: of kind `Invalid`, it is about this event, and no other try helps.
    Rejected(Error),
}

impl From<tokio_postgres::Error> for ProjectionError {
    fn from(cause: tokio_postgres::Error) -> Self {
        Self::Sql(cause)
    }
}

impl From<Error> for ProjectionError {
    fn from(error: Error) -> Self {
        Self::Rejected(error)
    }
}

impl std::fmt::Display for ProjectionError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Sql(cause) => cause.fmt(f),
            Self::Rejected(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ProjectionError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Sql(cause) => cause.source(),
            Self::Rejected(error) => error.source(),
        }
    }
}

#[async_trait]
impl<P: Projection + ?Sized> Projection for Box<P> {
    fn version(&self) -> u32 {
        (**self).version()
    }

    async fn prepare(&self, tx: &mut Transaction<'_>) -> Result<(), ProjectionError> {
        (**self).prepare(tx).await
    }

    async fn apply(&self, tx: &mut Transaction<'_>, event: &Event) -> Result<(), ProjectionError> {
        (**self).apply(tx, event).await
    }
}
