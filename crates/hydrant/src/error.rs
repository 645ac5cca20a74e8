//! One opaque error for every store: what happened, to which event, and what the caller does next.

use std::any::Any;
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::EventId;

/// The result of every call in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The shortest pause before a retry with credentials that expired.
const EXPIRED_PAUSE: Duration = Duration::from_secs(30);

/// What happened. Classified by codes of the server or the system, never by the text of a message.
///
/// [`Error`] has a table of what each kind leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The server or disk cannot be reached, is overloaded, or did not reply in time.
    Unavailable,
    /// The server or system refuses these credentials or permissions.
    Denied,
    /// The event or argument itself is at fault, for example too large. Names the event if there is one.
    Invalid,
    /// Stored bytes do not match their checksum or format.
    Corrupt,
    /// Another writer wrote, or the histories differ: another event is held where this one belongs.
    Fenced,
    /// The sink does not hold the predecessor that the batch names; appending would leave a hole.
    Gap,
    /// The events asked for were pruned; `oldest` is the first that is still kept.
    Pruned {
        /// The oldest event kept (the floor).
        oldest: EventId,
    },
    /// Two histories: a sink holds other events than the primary, or the log lost events that it had before.
    Diverged,
    /// The storage is full or a quota is used up.
    Full,
    /// The handle was closed, or an earlier failure stopped it.
    Closed,
    /// The store cannot do this at all.
    Unsupported,
    /// The store panicked or broke its own contract: a bug.
    Bug,
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unavailable => f.write_str("unavailable"),
            Self::Denied => f.write_str("denied"),
            Self::Invalid => f.write_str("invalid"),
            Self::Corrupt => f.write_str("corrupt"),
            Self::Fenced => f.write_str("fenced"),
            Self::Gap => f.write_str("gap"),
            Self::Pruned { oldest } => write!(f, "pruned (oldest event kept: {oldest})"),
            Self::Diverged => f.write_str("diverged"),
            Self::Full => f.write_str("full"),
            Self::Closed => f.write_str("closed"),
            Self::Unsupported => f.write_str("unsupported"),
            Self::Bug => f.write_str("bug"),
        }
    }
}

/// What the caller may do next. If in doubt, use [`Retry::AfterCheckpoint`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Retry {
    /// Nothing was applied: the caller may make the same call again.
    Safe,
    /// The outcome is unknown: ask [`EventSink::checkpoint`](crate::EventSink::checkpoint), or send
    /// the same bytes under the same ids again, which compare-and-append makes harmless.
    AfterCheckpoint,
    /// The same call will fail in the same way; it needs an operator.
    Never,
}

