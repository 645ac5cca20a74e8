//! Buckets and streams on servers that do not check signatures: the mocks of [`crate::native`] and docker-compose.yml.

use std::net::SocketAddr;
use std::time::Duration;

use crate::native::until;
use crate::{ACCESS_KEY_ID, REGION, http};

/// The bucket and the stream that the servers are started with.
pub const NAME: &str = "hydrant-test";

/// The URL of a prefix for tests in this bucket.
pub fn s3_url(at: SocketAddr, bucket: &str) -> String {
    format!("s3://{bucket}/tests?endpoint=http://{at}&region={REGION}&path_style=true")
}

/// Makes the bucket unless it is there.
///
/// # Errors
/// What the server answered instead.
pub fn make_bucket(at: SocketAddr, bucket: &str) -> Result<(), String> {
    let answer = http::request(at, "PUT", &format!("/{bucket}"), &[], "");
    match answer.map_err(|cause| format!("making the bucket {bucket}: {cause}"))? {
        (200 | 409, _) => Ok(()),
        (status, body) => Err(format!("making the bucket {bucket}: {status} {body}")),
    }
}

/// The URL of this stream.
pub fn kinesis_url(at: SocketAddr, stream: &str) -> String {
    format!("kinesis://{stream}?endpoint=http://{at}&region={REGION}")
}

/// Makes the stream, with two shards, unless it is there, and waits until it can be used.
///
/// # Errors
/// What the server answered instead.
pub fn make_stream(at: SocketAddr, stream: &str) -> Result<(), String> {
    let error = |cause: String| format!("making the stream {stream}: {cause}");
    match call(at, "CreateStream", &format!(r#"{{"StreamName":"{stream}","ShardCount":2}}"#))
        .map_err(error)?
    {
        (200, _) => {}
        (_, body) if body.contains("ResourceInUseException") => {}
        (status, body) => return Err(error(format!("{status} {body}"))),
    }
    let describe = format!(r#"{{"StreamName":"{stream}"}}"#);
    let active = until(Duration::from_secs(20), || {
        let (_, body) = call(at, "DescribeStreamSummary", &describe).ok()?;
        body.contains("\"ACTIVE\"").then_some(())
    });
    active.ok_or_else(|| error("it did not become active".to_owned()))
}

/// Calls an operation with a signature that only looks like one, which is all that the mocks ask for.
fn call(at: SocketAddr, operation: &str, body: &str) -> Result<(u16, String), String> {
    let authorization = format!(
        "AWS4-HMAC-SHA256 Credential={ACCESS_KEY_ID}/20260101/{REGION}/kinesis/aws4_request, \
         SignedHeaders=host;x-amz-date, Signature=0"
    );
    let headers = [
        ("authorization", authorization.as_str()),
        ("content-type", "application/x-amz-json-1.1"),
        ("x-amz-date", "20260101T000000Z"),
        ("x-amz-target", &format!("Kinesis_20131202.{operation}")),
    ];
    http::request(at, "POST", "/", &headers, body).map_err(|cause| cause.to_string())
}
