//! The program's own log, on standard error.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::EnvFilter;

use crate::exit::{Failure, Outcome};
use crate::progress;

/// Logs what `filter` lets through, above whatever progress bars there are.
pub(crate) fn start(filter: &str) -> Outcome<()> {
    let filter = EnvFilter::builder().parse(filter).map_err(|cause| {
        Failure::Usage(format!("--log {filter}: {cause}; write for example debug or hydrant=debug"))
    })?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(progress::AboveBars::default)
        .try_init()
        .map_err(|cause| Failure::Refused(format!("the log cannot be started: {cause}")))
}
