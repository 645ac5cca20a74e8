//! MiniStack: S3 that holds its conditional writes in a race and keeps its objects over kill -9.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, io};

use super::install;
use super::process::Process;
use super::server::{Program, log, settings_env};
use crate::{Service, aws, http};

/// Ends the name of the file with the metadata of an object.
const METADATA: &str = ".meta.json";

/// How MiniStack is installed and started.
#[derive(Debug)]
pub struct MiniStackServer {
    python: PathBuf,
    dir: PathBuf,
    settings: Vec<(String, String)>,
}

impl Program for MiniStackServer {
    const NAME: &'static str = "ministack";
    const SERVICE: Option<Service> = Some(Service::S3);

    fn prepare(dir: &Path, settings: &[&str]) -> Result<Self, String> {
        let python = install::python("ministack-1.5.33", (3, 10), include_str!("../../pins/ministack.txt"))?;
        Ok(Self { python, dir: dir.to_owned(), settings: settings_env(settings)? })
    }

    fn version(&self) -> String {
        "1.5.33".to_owned()
    }

    fn command(&self, port: u16) -> Command {
        let mut command = Process::command("TERM", &self.dir, &log(Self::NAME), &self.python);
        command.args(["-m", "ministack"]);
        command.env("BIND_HOST", "127.0.0.1").env("GATEWAY_PORT", port.to_string());
        command.env("S3_PERSIST", "1").env("S3_DATA_DIR", self.dir.join("s3"));
        command.env("PERSIST_STATE", "1").env("STATE_DIR", self.dir.join("state"));
        command.envs(self.settings.iter().cloned());
        command
    }

    fn was_killed(&self) -> bool {
        false
    }

    /// Removes each object without metadata. MiniStack writes an object, then its metadata in a second file, and then replies. A
    /// kill between the two leaves an object whose PUT was not acknowledged. S3 writes both at once or none.
    fn tidy(&self) -> io::Result<()> {
        let objects = self.dir.join("s3");
        if objects.exists() { remove_objects_without_metadata(&objects) } else { Ok(()) }
    }

    fn is_ready(&self, at: SocketAddr) -> bool {
        http::answers(at, "/_ministack/health")
    }

    fn furnish(&self, at: SocketAddr) -> Result<(), String> {
        aws::make_bucket(at, aws::NAME)
    }

    fn url(&self, service: Service, at: SocketAddr) -> Option<String> {
        (service == Service::S3).then(|| aws::s3_url(at, aws::NAME))
    }
}

fn remove_objects_without_metadata(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            // Older versions of an object have no metadata of their own.
            if name != ".versions" {
                remove_objects_without_metadata(&path)?;
            }
        } else if !name.ends_with(METADATA) && !path.with_file_name(format!("{name}{METADATA}")).exists() {
            eprintln!("removing {}: an object without metadata", path.display());
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}
