//! A Postgres cluster of its own from the installed programs.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::install;
use super::process::Process;
use super::server::{Program, Server};
use crate::{Service, directory, random};

/// User, password and database.
const NAME: &str = "test";

/// Where packages put the programs that are not for every user: Debian, PGDG on Red Hat, Homebrew, Postgres.app.
const INSTALLED: [&str; 5] = [
    "/usr/lib/postgresql",
    "/usr",
    "/opt/homebrew/opt",
    "/usr/local/opt",
    "/Applications/Postgres.app/Contents/Versions",
];

/// How Postgres is found and started.
#[derive(Debug)]
pub struct PostgresServer {
    bin: PathBuf,
    home: Home,
    owner: Owner,
    settings: Vec<String>,
}

impl PostgresServer {
    fn data(&self) -> PathBuf {
        self.home.path.join("data")
    }

    /// Where its Unix socket is: a path of more than 107 bytes is none.
    fn socket_dir(&self) -> PathBuf {
        if self.home.path.as_os_str().len() < 80 { self.home.path.clone() } else { std::env::temp_dir() }
    }
}

impl Server<super::PostgresServer> {
    /// Where its Unix socket `.s.PGSQL.<port>` is.
    pub fn socket_dir(&self) -> PathBuf {
        self.program().socket_dir()
    }

    /// Writes a file into its data directory as its own, readable by no other user: `pg_hba.conf`, keys for TLS, or
    /// `postgresql.auto.conf`. It reads most of them at a restart.
    ///
    /// # Panics
    /// When that fails: a test cannot go on.
    pub fn put_file(&self, name: &str, contents: &[u8]) {
        let (path, owner) = (self.program().data().join(name), self.program().owner);
        let write = || {
            fs::write(&path, contents)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
            owner.give(&path)
        };
        write().unwrap_or_else(|cause| panic!("{}: {cause}", path.display()));
    }
}

impl Program for PostgresServer {
    const NAME: &'static str = "postgres";
    const SERVICE: Option<Service> = Some(Service::Postgres);

    fn prepare(dir: &Path, settings: &[&str]) -> Result<Self, String> {
        let (bin, owner) = (programs()?, Owner::ours(dir)?);
        let home = owner.home(dir)?;
        let server =
            Self { bin, home, owner, settings: settings.iter().map(|&setting| setting.to_owned()).collect() };
        if !server.data().exists() {
            let template = template(&server.bin, owner)?;
            // Half a copy must not be taken for a cluster.
            let half = server.home.path.join(format!("data-{}", std::process::id()));
            install::run(owner.command("cp").arg("-R").arg(template.join("data")).arg(&half))?;
            fs::rename(&half, server.data()).map_err(|cause| format!("{}: {cause}", half.display()))?;
        }
        Ok(server)
    }

    fn version(&self) -> String {
        let said = Command::new(self.bin.join("postgres")).arg("--version").output();
        let said = said
            .map_or_else(|_| String::new(), |output| String::from_utf8_lossy(&output.stdout).into_owned());
        said.trim().trim_start_matches("postgres (PostgreSQL) ").to_owned()
    }

    fn command(&self, port: u16) -> Command {
        // INT lets it say good-bye, and gives its shared memory back to the system.
        let mut command =
            Process::command("INT", &self.home.path, "data/PG_VERSION", self.bin.join("postgres"));
        self.owner.become_in(&mut command);
        command.arg("-D").arg(self.data());
        let socket_dir = format!("unix_socket_directories=\"{}\"", self.socket_dir().display());
        let port = format!("port={port}");
        let ours = [
            "listen_addresses=127.0.0.1",
            &port,
            &socket_dir,
            "fsync=off",
            "full_page_writes=off",
            "max_connections=300",
            "dynamic_shared_memory_type=mmap",
        ];
        for setting in ours.into_iter().chain(self.settings.iter().map(String::as_str)) {
            command.arg("-c").arg(setting);
        }
        command
    }

    /// The file may mislead for a moment: the process is dead, but not reaped yet, or its children are still ending.
    fn was_killed(&self) -> bool {
        self.data().join("postmaster.pid").exists()
    }

    fn tidy(&self) -> io::Result<()> {
        Ok(())
    }

    fn is_ready(&self, at: SocketAddr) -> bool {
        answers(at)
    }

    fn furnish(&self, _: SocketAddr) -> Result<(), String> {
        Ok(())
    }

