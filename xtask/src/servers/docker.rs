//! Servers of docker-compose.yml.

use std::net::SocketAddr;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use test_servers::{Service, aws, native::until};

use super::may_use_docker;
use super::record::Record;
use crate::root;

/// The name of the containers that `up` starts.
pub(crate) const PROJECT: &str = "hydrant";

/// Returns whether there is an engine with Compose. An engine that hangs does not count.
pub(crate) fn answers() -> bool {
    may_use_docker()
        && ends_well(Command::new("docker").arg("info"))
        && ends_well(compose(PROJECT).arg("version"))
}

fn ends_well(command: &mut Command) -> bool {
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let Ok(mut child) = quiet.spawn() else { return false };
    let ended = until(Duration::from_secs(10), || child.try_wait().ok().flatten());
    if ended.is_none() {
        drop((child.kill(), child.wait()));
    }
    ended.is_some_and(|status| status.success())
}

/// Starts the containers of a project that do not run yet, and waits until they are healthy.
pub(crate) fn up(project: &str) -> Result<Vec<Record>, String> {
    run(compose(project).args(["up", "--detach", "--wait"]))?;
    let postgres = published(project, "postgres", 5432)?;
    let localstack = published(project, "localstack", 4566)?;
    aws::make_bucket(localstack, aws::NAME)?;
    aws::make_stream(localstack, aws::NAME)?;
    let postgres_url = format!("postgres://test:test@{postgres}/test?sslmode=disable");
    let s3 = (Service::S3, aws::s3_url(localstack, aws::NAME));
    let kinesis = (Service::Kinesis, aws::kinesis_url(localstack, aws::NAME));
    let record = |name: &str, port: SocketAddr, urls: Vec<_>| Record {
        name: name.to_owned(),
        version: format!("{} of docker-compose.yml", if name == "postgres" { name } else { "localstack" }),
        port: port.port(),
        process: None,
        urls,
    };
    Ok(vec![
        record("postgres", postgres, vec![(Service::Postgres, postgres_url)]),
        record("s3", localstack, vec![s3.clone()]),
        record("kinesis", localstack, vec![kinesis.clone()]),
        record("localstack", localstack, vec![s3, kinesis]),
    ])
}

/// Ends and removes the containers of a project.
pub(crate) fn down(project: &str) -> Result<(), String> {
    run(compose(project).args(["down", "--volumes"])).map(drop)
}

/// Returns a process that waits for the end of its input, which this process holds, and then ends the project.
pub(crate) fn down_after_us(project: &str) -> Command {
    let compose = compose(project);
    let mut leash = Command::new("/bin/sh");
    leash
        .args(["-c", r#"read -r _; exec "$@""#, "leash"])
        .arg(compose.get_program())
        .args(compose.get_args());
    leash.args(["down", "--volumes"]).current_dir(root());
    leash.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    leash
}

/// Returns the address of a container's port on this machine.
fn published(project: &str, container: &str, port: u16) -> Result<SocketAddr, String> {
    let output = run(compose(project).args(["port", container, &port.to_string()]))?;
    let said = String::from_utf8_lossy(&output.stdout);
    said.trim().parse().map_err(|_| format!("`docker compose port {container} {port}` says {said:?}"))
}

fn compose(project: &str) -> Command {
    let mut command = Command::new("docker");
    command.args(["compose", "--file", "docker-compose.yml", "--project-name", project]).current_dir(root());
    if project != PROJECT {
        // Several projects may run side by side, so each uses free ports.
        command.envs([("HYDRANT_POSTGRES_PORT", "0"), ("HYDRANT_LOCALSTACK_PORT", "0")]);
    }
    command
}

fn run(command: &mut Command) -> Result<Output, String> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|cause| format!("{command:?} did not start: {cause}"))?;
    if output.status.success() {
        return Ok(output);
    }
    Err(format!(
        "{command:?} ended with {}:\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    ))
}
