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
/// make no sense.
pub async fn connect(options: &ClientOptions) -> Result<Client> {
    // Requests and answers are bounded by the attempt's time-out as a whole; a subscription is silent while
    // nothing is written, and its reader watches it.
    let config = Builder::from(&hydrant_aws::config(options).await?)
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
    Ok(Client::from_conf(config.build()))
}

/// A client that no test asks anything.
#[cfg(test)]
pub(crate) async fn nowhere() -> Client {
    let keys = aws_credential_types::Credentials::new("id", "key", None, None, "test");
    let options = ClientOptions::default().with_region("eu-central-1").with_credentials(keys);
    connect(&options).await.expect("it asks nobody")
}
