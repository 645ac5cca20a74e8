//! Measures, and keeps the figures for docs/BENCHMARKS.md. `cargo xtask bench` runs it.

mod append;
mod chart;
mod fanout;
mod logs;
mod replay;
mod report;
mod seek;

use std::path::Path;

use hydrant_benches::figure::Section;
use hydrant_benches::{Result, machine, scratch};

#[tokio::main]
async fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["child-hydrate", log] => return replay::child_hydrate(Path::new(log)).await,
        ["child-crash", log] => return seek::child_crash(Path::new(log)).await,
        // One crowd alone, for a profiler.
        ["crowd", tasks, together] => return append::one_crowd(tasks.parse()?, together.parse()?).await,
        ["report"] => return report::write(),
        _ => {}
    }
    if cfg!(debug_assertions) {
        eprintln!("warning: this is not a release build; its figures mean nothing");
    }
    for section in args {
        println!("== {section}");
        let figures = match section {
            "append" => append::run().await?,
            "replay" => replay::run().await?,
            "seek" => seek::run().await?,
            "fanout" => fanout::run().await?,
            unknown => return Err(format!("there is no section {unknown:?}").into()),
        };
        Section { machine: machine::describe(&scratch()), figures }.save(section)?;
    }
    Ok(())
}
