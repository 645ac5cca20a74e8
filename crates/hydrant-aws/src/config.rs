//! The SDK's configuration: every wait has a bound, and what is not given comes from the SDK's own chain.

use aws_smithy_http_client::tls;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_runtime_api::client::behavior_version::BehaviorVersion;
use aws_smithy_types::retry::RetryConfig;
use aws_smithy_types::timeout::TimeoutConfig;
use aws_types::SdkConfig;
use aws_types::region::Region;
use aws_types::sdk_config::SharedHttpClient;
use hydrant::store::caught;
use hydrant::{Error, Result};

use crate::ClientOptions;

/// Makes a client of any service by these options; `client` makes it from the SDK's configuration.
///
/// # Errors
/// `Invalid` where the region, or without the SDK's chain the credentials, are missing, and for options that
/// make no sense. `Bug` where the SDK panics.
pub async fn connect<C>(options: &ClientOptions, client: impl FnOnce(&SdkConfig) -> C) -> Result<C> {
    // Boxed: the SDK's own futures are deep and large.
    caught("the AWS SDK", || Box::pin(async move { Ok(client(&config(options).await?)) })).await
}

async fn config(options: &ClientOptions) -> Result<SdkConfig> {
    options.check()?;
    let http = aws_smithy_http_client::Builder::new()
        .tls_provider(tls::Provider::Rustls(CryptoMode::Ring))
        .build_https();
    let mut config = chain(options, http).await?.into_builder();
    config.set_behavior_version(Some(behavior()));
    config.set_retry_config(Some(retries(options)));
    config.set_timeout_config(Some(timeouts(options)));
    // Of the service alone: a role is assumed where the chain says.
    if options.endpoint.is_some() {
        config.set_endpoint_url(options.endpoint.clone());
    }
    Ok(config.build())
}

/// The SDK's defaults as of one version: what a later one changes comes when it was tested.
fn behavior() -> BehaviorVersion {
    BehaviorVersion::v2026_01_12()
}

fn retries(options: &ClientOptions) -> RetryConfig {
    RetryConfig::standard()
        .with_max_attempts(options.attempts_max)
        .with_initial_backoff(options.backoff_initial)
        .with_max_backoff(options.backoff_max)
}

fn timeouts(options: &ClientOptions) -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(options.connect_timeout)
        .operation_attempt_timeout(options.attempt_timeout)
        .operation_timeout(options.operation_timeout)
        .build()
}

fn no_region() -> Error {
    Error::invalid(
        "no region: name one (`region=` in the URL, or AWS_REGION, or `region` in ~/.aws/config); a server of \
         your own takes any, for example us-east-1",
    )
}

/// Region and credentials by the SDK's own chain.
#[cfg(feature = "aws-config")]
async fn chain(options: &ClientOptions, http: SharedHttpClient) -> Result<SdkConfig> {
    use aws_config::sts::AssumeRoleProvider;
    use aws_credential_types::provider::SharedCredentialsProvider;

    let mut loader = aws_config::defaults(behavior())
        .http_client(http)
        .retry_config(retries(options))
        .timeout_config(timeouts(options));
    if let Some(profile) = &options.profile {
        loader = loader.profile_name(profile);
    }
    if let Some(region) = &options.region {
        loader = loader.region(Region::new(region.clone()));
    }
    if let Some(credentials) = &options.credentials {
        loader = loader.credentials_provider(credentials.clone());
    }
    let shared = loader.load().await;
    if shared.region().is_none() {
        return Err(no_region());
    }
    let Some(role) = &options.role else { return Ok(shared) };
    let provider = AssumeRoleProvider::builder(role).session_name("hydrant").configure(&shared).build().await;
    Ok(shared.into_builder().credentials_provider(SharedCredentialsProvider::new(provider)).build())
}

/// Region and credentials as they were given: there is no chain in this build.
#[cfg(not(feature = "aws-config"))]
#[expect(clippy::unused_async, reason = "the SDK's chain waits for files and servers")]
async fn chain(options: &ClientOptions, http: SharedHttpClient) -> Result<SdkConfig> {
    use hydrant::{ErrorKind, Retry};

    if options.profile.is_some() || options.role.is_some() {
        let message = "profiles and roles need the feature `aws-config` of the store's crate";
        return Err(Error::unsupported(message));
    }
    let region = options.region.clone().ok_or_else(no_region)?;
    let credentials = options.credentials.clone().ok_or_else(|| {
        Error::invalid(
            "no credentials: hand them in, or build the store's crate with its feature `aws-config`",
        )
    })?;
    Ok(SdkConfig::builder()
        .http_client(http)
        .region(Region::new(region))
        .credentials_provider(credentials)
        .build())
}

#[cfg(test)]
mod tests;
