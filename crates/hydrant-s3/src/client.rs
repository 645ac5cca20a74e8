//! A client of S3 whose every wait has a bound.

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{Builder, StalledStreamProtectionConfig};
use hydrant::Result;
pub use hydrant_aws::ClientOptions;

/// A client by these options. It connects with the first request, not here.
///
/// ```no_run
/// # async fn connect() -> hydrant::Result<()> {
/// let options = hydrant_s3::ClientOptions::default().with_region("eu-central-1");
/// let client = hydrant_s3::connect(&options).await?;
/// # Ok(()) }
/// ```
///
/// # Errors
/// `Invalid` where the region, or without the SDK's chain the credentials, are missing, and for options that
/// make no sense. `Bug` where the SDK panics.
pub async fn connect(options: &ClientOptions) -> Result<Client> {
    // The attempt's time-out bounds a whole upload, but a download only until its answer begins.
    let stalled = StalledStreamProtectionConfig::enabled()
        .upload_enabled(false)
        .grace_period(options.attempt_timeout)
        .build();
    hydrant_aws::connect(options, |config| {
        let config =
            Builder::from(config).stalled_stream_protection(stalled).force_path_style(options.path_style);
        Client::from_conf(config.build())
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use aws_credential_types::Credentials;
    use aws_credential_types::provider::{ProvideCredentials, future};
    use hydrant::ErrorKind;

    use super::*;
    use crate::{S3Source, S3Store, S3StoreOptions};

    #[tokio::test]
    async fn our_bounds_reach_the_client() {
        let options = ClientOptions::default()
            .with_region("eu-central-1")
            .with_credentials(Credentials::new("id", "secret-key", None, None, "test"))
            .with_attempts_max(7)
            .with_attempt_timeout(Duration::from_secs(2));
        let client = connect(&options).await.unwrap();
        let config = client.config();
        assert_eq!(config.retry_config().unwrap().max_attempts(), 7);
        let timeouts = config.timeout_config().unwrap();
        assert_eq!(timeouts.operation_attempt_timeout(), Some(Duration::from_secs(2)));
        let stalled = config.stalled_stream_protection().unwrap();
        assert!(stalled.download_enabled() && !stalled.upload_enabled());
        assert_eq!(stalled.grace_period(), Duration::from_secs(2));
        assert!(!format!("{client:?}").contains("secret-key"));
    }

    #[derive(Debug)]
    struct Panics;

    impl ProvideCredentials for Panics {
        fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
        where
            Self: 'a,
        {
            panic!("a provider of credentials")
        }
    }

    #[tokio::test]
    async fn panic_of_the_sdk_is_an_error_of_open() {
        let options = ClientOptions::default()
            .with_region("eu-central-1")
            .with_endpoint("http://127.0.0.1:1")
            .with_credentials(Panics);
        let client = connect(&options).await.unwrap();
        let options = S3StoreOptions::default;
        let error = S3Store::open(client.clone(), "bucket", "log", options()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Bug, "{error}");
        let error = S3Source::open(client, "bucket", "log", options()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Bug, "{error}");
    }
}
