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
            ("store", Some(status.target)),
            ("first event", Some(id(status.first_id))),
            ("last event", Some(id(status.last_id))),
            ("events", Some(status.events.to_string())),
            ("bytes", Some(status.bytes.to_string())),
            ("segments", status.segments.map(|segments| segments.to_string())),
            ("checkpoint", Some(checkpoint)),
        ] {
            if let Some(value) = value {
                output.text(format_args!("{name:12} {value}"))?;
            }
        }
    }
    output.flush()?;
    Ok(Exit::Fine)
}
