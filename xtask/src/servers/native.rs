//! Servers without a Docker engine.

use std::any::Any;
use std::path::Path;
use std::time::Duration;

use test_servers::native::{KinesisLocal, LocalStack, MiniStack, Postgres, Program, Server, until};
use test_servers::{Service, directory};

use super::record::{Process, Record};

/// How long a server may take to end by itself.
const ENDING: Duration = Duration::from_secs(10);

/// Starts a server that outlives this process. It uses the port that it had before, or the customary one, if that is
/// free.
pub(crate) fn up(name: &str) -> Result<Record, String> {
    let before = Record::read(name);
    if let Some(record) = &before {
        // Its process may exist and not reply.
        end(record)?;
    }
    let dir = directory().join("data").join(name);
    let port = |customary| Some(before.map_or(customary, |record| record.port));
    match name {
        "postgres" => detached(name, Postgres::launch(&dir, &[], port(5433))?),
        "s3" => detached(name, MiniStack::launch(&dir, &[], port(4567))?),
        "kinesis" => detached(name, KinesisLocal::launch(&dir, &[], port(4568))?),
        _ => detached(name, LocalStack::launch(&dir, &[], port(4566))?),
    }
}

fn detached<P: Program>(name: &str, server: Server<P>) -> Result<Record, String> {
    let record = record(name, &server)?;
    server.detach()?;
    Ok(record)
}

fn record<P: Program>(name: &str, server: &Server<P>) -> Result<Record, String> {
    let url = |service| Some((service, server.url_of(service)?));
    Ok(Record {
        name: name.to_owned(),
        version: format!("{} {}", P::NAME, server.version()),
        port: server.port(),
        process: Some(server.pid().and_then(Process::of).ok_or_else(|| format!("{name} ended at once"))?),
        urls: Service::ALL.into_iter().filter_map(url).collect(),
    })
}

/// Ends the process that was started, and all that it started. If the id belongs to another process now, does nothing.
pub(crate) fn end(record: &Record) -> Result<(), String> {
    let Some(process) = record.process.as_ref().filter(|process| process.is_alive()) else {
        return Ok(());
    };
    // On TERM, Postgres waits for its clients.
    process.signal(if record.name == "postgres" { "INT" } else { "TERM" }, false);
    let ended = || (!process.is_alive()).then_some(());
    if until(ENDING, ended).is_none() {
        process.signal("KILL", true);
    }
    until(ENDING, ended).ok_or_else(|| format!("{}: process {} does not end", record.name, process.id))
}

/// A server of this run only. It ends when it is dropped, and when this process ends in any way.
pub(crate) type Private = Box<dyn Any + Send>;

/// Starts a server of this run only.
pub(crate) fn private(service: Service, dir: &Path) -> Result<(Record, Private), String> {
    let (name, dir) = (service.name(), dir.join(service.name()));
    match service {
        Service::Postgres => boxed(name, Postgres::launch(&dir, &[], None)?),
        Service::S3 => boxed(name, MiniStack::launch(&dir, &[], None)?),
        Service::Kinesis => boxed(name, KinesisLocal::launch(&dir, &[], None)?),
    }
}

fn boxed<P: Program + Send + 'static>(name: &str, server: Server<P>) -> Result<(Record, Private), String> {
    Ok((record(name, &server)?, Box::new(server)))
}
