//! Where the service is, as whom it is asked, and how long that may take.

use std::fmt;
use std::time::Duration;

use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use hydrant::{Error, Result};

/// How to reach AWS, or a server that speaks like it.
///
/// What is not set comes from the SDK's own chain (environment, `~/.aws/config`, container, instance), if the crate of
/// the store was built with its feature `aws-config`, which is on by default. Without it, region and credentials must
/// be given.
///
/// # Time-outs
/// A request ends after `operation_timeout` at the latest, whatever the network does: retries, back-off and
/// time-outs of single attempts lie inside. The SDK tries `attempts_max` times what failed by itself (no
/// connection, no answer, 500, 503, throttling) with full jitter from `backoff_initial` to `backoff_max`. That is
/// for reading: whatever writes is one attempt, as a second one behind the store's back might write twice.
#[derive(Clone)]
#[non_exhaustive]
pub struct ClientOptions {
    /// Where the server is, as `http://` or `https://`. Default: AWS, by region.
    pub endpoint: Option<String>,
    /// S3 alone: whether the bucket stands in the path (`endpoint/bucket/key`) instead of the host name. Servers of
    /// one's own mostly need that. Default: false.
    pub path_style: bool,
    /// The region that requests are signed for. Default: from the SDK's chain.
    pub region: Option<String>,
    /// The profile in `~/.aws/config`. Default: from the SDK's chain.
    pub profile: Option<String>,
    /// The ARN of a role to assume with the credentials found, renewed before they expire. Default: none.
    pub role: Option<String>,
    /// How long connecting may take, TLS included. Default: 3 s.
    pub connect_timeout: Duration,
    /// How long one attempt may take, from connecting to the end of the answer; of an object's body, the longest time
    /// without a byte. Default: 10 s.
    pub attempt_timeout: Duration,
    /// How long a request may take with all its attempts. Default: 1 min.
    pub operation_timeout: Duration,
    /// How many times a request is sent at most, the first time included. Default: 3.
    pub attempts_max: u32,
    /// The longest wait before the second attempt; it doubles from there. Default: 100 ms.
    pub backoff_initial: Duration,
    /// The longest wait before any attempt. Default: 5 s.
    pub backoff_max: Duration,
    pub(crate) credentials: Option<SharedCredentialsProvider>,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            endpoint: None,
            path_style: false,
            region: None,
            profile: None,
            role: None,
            connect_timeout: Duration::from_secs(3),
            attempt_timeout: Duration::from_secs(10),
            operation_timeout: Duration::from_mins(1),
            attempts_max: 3,
            backoff_initial: Duration::from_millis(100),
            backoff_max: Duration::from_secs(5),
            credentials: None,
        }
    }
}

impl fmt::Debug for ClientOptions {
    /// Shows whether credentials were given, never which.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientOptions")
            .field("endpoint", &self.endpoint)
            .field("path_style", &self.path_style)
            .field("region", &self.region)
            .field("profile", &self.profile)
            .field("role", &self.role)
            .field("connect_timeout", &self.connect_timeout)
            .field("attempt_timeout", &self.attempt_timeout)
            .field("operation_timeout", &self.operation_timeout)
            .field("attempts_max", &self.attempts_max)
            .field("backoff_initial", &self.backoff_initial)
            .field("backoff_max", &self.backoff_max)
            .field("credentials", &self.credentials.as_ref().map(|_| "given"))
            .finish()
    }
}

impl ClientOptions {
    /// Sets where the server is, as `http://` or `https://`.
    #[must_use]
    pub fn with_endpoint(mut self, endpoint: impl Into<String>) -> Self {
        self.endpoint = Some(endpoint.into());
        self
    }

    /// S3 alone: sets whether the bucket stands in the path instead of the host name.
    #[must_use]
    pub fn with_path_style(mut self, path_style: bool) -> Self {
        self.path_style = path_style;
        self
    }

    /// Sets the region that requests are signed for.
    #[must_use]
    pub fn with_region(mut self, region: impl Into<String>) -> Self {
        self.region = Some(region.into());
        self
    }

    /// Sets the profile in `~/.aws/config`.
    #[must_use]
    pub fn with_profile(mut self, profile: impl Into<String>) -> Self {
        self.profile = Some(profile.into());
        self
    }

    /// Sets the ARN of the role to assume.
    #[must_use]
    pub fn with_role(mut self, role: impl Into<String>) -> Self {
        self.role = Some(role.into());
        self
    }

    /// Sets the credentials, or a provider of them, instead of the SDK's chain.
    #[must_use]
    pub fn with_credentials(mut self, credentials: impl ProvideCredentials + 'static) -> Self {
        self.credentials = Some(SharedCredentialsProvider::new(credentials));
        self
    }

    /// Sets how long connecting may take.
    #[must_use]
    pub fn with_connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Sets how long one attempt may take.
    #[must_use]
    pub fn with_attempt_timeout(mut self, timeout: Duration) -> Self {
        self.attempt_timeout = timeout;
        self
    }

    /// Sets how long a request may take with all its attempts.
    #[must_use]
    pub fn with_operation_timeout(mut self, timeout: Duration) -> Self {
        self.operation_timeout = timeout;
        self
    }

    /// Sets how often a request is tried at most, the first time included.
    #[must_use]
    pub fn with_attempts_max(mut self, attempts: u32) -> Self {
        self.attempts_max = attempts;
        self
    }

    /// Sets the longest wait before the second attempt.
    #[must_use]
    pub fn with_backoff_initial(mut self, backoff: Duration) -> Self {
        self.backoff_initial = backoff;
        self
    }

    /// Sets the longest wait before any attempt.
    #[must_use]
    pub fn with_backoff_max(mut self, backoff: Duration) -> Self {
        self.backoff_max = backoff;
        self
    }

    pub(crate) fn check(&self) -> Result<()> {
        if self.attempts_max == 0 {
            return Err(Error::invalid("`attempts_max` counts the first attempt: give at least 1"));
        }
        if [self.connect_timeout, self.attempt_timeout, self.operation_timeout].contains(&Duration::ZERO) {
            return Err(Error::invalid("a time-out of zero lets no request through"));
        }
        match &self.endpoint {
            Some(endpoint) if !endpoint.starts_with("http://") && !endpoint.starts_with("https://") => {
                Err(Error::invalid("the endpoint must begin with `http://` or `https://`"))
            }
            _ => Ok(()),
        }
    }
}