/// What went wrong, where, and what to do about it.
///
/// Each usual error has a constructor, which sets its kind and its [`Retry`]:
///
/// | constructor | kind, retry | what the fan-out does with a sink | what the operator does |
/// |---|---|---|---|
/// | [`unavailable`](Self::unavailable) | `Unavailable`, `Safe` | retries with backoff | starts the server, if that lasts |
/// | [`outcome_unknown`](Self::outcome_unknown) | `Unavailable`, `AfterCheckpoint` | reads the sink's checkpoint, continues from there | as above |
/// | [`throttled`](Self::throttled) | `Unavailable`, `Safe` | retries, with pauses of [`pause_min`](Self::pause_min) or more | raises the quota, if that lasts |
/// | [`full`](Self::full) | `Full`, `Safe` | retries with backoff | frees space, or raises the quota |
/// | [`expired`](Self::expired) | `Denied`, `Safe` | retries, with pauses of [`pause_min`](Self::pause_min) or more | renews the credentials, or sets the clock |
/// | [`denied`](Self::denied) | `Denied`, `Never` | parks | grants the permission, resumes |
/// | [`invalid`](Self::invalid) | `Invalid`, `Never` | delivers the events before the one named, parks; a [`DeadLetter`](crate::DeadLetter) continues | raises the limit, or adds a `DeadLetter`; resumes |
/// | [`corrupt`](Self::corrupt) | `Corrupt`, `Never` | parks | verifies, repairs or restores the store; resumes |
/// | [`fenced`](Self::fenced) | `Fenced`, `Never` | parks | ends the other writer, resumes |
/// | [`gap`](Self::gap) | `Gap`, `AfterCheckpoint` | reads the sink's checkpoint, continues from there | nothing |
/// | [`pruned`](Self::pruned) | `Pruned`, `Never` | parks | empties the sink, starts it at the oldest snapshot |
/// | [`diverged`](Self::diverged) | `Diverged`, `Never` | parks | rebuilds the sink or the primary |
/// | [`closed`](Self::closed) | `Closed`, `Never` | parks | finds the earlier failure, opens the store again |
/// | [`unsupported`](Self::unsupported) | `Unsupported`, `Never` | parks | upgrades, or takes another store |
/// | [`bug`](Self::bug), [`panicked`](Self::panicked) | `Bug`, `Never` | parks | reports it, resumes |
///
/// Cheap to clone, because one failed commit answers many callers.
#[derive(Clone)]
pub struct Error(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    retry: Retry,
    message: String,
    target: Option<String>,
    event: Option<EventId>,
    pause_min: Option<Duration>,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

impl Error {
    /// Creates an error without a constructor of its own. `retry` has no default: the author must decide.
    pub fn new(kind: ErrorKind, retry: Retry, message: impl Into<String>) -> Self {
        Self(Arc::new(Inner {
            kind,
            retry,
            message: message.into(),
            target: None,
            event: None,
            pause_min: None,
            source: None,
        }))
    }

    /// [`Unavailable`](ErrorKind::Unavailable) with [`Retry::Safe`]: the request did not reach the server, or
    /// the server refused it for now.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unavailable, Retry::Safe, message)
    }

    /// [`Unavailable`](ErrorKind::Unavailable) with [`Retry::AfterCheckpoint`]: the request was sent, and no
    /// reply arrived, or a write ended at an unknown place.
    pub fn outcome_unknown(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unavailable, Retry::AfterCheckpoint, message)
    }

    /// [`Unavailable`](ErrorKind::Unavailable) with [`Retry::Safe`]: the server is asked too often, and wants a
    /// pause.
    pub fn throttled(message: impl Into<String>, pause_min: Duration) -> Self {
        Self::unavailable(message).with_pause_min(pause_min)
    }

    /// [`Full`](ErrorKind::Full) with [`Retry::Safe`]: no space, or a quota is used up, and nothing was applied.
    pub fn full(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Full, Retry::Safe, message)
    }

    /// [`Denied`](ErrorKind::Denied) with [`Retry::Safe`] and long pauses: credentials that expired, or a clock
    /// that is off. For a store that has loaded its credentials again once, and was refused again.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Denied, Retry::Safe, message).with_pause_min(EXPIRED_PAUSE)
    }

    /// [`Denied`](ErrorKind::Denied) with [`Retry::Never`]: wrong credentials, or no permission.
    pub fn denied(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Denied, Retry::Never, message)
    }

    /// [`Invalid`](ErrorKind::Invalid) with [`Retry::Never`]: the input is at fault, and nothing was applied.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, Retry::Never, message)
    }

    /// [`Corrupt`](ErrorKind::Corrupt) with [`Retry::Never`]: stored bytes do not match.
    pub fn corrupt(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Corrupt, Retry::Never, message)
    }

    /// [`Fenced`](ErrorKind::Fenced) with [`Retry::Never`]: another writer wrote.
    pub fn fenced(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Fenced, Retry::Never, message)
    }

    /// [`Gap`](ErrorKind::Gap) with [`Retry::AfterCheckpoint`]: the sink's checkpoint says where to continue.
    pub fn gap(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Gap, Retry::AfterCheckpoint, message)
    }

    /// [`Pruned`](ErrorKind::Pruned) with [`Retry::Never`]: read from `oldest`, or from the newest snapshot.
    pub fn pruned(oldest: EventId) -> Self {
        Self::new(
            ErrorKind::Pruned { oldest },
            Retry::Never,
            format!(
                "events before {oldest} were pruned; read from event {oldest} or from the newest snapshot"
            ),
        )
    }

    /// [`Diverged`](ErrorKind::Diverged) with [`Retry::Never`]: sink and primary have different histories.
    pub fn diverged(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Diverged, Retry::Never, message)
    }

    /// [`Closed`](ErrorKind::Closed) with [`Retry::Never`].
    pub fn closed(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Closed, Retry::Never, message)
    }

    /// [`Unsupported`](ErrorKind::Unsupported) with [`Retry::Never`]: the store cannot do this.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, Retry::Never, message)
    }

    /// [`Bug`](ErrorKind::Bug) with [`Retry::Never`]: a contract was broken.
    pub fn bug(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Bug, Retry::Never, message)
    }

    /// [`Bug`](ErrorKind::Bug) with [`Retry::Never`] for a panic, as `catch_unwind` or a joined task returns it.
    pub fn panicked(what: &str, panic: &(dyn Any + Send)) -> Self {
        let text = panic.downcast_ref::<&str>().copied();
        let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        let text = text.unwrap_or("no message");
        Self::bug(format!("{what} panicked: {text}; report it, then resume or reopen"))
    }

    /// Names the event that the error is about.
    #[must_use]
    pub fn at(mut self, event: EventId) -> Self {
        Arc::make_mut(&mut self.0).event = Some(event);
        self
    }

    /// Names the log, file or target that the error is about. Must hold no secret.
    #[must_use]
    pub fn at_target(mut self, target: impl Into<String>) -> Self {
        Arc::make_mut(&mut self.0).target = Some(target.into());
        self
    }

    /// Keeps the underlying error as [`source`](StdError::source).
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Arc::make_mut(&mut self.0).source = Some(Arc::from(source.into()));
        self
    }

    /// Sets the shortest pause before a retry. A pump waits for its backoff or for this, whichever is longer.
    #[must_use]
    pub fn with_pause_min(mut self, pause: Duration) -> Self {
        Arc::make_mut(&mut self.0).pause_min = Some(pause);
        self
    }

    /// The same error, with other advice.
    #[must_use]
    pub fn with_retry(mut self, retry: Retry) -> Self {
        Arc::make_mut(&mut self.0).retry = retry;
        self
    }

    /// The same error after something was, or may have been, applied: [`Retry::Safe`] becomes
    /// [`Retry::AfterCheckpoint`].
    #[must_use]
    pub fn maybe_applied(self) -> Self {
        if self.retry() == Retry::Safe { self.with_retry(Retry::AfterCheckpoint) } else { self }
    }

    /// The same error when nothing was applied for certain: [`Retry::AfterCheckpoint`] becomes [`Retry::Safe`].
    #[must_use]
    pub fn nothing_applied(self) -> Self {
        if self.retry() == Retry::AfterCheckpoint { self.with_retry(Retry::Safe) } else { self }
    }

    /// What happened.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// What the caller may do next.
    pub fn retry(&self) -> Retry {
        self.0.retry
    }

    /// The shortest pause before a retry, if the error asks for one.
    pub fn pause_min(&self) -> Option<Duration> {
        self.0.pause_min
    }

    /// The event that the error is about, if there is one.
    pub fn event(&self) -> Option<EventId> {
        self.0.event
    }

    /// The log, file or target that the error is about, if it was named.
    pub fn target(&self) -> Option<&str> {
        self.0.target.as_deref()
    }

    /// What happened and what to do next, without kind, place and cause.
    pub fn message(&self) -> &str {
        &self.0.message
    }
}

