//! What goes wrong on the way to a connection. Nothing was applied by then, whatever it is.

use std::error::Error as StdError;
use std::io;

use deadpool_postgres::PoolError;
use hydrant::{Error, ErrorKind, Retry};
use tokio_postgres::error::SqlState;

use crate::error::OneLine;

/// Classified by SQLSTATE, or by the type of the cause; never by text.
pub(crate) fn connecting(cause: tokio_postgres::Error) -> Error {
    if cause.code() == Some(&SqlState::INVALID_PASSWORD) {
        let message =
            "the server refuses the password; check it, also whether it was changed on the server alone";
        return Error::expired(message).because(OneLine(cause));
    }
    let (kind, retry, message) = if let Some(state) = cause.code() {
        match state.code() {
            // No such user, no rule that lets it in, no right to connect.
            code if code.starts_with("28") || code == "42501" => (
                ErrorKind::Denied,
                Retry::Never,
                "the server refuses it; check user, password and `pg_hba.conf`",
            ),
            "3D000" => (
                ErrorKind::Unavailable,
                Retry::Safe,
                "there is no such database; create it, or correct the URL",
            ),
            _ => {
                (ErrorKind::Unavailable, Retry::Safe, "the server takes no connection now; look into its log")
            }
        }
    } else if let Some(io) = source_of::<io::Error>(&cause) {
        if io.get_ref().is_some_and(<dyn StdError + Send + Sync>::is::<rustls::Error>) {
            let message =
                "the two sides do not agree on TLS; check `sslmode`, `sslrootcert` and the certificates";
            (ErrorKind::Denied, Retry::Never, message)
        } else if io.kind() == io::ErrorKind::PermissionDenied && io.raw_os_error().is_none() {
            // Said by the driver, not by the system. In a failover this passes.
            (
                ErrorKind::Unavailable,
                Retry::Safe,
                "the server is not what `target_session_attrs` asks for; name the other hosts too, or promote one",
            )
        } else {
            (ErrorKind::Unavailable, Retry::Safe, "the server cannot be reached; does it run?")
        }
    } else if !is_drivers_own(&cause) {
        (ErrorKind::Unavailable, Retry::Safe, "the server closed the connection; look into its log")
    } else {
        // What the driver itself finds at fault: TLS required but not offered, a method of authentication that
        // it does not have, no password where one is asked for.
        let message = "server and connection string do not agree on TLS or authentication; correct one of them, or give the password";
        (ErrorKind::Denied, Retry::Never, message)
    };
    Error::new(kind, retry, message).because(OneLine(cause))
}

/// Returns whether it is neither an answer of the server nor an end of the connection.
pub(crate) fn is_drivers_own(cause: &tokio_postgres::Error) -> bool {
    cause.code().is_none() && source_of::<io::Error>(cause).is_none() && !cause.is_closed()
}

/// Returns whether the server refused by a rule (no entry in `pg_hba.conf`), and not for a wrong password.
pub(crate) fn is_refused_by_rule(cause: &tokio_postgres::Error) -> bool {
    cause.code() == Some(&SqlState::INVALID_AUTHORIZATION_SPECIFICATION)
}

/// An error of a pool that was asked for a connection.
pub(crate) fn from_pool(cause: PoolError) -> Error {
    match cause {
        PoolError::Backend(cause) => connecting(cause),
        PoolError::Closed => Error::closed("the pool was closed; make another, and open anew"),
        cause => {
            let message = "the pool has no connection to give; make it larger, or find out who holds them";
            Error::unavailable(message).because(cause)
        }
    }
}

fn source_of<T: StdError + 'static>(error: &tokio_postgres::Error) -> Option<&T> {
    error.source().and_then(|source| source.downcast_ref())
}
