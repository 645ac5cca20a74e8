//! The pipeline reads what it wrote, through every split and merge of the shards.

use std::process::Command;

use aws_sdk_kinesis::config::Credentials;
use hydrant_kinesis::{ClientOptions, connect};

#[tokio::test]
async fn it_runs_twice_while_shards_split_and_merge() {
    let url = match test_servers::kinesis() {
        Ok(url) => url,
        Err(reason) => return println!("skipped: {reason}"),
    };
    let namespace = test_servers::namespace();
    let dir = std::env::temp_dir().join(&namespace);
    // Cargo builds the examples of a package before it runs its tests.
    let tests = std::env::current_exe().unwrap();
    let example = tests.parent().unwrap().parent().unwrap().join("examples/kinesis-pipeline");
    assert!(example.exists(), "build it first: cargo build -p hydrant-examples --example kinesis-pipeline");
    let url = test_servers::StoreUrl::parse(&url);
    // A test server accepts any keys; those of the environment are for AWS.
    let keys = (test_servers::ACCESS_KEY_ID, test_servers::SECRET_ACCESS_KEY);
    let run = |create: &[&str]| {
        let mut command = Command::new(&example);
        command.arg("310").args(create).env("KINESIS_STREAM", &namespace).env("PIPELINE_DIR", &dir);
        for (option, variable) in [("endpoint", "KINESIS_ENDPOINT"), ("region", "AWS_REGION")] {
            if let Some(value) = url.option(option) {
                command.env(variable, value);
            }
        }
        if std::env::var_os("AWS_ACCESS_KEY_ID").is_none() {
            command.env("AWS_ACCESS_KEY_ID", keys.0).env("AWS_SECRET_ACCESS_KEY", keys.1);
        }
        command.output().unwrap()
    };
    let missing = run(&[]);
    let runs = [run(&["--create"]), run(&[])];

    let mut options = ClientOptions::default();
    if let Some(region) = url.option("region") {
        options = options.with_region(region);
    }
    if let Some(endpoint) = url.option("endpoint") {
        let credentials = Credentials::new(keys.0, keys.1, None, None, "tests");
        options = options.with_endpoint(endpoint).with_credentials(credentials);
    }
    let client = connect(&options).await.unwrap();
    client.delete_stream().stream_name(&namespace).send().await.ok();
    std::fs::remove_dir_all(dir).ok();

    assert!(!missing.status.success(), "a log was begun without --create");
    for run in runs {
        let said = String::from_utf8_lossy(&run.stdout);
        assert!(run.status.success(), "{said}\n{}", String::from_utf8_lossy(&run.stderr));
        assert!(said.contains("in order, each payment once"), "{said}");
    }
}
