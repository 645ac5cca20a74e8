//! One opaque error for every store: what happened, to which event, and what the caller does next.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use crate::EventId;

/// The result of every call in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What happened. Classified by codes of the server or the system, never by the text of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The server or disk cannot be reached, is overloaded, or did not answer in time.
    Unavailable,
    /// The server or system refuses these credentials or permissions.
    Denied,
    /// The event or argument itself is at fault, for example too large. Names the event where it is one.
    Invalid,
    /// Bytes that were stored do not check.
    Corrupt,
    /// Somebody else wrote, or the histories differ: another event stands where this one should go.
    Fenced,
    /// The sink does not hold the predecessor that the batch names; appending would leave a hole.
    Gap,
    /// The events asked for were pruned; `oldest` is the first that is still kept.
    Pruned {
        /// The oldest event kept (the floor).
        oldest: EventId,
    },
    /// The sink holds events of another history than the primary's.
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

/// What the caller may do next. Whoever is in doubt says [`Retry::AfterCheckpoint`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Retry {
    /// Nothing was applied: the same call may simply be made again.
    Safe,
    /// The outcome is unknown: ask [`EventSink::checkpoint`](crate::EventSink::checkpoint), or send
    /// the same bytes under the same ids again, which compare-and-append makes harmless.
    AfterCheckpoint,
    /// The same call will fail in the same way; a person has to look.
    Never,
}

/// What went wrong, where, and what to do about it.
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
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

impl Error {
    /// `retry` has no default, so that nobody can forget to decide.
    pub fn new(kind: ErrorKind, retry: Retry, message: impl Into<String>) -> Self {
        Self(Arc::new(Inner {
            kind,
            retry,
            message: message.into(),
            target: None,
            event: None,
            source: None,
        }))
    }

    /// [`ErrorKind::Invalid`] with [`Retry::Never`]: the input is at fault.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, Retry::Never, message)
    }

    /// [`ErrorKind::Corrupt`] with [`Retry::Never`]: stored bytes do not check.
    pub fn corrupt(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Corrupt, Retry::Never, message)
    }

    /// [`ErrorKind::Fenced`] with [`Retry::Never`]: somebody else wrote.
    pub fn fenced(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Fenced, Retry::Never, message)
    }

    /// [`ErrorKind::Gap`] with [`Retry::AfterCheckpoint`]: ask the sink where it stands.
    pub fn gap(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Gap, Retry::AfterCheckpoint, message)
    }

    /// [`ErrorKind::Pruned`] with [`Retry::Never`]: read from `oldest`, or from the newest snapshot.
    pub fn pruned(oldest: EventId) -> Self {
        Self::new(
            ErrorKind::Pruned { oldest },
            Retry::Never,
            format!(
                "events before {oldest} were pruned; read from event {oldest} or from the newest snapshot"
            ),
        )
    }

    /// [`ErrorKind::Closed`] with [`Retry::Never`].
    pub fn closed(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Closed, Retry::Never, message)
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

    /// The same error, with other advice.
    #[must_use]
    pub fn with_retry(mut self, retry: Retry) -> Self {
        Arc::make_mut(&mut self.0).retry = retry;
        self
    }

    /// The same error where something was, or may have been, applied before it: what says [`Retry::Safe`] says
    /// [`Retry::AfterCheckpoint`].
    #[must_use]
    pub fn maybe_applied(self) -> Self {
        if self.retry() == Retry::Safe { self.with_retry(Retry::AfterCheckpoint) } else { self }
    }

    /// The same error where it is known that nothing was applied: what says [`Retry::AfterCheckpoint`] says
    /// [`Retry::Safe`].
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

    /// The event that the error is about, where there is one.
    pub fn event(&self) -> Option<EventId> {
        self.0.event
    }

    /// The log, file or target that the error is about, where it was named.
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
