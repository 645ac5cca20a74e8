//! The only mapping of the file system's errors.

use std::io;
use std::path::Path;

use hydrant::{Error, ErrorKind, Retry};

/// Returns the error of an operation on `path`, with advice.
pub(crate) fn io_error(path: &Path, doing: &str, retry: Retry, cause: io::Error) -> Error {
    // What a compressed segment says about itself comes this way, too.
    let cause = match cause.downcast::<Error>() {
        Ok(error) => return error.at_target(path.display().to_string()),
        Err(cause) => cause,
    };
    let (kind, advice) = match cause.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            (ErrorKind::Denied, "allow this user to write there")
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            (ErrorKind::Full, "make space")
        }
        io::ErrorKind::NotFound => {
            (ErrorKind::Unavailable, "it is not there: check the path, or put it back if it was moved")
        }
        io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory => {
            (ErrorKind::Invalid, "name a directory that holds nothing else")
        }
        _ => (ErrorKind::Unavailable, "check the disk"),
    };
    Error::new(kind, retry, format!("{doing} failed; {advice}"))
        .at_target(path.display().to_string())
        .because(cause)
}
