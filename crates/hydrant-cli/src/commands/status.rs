//! `hydrant status`: what a store holds.

use hydrant::{Checkpoint, EventId};

use crate::args::UrlArgs;
use crate::exit::{Exit, Outcome};
use crate::output::Output;

/// Prints it as a small table, or as one JSON object.
pub(crate) async fn run(args: UrlArgs, json: bool) -> Outcome {
    args.url.must_hold_a_log().await?;
    let status = args.url.status().await?;
    let mut output = Output::lock();
    if json {
        output.json(&status)?;
    } else {
        let id = |id: Option<EventId>| id.map_or_else(|| "none".to_owned(), |id| id.to_string());
        let checkpoint = match status.checkpoint {
            Checkpoint::At { id, digest } => format!("event {id}, digest {digest}"),
            other => other.to_string(),
        };
        for (name, value) in [
            ("store", status.target),
            ("first event", id(status.first_id)),
            ("last event", id(status.last_id)),
            ("events", status.events.to_string()),
            ("bytes", status.bytes.to_string()),
            ("segments", status.segments.to_string()),
            ("checkpoint", checkpoint),
        ] {
            output.text(format_args!("{name:12} {value}"))?;
        }
    }
    output.flush()?;
    Ok(Exit::Fine)
}
