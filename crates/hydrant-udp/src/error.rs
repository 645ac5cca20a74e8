//! The one place where errors of sockets become errors of Hydrant, by their codes.

use std::io;

use hydrant::{Error, EventId, Retry};

/// A datagram that could not be handed to the kernel. `none_sent` of the batch before it makes it safe.
pub(crate) fn sending(
    cause: io::Error,
    target: &str,
    event: EventId,
    bytes: usize,
    none_sent: bool,
) -> Error {
    let error = match cause.kind() {
        _ if is_too_large(&cause) => Error::invalid(format!(
            "a datagram of {bytes} bytes is more than this path takes; lower `datagram_bytes_max`"
        )),
        // A firewall rule answers EPERM; it may be lifted at any moment.
        io::ErrorKind::PermissionDenied => {
            Error::denied("the system does not let this process send there; look at the firewall")
                .with_retry(Retry::Safe)
        }
        _ => Error::unavailable("the datagram could not be handed to the kernel; look at the network"),
    };
    let error = error.at(event).at_target(target).because(cause);
    if none_sent { error } else { error.maybe_applied() }
}

/// The deadline of a batch passed. `none_sent` of it makes it safe.
pub(crate) fn late(target: &str, none_sent: bool) -> Error {
    let message =
        "the deadline passed while an append before this one or the kernel's full buffer held it up";
    let error = Error::unavailable(message).at_target(target);
    if none_sent { error } else { error.maybe_applied() }
}

/// EMSGSIZE, for which `std` has no stable kind.
fn is_too_large(cause: &io::Error) -> bool {
    #[cfg(target_os = "linux")]
    return cause.raw_os_error() == Some(rustix::io::Errno::MSGSIZE.raw_os_error());
    #[cfg(windows)]
    return cause.raw_os_error() == Some(10_040);
    #[cfg(not(any(target_os = "linux", windows)))]
    return cause.raw_os_error() == Some(40); // the BSDs and macOS
}

/// A socket that could not be opened.
pub(crate) fn opening(cause: io::Error, address: &str) -> Error {
    use io::ErrorKind as Io;
    let error = match cause.kind() {
        Io::AddrInUse => Error::unavailable(
            "the port is in use; end the program that listens there, or choose another port",
        ),
        Io::AddrNotAvailable => Error::invalid(
            "no interface of this machine has this address; listen on one of its own, or on 0.0.0.0 or [::]",
        ),
        Io::PermissionDenied => Error::denied(
            "the system does not let this process use the address; ports below 1024 need a privilege",
        ),
        Io::InvalidInput => {
            Error::invalid("the system refuses an option of this socket; look at interface and buffer sizes")
        }
        _ => Error::unavailable(
            "the socket cannot be opened; look at the network, and at the limit of open files",
        ),
    };
    error.at_target(address).because(cause)
}

/// An address that is none, or a name that cannot be resolved.
pub(crate) fn resolving(cause: io::Error, address: &str) -> Error {
    if cause.kind() == io::ErrorKind::InvalidInput {
        return Error::invalid(
            "this is no address; write host:port, for example 127.0.0.1:9000 or [::1]:9000",
        )
        .at_target(address)
        .because(cause);
    }
    Error::unavailable("the host name cannot be resolved; check it, or write an IP address")
        .at_target(address)
        .because(cause)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use hydrant::ErrorKind;
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn errors_of_sending_are_classified_by_code() {
        for (code, kind, retry) in [
            (Errno::MSGSIZE, ErrorKind::Invalid, Retry::Never),
            (Errno::PERM, ErrorKind::Denied, Retry::Safe),
            (Errno::NOBUFS, ErrorKind::Unavailable, Retry::Safe),
            (Errno::NETUNREACH, ErrorKind::Unavailable, Retry::Safe),
        ] {
            let error = sending(code.into(), "host:1", EventId::new(7), 1472, true);
            assert_eq!((error.kind(), error.retry()), (kind, retry), "{error}");
            assert_eq!((error.event(), error.target()), (Some(EventId::new(7)), Some("host:1")));
        }
        let in_part = sending(Errno::NOBUFS.into(), "host:1", EventId::new(7), 1472, false);
        assert_eq!(in_part.retry(), Retry::AfterCheckpoint, "some of the batch was sent");
    }
}
