//! The record of a server that `up` started, in a file `target/servers/<name>.up`.

use std::fmt::{self, Write};
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use test_servers::{Service, directory};

/// A server, and how to recognise its process: another process may have the same id by now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) port: u16,
    /// `None` in a container.
    pub(crate) process: Option<Process>,
    pub(crate) urls: Vec<(Service, String)>,
}

/// The id of a process and when it began, in the words of this system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) id: u32,
    pub(crate) began: String,
}

impl Record {
    pub(crate) fn read(name: &str) -> Option<Self> {
        Self::parse(name, &fs::read_to_string(path(name)).ok()?)
    }

    pub(crate) fn write(&self) -> Result<(), String> {
        let path = path(&self.name);
        fs::write(&path, self.text()).map_err(|cause| format!("{}: {cause}", path.display()))
    }

    pub(crate) fn remove(&self) -> Result<(), String> {
        let path = path(&self.name);
        fs::remove_file(&path).map_err(|cause| format!("{}: {cause}", path.display()))
    }

    pub(crate) fn is_docker(&self) -> bool {
        self.process.is_none()
    }

    /// Returns whether the process is the one that was started, and the server replies.
    pub(crate) fn is_alive(&self) -> bool {
        self.process.as_ref().is_none_or(Process::is_alive)
            && self.urls.iter().all(|(service, url)| service.answers(url))
    }

    fn text(&self) -> String {
        let mut text = format!("version {}\nport {}\n", self.version, self.port);
        if let Some(Process { id, began }) = &self.process {
            writeln!(text, "pid {id}\nbegan {began}").expect("a string takes all");
        }
        for (service, url) in &self.urls {
            writeln!(text, "{service} {url}").expect("a string takes all");
        }
        text
    }

    fn parse(name: &str, text: &str) -> Option<Self> {
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let process = || Some(Process { id: field("pid")?.parse().ok()?, began: field("began")?.to_owned() });
        let url = |service: Service| Some((service, field(service.name())?.to_owned()));
        Some(Self {
            name: name.to_owned(),
            version: field("version")?.to_owned(),
            port: field("port")?.parse().ok()?,
            process: process(),
            urls: Service::ALL.into_iter().filter_map(url).collect(),
        })
    }
}

/// `MiniStack 1.5.33 on port 20001, process 4711`
impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on 127.0.0.1:{}, ", self.version, self.port)?;
        match &self.process {
            Some(process) => write!(f, "process {}", process.id),
            None => write!(f, "in a container"),
        }
    }
}

impl Process {
    /// Returns the process of this id, if there is one.
    pub(crate) fn of(id: u32) -> Option<Self> {
        Some(Self { id, began: began(id)? })
    }

    pub(crate) fn is_alive(&self) -> bool {
        began(self.id).as_ref() == Some(&self.began)
    }

    /// Sends a signal to the process, or to its group.
    pub(crate) fn signal(&self, signal: &str, group: bool) {
        let target = format!("{}{}", if group { "-" } else { "" }, self.id);
        let mut kill = Command::new("/bin/sh");
        kill.args(["-c", r#"kill -s "$1" -- "$2""#, "kill", signal, &target]);
        // The process may be gone already.
        drop(kill.stderr(Stdio::null()).status());
    }
}

/// Returns when a process began; `None` if it is dead, also if its parent has not waited for it yet.
fn began(id: u32) -> Option<String> {
    if let Ok(stat) = fs::read_to_string(format!("/proc/{id}/stat")) {
        return began_in(&stat);
    }
    let ps = Command::new("ps")
        .args(["-o", "state=,lstart=", "-p", &id.to_string()])
        .stderr(Stdio::null())
        .output();
    let text = String::from_utf8(ps.ok()?.stdout).ok()?;
    let (state, began) = text.trim().split_once(' ')?;
    (!state.starts_with('Z')).then(|| began.trim().to_owned())
}

/// Returns the 22nd field of `/proc/<id>/stat`. The second field is the program's name in parentheses; it may contain
/// spaces and parentheses.
fn began_in(stat: &str) -> Option<String> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let is_dead = matches!(fields.next()?, "Z" | "X");
    fields.nth(18).filter(|_| !is_dead).map(str::to_owned)
}

fn path(name: &str) -> PathBuf {
    directory().join(format!("{name}.up"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut record = Record {
            name: "postgres".to_owned(),
            version: "Postgres 15.3 (Debian)".to_owned(),
            port: 20_001,
            process: Some(Process { id: 7, began: "Mon Nov 23 09:20:54 2026".to_owned() }),
            urls: vec![(Service::Postgres, "postgres://test@127.0.0.1:20001/test?a=b".to_owned())],
        };
        assert_eq!(Record::parse("postgres", &record.text()), Some(record.clone()));
        record.process = None;
        assert_eq!(Record::parse("postgres", &record.text()), Some(record));
        assert_eq!(Record::parse("postgres", "port 7"), None);
    }

    #[test]
    fn a_process_is_known_by_its_beginning() {
        let mut us = Process::of(std::process::id()).unwrap();
        assert!(us.is_alive());
        us.began.push('1');
        assert!(!us.is_alive());
    }

    #[test]
    fn a_name_with_parentheses_hides_no_field() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 12345 99 1";
        assert_eq!(began_in(stat).as_deref(), Some("12345"));
        assert_eq!(began_in(&stat.replace(" S ", " Z ")), None);
        assert_eq!(began_in(""), None);
    }
}
