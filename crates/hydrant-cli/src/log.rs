//! The program's own log, on standard error.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::EnvFilter;

use crate::exit::{Failure, Outcome};
use crate::progress;
use crate::url::did_you_mean;

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Hides warnings of the AWS SDK: its errors repeat them, or they are none, such as on a machine outside of AWS.
const SDK: &str = "aws_config=error,aws_runtime=error,aws_smithy_runtime=error";

/// Logs what `filter` lets through, above whatever progress bars there are.
pub(crate) fn start(filter: &str) -> Outcome<()> {
    if let Some(word) = filter.split(',').map(str::trim).find(|word| lets_nothing_through(word)) {
        let near = did_you_mean(word, LEVELS);
        let levels = LEVELS.join(", ");
        return Err(Failure::Usage(format!(
            "--log {filter}: `{word}` is no level{near} (levels: {levels}; or a filter like hydrant=debug)"
        )));
    }
    let quiet = if filter == "warn" { format!("{filter},{SDK}") } else { filter.to_owned() };
    let filter = EnvFilter::builder().parse(quiet).map_err(|cause| {
        Failure::Usage(format!("--log {filter}: {cause}; write for example debug or hydrant=debug"))
    })?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(progress::AboveBars::default)
        .try_init()
        .map_err(|cause| Failure::Refused(format!("the log cannot be started: {cause}")))
}

/// Returns whether it would be taken for the name of a module that there is not.
fn lets_nothing_through(word: &str) -> bool {
    let is_level = LEVELS.iter().any(|level| level.eq_ignore_ascii_case(word));
    !(word.is_empty() || is_level || word.starts_with("hydrant") || word.contains(['=', '[', ']', '{', '}']))
}
