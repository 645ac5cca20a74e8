//! kinesalite: Kinesis that keeps its streams over kill -9 and is strict about arguments.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::install;
use super::process::Process;
use super::server::{Program, log, settings_env};
use crate::{Service, aws, http};

const SCRIPT: &str = "
const [, kinesalite, path, port] = process.argv;
const options = { path, createStreamMs: 10, deleteStreamMs: 10, updateStreamMs: 10, shardLimit: 1000 };
require(kinesalite)(options).listen(Number(port), '127.0.0.1');
";

/// How kinesalite is installed and started.
#[derive(Debug)]
pub struct KinesaliteServer {
    node: PathBuf,
    package: PathBuf,
    dir: PathBuf,
    settings: Vec<(String, String)>,
}

impl Program for KinesaliteServer {
    const NAME: &'static str = "kinesalite";
    const SERVICE: Option<Service> = Some(Service::Kinesis);

    fn prepare(dir: &Path, settings: &[&str]) -> Result<Self, String> {
        let package = install::node()?.join("node_modules/kinesalite");
        let (node, dir) = (install::node_program()?, dir.to_owned());
        Ok(Self { node, package, dir, settings: settings_env(settings)? })
    }

    fn version(&self) -> String {
        "3.3.3".to_owned()
    }

    fn command(&self, port: u16) -> Command {
        let mut command = Process::command("KILL", &self.dir, &log(Self::NAME), &self.node);
        command
            .args(["--no-deprecation", "-e", SCRIPT])
            .arg(&self.package)
            .arg(self.dir.join("kinesalite"))
            .arg(port.to_string());
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
        http::answers(at, "/")
    }

    fn furnish(&self, at: SocketAddr) -> Result<(), String> {
        aws::make_stream(at, aws::NAME)
    }

    fn url(&self, service: Service, at: SocketAddr) -> Option<String> {
        (service == Service::Kinesis).then(|| aws::kinesis_url(at, aws::NAME))
    }
}
