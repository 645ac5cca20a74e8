//! The only mapping of the server's errors: by SQLSTATE, never by the text of a message.

use std::error::Error as StdError;
use std::fmt;

use hydrant::{Error, ErrorKind, Retry};
use tokio_postgres::error::{Severity, SqlState};

/// What was under way, which decides what a lost answer leaves open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Doing {
    /// Nothing was asked for yet, or nothing that changes anything.
    Reading,
    /// Something that may have been applied.
    Writing,
}

/// What a SQLSTATE means for the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Meaning {
    pub(crate) kind: ErrorKind,
    /// For an ERROR, behind which the server has rolled back. What ends the connection in the middle of a
    /// write is `AfterCheckpoint` instead, unless it is `Never`.
    pub(crate) retry: Retry,
    /// What the operator or the caller does next.
    pub(crate) advice: &'static str,
}

const fn row(kind: ErrorKind, retry: Retry, advice: &'static str) -> Meaning {
    Meaning { kind, retry, advice }
}

/// By whole code, or by class (its first two characters). `docs/postgres.md` shows the same table with
/// [`NOTIFICATIONS_FULL`], and a test compares the two row by row.
#[rustfmt::skip]
const TABLE: &[(&str, Meaning)] = {
    use ErrorKind::{Corrupt, Denied, Full, Invalid, Unavailable, Unsupported};
    use Retry::{AfterCheckpoint, Never, Safe};
    &[
        ("08", row(Unavailable, AfterCheckpoint, "the connection was lost; the next call makes a new one")),
        ("0A", row(Unsupported, Never, "the server cannot do this; PostgreSQL 13 or newer is needed")),
        ("22", row(Invalid, Never, "the server cannot hold this value")),
        ("23", row(Invalid, Never, "a constraint that was added to the table refuses the row")),
        ("23505", row(Corrupt, Never, "rows stand behind the head that the head does not know; find out who wrote them")),
        ("25", row(Unavailable, AfterCheckpoint, "the transaction was ended by the server; the next call begins anew")),
        ("25006", row(Unavailable, Safe, "the server is read-only, as a standby is; the next call connects anew")),
        ("25P03", row(Unavailable, AfterCheckpoint, "the transaction stood idle for too long; the next call begins anew")),
        ("26", row(Unavailable, Safe, "a pooler lost a prepared statement; connect to the server itself, or pool by session")),
        ("28", row(Denied, Never, "check user and password, and pg_hba.conf")),
        ("3D", row(Unavailable, Safe, "there is no such database; create it, or correct the URL")),
        ("3F", row(Unavailable, Safe, "the schema is gone; open the store again to create it")),
        ("40", row(Unavailable, Safe, "the server rolled back in favour of another transaction")),
        ("40003", row(Unavailable, AfterCheckpoint, "the server does not know the outcome")),
        ("42", row(Unsupported, Never, "the tables are not as this version made them; find out who changed them")),
        ("42501", row(Denied, Never, "grant the role what docs/postgres.md lists")),
        ("42P01", row(Unavailable, Safe, "the table is gone; open the store again to create it")),
        ("42P05", row(Unavailable, Safe, "a pooler mixed up prepared statements; connect to the server itself, or pool by session")),
        ("53", row(Unavailable, Safe, "the server is out of resources")),
        ("53100", row(Full, Safe, "the server's disk is full; make space")),
        ("53300", row(Unavailable, Safe, "the server has no connection left; raise max_connections, or share a pool")),
        ("54", row(Invalid, Never, "the event is larger than the server can hold")),
        ("55", row(Unavailable, Safe, "the server is not in a state to do this now")),
        ("55P03", row(Unavailable, Safe, "another transaction holds what this waits for; see pg_locks")),
        ("57", row(Unavailable, AfterCheckpoint, "an operator or the server ended the connection; the next call makes a new one")),
        ("57014", row(Unavailable, Safe, "the statement took longer than it may, or was cancelled")),
        ("57P03", row(Unavailable, Safe, "the server is starting or stopping")),
        ("58", row(Unavailable, AfterCheckpoint, "the server met an error of its system; see its log")),
        ("F0", row(Unavailable, Safe, "the server's configuration has an error; see its log")),
        ("XX", row(Unavailable, AfterCheckpoint, "the server met an error of its own; see its log")),
        ("XX001", row(Corrupt, Never, "the server says that its data is damaged; see its log")),
        ("XX002", row(Corrupt, Never, "the server says that an index is damaged; see its log, then REINDEX")),
    ]
};

/// The code of a COMMIT for whose notification there is no space, and of what is too large in itself. Nothing of an
/// append that notifies was applied, and the space comes back.
const NOTIFICATIONS_FULL: (&str, Meaning) = {
    let advice = "with `notify`: the queue of notifications may be full; end the session that stays in a transaction \
                  behind its LISTEN (without: see `54`)";
    ("54000", row(ErrorKind::Unavailable, Retry::Safe, advice))
};

/// For a code that no row names. In doubt, `AfterCheckpoint`.
const UNKNOWN: Meaning =
    row(ErrorKind::Unavailable, Retry::AfterCheckpoint, "the server answered with an error; see its log");

/// What a SQLSTATE means.
pub(crate) fn meaning(code: &str) -> Meaning {
    let find = |key: &str| TABLE.iter().find(|(of, _)| *of == key).map(|(_, meaning)| *meaning);
    find(code).or_else(|| find(code.get(..2)?)).unwrap_or(UNKNOWN)
}

