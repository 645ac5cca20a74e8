//! What is about logs in streams alone.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use aws_credential_types::Credentials;
use hydrant_kinesis::{ClientOptions, connect};
use test_servers::{ACCESS_KEY_ID, REGION, SECRET_ACCESS_KEY, StoreUrl};

use crate::kit::{Run, file, finish, held, log, program, store};

/// Runs a test with a stream of two shards, by its URL without a log, and removes it; says why where there is no server.
async fn with_stream(test: impl FnOnce(String)) {
    let server = match test_servers::kinesis() {
        Ok(url) => url,
        Err(reason) => {
            println!("skipped: {reason}");
            return;
        }
    };
    let (_, query) = server.split_once('?').unwrap();
    let url = StoreUrl::parse(&server);
    let mut options = ClientOptions::default().with_region(url.option("region").unwrap_or(REGION));
    if let Some(endpoint) = url.option("endpoint") {
        let keys = Credentials::new(ACCESS_KEY_ID, SECRET_ACCESS_KEY, None, None, "test");
        options = options.with_endpoint(endpoint).with_credentials(keys);
    }
    let (client, name) = (connect(&options).await.unwrap(), test_servers::namespace());
    client.create_stream().stream_name(&name).shard_count(2).send().await.unwrap();
    loop {
        let asked = client.describe_stream_summary().stream_name(&name).send().await.unwrap();
        if asked.stream_description_summary().unwrap().stream_status().as_str() == "ACTIVE" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let url = format!("kinesis://{name}?{query}&settle=1ms&poll_interval=1ms");
    let passed = catch_unwind(AssertUnwindSafe(|| test(url)));
    client.delete_stream().stream_name(&name).send().await.unwrap();
    passed.unwrap_or_else(|panic| resume_unwind(panic));
}

fn hydrant(args: &[&str]) -> Run {
    let mut command = program(args);
    command.env("AWS_ACCESS_KEY_ID", ACCESS_KEY_ID).env("AWS_SECRET_ACCESS_KEY", SECRET_ACCESS_KEY);
    finish(command.spawn().unwrap())
}

#[tokio::test]
async fn a_log_is_found_in_whatever_shard_it_lies() {
    with_stream(|stream| {
        let (dir, from) = store(0..20);
        // The first hash key of all and the last: one of them is not in the shard of the log's name.
        for hash_key in [0, u128::MAX] {
            let name = format!("{stream}&log={hash_key}");
            hydrant(&["copy", &from, &format!("{name}&explicit_hash_key={hash_key}")]).ends(0);
            let anywhere = format!("{name}&shards=all");
            let to = file(&dir.path().join(hash_key.to_string()));
            hydrant(&["copy", &anywhere, &to]).ends(0);
            assert_eq!(held(&to), log(0..20));
            let relayed = file(&dir.path().join(format!("relayed-{hash_key}")));
            hydrant(&["relay", "--from", &anywhere, "--to", &relayed]).ends(0);
            assert_eq!(held(&relayed), log(0..20));
        }
    })
    .await;
}
