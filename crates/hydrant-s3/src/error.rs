//! The only mapping of S3's errors: by the kind of failure, the status and the code of the answer, never by its text.

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_checksums::body::validate;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use hydrant::{Error, ErrorKind, Retry};
use hydrant_aws::caused_by;
use tokio::time::error::Elapsed;

/// What a request was, as far as its failure is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// It only asked: to ask again is safe.
    Read,
    /// It wrote: where no answer came, it may have been done, or be done yet.
    Write,
}

impl Request {
    /// What to do where the answer is missing.
    pub(crate) fn unanswered(self) -> Retry {
        match self {
            Self::Read => Retry::Safe,
            Self::Write => Retry::AfterCheckpoint,
        }
    }
}

/// What went wrong on `target` (`s3://bucket/key`).
pub(crate) fn sdk_error<E>(target: &str, request: Request, cause: SdkError<E, HttpResponse>) -> Error
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    let error = match &cause {
        SdkError::ServiceError(answer) => {
            let status = answer.raw().status().as_u16();
            let (kind, retry, advice) = judge(request, status, answer.err().code().unwrap_or_default());
            // The SDK's own error shows codes and the server's words, but neither keys nor tokens.
            let code = answer.err().code().unwrap_or("no code");
            let said = answer.err().message().unwrap_or_default().to_owned();
            let message = format!("{advice} (HTTP {status}, {code})");
            let error = match (kind, retry) {
                (ErrorKind::Denied, Retry::Safe) => Error::expired(message),
                _ => Error::new(kind, retry, message),
            };
            let error = error.at_target(target);
            let is_unknown = status == 501 || code == "NotImplemented";
            return if is_unknown { error.because(NotImplemented(said)) } else { error.because(said) };
        }
        SdkError::TimeoutError(_) => late(request),
        SdkError::DispatchFailure(failure) if failure.is_timeout() => late(request),
        SdkError::DispatchFailure(failure) if failure.is_io() => Error::new(
            ErrorKind::Unavailable,
            request.unanswered(),
            "the connection failed; check the endpoint and the network",
        ),
        // What fails before it is sent: no credentials, an endpoint that is no URL.
        SdkError::DispatchFailure(failure) if failure.is_user() => {
            unmade("the request could not be made; check the endpoint")
        }
        SdkError::DispatchFailure(_) => undispatched(request, caused_by(&cause)),
        SdkError::ConstructionFailure(_) => unmade("the request could not be made; check bucket and options"),
        _ => Error::new(
            ErrorKind::Unavailable,
            request.unanswered(),
            "the answer could not be read; check that the endpoint speaks S3",
        ),
    };
    error.at_target(target).because(Causes(Box::new(cause)))
}

/// What a server says that does not know what it was asked for.
#[derive(Debug)]
struct NotImplemented(String);