/// What went wrong while `doing` something with a log, a checkpoint or the tables themselves.
pub(crate) fn server_error(doing: Doing, what: &str, cause: tokio_postgres::Error) -> Error {
    error_by(meaning, doing, what, cause)
}

/// What went wrong with an append, which may notify.
pub(crate) fn append_error(notifies: bool, cause: tokio_postgres::Error) -> Error {
    let (full, means) = NOTIFICATIONS_FULL;
    let by = |code: &str| if notifies && code == full { means } else { meaning(code) };
    error_by(by, Doing::Writing, "appending", cause)
}

fn error_by(
    meaning: impl Fn(&str) -> Meaning,
    doing: Doing,
    what: &str,
    cause: tokio_postgres::Error,
) -> Error {
    let (kind, retry, advice) = match cause.as_db_error() {
        Some(said) => {
            let Meaning { kind, retry, advice } = meaning(said.code().code());
            // An ERROR has rolled back. What ends the connection may come behind a COMMIT that took place.
            let ended = !matches!(said.parsed_severity(), Some(Severity::Error));
            let retry = match retry {
                Retry::Never => Retry::Never,
                _ if doing == Doing::Reading => Retry::Safe,
                Retry::AfterCheckpoint => Retry::AfterCheckpoint,
                Retry::Safe if ended => Retry::AfterCheckpoint,
                Retry::Safe => Retry::Safe,
            };
            (kind, retry, advice)
        }
        None if is_ours(&cause) => {
            (ErrorKind::Bug, Retry::AfterCheckpoint, "the server's answer was not understood; report it")
        }
        None => (
            ErrorKind::Unavailable,
            if doing == Doing::Reading { Retry::Safe } else { Retry::AfterCheckpoint },
            "the connection was lost; the next call makes a new one",
        ),
    };
    Error::new(kind, retry, format!("{what} failed; {advice}")).because(OneLine(cause))
}

/// Returns whether the server said that it only reads, as one does that is not the primary any more.
pub(crate) fn says_read_only(error: &Error) -> bool {
    let said = error.source().and_then(|cause| cause.downcast_ref::<OneLine>());
    said.is_some_and(|cause| cause.0.code() == Some(&SqlState::READ_ONLY_SQL_TRANSACTION))
}

/// Returns whether values, not the connection, were at fault.
fn is_ours(cause: &tokio_postgres::Error) -> bool {
    let is_type = |cause: &(dyn StdError + 'static)| cause.is::<tokio_postgres::types::WrongType>();
    StdError::source(cause).is_some_and(is_type)
}

/// The answer that did not come in time.
pub(crate) fn timed_out(doing: Doing, what: &str, patience: std::time::Duration) -> Error {
    let retry = if doing == Doing::Reading { Retry::Safe } else { Retry::AfterCheckpoint };
    let message = format!(
        "{what} took longer than {patience:?}, which is `call_timeout` or what a deadline left; look at the server's load"
    );
    Error::new(ErrorKind::Unavailable, retry, message)
}

/// An error of the server in one line: code and message, without the values that DETAIL may quote. It has no
/// source, because a source would show them.
pub(crate) struct OneLine(pub(crate) tokio_postgres::Error);

impl fmt::Display for OneLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(said) = self.0.as_db_error() {
            return write!(f, "{} {}: {}", said.severity(), said.code().code(), said.message());
        }
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(because) = cause {
            write!(f, ": {because}")?;
            cause = because.source();
        }
        Ok(())
    }
}

impl fmt::Debug for OneLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl StdError for OneLine {}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the row of the page for this entry of the table.
    fn page_row(code: &str, meaning: &Meaning) -> String {
        format!("| `{code}` | {:?} | {:?} | {} |", meaning.kind, meaning.retry, meaning.advice)
    }

    #[test]
    fn the_page_shows_the_table_row_by_row() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/postgres.md");
        let page = std::fs::read_to_string(page).unwrap();
        let shown: Vec<&str> = page
            .lines()
            .skip_while(|line| !line.starts_with("| SQLSTATE"))
            .skip(2)
            .take_while(|line| line.starts_with('|'))
            .collect();
        let mut rows = TABLE.to_vec();
        rows.insert(rows.partition_point(|(code, _)| *code < NOTIFICATIONS_FULL.0), NOTIFICATIONS_FULL);
        let expected: Vec<String> = rows.iter().map(|(code, meaning)| page_row(code, meaning)).collect();
        assert_eq!(shown, expected);
    }

    #[test]
    fn a_whole_code_goes_before_its_class() {
        assert_eq!(meaning("53100").kind, ErrorKind::Full);
        assert_eq!(meaning("53200").kind, ErrorKind::Unavailable);
        assert_eq!(meaning("28P01"), meaning("28000"));
        assert_eq!(meaning("ZZ999"), UNKNOWN);
        assert_eq!(meaning(""), UNKNOWN);
    }

    #[test]
    fn every_code_has_one_row() {
        for (at, (code, _)) in TABLE.iter().enumerate() {
            assert!(matches!(code.len(), 2 | 5), "{code}");
            assert!(TABLE[..at].iter().all(|(other, _)| other < code), "{code} is out of order");
        }
    }
}
