//! Hearing at once what another process appended: LISTEN, as long as there is a connection for it.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use hydrant::{Error, ErrorKind, Result};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::error::{Doing, server_error, timed_out};
use crate::schema::quoted;
use crate::{PostgresClient, PostgresConnect};

/// How long it waits before it connects anew, at first and at most. Followers poll meanwhile.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// What is heard, and by whom.
pub(crate) struct Listener {
    pub(crate) connect: PostgresConnect,
    pub(crate) channel: String,
    /// What a notification carries if it is about this log.
    pub(crate) log: String,
    pub(crate) call_timeout: Duration,
    pub(crate) appended: Arc<watch::Sender<()>>,
}

/// The task that listens; dropped, it ends with its connection.
pub(crate) struct Listening(JoinHandle<()>);

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Listening {
    pub(crate) fn start(listener: Listener) -> Self {
        Self(tokio::spawn(listener.run()))
    }

    /// Ends it and waits until it has.
    pub(crate) async fn close(mut self) {
        self.0.abort();
        drop((&mut self.0).await);
    }
}

impl Listener {
    async fn run(self) {
        let mut rng = fastrand::Rng::new();
        let mut pause = PAUSE_MIN;
        loop {
            match self.listen().await {
                Ok((client, lost)) => {
                    pause = PAUSE_MIN;
                    // Notifications before the connection were lost, so followers look now.
                    self.appended.send_replace(());
                    drop(lost.await); // its other end goes with the connection
                    drop(client);
                    tracing::warn!(log = self.log, "the connection that listens was lost; followers poll");
                }
                Err(error) if error.kind() == ErrorKind::Unsupported => {
                    tracing::warn!(log = self.log, %error, "no connection listens; followers poll");
                    pending::<()>().await;
                }
                Err(error) => {
                    tracing::warn!(log = self.log, %error, ?pause, "no connection listens; followers poll");
                }
            }
            // Full jitter: not all handles come back at once.
            sleep(pause.mul_f64(rng.f64())).await;
            pause = PAUSE_MAX.min(pause * 2);
        }
    }

    /// Connects and listens. What is given back beside the client resolves when the connection ends.
    async fn listen(&self) -> Result<(PostgresClient, oneshot::Receiver<()>)> {
        let (alive, lost) = oneshot::channel::<()>();
        let (log, appended) = (self.log.clone(), Arc::clone(&self.appended));
        let connect = self.connect.connect_listening(move |notification| {
            // Owned by what drives the connection, so that both end together.
            let _ = &alive;
            if notification.payload() == log {
                appended.send_replace(());
            }
        });
        let listen = async {
            let client = connect.await?;
            let sql = format!("LISTEN {}", quoted(&self.channel));
            let listening = client.batch_execute(&sql).await;
            listening.map_err(|cause| server_error(Doing::Reading, "LISTEN", cause))?;
            Ok(client)
        };
        let patience = self.call_timeout;
        let client: Result<_, Error> = timeout(patience, listen)
            .await
            .unwrap_or_else(|_| Err(timed_out(Doing::Reading, "LISTEN", patience)));
        Ok((client?, lost))
    }
}
