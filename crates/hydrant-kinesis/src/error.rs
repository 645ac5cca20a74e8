//! The one place where errors of the SDK become errors of Hydrant, by their codes.

use std::error::Error as StdError;
use std::fmt::{self, Write as _};
use std::io;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_kinesis::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::http::Response;
use hydrant::{Error, ErrorKind, Retry};
use hydrant_aws::caused_by;

/// What a failed call means, whatever it was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    /// Too fast for the shard, the stream or the account. Nothing was applied.
    Throttled,
    /// Refused before anything was applied, and it may help to wait.
    NotNow(&'static str),
    /// Refused before anything was applied. It needs an operator.
    Refused(ErrorKind, &'static str),
    /// The credentials or the clock are not right now: nothing was applied, and after a long pause they may be.
    Outdated(&'static str),
    /// There is no such stream, or no such shard or consumer in it. Nothing was applied.
    Missing,
    /// The position of a read is too old.
    Expired,
    /// It may have been applied or not.
    Unknown(&'static str),
}

impl Meaning {
    /// Returns the kind of error, whether a put may be sent again, and what the operator does.
    const fn says(self) -> (ErrorKind, Retry, &'static str) {
        use ErrorKind::Unavailable;
        match self {
            Self::Throttled => (Unavailable, Retry::Safe, THROTTLED),
            Self::NotNow(message) => (Unavailable, Retry::Safe, message),
            Self::Refused(kind, message) => (kind, Retry::Never, message),
            Self::Outdated(message) => (ErrorKind::Denied, Retry::Safe, message),
            Self::Missing => (Unavailable, Retry::Safe, MISSING),
            Self::Expired => (Unavailable, Retry::Safe, EXPIRED),
            Self::Unknown(message) => (Unavailable, Retry::AfterCheckpoint, message),
        }
    }
}

/// A record that was not acknowledged.
pub(crate) fn putting<E>(cause: &SdkError<E, Response>) -> Error
where
    E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
{
    let (kind, retry, message) = meaning(cause).says();
    error_of(kind, retry, message.to_owned()).because(SdkMessage::of(cause))
}

/// A call that only asks. Whatever is not refused for good may be asked again.
pub(crate) fn reading<E>(cause: &SdkError<E, Response>, call: &str) -> Error
where
    E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
{
    let (kind, retry, message) = meaning(cause).says();
    let retry = if retry == Retry::AfterCheckpoint { Retry::Safe } else { retry };
    error_of(kind, retry, format!("{call}: {message}")).because(SdkMessage::of(cause))
}

fn error_of(kind: ErrorKind, retry: Retry, message: String) -> Error {
    match (kind, retry) {
        (ErrorKind::Denied, Retry::Safe) => Error::expired(message),
        _ => Error::new(kind, retry, message),
    }
}

/// Returns whether the shard, the stream or the account takes no more just now: a pause helps, nothing was applied.
pub(crate) fn is_throttled<E>(cause: &SdkError<E, Response>) -> bool
where
    E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
{
    meaning(cause) == Meaning::Throttled
}

/// Returns whether the stream is not there, or the shard or consumer that was asked for is not.
pub(crate) fn is_missing<E>(cause: &SdkError<E, Response>) -> bool
where
    E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
{
    meaning(cause) == Meaning::Missing
}

/// Returns whether the position of a read is too old, so that a new one is to be taken.
pub(crate) fn is_expired<E>(cause: &SdkError<E, Response>) -> bool
where
    E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
{
    meaning(cause) == Meaning::Expired
}

const THROTTLED: &str = "the shard, the stream or its key is written or read faster than its limits; add shards, \
                         raise the limit, or give the log a stream of its own";
const MISSING: &str =
    "there is no such stream in this account and region; create it, or check its name and the region";
const EXPIRED: &str = "the position in the shard is too old; read on from the last record";
const NO_ANSWER: &str = "no answer came; check the network and the endpoint";
const FAILED: &str = "the service failed inside; if it goes on, check its health page";

fn meaning<E>(cause: &SdkError<E, Response>) -> Meaning
where
    E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
{
    match cause {
        SdkError::ServiceError(context) => {
            let status = context.raw().status().as_u16();
            context.err().code().and_then(of_code).unwrap_or_else(|| of_status(status))
        }
        SdkError::ConstructionFailure(_) => of_credentials(cause).unwrap_or(Meaning::Refused(
            ErrorKind::Invalid,
            "the request cannot be built; check region and endpoint",
        )),
        SdkError::DispatchFailure(_) => of_credentials(cause).unwrap_or_else(|| {
            let refused = |io: &io::Error| io.kind() == io::ErrorKind::ConnectionRefused;
            match caused_by::<io::Error>(cause) {
                Some(io) if refused(io) => {
                    Meaning::NotNow("the endpoint refuses connections; check its address and the network")
                }
                _ => Meaning::Unknown(NO_ANSWER),
            }
        }),
        SdkError::ResponseError(context) => match of_status(context.raw().status().as_u16()) {
            Meaning::Refused(..) | Meaning::Throttled => of_status(context.raw().status().as_u16()),
            _ => Meaning::Unknown("the answer was cut off or makes no sense; check what stands between"),
        },
        _ => Meaning::Unknown(NO_ANSWER),
    }
}

const NOT_ACTIVE: &str = "the stream is being created, changed or deleted; wait until it is ACTIVE";
const POLICY: &str = "these credentials may not do this; check the policy of user or role";
const KEYS: &str = "these credentials are not known, or the secret key is wrong; check AWS_ACCESS_KEY_ID and \
                    AWS_SECRET_ACCESS_KEY, or the profile";
const SESSION: &str = "the session token has expired; sign in again, or use a role";
// Kinesis answers with this one for a wrong key and for a clock that is off alike.
const SIGNATURE: &str = "the signature does not hold: the secret key is wrong, or the clock of this machine is off by \
                         more than five minutes; check both";
const CLOCK: &str = "the clock of this machine is off by more than the service allows; set it";
const KEY_POLICY: &str =
    "these credentials may not use the key that encrypts the stream; check the policy of the key";
const KEY_STATE: &str =
    "the key that encrypts the stream is disabled, being deleted or gone; check it in KMS";
const ARGUMENT: &str =
    "the service refuses an argument; check the limits of the stream (largest record) and the options";

const fn denied(message: &'static str) -> Meaning {
    Meaning::Refused(ErrorKind::Denied, message)
}

/// The codes with which Kinesis and the layers before it (signatures, keys) answer. `docs/kinesis.md` shows the same
/// table, and a test compares the two row by row.
#[rustfmt::skip]
const TABLE: &[(&str, Meaning)] = &[
    ("AccessDenied", denied(POLICY)),
    ("AccessDeniedException", denied(POLICY)),
    ("ExpiredIteratorException", Meaning::Expired),
    ("ExpiredNextTokenException", Meaning::Expired),
    ("ExpiredToken", Meaning::Outdated(SESSION)),
    ("ExpiredTokenException", Meaning::Outdated(SESSION)),
    ("IncompleteSignature", denied(KEYS)),
    ("IncompleteSignatureException", denied(KEYS)),
    ("InternalFailure", Meaning::Unknown(FAILED)),
    ("InternalFailureException", Meaning::Unknown(FAILED)),
    ("InternalServerError", Meaning::Unknown(FAILED)),
    ("InvalidArgumentException", Meaning::Refused(ErrorKind::Invalid, ARGUMENT)),
    ("InvalidClientTokenId", denied(KEYS)),
    ("InvalidSignatureException", Meaning::Outdated(SIGNATURE)),
    ("KMSAccessDeniedException", denied(KEY_POLICY)),
    ("KMSDisabledException", denied(KEY_STATE)),
    ("KMSInvalidStateException", denied(KEY_STATE)),
    ("KMSNotFoundException", denied(KEY_STATE)),
    ("KMSOptInRequired", denied(KEY_POLICY)),
    ("KMSThrottlingException", Meaning::Throttled),
    ("LimitExceededException", Meaning::Throttled),
    ("MissingAuthenticationToken", denied(KEYS)),
    ("MissingAuthenticationTokenException", denied(KEYS)),
    ("NotAuthorized", denied(POLICY)),
    ("OptInRequired", denied(POLICY)),
    ("ProvisionedThroughputExceededException", Meaning::Throttled),
    ("RequestExpired", Meaning::Outdated(CLOCK)),
    ("RequestLimitExceeded", Meaning::Throttled),
    ("RequestTimeTooSkewed", Meaning::Outdated(CLOCK)),
    ("ResourceInUseException", Meaning::NotNow(NOT_ACTIVE)),
    ("ResourceNotFoundException", Meaning::Missing),
    ("SerializationException", Meaning::Refused(ErrorKind::Invalid, ARGUMENT)),
    ("ServiceUnavailable", Meaning::Unknown(FAILED)),
    ("ServiceUnavailableException", Meaning::Unknown(FAILED)),
    ("SignatureDoesNotMatch", denied(KEYS)),
    ("ThrottledException", Meaning::Throttled),
    ("Throttling", Meaning::Throttled),
    ("ThrottlingException", Meaning::Throttled),
    ("TokenRefreshRequired", Meaning::Outdated(SESSION)),
    ("TooManyRequestsException", Meaning::Throttled),
    ("UnrecognizedClientException", denied(KEYS)),
    ("ValidationException", Meaning::Refused(ErrorKind::Invalid, ARGUMENT)),
];

fn of_code(code: &str) -> Option<Meaning> {
    TABLE.iter().find(|(of, _)| *of == code).map(|(_, meaning)| *meaning)
}

/// For a code that is not known, or none.
fn of_status(status: u16) -> Meaning {
    match status {
        401 | 403 => Meaning::Refused(
            ErrorKind::Denied,
            "these credentials are refused; check them, and the policy of user or role",
        ),
        429 => Meaning::Throttled,
        500.. => Meaning::Unknown(FAILED),
        _ => Meaning::Unknown("the answer is not one of Kinesis'; check the endpoint"),
    }
}

/// Credentials that could not be had: then nothing was sent.
fn of_credentials(cause: &(dyn StdError + 'static)) -> Option<Meaning> {
    Some(match caused_by::<CredentialsError>(cause)? {
        CredentialsError::CredentialsNotLoaded(_) | CredentialsError::InvalidConfiguration(_) => {
            Meaning::Refused(
                ErrorKind::Denied,
                "no credentials were found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile or role",
            )
        }
        _ => Meaning::NotNow("the credentials cannot be had just now; check where they come from"),
    })
}

/// The message of the SDK in one line: code, text and request id, or the chain of causes. It holds no secrets,
/// because no answer contains any.
#[derive(Debug)]
struct SdkMessage(String);

impl SdkMessage {
    /// An answer may be a whole page of HTML.
    const CHARS_MAX: usize = 300;

    fn of<E>(cause: &SdkError<E, Response>) -> Self
    where
        E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
    {
        let mut text = String::new();
        if let SdkError::ServiceError(context) = cause {
            let meta = context.err().meta();
            let status = context.raw().status().as_u16();
            write!(text, "{} (HTTP {status})", meta.code().unwrap_or("no code")).ok();
            if let Some(message) = meta.message() {
                write!(text, ": {message}").ok();
            }
            if let Some(id) = meta.extra("aws_request_id") {
                write!(text, " [request {id}]").ok();
            }
        } else {
            let mut next: Option<&dyn StdError> = Some(cause);
            while let Some(error) = next {
                write!(text, "{}{error}", if text.is_empty() { "" } else { ": " }).ok();
                next = error.source();
            }
        }
        let line = text.lines().next().unwrap_or_default();
        Self(line.chars().take(Self::CHARS_MAX).collect())
    }
}

impl fmt::Display for SdkMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl StdError for SdkMessage {}

#[cfg(test)]
mod tests {
    use aws_sdk_kinesis::operation::put_record::PutRecordError;
    use aws_smithy_runtime_api::http::StatusCode;
    use aws_smithy_types::body::SdkBody;
    use aws_smithy_types::error::ErrorMetadata;

    use super::*;

    fn answer(status: u16, code: Option<&str>) -> SdkError<PutRecordError, Response> {
        let raw = Response::new(StatusCode::try_from(status).unwrap(), SdkBody::empty());
        let mut meta = ErrorMetadata::builder().message("as sent\nand more");
        if let Some(code) = code {
            meta = meta.code(code);
        }
        SdkError::service_error(PutRecordError::generic(meta.build()), raw)
    }

    #[test]
    fn every_code_has_a_kind_and_says_honestly_what_was_applied() {
        let unknown = ("SomethingNewException", Meaning::Unknown("no code of ours"));
        for (code, meant) in TABLE.iter().chain([&unknown]) {
            let (kind, retry, _) = meant.says();
            let cause = answer(400, Some(code));
            let error = putting(&cause);
            assert_eq!((error.kind(), error.retry()), (kind, retry), "{error}");
            assert!(error.to_string().contains(code) && error.to_string().ends_with("as sent"), "{error}");
            assert_eq!(error.event(), None, "only an event's own fault may be a dead letter");
            let asked = reading(&cause, "GetRecords");
            let retry = if retry == Retry::AfterCheckpoint { Retry::Safe } else { retry };
            assert_eq!((asked.kind(), asked.retry()), (kind, retry), "{asked}");
            assert!(asked.message().starts_with("GetRecords"));
        }
    }

    /// Returns the row of the page for this entry of the table.
    fn page_row((code, meaning): &(&str, Meaning)) -> String {
        let (kind, retry, helps) = meaning.says();
        format!("| `{code}` | {kind:?} | {retry:?} | {helps} |")
    }

    #[test]
    fn the_page_shows_the_table_row_by_row() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/kinesis.md");
        let page = std::fs::read_to_string(page).unwrap();
        let rows = page.lines().skip_while(|line| !line.starts_with("| code"));
        let shown: Vec<&str> = rows.skip(2).take_while(|line| line.starts_with('|')).collect();
        assert_eq!(shown, TABLE.iter().map(page_row).collect::<Vec<_>>());
        assert!(TABLE.windows(2).all(|pair| pair[0].0 < pair[1].0), "one row a code, in order");
    }

    #[test]
    fn an_answer_without_a_known_code_is_classified_by_status() {
        for (status, kind, retry) in [
            (403, ErrorKind::Denied, Retry::Never),
            (401, ErrorKind::Denied, Retry::Never),
            (429, ErrorKind::Unavailable, Retry::Safe),
            (500, ErrorKind::Unavailable, Retry::AfterCheckpoint),
            (503, ErrorKind::Unavailable, Retry::AfterCheckpoint),
            (404, ErrorKind::Unavailable, Retry::AfterCheckpoint),
        ] {
            let error = putting(&answer(status, None));
            assert_eq!((error.kind(), error.retry()), (kind, retry), "{error}");
        }
    }

    #[test]
    fn only_what_never_left_is_safe_to_send_again() {
        use aws_smithy_runtime_api::client::result::ConnectorError;

        type Sdk = SdkError<PutRecordError, Response>;
        let io = |kind: io::ErrorKind| {
            putting(&Sdk::dispatch_failure(ConnectorError::io(io::Error::from(kind).into()))).retry()
        };
        assert_eq!(io(io::ErrorKind::ConnectionRefused), Retry::Safe);
        assert_eq!(io(io::ErrorKind::ConnectionReset), Retry::AfterCheckpoint);
        assert_eq!(io(io::ErrorKind::BrokenPipe), Retry::AfterCheckpoint);
        assert_eq!(putting(&Sdk::timeout_error("late")).retry(), Retry::AfterCheckpoint);
        let missing = CredentialsError::not_loaded("none");
        let error = putting(&Sdk::dispatch_failure(ConnectorError::other(missing.into(), None)));
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Denied, Retry::Never));
        let late = CredentialsError::provider_timed_out(std::time::Duration::from_secs(1));
        let error = putting(&Sdk::dispatch_failure(ConnectorError::other(late.into(), None)));
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::Safe));
    }
}
