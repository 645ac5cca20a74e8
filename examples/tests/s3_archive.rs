//! The archive under `kill -9`: nothing is lost, nothing is doubled.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use aws_sdk_s3::config::Credentials;
use hydrant_s3::{ClientOptions, connect};

/// Cargo builds the examples of a package before it runs its tests.
fn example(name: &str) -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let example = tests.parent().unwrap().parent().unwrap().join("examples").join(name);
    assert!(example.exists(), "build it first: cargo build -p hydrant-examples --example {name}");
    example
}

fn archive(url: &str, namespace: &str, changes: u64) -> Child {
    let mut command = Command::new(example("s3-archive"));
    command
        .args([changes.to_string(), "--create".to_owned()])
        .env("HYDRANT_TEST_S3_URL", url)
        .env("ARCHIVE_DIR", std::env::temp_dir().join(namespace))
        .env("S3_PREFIX", format!("{namespace}/payments"))
        .stdout(Stdio::piped());
    // A test server accepts any keys; those of the environment are for AWS.
    if std::env::var_os("AWS_ACCESS_KEY_ID").is_none() {
        command.env("AWS_ACCESS_KEY_ID", test_servers::ACCESS_KEY_ID);
        command.env("AWS_SECRET_ACCESS_KEY", test_servers::SECRET_ACCESS_KEY);
    }
    command.spawn().unwrap()
}

/// Removes what the test created.
async fn remove(url: &str, namespace: &str) {
    let url = test_servers::StoreUrl::parse(url);
    let mut options = ClientOptions::default().with_path_style(url.option("path_style") == Some("true"));
    if let Some(region) = url.option("region") {
        options = options.with_region(region);
    }
    if let Some(endpoint) = url.option("endpoint") {
        let keys = (test_servers::ACCESS_KEY_ID, test_servers::SECRET_ACCESS_KEY);
        options = options
            .with_endpoint(endpoint)
            .with_credentials(Credentials::new(keys.0, keys.1, None, None, "tests"));
    }
    let client = connect(&options).await.unwrap();
    let mut pages = client.list_objects_v2().bucket(&url.name).prefix(namespace).into_paginator().send();
    while let Some(page) = pages.next().await {
        for object in page.unwrap().contents() {
            client.delete_object().bucket(&url.name).set_key(object.key.clone()).send().await.unwrap();
        }
    }
}

#[tokio::test]
async fn killed_again_and_again_it_archives_each_payment_once() {
    let url = match test_servers::s3() {
        Ok(url) => url,
        Err(reason) => return println!("skipped: {reason}"),
    };
    let namespace = test_servers::namespace();
    // Killed while it starts, while it appends, and while it hands over: some 40 lines are a batch.
    for lines in [0, 1, 40, 90, 130] {
        let mut child = archive(&url, &namespace, 1_000_000);
        let said = BufReader::new(child.stdout.take().unwrap()).lines();
        said.take(lines).for_each(drop);
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let child = archive(&url, &namespace, 10);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let said = String::from_utf8(output.stdout).unwrap();
    println!("{said}");
    // Ids are the numbers from 0 on, and each fourth is a payment of 7 cents times its number.
    let ledger = std::fs::read_to_string(std::env::temp_dir().join(&namespace).join("state")).unwrap();
    let paid = ledger.lines().filter(|line| line.contains("\"tag\":\"Paid\"")).count() as u64;
    let cents: u64 = (0..paid).map(|n| n * 4 * 7).sum();
    assert!(said.contains(&format!("archived {paid} payments, {cents} cents")), "{paid} {cents}: {said}");
    assert!(paid > 100, "{paid}");
    std::fs::remove_dir_all(std::env::temp_dir().join(&namespace)).unwrap();
    remove(&url, &namespace).await;
}
