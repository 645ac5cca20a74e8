//! The transaction that a projection writes in.

use std::fmt;

use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Error, Row, Statement};

use crate::session::Session;

/// The transaction that commits the effect of events together with the checkpoint behind them.
///
/// Its search path is the schema of the projection. Each statement is prepared once for each connection, so
/// write values as parameters, and not into the SQL. It is committed or rolled back by its owner; a `COMMIT`
/// or `ROLLBACK` among the statements is found out and stops the projection.
pub struct Transaction<'a> {
    session: &'a Session,
    schema: &'a str,
    /// Marks statements of a pool's connection, which other models may share.
    mark: &'a str,
}

impl<'a> Transaction<'a> {
    pub(super) fn new(session: &'a Session, schema: &'a str, mark: &'a str) -> Self {
        Self { session, schema, mark }
    }

    /// The schema of the projection, as it is called now, not quoted. While a version is being built it has
    /// another name than afterwards, so keep it in no table.
    pub fn schema(&self) -> &str {
        self.schema
    }

    /// Executes a statement, and says how many rows it changed.
    ///
    /// # Errors
    /// What the server answers. The transaction is then spoilt: pass it on.
    pub async fn execute(&self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<u64, Error> {
        self.session.execute(&self.prepared(sql).await?, params).await
    }

    /// The rows that a statement answers.
    ///
    /// # Errors
    /// What the server answers. The transaction is then spoilt: pass it on.
    pub async fn query(&self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, Error> {
        self.session.query(&self.prepared(sql).await?, params).await
    }

    /// The one row that a statement answers, if there is one.
    ///
    /// # Errors
    /// What the server answers, and more than one row. The transaction is then spoilt: pass it on.
    pub async fn query_opt(&self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Option<Row>, Error> {
        self.session.query_opt(&self.prepared(sql).await?, params).await
    }

    /// The one row that a statement answers.
    ///
    /// # Errors
    /// What the server answers, and another number of rows. The transaction is then spoilt: pass it on.
    pub async fn query_one(&self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Row, Error> {
        self.session.query_one(&self.prepared(sql).await?, params).await
    }

    /// Executes several statements without parameters, separated by semicolons: for DDL.
    ///
    /// # Errors
    /// What the server answers. The transaction is then spoilt: pass it on.
    pub async fn batch_execute(&self, sql: &str) -> Result<(), Error> {
        self.session.batch_execute(sql).await
    }

    /// Everything else that the driver can do inside of this transaction, for example COPY.
    pub fn client(&self) -> &Client {
        self.session
    }

    async fn prepared(&self, sql: &str) -> Result<Statement, Error> {
        // A pool shares the statements of a connection by their text, and the tables of another model may have
        // the same names and other columns.
        if self.session.is_pooled() {
            self.session.prepared(&format!("/* {} */ {sql}", self.mark)).await
        } else {
            self.session.prepared(sql).await
        }
    }
}

impl fmt::Debug for Transaction<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction").field("schema", &self.schema).finish_non_exhaustive()
    }
}