impl std::fmt::Display for NotImplemented {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NotImplemented {}

/// Returns whether the server does not know what it was asked for: to ask for it is no use, now or later.
pub(crate) fn is_not_implemented(error: &Error) -> bool {
    std::error::Error::source(error).is_some_and(<dyn std::error::Error>::is::<NotImplemented>)
}

/// A request that no server was asked: not `Invalid`, which is about events.
fn unmade(message: &str) -> Error {
    Error::unsupported(message)
}

/// What failed before or while it was sent. Without credentials nothing is signed, so nothing was sent.
fn undispatched(request: Request, credentials: Option<&CredentialsError>) -> Error {
    match credentials {
        None => Error::new(
            ErrorKind::Unavailable,
            request.unanswered(),
            "the request could not be sent; check endpoint and network",
        ),
        Some(CredentialsError::ProviderTimedOut(_) | CredentialsError::ProviderError(_)) => {
            Error::unavailable("the credentials could not be fetched; check their provider and the network")
        }
        Some(_) => {
            Error::denied("there are no credentials; set those of the environment, a profile or a role")
        }
    }
}

fn late(request: Request) -> Error {
    Error::new(
        ErrorKind::Unavailable,
        request.unanswered(),
        "no answer in time; check the network, or raise `request_timeout`",
    )
}

/// A request that outlived the time that the store gives it.
pub(crate) fn elapsed(target: &str, request: Request, cause: Elapsed) -> Error {
    late(request).at_target(target).because(cause)
}

/// A body that broke off, or does not have the checksum that S3 keeps of it.
pub(crate) fn body_error(target: &str, cause: impl std::error::Error + Send + Sync + 'static) -> Error {
    if is_mismatch(&cause) {
        let message =
            "the bytes are not those that were stored: their checksum differs; run `hydrant verify`";
        return Error::corrupt(message).at_target(target).because(Causes(Box::new(cause)));
    }
    Error::unavailable("the object broke off while it was read")
        .at_target(target)
        .because(Causes(Box::new(cause)))
}

/// Returns whether the SDK found another checksum than the one that came with the object.
fn is_mismatch(cause: &(dyn std::error::Error + 'static)) -> bool {
    matches!(caused_by(cause), Some(validate::Error::ChecksumMismatch { .. }))
}

/// What a status and a code mean, and what helps.
///
/// `Invalid` is what the server will not take because it is too large, and nothing else: what names an event and
/// is `Invalid` may become a dead letter.
fn judge(request: Request, status: u16, code: &str) -> (ErrorKind, Retry, &'static str) {
    use ErrorKind::{Denied, Full, Invalid, Unavailable, Unsupported};
    match (status, code) {
        (_, "ExpiredToken" | "TokenRefreshRequired" | "ExpiredTokenException") => {
            (Denied, Retry::Safe, "the session token expired; renew the credentials")
        }
        (_, "RequestTimeTooSkewed" | "RequestExpired") => {
            (Denied, Retry::Safe, "this machine's clock and the server's differ too much; set the clock")
        }
        // The server reports that the bytes were damaged on their way. It kept none of them.
        (_, "BadDigest" | "IncompleteBody" | "XAmzContentChecksumMismatch" | "XAmzContentSHA256Mismatch") => {
            (Unavailable, Retry::Safe, "the bytes did not arrive as they were sent; check the network")
        }
        (_, "SignatureDoesNotMatch") => {
            (Denied, Retry::Never, "the signature is wrong; check the secret access key and the region")
        }
        (_, "InvalidAccessKeyId" | "InvalidToken" | "InvalidClientTokenId") => {
            (Denied, Retry::Never, "the server does not know these credentials; check the access key")
        }
        (403, "InvalidObjectState") => {
            (Unavailable, Retry::Never, "the object is archived; restore it from its storage class first")
        }
        (_, "NoSuchBucket") => {
            (Unavailable, Retry::Safe, "there is no such bucket; create it, or check its name")
        }
        (301 | 307, _)
        | (_, "PermanentRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException") => {
            (
                Unavailable,
                Retry::Never,
                "the bucket is in another region, or behind another endpoint; name that one",
            )
        }
        (507, _) | (_, "QuotaExceeded" | "InsufficientStorage" | "XMinioStorageFull") => {
            (Full, Retry::Safe, "the storage is full; make space or raise the quota")
        }
        (_, "EntityTooLarge") | (413, _) => {
            (Invalid, Retry::Never, "the object is too large for the server; append smaller batches")
        }
        // The server gave up waiting for the rest of a request, so there was none.
        (_, "RequestTimeout") => (
            Unavailable,
            Retry::Safe,
            "the request did not arrive in time; check the network, or append smaller batches",
        ),
        // These say that nothing was done; a gateway's bare 503 does not.
        (409, _) | (_, "ConditionalRequestConflict" | "OperationAborted") => {
            (Unavailable, Retry::Safe, "another request on this key was under way; try again")
        }
        (429, _) | (_, "SlowDown" | "Throttling" | "ThrottlingException" | "RequestLimitExceeded") => {
            (Unavailable, Retry::Safe, "the server asks for fewer requests; append larger batches")
        }
        (_, code) if code.starts_with("KMS.") => (
            Denied,
            Retry::Never,
            "the key of the server-side encryption refuses; check `encryption` and the key's policy",
        ),
        (401 | 403, _) => {
            (Denied, Retry::Never, "access is refused; check the credentials and the bucket's policy")
        }
        (501, _) | (_, "NotImplemented") => (Unsupported, Retry::Never, "the server does not implement this"),
        // Behind a 200 the server may find out later that it failed, and says so in the body.
        (500.. | 408 | 200..=299, _) => {
            (Unavailable, request.unanswered(), "the server failed; if it goes on, see its status or log")
        }
        (404, _) => (Unavailable, Retry::Safe, "it is not there; check bucket, prefix and endpoint"),
        _ => (Unsupported, Retry::Never, "the server refuses this request; check bucket and options"),
    }
}

/// An error of the SDK with all that it was caused by in one line: its own text leaves that out.
#[derive(Debug)]
struct Causes(Box<dyn std::error::Error + Send + Sync>);

impl std::fmt::Display for Causes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut next = self.0.source();
        while let Some(cause) = next {
            write!(f, ": {cause}")?;
            next = cause.source();
        }
        Ok(())
    }
}

