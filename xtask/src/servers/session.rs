//! The servers of one run of the tests.

use std::env;
use std::fmt::Write;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::thread;

use test_servers::{Service, directory};

use super::native::Private;
use super::record::{Process, Record};
use super::{credentials, docker, native};

/// The outcome for each service that was missing.
type Started = Vec<(Service, Result<Record, String>)>;

/// Servers for the tests: the user's own by the variables, else those of `servers up`, else private ones. Private
/// servers end with this process, however it ends.
#[derive(Default)]
pub(crate) struct Session {
    variables: Vec<(&'static str, String)>,
    /// A line for each service: which server, and where.
    lines: Vec<String>,
    private: Vec<Private>,
    dir: Option<PathBuf>,
    containers: Option<Child>,
}

impl Session {
    /// Finds or starts all servers. A server that cannot start is a failure only if it is required.
    pub(crate) fn open() -> Result<Self, String> {
        let mut session = Self::default();
        let mut missing = Vec::new();
        for service in Service::ALL {
            match (env::var(service.variable()), service.find_started()) {
                (Ok(url), _) if !url.is_empty() => {
                    session.lines.push(format!("{service}: {} of the environment", shown(&url)));
                }
                (_, Ok(url)) => {
                    let record = Record::read(service.name()).or_else(|| Record::read("localstack"));
                    let version = record.map_or_else(String::new, |record| format!("{}, ", record.version));
                    session.take(service, url.clone(), &format!("{version}started before"));
                }
                _ => missing.push(service),
            }
        }
        session.start(&missing)?;
        let ours = |service: &Service| session.variables.iter().any(|(name, _)| *name == service.variable());
        // Test credentials would override the user's own credentials.
        if ours(&Service::S3) && ours(&Service::Kinesis) {
            let unset = |(name, _): &(&str, &str)| env::var_os(name).is_none();
            let set = credentials().into_iter().filter(unset).map(|(name, value)| (name, value.to_owned()));
            session.variables.extend(set);
        }
        Ok(session)
    }

    fn start(&mut self, missing: &[Service]) -> Result<(), String> {
        if missing.is_empty() {
            return Ok(());
        }
        let name = format!("test-{}", std::process::id());
        let started =
            if docker::answers() { self.containers(missing, &name)? } else { self.natives(missing, &name) };
        for (service, started) in started {
            match started {
                Ok(record) => {
                    let url = record.urls.into_iter().find(|(it, _)| *it == service);
                    let (_, url) = url.expect("each server has the URL of its service");
                    self.take(service, url, &record.version);
                }
                Err(reason) if service.is_required() => {
                    return Err(format!("HYDRANT_TEST_REQUIRE wants {service}, but: {reason}"));
                }
                Err(reason) => self.lines.push(format!("{service}: none, its tests are skipped: {reason}")),
            }
        }
        Ok(())
    }

    fn take(&mut self, service: Service, url: String, what: &str) {
        self.lines.push(format!("{service}: {} ({what})", shown(&url)));
        self.variables.push((service.variable(), url));
    }

    fn natives(&mut self, missing: &[Service], name: &str) -> Started {
        remove_stale();
        let dir = self.dir.insert(directory().join(name));
        // In parallel, because most of it is waiting.
        let started: Vec<_> = thread::scope(|scope| {
            let start = |service: &Service| {
                let (service, dir) = (*service, &*dir);
                scope.spawn(move || native::private(service, dir))
            };
            let threads: Vec<_> = missing.iter().map(start).collect();
            threads.into_iter().map(|thread| thread.join().expect("it returns its errors")).collect()
        });
        let mut keep = |(record, server)| {
            self.private.push(server);
            record
        };
        let started = started.into_iter().map(|started| started.map(&mut keep));
        missing.iter().copied().zip(started).collect()
    }

    fn containers(&mut self, missing: &[Service], name: &str) -> Result<Started, String> {
        let project = format!("{}-{name}", docker::PROJECT);
        let mut leash = docker::down_after_us(&project);
        // Ctrl-C must end this process only. The leash does its work after that.
        let leash =
            leash.process_group(0).spawn().map_err(|cause| format!("{leash:?} did not start: {cause}"))?;
        self.containers = Some(leash);
        let records = docker::up(&project);
        let of = |service: &Service| {
            let records = records.as_ref().map_err(Clone::clone)?;
            let record = records.iter().find(|record| record.name == service.name());
            record.cloned().ok_or_else(|| "docker-compose.yml has no such server".to_owned())
        };
        Ok(missing.iter().map(|service| (*service, of(service))).collect())
    }

    /// Names the servers in the environment of the tests.
    pub(crate) fn set(&self, command: &mut Command) {
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
    }

    /// Returns a line for each service: which server was used, and where.
    pub(crate) fn summary(&self) -> String {
        self.lines.iter().fold(String::new(), |mut text, line| {
            writeln!(text, "{line}").expect("a string takes all");
            text
        })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.private.clear();
        if let Some(dir) = &self.dir {
            drop(fs::remove_dir_all(dir));
        }
        if let Some(mut containers) = self.containers.take() {
            drop(containers.stdin.take());
            drop(containers.wait());
        }
    }
}

/// Removes what killed runs have left.
fn remove_stale() {
    let entries = fs::read_dir(directory()).into_iter().flatten().flatten();
    for entry in entries {
        let name = entry.file_name().to_string_lossy().into_owned();
        let id = name.strip_prefix("test-").and_then(|id| id.parse().ok());
        if id.is_some_and(|id| Process::of(id).is_none()) {
            drop(fs::remove_dir_all(entry.path()));
        }
    }
}

/// Returns a URL without its password.
fn shown(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return "a server".to_owned() };
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let host = rest[..end].rsplit('@').next().unwrap_or_default();
    let endpoint = rest.split(['?', '&']).find_map(|option| option.strip_prefix("endpoint="));
    endpoint
        .map_or_else(|| format!("{scheme}://{host}"), |endpoint| format!("{scheme}://{host} at {endpoint}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_not_shown() {
        assert_eq!(
            shown("postgres://u:se@cret@db.example:5432/d?sslmode=require"),
            "postgres://db.example:5432"
        );
        assert_eq!(
            shown("s3://b/p?region=r&endpoint=http://127.0.0.1:1&x=y"),
            "s3://b at http://127.0.0.1:1"
        );
        assert_eq!(shown("secret"), "a server");
    }
}
