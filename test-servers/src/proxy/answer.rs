//! What a proxy answers instead of the server.

/// A whole answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status, for example 503.
    pub status: u16,
    /// Names and values, without `content-length`.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// An answer of this type, for example `application/json`.
    pub fn new(status: u16, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        let headers = vec![("content-type".to_owned(), content_type.to_owned())];
        Self { status, headers, body: body.into() }
    }

    /// An error as S3 sends it: 500 `InternalError`, 503 `SlowDown`, 409 `ConditionalRequestConflict`, 412
    /// `PreconditionFailed`, 403 `AccessDenied`, `RequestTimeTooSkewed` and `SignatureDoesNotMatch`, 400 `ExpiredToken`.
    pub fn s3(status: u16, code: &str) -> Self {
        let body = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>{code}, says the proxy\
             </Message><RequestId>proxy</RequestId></Error>"
        );
        Self::new(status, "application/xml", body)
    }

    /// An error as Kinesis sends it: 400 `ProvisionedThroughputExceededException`, `LimitExceededException`,
    /// `ResourceNotFoundException`, `ExpiredTokenException`, `AccessDeniedException`, 500 `InternalFailure`, 503
    /// `ServiceUnavailable`.
    pub fn kinesis(status: u16, code: &str) -> Self {
        let body = format!(r#"{{"__type":"{code}","message":"{code}, says the proxy"}}"#);
        let answer = Self::new(status, "application/x-amz-json-1.1", body);
        answer.with_header("x-amzn-errortype", code)
    }

    /// With one more header, for example `retry-after`.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}
