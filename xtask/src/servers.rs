//! `cargo xtask servers`: the servers that tests and examples talk to, started, found and ended.
//!
//! If a Docker engine replies, the servers are those of docker-compose.yml, else native ones under `target/servers`.
//! `HYDRANT_SERVERS=native` does not use the engine.

mod docker;
mod native;
mod record;
mod session;

use std::env;
use std::fs::{self, File};
use std::process::ExitCode;

use crate::cargo;
use record::Record;
pub(crate) use session::Session;
use test_servers::{ACCESS_KEY_ID, REGION, SECRET_ACCESS_KEY, Service, directory};

/// The servers that `up` starts if none is named: those of the tests, and the one that the examples are written for.
const NAMES: [&str; 4] = ["postgres", "s3", "kinesis", "localstack"];

/// Runs `up`, `down`, `status` or `env`.
pub(crate) fn run(args: &[String]) -> Result<ExitCode, String> {
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["up", ref names @ ..] => up(names),
        ["down"] => down(),
        ["status"] => Ok(status()),
        ["env"] => print_env(),
        _ => Err("`cargo xtask servers` takes up, down, status or env".to_owned()),
    }
}

/// Starts the servers that do not run yet. If no server was named, one that cannot start is not a failure.
fn up(names: &[&str]) -> Result<ExitCode, String> {
    if let Some(unknown) = names.iter().find(|name| !NAMES.contains(name)) {
        return Err(format!("there is no server {unknown:?}; there are: {}", NAMES.join(", ")));
    }
    let _lock = lock()?;
    let wanted = if names.is_empty() { &NAMES[..] } else { names };
    let mut missing = 0;
    for (name, started) in start(wanted) {
        match started {
            Ok(record) => println!("{name}: {record}"),
            Err(reason) => {
                missing += 1;
                eprintln!("{name}: {reason}");
            }
        }
    }
    // If no server was named, one that runs is enough.
    let failed = if names.is_empty() { missing == wanted.len() } else { missing > 0 };
    if !failed {
        println!("for a shell: eval \"$(cargo xtask servers env)\"; to end them: cargo xtask servers down");
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Starts these servers, and returns for each its record, or why it cannot start.
fn start<'a>(names: &[&'a str]) -> Vec<(&'a str, Result<Record, String>)> {
    let living = |name: &&str| Record::read(name).filter(Record::is_alive);
    let missing = names.iter().any(|name| living(name).is_none());
    let docker = missing && docker::answers();
    let compose = docker.then(|| docker::up(docker::PROJECT));
    // In parallel, because most of it is waiting.
    std::thread::scope(|scope| {
        let start = |name: &'a str| {
            let compose = &compose;
            scope.spawn(move || match (living(&name), compose) {
                (Some(record), _) => Ok(record),
                (None, Some(Ok(records))) => keep(records.iter().find(|record| record.name == name).cloned()),
                (None, Some(Err(message))) => Err(message.clone()),
                (None, None) => native::up(name).and_then(|record| keep(Some(record))),
            })
        };
        let started: Vec<_> = names.iter().map(|name| (*name, start(name))).collect();
        started
            .into_iter()
            .map(|(name, thread)| (name, thread.join().expect("it returns its errors")))
            .collect()
    })
}

/// Records a running server, for tests and for `down`.
fn keep(record: Option<Record>) -> Result<Record, String> {
    let record = record.ok_or("docker-compose.yml has no such server")?;
    record.write()?;
    for (service, url) in &record.urls {
        // LocalStack has S3 and Kinesis, too; the tests prefer the others.
        if record.name == service.name() || service.find_started().is_err() {
            let file = service.file();
            fs::write(&file, format!("{url}\n")).map_err(|cause| format!("{}: {cause}", file.display()))?;
        }
    }
    Ok(record)
}

