//! LocalStack in host mode: S3 and Kinesis at one endpoint, the server of the examples.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::install;
use super::process::Process;
use super::server::{Program, log, settings_env};
use crate::{Service, aws, http};

/// How LocalStack is installed and started.
#[derive(Debug)]
pub struct LocalStackServer {
    python: PathBuf,
    preload: PathBuf,
    dir: PathBuf,
    settings: Vec<(String, String)>,
}

impl Program for LocalStackServer {
    const NAME: &'static str = "localstack";
    const SERVICE: Option<Service> = None;

    fn prepare(dir: &Path, settings: &[&str]) -> Result<Self, String> {
        install::node_program()?;
        let (name, packages) = ("localstack-4.14.0", include_str!("../../pins/localstack.txt"));
        let python = install::python(name, (3, 13), packages)?;
        let preload = install::preload()?;
        let root = install::once("localstack-4.14.0-root", |root| {
            let mut lpm = Command::new(&python);
            lpm.args(["-m", "localstack.cli.lpm", "install", "kinesis-mock"]).current_dir(root);
            install::run(lpm.envs(environment(root, &preload)))
        })?;
        // It looks for its Kinesis below the directory that it takes for the root.
        let lib = dir.join("usr/lib");
        let link = || {
            fs::create_dir_all(&lib)?;
            symlink(root.join("usr/lib/localstack"), lib.join("localstack"))
        };
        if !lib.join("localstack").exists() {
            link().map_err(|cause| format!("{}: {cause}", lib.display()))?;
        }
        Ok(Self { python, preload, dir: dir.to_owned(), settings: settings_env(settings)? })
    }

    fn version(&self) -> String {
        "4.14.0".to_owned()
    }

    fn command(&self, port: u16) -> Command {
        let mut command = Process::command("KILL", &self.dir, &log(Self::NAME), &self.python);
        command.args(["-m", "localstack.runtime.main"]).envs(environment(&self.dir, &self.preload));
        command.env("GATEWAY_LISTEN", format!("127.0.0.1:{port}"));
        command.envs(self.settings.iter().cloned());
        command
    }

    fn was_killed(&self) -> bool {
        false
    }

    fn tidy(&self) -> io::Result<()> {
        Ok(())
    }

    fn is_ready(&self, at: SocketAddr) -> bool {
        http::answers(at, "/_localstack/health")
    }

    fn furnish(&self, at: SocketAddr) -> Result<(), String> {
        aws::make_bucket(at, aws::NAME)?;
        aws::make_stream(at, aws::NAME)
    }

    fn url(&self, service: Service, at: SocketAddr) -> Option<String> {
        match service {
            Service::Postgres => None,
            Service::S3 => Some(aws::s3_url(at, aws::NAME)),
            Service::Kinesis => Some(aws::kinesis_url(at, aws::NAME)),
        }
    }
}

/// Its default server binds everywhere, whatever the address says: hypercorn does not.
fn environment(dir: &Path, preload: &Path) -> Vec<(&'static str, String)> {
    let preload = preload.to_string_lossy().replace('\\', "\\\\").replace('"', "\\\"");
    vec![
        ("OVERRIDE_IN_DOCKER", "0".to_owned()),
        ("FILESYSTEM_ROOT", dir.to_string_lossy().into_owned()),
        ("DNS_ADDRESS", "0".to_owned()),
        ("DISABLE_EVENTS", "1".to_owned()),
        ("SKIP_SSL_CERT_DOWNLOAD", "1".to_owned()),
        ("SERVICES", "s3,kinesis".to_owned()),
        ("GATEWAY_SERVER", "hypercorn".to_owned()),
        ("KINESIS_LATENCY", "0".to_owned()),
        ("NODE_OPTIONS", format!("--require \"{preload}\"")),
        ("TEST_SERVERS_END_WITH_PARENT", "1".to_owned()),
    ]
}