impl std::error::Error for Causes {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_statuses_say_what_to_do() {
        use ErrorKind::{Denied, Full, Invalid, Unavailable, Unsupported};
        let cases = [
            (403, "AccessDenied", Denied, Retry::Never),
            (401, "", Denied, Retry::Never),
            (403, "SignatureDoesNotMatch", Denied, Retry::Never),
            (403, "RequestTimeTooSkewed", Denied, Retry::Safe),
            (400, "ExpiredToken", Denied, Retry::Safe),
            (404, "NoSuchBucket", Unavailable, Retry::Safe),
            (301, "PermanentRedirect", Unavailable, Retry::Never),
            (400, "InvalidArgument", Unsupported, Retry::Never),
            (400, "EntityTooLarge", Invalid, Retry::Never),
            (400, "RequestTimeout", Unavailable, Retry::Safe),
            (409, "ConditionalRequestConflict", Unavailable, Retry::Safe),
            (503, "SlowDown", Unavailable, Retry::Safe),
            (503, "ServiceUnavailable", Unavailable, Retry::AfterCheckpoint),
            (500, "InternalError", Unavailable, Retry::AfterCheckpoint),
            (502, "", Unavailable, Retry::AfterCheckpoint),
            (507, "", Full, Retry::Safe),
            (501, "NotImplemented", Unsupported, Retry::Never),
            (200, "InternalError", Unavailable, Retry::AfterCheckpoint),
            (200, "SlowDown", Unavailable, Retry::Safe),
            (408, "", Unavailable, Retry::AfterCheckpoint),
            (400, "BadDigest", Unavailable, Retry::Safe),
        ];
        for (status, code, kind, retry) in cases {
            let (judged, retry_judged, _) = judge(Request::Write, status, code);
            assert_eq!((judged, retry_judged), (kind, retry), "{status} {code}");
        }
        // Who only asked may always ask again.
        assert_eq!(judge(Request::Read, 500, "InternalError").1, Retry::Safe);
        assert!(judge(Request::Write, 403, "RequestTimeTooSkewed").2.contains("clock"));
        assert!(judge(Request::Write, 400, "ExpiredToken").2.contains("expired"));
    }

    /// `docs/s3.md` shows what codes mean: it must be what they mean here.
    #[test]
    fn the_page_says_what_the_codes_mean() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/s3.md");
        let page = std::fs::read_to_string(page).unwrap();
        let (_, table) = page.split_once("## What the server's errors mean").unwrap();
        let (table, _) = table.split_once("\n## ").unwrap();
        let mut seen = 0;
        for row in table.lines().filter(|line| line.starts_with("| ") && line.contains('`')) {
            let cells: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
            let [status, codes, kind, retry, _] = cells[..] else { panic!("{row}") };
            let digits: String = status.chars().take_while(char::is_ascii_digit).collect();
            let status = digits.parse().unwrap_or(400);
            for code in codes.split('`').skip(1).step_by(2).filter(|_| kind != "-") {
                let (judged, advice, _) = judge(Request::Write, status, &code.replace('*', "AnyException"));
                let advice = if advice == Retry::AfterCheckpoint {
                    "in doubt".to_owned()
                } else {
                    format!("{advice:?}")
                };
                assert_eq!(
                    (format!("{judged:?}").as_str(), advice.as_str()),
                    (kind, retry),
                    "{status} {code}"
                );
                seen += 1;
            }
        }
        assert!(seen > 20, "{seen} codes");
    }
}
