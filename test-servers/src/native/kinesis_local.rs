//! kinesis-local: Kinesis with resharding and enhanced fan-out.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::install;
use super::process::Process;
use super::server::{Program, free_port, log, settings_env};
use crate::{Service, aws, http};

/// How kinesis-local is installed and started.
#[derive(Debug)]
pub struct KinesisLocalServer {
    node: PathBuf,
    preload: PathBuf,
    package: PathBuf,
    dir: PathBuf,
    tls_port: u16,
    settings: Vec<(String, String)>,
}

impl Program for KinesisLocalServer {
    const NAME: &'static str = "kinesis-local";
    const SERVICE: Option<Service> = Some(Service::Kinesis);

    fn prepare(dir: &Path, settings: &[&str]) -> Result<Self, String> {
        let package = install::node()?.join("node_modules/kinesis-local");
        let (node, preload) = (install::node_program()?, install::preload()?);
        // It insists on a port for TLS, too.
        Ok(Self {
            node,
            preload,
            package,
            dir: dir.to_owned(),
            tls_port: free_port()?,
            settings: settings_env(settings)?,
        })
    }

    fn version(&self) -> String {
        "0.6.2".to_owned()
    }

    fn command(&self, port: u16) -> Command {
        let mut command = Process::command("KILL", &self.dir, &log(Self::NAME), &self.node);
        command.arg("--require").arg(&self.preload).arg(self.package.join("main.js"));
        command.env("KINESIS_MOCK_PLAIN_PORT", port.to_string());
        command.env("KINESIS_MOCK_TLS_PORT", self.tls_port.to_string());
        command.env("KINESIS_MOCK_CERT_PATH", self.package.join("server.json"));
        for duration in
            ["CREATE_STREAM", "DELETE_STREAM", "SPLIT_SHARD", "MERGE_SHARDS", "UPDATE_SHARD_COUNT"]
        {
            command.env(format!("{duration}_DURATION"), "10ms");
        }
        for duration in ["REGISTER_STREAM_CONSUMER", "DEREGISTER_STREAM_CONSUMER"] {
            command.env(format!("{duration}_DURATION"), "10ms");
        }
        command.env("SHARD_LIMIT", "1000").env("LOG_LEVEL", "ERROR");
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
        http::answers(at, "/healthcheck")
    }

    fn furnish(&self, at: SocketAddr) -> Result<(), String> {
        aws::make_stream(at, aws::NAME)
    }

    fn url(&self, service: Service, at: SocketAddr) -> Option<String> {
        (service == Service::Kinesis).then(|| aws::kinesis_url(at, aws::NAME))
    }
}
