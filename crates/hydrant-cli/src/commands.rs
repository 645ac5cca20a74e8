//! The commands, one room each.

mod cat;
mod check;
mod compare;
mod copy;
mod lineage;
mod listing;
mod relay;
mod status;
mod tail;
mod upkeep;

use crate::args::{Cli, Command};
use crate::exit::{Failure, Outcome};
use crate::progress;
use crate::signals::Stop;

/// Runs what the command line says.
pub(crate) async fn run(cli: Cli, stop: Stop) -> Outcome {
    let json = cli.global.json;
    progress::show(json);
    match cli.command {
        Command::Relay(args) => relay::run(args, json, &stop).await,
        Command::Cat(args) => cat::run(args, &stop).await,
        Command::Tail(args) => tail::run(args, &stop).await,
        Command::Copy(args) => copy::run(args, json, &stop).await,
        Command::Verify(args) => match &args.against {
            Some(against) => compare::run(&args, against, json, &stop).await,
            None => unless_stopped(&stop, check::verify(&args.url, json)).await,
        },
        Command::Repair(args) => check::repair(args, json).await,
        Command::Prune(args) => unless_stopped(&stop, upkeep::prune(args, json)).await,
        Command::Compact(args) => unless_stopped(&stop, upkeep::compact(args, json)).await,
        Command::Status(args) => unless_stopped(&stop, status::run(args, json)).await,
        Command::Stores => listing::stores(json),
        Command::Completion { shell } => listing::completion(shell),
    }
}

/// A command that can be dropped at any point: it only reads, or leaves a whole log.
async fn unless_stopped<T>(stop: &Stop, command: impl Future<Output = Outcome<T>>) -> Outcome<T> {
    tokio::select! {
        biased;
        () = stop.wait() => Err(Failure::Incomplete("stopped by a signal before the end".to_owned())),
        outcome = command => outcome,
    }
}
