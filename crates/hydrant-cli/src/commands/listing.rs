//! `hydrant stores` and `hydrant completion`: what the program itself knows.

use clap::CommandFactory as _;
use clap_complete::Shell;
use serde::Serialize;

use crate::args::Cli;
use crate::exit::{Exit, Outcome};
use crate::options::OptionRow;
use crate::output::Output;
use crate::stores::{SCHEMES, Scheme};

#[derive(Serialize)]
struct SchemeRow {
    scheme: &'static str,
    syntax: &'static str,
    about: &'static str,
    options: Vec<OptionRow>,
}

/// Lists every scheme with its options and their defaults.
pub(crate) fn stores(json: bool) -> Outcome {
    let mut output = Output::lock();
    for Scheme { name: scheme, syntax, about, options, .. } in SCHEMES {
        let options = options();
        if json {
            output.json(&SchemeRow { scheme, syntax, about, options })?;
            continue;
        }
        output.text(format_args!("{syntax}\n    {about}"))?;
        let width = options.iter().map(|row| row.name.len() + row.takes.len() + 1).max().unwrap_or(0);
        for row in &options {
            let option = format!("{}={}", row.name, row.takes);
            output.text(format_args!("    {option:width$}  {} (default: {})", row.about, row.default))?;
        }
    }
    output.flush()?;
    Ok(Exit::Fine)
}

/// Prints the completion script of a shell.
pub(crate) fn completion(shell: Shell) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "hydrant", &mut script);
    let mut output = Output::lock();
    output.text(String::from_utf8_lossy(&script).trim_end())?;
    output.flush()?;
    Ok(Exit::Fine)
}
