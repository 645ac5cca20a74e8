//! Measures against real servers on this machine, and keeps the figures for docs/BENCHMARKS.md.
//! `cargo xtask bench` runs it.

mod everywhere;
mod kinesis;
mod postgres;
mod s3;
mod servers;

use hydrant_benches::figure::Section;
use hydrant_benches::{Result, machine, scratch};

#[tokio::main]
async fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    if let ["child-everywhere", events, name] = args[..] {
        return Box::pin(everywhere::child(events.parse()?, name)).await;
    }
    if cfg!(debug_assertions) {
        eprintln!("warning: this is not a release build; its figures mean nothing");
    }
    for section in args {
        println!("== {section}");
        let figures = match section {
            "postgres" => Box::pin(postgres::run()).await?,
            "s3" => Box::pin(s3::run()).await?,
            "kinesis" => Box::pin(kinesis::run()).await?,
            "everywhere" => Box::pin(everywhere::run()).await?,
            unknown => return Err(format!("there is no section {unknown:?}").into()),
        };
        Section { machine: machine::describe(&scratch()), figures }.save(section)?;
    }
    Ok(())
}
