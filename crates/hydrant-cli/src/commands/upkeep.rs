//! `hydrant prune` and `hydrant compact`: what a log needs from time to time.

use futures_util::StreamExt as _;
use hydrant::{ErrorKind, EventId, EventSource, ReadFrom, Result};
use serde::Serialize;

use crate::args::{PruneArgs, UrlArgs};
use crate::exit::{Exit, Outcome};
use crate::output::Output;

#[derive(Serialize)]
struct Pruned {
    /// The oldest event that is kept; none of an empty log.
    oldest: Option<EventId>,
    /// Whether it is another one than before.
    moved: bool,
}

/// Removes the events before an event, and prints the event that the log then begins with.
pub(crate) async fn prune(args: PruneArgs, json: bool) -> Outcome {
    args.url.must_hold_a_log().await?;
    let source = args.url.source().await?;
    let begun = oldest(&*source).await?;
    args.url.prune(args.before).await?;
    let oldest = oldest(&*source).await?;
    let mut output = Output::lock();
    match oldest {
        _ if json => output.json(&Pruned { oldest, moved: oldest != begun })?,
        None => output.text("the log is empty")?,
        Some(oldest) if Some(oldest) != begun => {
            output.text(format_args!("the log begins with event {oldest}"))?;
        }
        Some(oldest) => output.text(format_args!(
            "nothing was pruned: the log begins with event {oldest}, and behind it no snapshot event stands before \
             event {}, or a secondary still needs what it would free",
            args.before
        ))?,
    }
    output.flush()?;
    Ok(Exit::Fine)
}

async fn oldest(source: &dyn EventSource) -> Result<Option<EventId>> {
    match source.read(ReadFrom::Origin).next().await.transpose() {
        Ok(event) => Ok(event.map(|event| event.id())),
        Err(error) => match error.kind() {
            ErrorKind::Pruned { oldest } => Ok(Some(oldest)),
            _ => Err(error),
        },
    }
}

/// Merges small segments.
pub(crate) async fn compact(args: UrlArgs, json: bool) -> Outcome {
    args.url.must_hold_a_log().await?;
    let compaction = args.url.compact().await?;
    let mut output = Output::lock();
    if json {
        output.json(&compaction)?;
    } else {
        let (segments, into, events) = (compaction.segments, compaction.into, compaction.events);
        output.text(format_args!("merged {segments} segments into {into}, with {events} events"))?;
    }
    output.flush()?;
    Ok(Exit::Fine)
}
