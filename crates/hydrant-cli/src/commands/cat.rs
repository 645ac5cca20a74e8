//! `hydrant cat`: the events of a log, one line each.

use hydrant::{EventId, ReadFrom};

use crate::args::CatArgs;
use crate::commands::copy::{refuse_live, whole};
use crate::exit::{Exit, Failure, Outcome};
use crate::output::Output;
use crate::signals::{Next, Stop};

/// Prints until the end, or the event that was asked for.
pub(crate) async fn run(args: CatArgs, stop: &Stop) -> Outcome {
    refuse_live(&args.url)?;
    args.url.must_hold_a_log().await?;
    let source = args.url.source().await?;
    let from = if args.snapshot { ReadFrom::Snapshot } else { args.after.into() };
    let mut events = source.read(from);
    let mut output = Output::lock();
    let mut last = args.after;
    let ended = loop {
        let event = match stop.next(&mut events).await {
            Next::Event(event) => event,
            Next::Failed(error) => break Err(error.into()),
            Next::End => break whole(&args.url).await,
            Next::Stopped => break Err(interrupted(last)),
        };
        if args.until.is_some_and(|until| event.id() > until) {
            break Ok(Exit::Fine);
        }
        output.event(&event)?;
        last = Some(event.id());
    };
    // What came before an error is whole, so it is shown.
    output.flush()?;
    ended
}

/// Returns the failure of a command that a signal stopped. It says how to continue behind the last event.
pub(crate) fn interrupted(last: Option<EventId>) -> Failure {
    let behind =
        last.map_or_else(String::new, |last| format!(" behind event {last}; go on with --after {last}"));
    Failure::Incomplete(format!("stopped by a signal{behind}"))
}
