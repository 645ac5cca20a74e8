//! What all clones of a handle share.

use std::future::Future;
use std::sync::{Arc, Mutex as Lock, PoisonError};

use hydrant::{Error, ErrorKind, Result};
use tokio::sync::{Mutex, Semaphore, SemaphorePermit, watch};
use tokio::time::{Instant, timeout_at};

use crate::PostgresConnect;
use crate::error::{Doing, says_read_only, timed_out};
use crate::listener::{Listener, Listening};
use crate::options::PostgresStoreOptions;
use crate::session::{Session, Settings};
use crate::sql::Statements;
use crate::writer::Writer;

/// How many pages one handle fetches at once, beside the prunes that run. More wait for their turn.
const FETCHES_MAX: u32 = 64;

/// A log, and how it is reached.
#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) name: String,
    pub(crate) connect: PostgresConnect,
    pub(crate) options: PostgresStoreOptions,
    pub(crate) settings: Settings,
    pub(crate) sql: Statements,
    /// What followers LISTEN to.
    pub(crate) channel: String,
}

impl Log {
    /// When a call that begins now has to end: after `call_timeout`, or before, where its caller says so.
    pub(crate) fn deadline(&self, wanted: Option<Instant>) -> Instant {
        let latest = Instant::now() + self.options.call_timeout;
        wanted.map_or(latest, |wanted| wanted.min(latest))
    }
}

/// What all clones of a handle share.
pub(crate) struct Shared {
    pub(crate) log: Log,
    writer: Mutex<Writer>,
    reader: Lock<Option<Arc<Session>>>,
    fetches: Semaphore,
    /// Something was appended, or the handle was closed.
    pub(crate) appended: Arc<watch::Sender<()>>,
    closed: watch::Sender<bool>,
    /// Begins with the first follower.
    listening: Lock<Option<Listening>>,
}

impl Shared {
    pub(crate) fn new(log: Log, session: Session) -> Self {
        let reader = (!session.is_pooled()).then(|| Arc::new(session));
        Self {
            log,
            listening: Lock::default(),
            writer: Mutex::default(),
            reader: Lock::new(reader),
            fetches: Semaphore::new(FETCHES_MAX as usize),
            appended: Arc::default(),
            closed: watch::Sender::new(false),
        }
    }

    /// Runs one call within `call_timeout`, as long as the handle is open.
    ///
    /// # Errors
    /// `Closed`, `Unavailable` when it takes too long, and what the call answers; all name the log.
    pub(crate) async fn call<T>(
        &self,
        doing: Doing,
        what: &str,
        call: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        self.call_until(self.log.deadline(None), doing, what, call).await
    }

    /// Runs one call until a deadline, as long as the handle is open.
    ///
    /// # Errors
    /// As [`call`](Shared::call).
    async fn call_until<T>(
        &self,
        deadline: Instant,
        doing: Doing,
        what: &str,
        call: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let patience = deadline.saturating_duration_since(Instant::now());
        let mut closed = self.closed.subscribe();
        let result = tokio::select! {
            biased;
            _ = closed.wait_for(|closed| *closed) => Err(Error::closed("the log was closed; open it again")),
            result = timeout_at(deadline, call) => {
                result.unwrap_or_else(|_| Err(timed_out(doing, what, patience)))
            }
        };
        result.map_err(|error| error.at_target(&self.log.name))
    }

    /// Runs one call of the writer, once it has its turn and a connection: what ends before then has sent nothing.
    /// Where its server only reads, the readers' connection is given up with its own: both may be to one that is not
    /// the primary any more, and misses what comes.
    ///
    /// # Errors
    /// As [`call`](Shared::call).
    pub(crate) async fn writing<T>(
        &self,
        deadline: Instant,
        doing: Doing,
        what: &str,
        call: impl AsyncFnOnce(&mut Writer, Session) -> Result<T>,
    ) -> Result<T> {
        let writing = async {
            let turn = async {
                let mut writer = self.writer.lock().await;
                let session = writer.session(&self.log).await?;
                Ok((writer, session))
            };
            let waiting = format!("waiting for a connection before {what}");
            let (mut writer, session) = self.call_until(deadline, Doing::Reading, &waiting, turn).await?;
            self.call_until(deadline, doing, what, call(&mut writer, session)).await
        };
        writing.await.inspect_err(|error| {
            if says_read_only(error) {
                *self.kept() = None;
            }
        })
    }

    /// A turn, for which closing waits.
    pub(crate) async fn turn(&self) -> Result<SemaphorePermit<'_>> {
        self.fetches.acquire().await.map_err(|_| Error::closed("the log was closed; open it again"))
    }

    /// Runs one query of a reader, on the connection that all readers of this handle share, or one of a pool.
    pub(crate) async fn reading<T>(
        &self,
        what: &str,
        query: impl AsyncFnOnce(&Session) -> Result<T>,
    ) -> Result<T> {
        // Kept until the call has ended, however it ends: what did not answer in time is in doubt as well.
        let mut used = None;
        let result = self
            .call(Doing::Reading, what, async {
                let turn = self.turn().await?;
                let (session, _) = used.insert((self.reader().await?, turn));
                if session.is_pooled() {
                    session.mark_busy();
                }
                let result = query(session).await;
                if result.is_ok() {
                    session.mark_idle();
                }
                result
            })
            .await;
        if let (Err(error), Some((session, _))) = (&result, &used)
            && error.kind() != ErrorKind::Closed
        {
            // A connection in doubt is not used again.
            self.forget(session);
        }
        result
    }

    async fn reader(&self) -> Result<Arc<Session>> {
        let kept = self.kept().clone().filter(|session| !session.is_closed());
        if let Some(session) = kept {
            return Ok(session);
        }
        let session = Arc::new(Session::open(&self.log.connect, &self.log.settings).await?);
        if !session.is_pooled() {
            // Of two that connect at once, one connection stays.
            let mut kept = self.kept();
            match &*kept {
                Some(other) if !other.is_closed() => return Ok(Arc::clone(other)),
                _ => *kept = Some(Arc::clone(&session)),
            }
        }
        Ok(session)
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Option<Arc<Session>>> {
        self.reader.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget(&self, session: &Arc<Session>) {
        let mut kept = self.kept();
        if kept.as_ref().is_some_and(|kept| Arc::ptr_eq(kept, session)) {
            *kept = None;
        }
    }

    /// Sees to it that followers hear of what other processes append, if that is wanted.
    pub(crate) fn listen(&self) {
        let log = &self.log;
        let mut listening = self.listening.lock().unwrap_or_else(PoisonError::into_inner);
        if log.options.notify && listening.is_none() && !*self.closed.borrow() {
            *listening = Some(Listening::start(Listener {
                connect: log.connect.clone(),
                channel: log.channel.clone(),
                log: log.name.clone(),
                call_timeout: log.options.call_timeout,
                appended: Arc::clone(&self.appended),
            }));
        }
    }

    /// Ends all calls, closes all connections, and waits for it.
    pub(crate) async fn close(&self) {
        self.closed.send_replace(true);
        self.appended.send_replace(());
        let listening = self.listening.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(listening) = listening {
            listening.close().await;
        }
        self.writer.lock().await.close().await;
        // All turns at once: no reader is on the connection any more, and no prune has one of its own.
        let turns = self.fetches.acquire_many(FETCHES_MAX).await;
        let session = self.kept().take();
        if let Some(session) = session.and_then(Arc::into_inner) {
            session.close().await;
        }
        drop(turns);
    }
}
