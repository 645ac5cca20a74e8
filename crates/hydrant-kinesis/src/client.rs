//! A client of Kinesis whose every wait has a bound.

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::config::{Builder, StalledStreamProtectionConfig};
use hydrant::Result;
pub use hydrant_aws::ClientOptions;

/// A client by these options. It connects with the first request, not here.
///
/// ```no_run
/// # async fn connect() -> hydrant::Result<()> {
/// let options = hydrant_kinesis::ClientOptions::default().with_region("eu-central-1");
/// let client = hydrant_kinesis::connect(&options).await?;
/// # Ok(()) }
/// ```
///
/// # Errors
/// `Invalid` where the region, or without the SDK's chain the credentials, are missing, and for options that
/// make no sense. `Bug` where the SDK panics.
pub async fn connect(options: &ClientOptions) -> Result<Client> {
    // Requests and answers are bounded by the attempt's time-out as a whole; a subscription is silent while
    // nothing is written, and its reader watches it.
    hydrant_aws::connect(options, |config| {
        let stalled = StalledStreamProtectionConfig::disabled();
        Client::from_conf(Builder::from(config).stalled_stream_protection(stalled).build())
    })
    .await
}

/// A client that no test asks anything.
#[cfg(test)]
pub(crate) async fn nowhere() -> Client {
    let keys = aws_credential_types::Credentials::new("id", "key", None, None, "test");
    let options = ClientOptions::default().with_region("eu-central-1").with_credentials(keys);
    connect(&options).await.expect("no server is asked")
}

#[cfg(test)]
mod tests {
    use aws_credential_types::provider::{ProvideCredentials, future};
    use hydrant::ErrorKind;

    use super::*;
    use crate::{KinesisSource, KinesisSourceOptions};

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
        let opened = KinesisSource::open(client, "stream", "log", KinesisSourceOptions::default()).await;
        assert_eq!(opened.unwrap_err().kind(), ErrorKind::Bug);
    }
}
