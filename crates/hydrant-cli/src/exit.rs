//! How the program ends: what went wrong, and the exit code that says so.

use std::io;
use std::process::ExitCode;

use hydrant::{Error, ErrorKind};
use serde::Serialize;

use crate::output::say;

/// The exit codes, as `--help` and docs/cli.md promise them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Exit {
    /// All is well.
    Fine = 0,
    /// The data is damaged or incomplete.
    Data = 1,
    /// The command line is wrong. The program has not touched a store.
    Usage = 2,
    /// A store cannot be reached, or refused.
    Store = 3,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command ended early.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line is wrong.
    Usage(String),
    /// A store said so.
    Store(Error),
    /// Some of what was asked for is not there, not whole or not done.
    Incomplete(String),
    /// What could not be done for reasons outside of the data: named, with the exit code `Store`.
    Refused(String),
    /// Standard output cannot be written.
    Output(io::Error),
    /// The reader of standard output has left. This is no failure.
    ReaderGone,
}

/// The result of a command.
pub(crate) type Outcome<T = Exit> = Result<T, Failure>;

/// The exit code that an error of a store ends the program with.
pub(crate) fn exit_of(error: &Error) -> Exit {
    match error.kind() {
        // Errors about the contents of the logs.
        ErrorKind::Corrupt | ErrorKind::Gap | ErrorKind::Diverged | ErrorKind::Pruned { .. } => Exit::Data,
        ErrorKind::Invalid if error.event().is_some() => Exit::Data,
        ErrorKind::Unsupported => Exit::Usage,
        _ => Exit::Store,
    }
}

impl Failure {
    /// Puts the message of the parser on one line, without the help that it adds for people.
    pub(crate) fn of_the_command_line(message: &str) -> Self {
        let what = message.split("\n\nUsage:").next().unwrap_or_default();
        let what = what.split("\n\nFor more information").next().unwrap_or_default();
        let what = what.trim_start_matches("error: ").replace("\n\n", "; ");
        Self::Usage(what.split_whitespace().collect::<Vec<_>>().join(" "))
    }

    /// The exit code.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Usage(_) => Exit::Usage,
            Self::Store(error) => exit_of(error),
            Self::Incomplete(_) => Exit::Data,
            Self::Refused(_) | Self::Output(_) => Exit::Store,
            Self::ReaderGone => Exit::Fine,
        }
    }

    /// Prints the failure on standard error, in words or as one line of JSON.
    pub(crate) fn report(&self, json: bool) {
        if matches!(self, Self::ReaderGone) {
            return;
        }
        if json {
            let line = ErrorLine { error: self.into(), exit: self.exit() as u8 };
            say(serde_json::to_string(&line).expect("strings and numbers are JSON"));
        } else {
            say(format_args!("hydrant: {self}"));
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Usage(message) | Self::Incomplete(message) | Self::Refused(message) => f.write_str(message),
            Self::Store(error) => error.fmt(f),
            Self::Output(cause) => write!(f, "standard output cannot be written: {cause}"),
            Self::ReaderGone => f.write_str("the reader of standard output has gone"),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

impl From<io::Error> for Failure {
    /// Of standard output: `hydrant cat ... | head` ends quietly.
    fn from(cause: io::Error) -> Self {
        if cause.kind() == io::ErrorKind::BrokenPipe { Self::ReaderGone } else { Self::Output(cause) }
    }
}

#[derive(Serialize)]
struct ErrorLine {
    error: ErrorObject,
    exit: u8,
}

/// An error for machines.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ErrorObject {
    kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    log: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event_id: Option<u64>,
    message: String,
}

impl From<&Error> for ErrorObject {
    fn from(error: &Error) -> Self {
        let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
        Self {
            kind: kind_name(error.kind()),
            log: error.target().map(ToOwned::to_owned),
            event_id: error.event().map(hydrant::EventId::get),
            message: format!("{}{cause}", error.message()),
        }
    }
}

impl From<&Failure> for ErrorObject {
    fn from(failure: &Failure) -> Self {
        let kind = match failure {
            Failure::Store(error) => return error.into(),
            Failure::Usage(_) => "usage",
            Failure::Incomplete(_) => "incomplete",
            Failure::Refused(_) => "refused",
            Failure::Output(_) | Failure::ReaderGone => "output",
        };
        Self { kind: kind.to_owned(), log: None, event_id: None, message: failure.to_string() }
    }
}

/// A kind in one word, without its parameters.
fn kind_name(kind: ErrorKind) -> String {
    let shown = kind.to_string();
    shown.split(' ').next().unwrap_or_default().to_owned()
}
