//! The program `hydrant`: relay, cat, tail, copy, verify and repair event logs, between any two stores, by
//! URL. docs/cli.md is its manual.

#![cfg_attr(
    not(all(feature = "kinesis", feature = "postgres", feature = "s3")),
    allow(dead_code, reason = "a program with fewer stores uses less of what they share")
)]

mod args;
mod commands;
mod exit;
mod lines;
mod log;
mod options;
mod output;
mod progress;
mod secrets;
mod signals;
mod stores;
mod url;
mod values;

use std::process::ExitCode;

use clap::Parser as _;

use crate::args::Cli;
use crate::exit::{Exit, Failure, Outcome};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => return wrong_usage(&error),
        Err(error) => error.exit(),
    };
    let json = cli.global.json;
    let outcome = run(cli);
    if let Err(failure) = &outcome {
        failure.report(json);
    }
    outcome.unwrap_or_else(|failure| failure.exit()).into()
}

/// Reports what is wrong with the command line. The message may quote any argument, so passwords are hidden.
fn wrong_usage(error: &clap::Error) -> ExitCode {
    let arguments: Vec<_> =
        std::env::args_os().map(|argument| argument.to_string_lossy().into_owned()).collect();
    let message =
        arguments.iter().fold(error.to_string(), |message, argument| secrets::hide_in(&message, argument));
    if arguments.iter().any(|argument| argument == "--json") {
        Failure::of_the_command_line(&message).report(true);
    } else {
        output::say(message.trim_end());
    }
    Exit::Usage.into()
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
