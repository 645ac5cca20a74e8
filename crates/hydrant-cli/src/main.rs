//! The program `hydrant`: relay, cat, tail, copy, verify and repair event logs, between any two stores, by
//! URL. docs/cli.md is its manual.

mod args;
mod commands;
mod exit;
mod lines;
mod log;
mod output;
mod progress;
mod signals;
mod stores;
mod url;
mod values;

use std::process::ExitCode;

use clap::Parser as _;

use crate::args::Cli;
use crate::exit::{Failure, Outcome};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() && std::env::args_os().any(|argument| argument == "--json") => {
            let failure = Failure::of_the_command_line(&error);
            failure.report(true);
            return failure.exit().into();
        }
        Err(error) => error.exit(),
    };
    let json = cli.global.json;
    let outcome = run(cli);
    if let Err(failure) = &outcome {
        failure.report(json);
    }
    outcome.unwrap_or_else(|failure| failure.exit()).into()
}

fn run(cli: Cli) -> Outcome {
    log::start(&cli.global.log)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|cause| Failure::Refused(format!("no runtime can be started: {cause}")))?;
    let outcome = runtime.block_on(async {
        let stop = signals::listen()
            .map_err(|cause| Failure::Refused(format!("signals cannot be listened to: {cause}")))?;
        commands::run(cli, stop).await
    });
    // A thread that still waits for a terminal or a full pipe must not hold up the end.
    runtime.shutdown_background();
    outcome
}