impl fmt::Display for Error {
    /// One line: `kind: target: event N: message: cause`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.0.kind)?;
        if let Some(target) = &self.0.target {
            write!(f, "{target}: ")?;
        }
        if let Some(event) = self.0.event {
            write!(f, "event {event}: ")?;
        }
        f.write_str(&self.0.message)?;
        if let Some(source) = &self.0.source {
            write!(f, ": {source}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Error({self}; retry: {:?})", self.0.retry)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_where_and_why_in_one_line() {
        let error = Error::corrupt("checksum differs; run `hydrant verify`")
            .at_target("state")
            .at(EventId::new(7))
            .because(std::io::Error::other("boom"));
        assert_eq!(
            error.to_string(),
            "corrupt: state: event 7: checksum differs; run `hydrant verify`: boom"
        );
        assert_eq!(error.clone().retry(), Retry::Never);
        assert!(StdError::source(&error).is_some());
    }

    #[test]
    fn a_pause_is_kept_through_all_changes() {
        let error = Error::expired("the token expired").at(EventId::new(7)).at_target("s3").maybe_applied();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Denied, Retry::AfterCheckpoint));
        assert_eq!(error.pause_min(), Some(EXPIRED_PAUSE));
        assert_eq!(Error::denied("no").pause_min(), None);
        let second = Duration::from_secs(1);
        assert_eq!(Error::throttled("slow down", second).pause_min(), Some(second));
    }

    #[test]
    fn a_panic_is_a_bug_with_its_text() {
        for panic in [
            std::panic::catch_unwind(|| panic!("boom")).unwrap_err(),
            std::panic::catch_unwind(|| panic!("bo{}", "om")).unwrap_err(),
        ] {
            let error = Error::panicked("the map", &*panic);
            assert_eq!((error.kind(), error.retry()), (ErrorKind::Bug, Retry::Never));
            assert!(error.message().starts_with("the map panicked: boom"), "{error}");
        }
    }

    #[test]
    fn what_was_applied_changes_the_advice_and_never_is_never() {
        let of = |retry| Error::new(ErrorKind::Unavailable, retry, "");
        assert_eq!(of(Retry::Safe).maybe_applied().retry(), Retry::AfterCheckpoint);
        assert_eq!(of(Retry::AfterCheckpoint).nothing_applied().retry(), Retry::Safe);
        for same in [Retry::AfterCheckpoint, Retry::Never] {
            assert_eq!(of(same).maybe_applied().retry(), same);
        }
        for same in [Retry::Safe, Retry::Never] {
            assert_eq!(of(same).nothing_applied().retry(), same);
        }
    }
}
