//! What a client is made of, without a server.

use std::time::Duration;
#[cfg(feature = "aws-config")]
use std::{io::Read, io::Write, net::TcpListener, net::TcpStream, process::Command};

use aws_credential_types::Credentials;
use hydrant::ErrorKind;

use super::*;

fn options() -> ClientOptions {
    let keys = Credentials::new("AKIDPUBLIC", "secret-key", Some("session-token".to_owned()), None, "test");
    ClientOptions::default().with_region("eu-central-1").with_credentials(keys)
}

#[test]
fn debug_shows_no_keys() {
    let shown = format!("{:?}", options());
    assert!(shown.contains("given") && shown.contains("eu-central-1"));
    for secret in ["AKIDPUBLIC", "secret-key", "session-token"] {
        assert!(!shown.contains(secret), "{shown}");
    }
}

#[tokio::test]
async fn our_bounds_reach_the_sdk() {
    let options = options()
        .with_attempts_max(7)
        .with_connect_timeout(Duration::from_secs(1))
        .with_attempt_timeout(Duration::from_secs(2))
        .with_operation_timeout(Duration::from_secs(9));
    let config = config(&options).await.unwrap();
    assert_eq!(config.region().unwrap().as_ref(), "eu-central-1");
    assert_eq!(config.retry_config().unwrap().max_attempts(), 7);
    let timeouts = config.timeout_config().unwrap();
    assert_eq!(timeouts.connect_timeout(), Some(Duration::from_secs(1)));
    assert_eq!(timeouts.operation_attempt_timeout(), Some(Duration::from_secs(2)));
    assert_eq!(timeouts.operation_timeout(), Some(Duration::from_secs(9)));
    assert!(!format!("{config:?}").contains("secret-key"));
}

#[tokio::test]
async fn panic_of_the_sdk_is_an_error() {
    let error = connect(&options(), |_| panic!("no such behavior version")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Bug);
    assert!(error.message().contains("no such behavior version"), "{error}");
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_by_name() {
    for (options, word) in [
        (options().with_attempts_max(0), "attempts_max"),
        (options().with_operation_timeout(Duration::ZERO), "zero"),
        (options().with_endpoint("localhost:4566"), "endpoint"),
    ] {
        let error = config(&options).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.message().contains(word), "{error}");
    }
}

/// Runs an ignored test in a process of its own, with this environment and no other.
#[cfg(feature = "aws-config")]
fn in_environment(test: &str, environment: &[(&str, &str)]) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", &format!("config::tests::{test}"), "--nocapture"])
        .env_clear()
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

#[cfg(feature = "aws-config")]
#[test]
fn a_missing_region_is_said_with_what_to_do() {
    in_environment("in_an_empty_environment", &[]);
}

#[cfg(feature = "aws-config")]
#[tokio::test]
#[ignore = "run by the test above"]
async fn in_an_empty_environment() {
    let error = config(&ClientOptions::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.message().contains("AWS_REGION"), "{error}");
}

#[cfg(feature = "aws-config")]
#[test]
fn a_role_is_assumed_with_the_keys_of_the_environment() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", server.local_addr().unwrap());
    let answering = std::thread::spawn(move || answer(&server));
    in_environment(
        "as_a_role",
        &[
            ("AWS_REGION", "eu-west-3"),
            ("AWS_ACCESS_KEY_ID", "AKIDOWN"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
            ("AWS_ENDPOINT_URL", &endpoint),
        ],
    );
    let assumed = answering.join().unwrap();
    assert!(assumed.contains("Credential=AKIDOWN/") && assumed.contains("/eu-west-3/sts/"), "{assumed}");
    assert!(assumed.contains("role%2Fhydrant"), "{assumed}");
}

#[cfg(feature = "aws-config")]
#[tokio::test]
#[ignore = "run by the test above"]
async fn as_a_role() {
    use aws_credential_types::provider::ProvideCredentials as _;

    // The endpoint of the service is not the endpoint at which a role is assumed.
    let options = ClientOptions::default()
        .with_role("arn:aws:iam::123456789012:role/hydrant")
        .with_endpoint("http://127.0.0.1:1");
    let config = config(&options).await.unwrap();
    assert_eq!(
        (config.region().unwrap().as_ref(), config.endpoint_url()),
        ("eu-west-3", Some("http://127.0.0.1:1"))
    );
    let keys = config.credentials_provider().unwrap().provide_credentials().await.unwrap();
    assert_eq!((keys.access_key_id(), keys.session_token()), ("ASIAROLE", Some("ROLETOKEN")));
}

/// Answers one request to STS, and returns it.
#[cfg(feature = "aws-config")]
fn answer(server: &TcpListener) -> String {
    let (mut stream, _) = server.accept().unwrap();
    let request = read_request(&mut stream);
    let body = "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleResult><Credentials>\
         <AccessKeyId>ASIAROLE</AccessKeyId><SecretAccessKey>role-secret</SecretAccessKey>\
         <SessionToken>ROLETOKEN</SessionToken><Expiration>2126-01-01T00:00:00Z</Expiration></Credentials>\
         </AssumeRoleResult></AssumeRoleResponse>";
    let length = body.len();
    write!(stream, "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}").unwrap();
    request
}

#[cfg(feature = "aws-config")]
fn read_request(stream: &mut TcpStream) -> String {
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&request);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
                return text.into_owned();
            }
        }
        let read = stream.read(&mut buffer).unwrap();
        assert!(read > 0, "the request broke off");
        request.extend_from_slice(&buffer[..read]);
    }
}

#[cfg(not(feature = "aws-config"))]
#[tokio::test]
async fn without_the_chain_region_and_credentials_must_be_given() {
    let keys = Credentials::new("id", "key", None, None, "test");
    for (options, word) in [
        (ClientOptions::default().with_credentials(keys), "region"),
        (ClientOptions::default().with_region("eu-central-1"), "credentials"),
        (options().with_role("arn:aws:iam::1:role/x"), "feature"),
    ] {
        let error = config(&options).await.unwrap_err();
        assert!(error.message().contains(word), "{error}");
    }
}
