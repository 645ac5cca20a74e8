//! A connection: its client, and the task that drives its socket.

use std::collections::HashMap;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::poll_fn;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinHandle;
use tokio_postgres::{AsyncMessage, Client, Connection, Notification, Statement};

/// How long closing waits for the server to hear of it. The socket is closed in any case.
const CLOSE_MAX: Duration = Duration::from_secs(2);

/// What is called with each notification that arrives.
pub(crate) type OnNotification = Box<dyn FnMut(Notification) + Send>;

/// A connection to a server, which ends when this is closed or dropped.
///
/// It owns its socket and the task that drives it: nothing of it is left behind. One from a pool goes back
/// there instead. Everything else is [`tokio_postgres::Client`].
pub struct PostgresClient(Inner);

enum Inner {
    Own {
        client: Client,
        driver: Driver,
        /// By their SQL.
        prepared: Mutex<HashMap<String, Statement>>,
    },
    Pooled(deadpool_postgres::Object),
    /// Only while it is being closed.
    Closed,
}

/// The task of a connection; dropped, it ends and its socket is closed.
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl PostgresClient {
    pub(crate) fn own<S, T>(client: Client, connection: Connection<S, T>, on: Option<OnNotification>) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let driver = Driver(tokio::spawn(drive(connection, on)));
        Self(Inner::Own { client, driver, prepared: Mutex::default() })
    }

    pub(crate) fn pooled(object: deadpool_postgres::Object) -> Self {
        Self(Inner::Pooled(object))
    }

    pub(crate) fn is_pooled(&self) -> bool {
        matches!(self.0, Inner::Pooled(_))
    }

    /// Returns whether this connection of a pool was used before.
    pub(crate) fn is_reused(&self) -> bool {
        matches!(&self.0, Inner::Pooled(object) if deadpool_postgres::Object::metrics(object).recycle_count > 0)
    }

    /// The statement of this SQL, prepared once for each connection.
    pub(crate) async fn prepared(&self, sql: &str) -> Result<Statement, tokio_postgres::Error> {
        let (client, prepared) = match &self.0 {
            Inner::Own { client, prepared, .. } => (client, prepared),
            Inner::Pooled(object) => return object.prepare_cached(sql).await,
            Inner::Closed => unreachable!("closing takes it by value"),
        };
        let lock = || prepared.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(statement) = lock().get(sql) {
            return Ok(statement.clone());
        }
        let statement = client.prepare(sql).await?;
        lock().insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }

    /// Ends the session on the server, and waits until the socket is closed. A connection of a pool returns to the
    /// pool.
    ///
    /// # Cancel safety
    /// Dropped, it closes the socket without telling the server first.
    pub async fn close(mut self) {
        if let Inner::Own { client, mut driver, prepared } = std::mem::replace(&mut self.0, Inner::Closed) {
            drop((prepared, client)); // its task then says goodbye and ends
            drop(tokio::time::timeout(CLOSE_MAX, &mut driver.0).await);
        }
    }

    /// Closes the socket at once, also of a connection of a pool: for one whose state is in doubt.
    pub fn discard(mut self) {
        if let Inner::Pooled(object) = std::mem::replace(&mut self.0, Inner::Closed) {
            drop(deadpool_postgres::Object::take(object));
        }
    }
}

async fn drive<S, T>(mut connection: Connection<S, T>, mut on: Option<OnNotification>)
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(said) = poll_fn(|context| connection.poll_message(context)).await {
        match said {
            Ok(AsyncMessage::Notification(notification)) => {
                if let Some(on) = &mut on {
                    on(notification);
                }
            }
            Ok(AsyncMessage::Notice(notice)) => {
                tracing::debug!(severity = notice.severity(), "the server says: {}", notice.message());
            }
            Ok(_) => {}
            // Callers that wait for an answer get the error as well.
            Err(cause) => {
                tracing::debug!(error = %cause, "the connection ended");
                return;
            }
        }
    }
}

impl Deref for PostgresClient {
    type Target = Client;

    fn deref(&self) -> &Client {
        match &self.0 {
            Inner::Own { client, .. } => client,
            Inner::Pooled(object) => object,
            Inner::Closed => unreachable!("closing takes it by value"),
        }
    }
}

impl DerefMut for PostgresClient {
    fn deref_mut(&mut self) -> &mut Client {
        match &mut self.0 {
            Inner::Own { client, .. } => client,
            Inner::Pooled(object) => object,
            Inner::Closed => unreachable!("closing takes it by value"),
        }
    }
}

impl fmt::Debug for PostgresClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresClient").field("pooled", &self.is_pooled()).finish_non_exhaustive()
    }
}
