//! Reports the progress of a relay to people and machines.

use std::collections::BTreeMap;
use std::time::Duration;

use hydrant::{EventId, FanOutStatus, Laggard, SecondaryStatus};
use indicatif::ProgressBar;
use serde::Serialize;
use tokio::time::Instant;

use super::attached;
use crate::args::RelayArgs;
use crate::exit::{ErrorObject, Outcome};
use crate::output::{Output, say};
use crate::progress;

/// How often `--json` prints the status while it changes.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// Shows progress while the relay runs, and what became of each sink at its end.
pub(crate) struct Report {
    from: String,
    json: bool,
    /// Events go to standard output, so nothing else may.
    events_on_stdout: bool,
    bars: BTreeMap<String, ProgressBar>,
    reported_at: Option<Instant>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StatusLine<'a> {
    from: &'a str,
    head: Option<EventId>,
    secondaries: Vec<SecondaryLine<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SecondaryLine<'a> {
    name: &'a str,
    target: &'a str,
    state: String,
    checkpoint: Option<EventId>,
    lag_events: u64,
    retries: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error: Option<ErrorObject>,
}

impl<'a> From<&'a SecondaryStatus> for SecondaryLine<'a> {
    fn from(status: &'a SecondaryStatus) -> Self {
        Self {
            name: &status.name,
            target: &status.target,
            state: status.state.to_string(),
            checkpoint: status.checkpoint,
            lag_events: status.lag_events,
            retries: status.retries,
            last_error: status.last_error.as_ref().map(ErrorObject::from),
        }
    }
}

impl Report {
    /// Nothing is shown yet.
    pub(crate) fn new(args: &RelayArgs, json: bool) -> Self {
        let bars = args.to.iter().map(|to| (to.name.clone(), progress::bar(&to.name, None))).collect();
        let events_on_stdout = args.to.iter().any(|to| to.url.is_stdio());
        Self { from: args.from.to_string(), json, events_on_stdout, bars, reported_at: None }
    }

    /// Shows the progress; for machines at most once a second.
    pub(crate) fn show(&mut self, status: &FanOutStatus) -> Outcome<()> {
        for secondary in attached(status) {
            if let Some(bar) = self.bars.get(&secondary.name) {
                bar.set_position(secondary.checkpoint.map_or(0, EventId::get));
                bar.set_message(format!("{}, misses {}", secondary.state, secondary.lag_events));
            }
        }
        let now = Instant::now();
        if !self.json || self.reported_at.is_some_and(|at| now - at < REPORT_EVERY) {
            return Ok(());
        }
        self.reported_at = Some(now);
        self.print_json(status)
    }

    /// Prints the outcome of each sink.
    pub(crate) fn end(&mut self, status: &FanOutStatus, lacking: &[Laggard]) -> Outcome<()> {
        self.bars.values().for_each(ProgressBar::finish_and_clear);
        if self.json {
            return self.print_json(status);
        }
        for laggard in lacking {
            say(format_args!("hydrant: {laggard}"));
        }
        if self.events_on_stdout {
            return Ok(());
        }
        let mut output = Output::lock();
        let is_behind = |name: &str| lacking.iter().any(|laggard| laggard.name == name);
        for secondary in attached(status).filter(|secondary| !is_behind(&secondary.name)) {
            let SecondaryStatus { name, target, checkpoint, .. } = secondary;
            let held = checkpoint
                .map_or_else(|| "nothing to deliver".to_owned(), |id| format!("has all up to event {id}"));
            output.text(format_args!("{name}: {target} {held}"))?;
        }
        output.flush()
    }

    fn print_json(&self, status: &FanOutStatus) -> Outcome<()> {
        let secondaries = attached(status).map(SecondaryLine::from).collect();
        let line = StatusLine { from: &self.from, head: status.head, secondaries };
        if self.events_on_stdout {
            say(serde_json::to_string(&line).expect("strings and numbers are JSON"));
            return Ok(());
        }
        let mut output = Output::lock();
        output.json(&line)?;
        output.flush()
    }
}