    fn url(&self, service: Service, at: SocketAddr) -> Option<String> {
        (service == Service::Postgres)
            .then(|| format!("postgres://{NAME}:{NAME}@{at}/{NAME}?sslmode=disable"))
    }
}

impl Drop for PostgresServer {
    /// No other owner knows the other directory.
    fn drop(&mut self) {
        if self.home.is_elsewhere {
            drop(fs::remove_dir_all(&self.home.path));
        }
    }
}

/// Postgres refuses to run as root: then it runs as another user.
#[derive(Debug, Clone, Copy)]
struct Owner(Option<(u32, u32)>);

impl Owner {
    /// The one of what we make in `dir`, unless that is root.
    fn ours(dir: &Path) -> Result<Self, String> {
        let probe = dir.join(format!("owner-{}", random()));
        let made = fs::write(&probe, "").and_then(|()| fs::metadata(&probe));
        let made = made.map_err(|cause| format!("{}: {cause}", probe.display()))?;
        drop(fs::remove_file(&probe));
        if made.uid() != 0 {
            return Ok(Self(None));
        }
        let users = fs::read_to_string("/etc/passwd").map_err(|cause| format!("/etc/passwd: {cause}"))?;
        let owner = user(&users, "postgres").or_else(|| user(&users, "nobody"));
        let owner =
            owner.ok_or("Postgres refuses to run as root, and there is no user postgres or nobody")?;
        Ok(Self(Some(owner)))
    }

    /// A program that runs as the owner.
    fn command(self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        self.become_in(&mut command);
        command
    }

    fn become_in(self, command: &mut Command) {
        if let Self(Some((user, group))) = self {
            command.uid(user).gid(group);
        }
    }

    fn give(self, path: &Path) -> std::io::Result<()> {
        let Self(owner) = self;
        owner.map_or(Ok(()), |(user, group)| chown(path, Some(user), Some(group)))
    }