/// Ends the servers that `up` started, and no others. The data is kept.
fn down() -> Result<ExitCode, String> {
    let _lock = lock()?;
    let records = records();
    if records.is_empty() {
        println!("`cargo xtask servers up` has started nothing that is still there");
    }
    if records.iter().any(Record::is_docker) {
        docker::down(docker::PROJECT)?;
    }
    // In parallel, because most of it is waiting.
    let ended: Vec<_> = std::thread::scope(|scope| {
        let end = |record| scope.spawn(move || native::end(record));
        let threads: Vec<_> = records.iter().map(end).collect();
        threads.into_iter().map(|thread| thread.join().expect("it returns its errors")).collect()
    });
    for (record, ended) in records.iter().zip(ended) {
        ended?;
        record.remove()?;
        println!("{}: ended", record.name);
    }
    for service in Service::ALL {
        drop(fs::remove_file(service.file()));
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints a line for each server. Fails when a server that was started is gone.
fn status() -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    for name in NAMES {
        match Record::read(name) {
            None => println!("{name}: not started"),
            Some(record) if record.is_alive() => println!("{name}: {record}"),
            Some(record) => {
                println!("{name}: gone ({record})");
                code = ExitCode::FAILURE;
            }
        }
    }
    code
}

/// Prints the variables of the servers for the `eval` of a shell.
fn print_env() -> Result<ExitCode, String> {
    let records: Vec<_> = records().into_iter().filter(Record::is_alive).collect();
    if records.is_empty() {
        return Err("no server runs: `cargo xtask servers up` starts them".to_owned());
    }
    let lines = exports(&records, Service::find_started);
    println!("{}", lines.join("\n"));
    Ok(ExitCode::SUCCESS)
}

fn exports(records: &[Record], find: impl Fn(Service) -> Result<String, String>) -> Vec<String> {
    let export = |(name, value): (&str, &str)| format!("export {name}='{}'", value.replace('\'', r"'\''"));
    let mut lines = Vec::new();
    for service in Service::ALL {
        match find(service) {
            Ok(url) => lines.push(export((service.variable(), &url))),
            Err(reason) => lines.push(format!("# {reason}")),
        }
    }
    let localstack = records.iter().find(|record| record.name == "localstack");
    for (service, url) in localstack.iter().flat_map(|record| &record.urls) {
        lines.push(export((&format!("LOCALSTACK_{}_URL", service.name().to_uppercase()), url)));
    }
    lines.extend(credentials().map(export));
    lines
}

/// Returns the credentials that the AWS SDK needs for any server.
fn credentials() -> [(&'static str, &'static str); 3] {
    [
        ("AWS_ACCESS_KEY_ID", ACCESS_KEY_ID),
        ("AWS_SECRET_ACCESS_KEY", SECRET_ACCESS_KEY),
        ("AWS_REGION", REGION),
    ]
}

/// Returns whether the tests of this package may talk to servers: whether it depends on the crate that finds them.
pub(crate) fn are_needed_by(package: &str) -> Result<bool, String> {
    let mut tree = cargo();
    tree.args(["tree", "--package", package, "--depth", "1", "--edges", "normal,dev", "--prefix", "none"]);
    let output = tree.output().map_err(|cause| format!("{tree:?} did not start: {cause}"))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
    }
    Ok(String::from_utf8_lossy(&output.stdout).lines().skip(1).any(|line| line.starts_with("test-servers ")))
}

fn records() -> Vec<Record> {
    NAMES.iter().filter_map(|name| Record::read(name)).collect()
}

/// Takes the lock that admits one `up` or `down` at a time.
fn lock() -> Result<File, String> {
    let path = directory().join("up.lock");
    let open = || {
        fs::create_dir_all(directory())?;
        let file = File::create(&path)?;
        file.lock()?;
        std::io::Result::Ok(file)
    };
    open().map_err(|cause| format!("{}: {cause}", path.display()))
}

/// Returns whether servers may be those of a Docker engine.
fn may_use_docker() -> bool {
    env::var("HYDRANT_SERVERS").as_deref() != Ok("native")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_gets_urls_whole_and_reasons_as_comments() {
        let localstack = Record {
            name: "localstack".to_owned(),
            version: "localstack 4.14.0".to_owned(),
            port: 4566,
            process: None,
            urls: vec![(Service::S3, "s3://b?x=1&y=it's".to_owned())],
        };
        let lines = exports(&[localstack], |service| match service {
            Service::Postgres => Ok("postgres://h/d?a=b&c=d".to_owned()),
            _ => Err("no server".to_owned()),
        });
        assert_eq!(lines[0], "export HYDRANT_TEST_POSTGRES_URL='postgres://h/d?a=b&c=d'");
        assert_eq!(lines[1..3], ["# no server", "# no server"]);
        assert_eq!(lines[3], r"export LOCALSTACK_S3_URL='s3://b?x=1&y=it'\''s'");
        assert!(lines.contains(&"export AWS_ACCESS_KEY_ID='test'".to_owned()), "{lines:?}");
    }

    #[test]
    fn misspelt_servers_and_commands_are_refused_first() {
        assert!(up(&["postgers"]).unwrap_err().contains("postgres, s3, kinesis, localstack"));
        assert!(run(&["start".to_owned()]).is_err());
        assert!(run(&["down".to_owned(), "s3".to_owned()]).is_err());
    }
}