    /// A directory in `dir` for what it owns, or one that it can reach.
    fn home(self, dir: &Path) -> Result<Home, String> {
        let error = |cause| format!("{}: {cause}", dir.display());
        let mut home = Home { path: dir.join("postgres"), is_elsewhere: false };
        self.make(&home.path).map_err(error)?;
        if self.0.is_some() {
            // `dir` is for servers alone, but a temporary directory is its maker's.
            let mode = fs::metadata(dir).map_err(error)?.permissions().mode();
            fs::set_permissions(dir, fs::Permissions::from_mode(mode | 0o011)).map_err(error)?;
        }
        let mut enter = self.command("/bin/sh");
        enter.args(["-c", r#"cd "$0""#]).arg(&home.path).current_dir("/").stderr(Stdio::null());
        if !enter.status().is_ok_and(|status| status.success()) {
            // The same one for the same directory: a restart finds its data.
            let name = dir.to_string_lossy().replace(|c: char| !c.is_ascii_alphanumeric(), "-");
            home = Home {
                path: std::env::temp_dir().join(format!("hydrant-servers{name}")),
                is_elsewhere: true,
            };
            self.make(&home.path).map_err(|cause| format!("{}: {cause}", home.path.display()))?;
        }
        Ok(home)
    }

    fn make(self, dir: &Path) -> std::io::Result<()> {
        fs::create_dir_all(dir)?;
        self.give(dir)
    }
}

/// Where a cluster lives.
#[derive(Debug)]
struct Home {
    path: PathBuf,
    /// Not where the caller asked for, but below the system's directory for temporary files: the user that Postgres runs as
    /// cannot reach the other one, for example below a home that is closed.
    is_elsewhere: bool,
}

/// User and group of a name in the text of `/etc/passwd`.
fn user(users: &str, name: &str) -> Option<(u32, u32)> {
    let mut fields =
        users.lines().map(|line| line.split(':')).find(|fields| fields.clone().next() == Some(name))?;
    Some((fields.nth(2)?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// The directory with `postgres` and `initdb`: the one in `PATH`, else the newest installed.
fn programs() -> Result<PathBuf, String> {
    let complete = |bin: &PathBuf| bin.join("postgres").is_file() && bin.join("initdb").is_file();
    let in_path = install::in_path("postgres").filter_map(|program| Some(program.parent()?.to_owned()));
    let mut installed: Vec<_> = INSTALLED
        .iter()
        .filter_map(|dir| fs::read_dir(dir).ok())
        .flat_map(|entries| entries.flatten().map(|entry| entry.path().join("bin")))
        .filter(complete)
        .collect();
    installed.sort_by_key(|bin| version(bin));
    in_path.filter(complete).chain(installed.into_iter().rev()).next().ok_or_else(|| {
        "no Postgres (postgres, initdb); on Debian: apt-get install postgresql, with Homebrew: brew install postgresql"
            .to_owned()
    })
}

/// The first number in a path like `/usr/lib/postgresql/15/bin` or `/usr/pgsql-17/bin`.
fn version(bin: &Path) -> u32 {
    let name = bin.parent().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    let name = name.unwrap_or_default();
    let digits = name.split(|c: char| !c.is_ascii_digit()).find(|digits| !digits.is_empty());
    digits.and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

/// A cluster that was never started, to copy: `initdb` takes ten times as long.
fn template(bin: &Path, owner: Owner) -> Result<PathBuf, String> {
    let home = owner.home(&directory())?;
    install::once_in(&home.path, &format!("template-{}", version(bin)), |dir| {
        owner.give(dir).map_err(|cause| format!("{}: {cause}", dir.display()))?;
        let (data, password) = (dir.join("data"), dir.join("password"));
        install::write(&password, NAME)?;
        let mut initdb = owner.command(bin.join("initdb"));
        initdb.args(["-U", NAME, "-A", "scram-sha-256", "-E", "UTF8", "--locale=C", "--no-sync"]);
        install::run(initdb.arg("-D").arg(&data).arg("--pwfile").arg(&password).current_dir(dir))?;
        let mut single = owner.command(bin.join("postgres"));
        single.args(["--single", "-D"]).arg(&data).arg("postgres").current_dir(dir);
        let create = dir.join("create.sql");
        install::write(&create, &format!("CREATE DATABASE {NAME}\n"))?;
        let create = fs::File::open(&create).map_err(|cause| format!("{}: {cause}", create.display()))?;
        install::run_with(&mut single, create.into())
    })
}

/// Returns whether a Postgres server there accepts connections: it answers the first message of a client, and does not
/// reply that it is still starting up.
pub(crate) fn answers(at: SocketAddr) -> bool {
    let patience = Duration::from_secs(5);
    let ask = || -> std::io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect_timeout(&at, patience)?;
        stream.set_read_timeout(Some(patience))?;
        // Length, version 3.0, user, database.
        stream.write_all(b"\0\0\0\x21\0\x03\0\0user\0test\0database\0test\0\0")?;
        let mut answer = [0; 512];
        let n = stream.read(&mut answer)?;
        Ok(answer[..n].to_vec())
    };
    ask().is_ok_and(|answer| says_accepting(&answer))
}

/// An `R` asks for a password. An `E` refuses us; its SQLSTATE 57P03 says that it refuses everybody now.
fn says_accepting(answer: &[u8]) -> bool {
    match answer.first() {
        Some(b'R') => true,
        Some(b'E') => !answer.windows(6).any(|field| field == b"C57P03"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_starts_up_does_not_accept() {
        assert!(says_accepting(b"R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0"));
        assert!(says_accepting(b"E\0\0\0\x30SFATAL\0VFATAL\0C28000\0Mno pg_hba.conf entry\0\0"));
        assert!(!says_accepting(b"E\0\0\0\x30SFATAL\0VFATAL\0C57P03\0Mstarting up\0\0"));
        assert!(!says_accepting(b"HTTP/1.1 400"));
        assert!(!says_accepting(b""));
    }

    #[test]
    fn a_user_is_found_by_its_whole_name() {
        let users = "root:x:0:0::/root:/bin/sh\npostgres2:x:7:8::/:\npostgres:x:101:104:a:b:c\n";
        assert_eq!(user(users, "postgres"), Some((101, 104)));
        assert_eq!(user(users, "nobody"), None);
    }

    #[test]
    fn the_newest_version_wins() {
        assert_eq!(version(Path::new("/usr/lib/postgresql/15/bin")), 15);
        assert_eq!(version(Path::new("/usr/pgsql-17/bin")), 17);
        assert_eq!(version(Path::new("/opt/homebrew/opt/postgresql@16/bin")), 16);
        assert_eq!(version(Path::new("/usr/local/bin")), 0);
    }
}
