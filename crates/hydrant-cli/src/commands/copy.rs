//! `hydrant copy`: copies a log into another store, and continues an earlier copy.

use std::sync::Arc;
use std::time::Duration;

use hydrant::{Batch, Error, ErrorKind, Event, EventId, EventSink, Retry};
use indicatif::ProgressBar;
use serde::Serialize;
use tokio::time::Instant;

use crate::args::CopyArgs;
use crate::commands::lineage::{self, Missing};
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{Output, say};
use crate::progress;
use crate::signals::{Next, Stop};
use crate::stores::{OpenSink, Reads};
use crate::url::StoreUrl;
use crate::values::show_duration;

/// How long one append may take: then it is made again, or the copy ends.
const APPEND_TIMEOUT: Duration = Duration::from_secs(30);
/// The most that is appended at once.
const BATCH_EVENTS_MAX: usize = 4096;
const BATCH_BYTES_MAX: usize = 4 << 20;
/// How long a batch waits to be filled; a disk that syncs is kept busy with bigger ones.
const LINGER: Duration = Duration::from_millis(5);
/// How many times a call is retried before the copy gives up, and the first pause, which doubles.
const RETRIES_MAX: u32 = 5;
const PAUSE: Duration = Duration::from_millis(100);
/// How long a batch that is under way may take after the first signal.
const GRACE: Duration = Duration::from_secs(10);

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary {
    from: String,
    to: String,
    copied: u64,
    bytes: u64,
    last_id: Option<EventId>,
}

/// Copies to the end of what the log is now.
pub(crate) async fn run(args: CopyArgs, json: bool, stop: &Stop) -> Outcome {
    refuse_same(&args.from, &args.to)?;
    refuse_live(&args.from)?;
    args.from.must_hold_a_log().await?;
    let source = args.from.source().await?;
    let target = args.to.sink(None).await?;
    let checkpoint = target.sink.checkpoint().await?;
    let missing =
        lineage::missing(&*source, checkpoint, args.from.reads() == Reads::Again, args.from_snapshot).await?;
    let head = args.from.head().await?;
    let OpenSink { sink, closing } = target;
    let mut copy = Copy {
        sink,
        is_bounded: !args.to.is_stdio(),
        after: missing.after,
        copied: 0,
        bytes: 0,
        bar: progress::bar("copy", head.map(EventId::get)),
    };
    let ended = copy.all(missing, stop).await;
    copy.bar.finish_and_clear();
    let closed = closing.await;
    let summary = Summary {
        from: args.from.to_string(),
        to: args.to.to_string(),
        copied: copy.copied,
        bytes: copy.bytes,
        last_id: copy.after,
    };
    summary.print(json, args.to.is_stdio())?;
    ended?;
    closed?;
    whole(&args.from).await
}

/// A log cannot be its own copy.
pub(crate) fn refuse_same(from: &StoreUrl, to: &StoreUrl) -> Outcome<()> {
    if from.is_stdio() || from.identity() != to.identity() {
        return Ok(());
    }
    Err(Failure::Usage(format!("{from} is both source and target; name another target")))
}

/// Everything before it was read; what a crash left at the end of a log is an error all the same.
pub(crate) async fn whole(from: &StoreUrl) -> Outcome {
    match from.left_over().await? {
        Some(error) => Err(error.into()),
        None => Ok(Exit::Fine),
    }
}

/// What only arrives has no end to copy to.
pub(crate) fn refuse_live(from: &StoreUrl) -> Outcome<()> {
    if from.reads() != Reads::Live {
        return Ok(());
    }
    Err(Failure::Usage(format!(
        "{from} keeps nothing that could be read to its end; use `hydrant tail {from}`"
    )))
}

struct Copy {
    sink: Arc<dyn EventSink>,
    /// A reader of standard output may take as long as it likes.
    is_bounded: bool,
    after: Option<EventId>,
    copied: u64,
    bytes: u64,
    bar: ProgressBar,
}

impl Copy {
    async fn all(&mut self, mut missing: Missing, stop: &Stop) -> Outcome<()> {
        let mut waiting: Vec<Event> = missing.first.take().into_iter().collect();
        loop {
            let ended = fill(&mut missing, &mut waiting, stop).await;
            if !waiting.is_empty() {
                // What came before an error is whole, so it is kept.
                tokio::select! {
                    appended = self.append_all(&waiting) => appended?,
                    () = out_of_patience(stop) => return Err(Failure::Incomplete(format!(
                        "stopped by a signal; the target did not answer within {}; the same command goes \
                         on from where it stands",
                        show_duration(GRACE)
                    ))),
                }
                waiting.clear();
            }
            match ended {
                None | Some(Next::Event(_)) => {}
                Some(Next::End) => return Ok(()),
                Some(Next::Failed(error)) => return Err(error.into()),
                Some(Next::Stopped) => {
                    let at = self.after.map_or_else(String::new, |id| format!(" behind event {id}"));
                    return Err(Failure::Incomplete(format!(
                        "stopped by a signal{at}; the same command goes on from there"
                    )));
                }
            }
        }
    }

    async fn append_all(&mut self, events: &[Event]) -> Outcome<()> {
        for segment in Batch::segments(events) {
            self.append(segment).await?;
        }
        Ok(())
    }

    async fn append(&mut self, events: &[Event]) -> Outcome<()> {
        let batch = Batch::new(self.after, events)?;
        let deadline = || self.is_bounded.then(|| Instant::now() + APPEND_TIMEOUT);
        let mut attempt = 0;
        // The same bytes under the same ids: compare-and-append makes a second time harmless.
        while let Err(error) = self.sink.append(batch.with_deadline(deadline())).await {
            if error.retry() == Retry::Never || error.kind() == ErrorKind::Gap || attempt == RETRIES_MAX {
                return Err(refused(error));
            }
            tracing::warn!(%error, attempt, "the target did not take a batch; trying again");
            tokio::time::sleep(PAUSE * 2_u32.pow(attempt)).await;
            attempt += 1;
        }
        self.after = Some(batch.last().id());
        self.copied += events.len() as u64;
        self.bytes += events.iter().map(|event| event.size() as u64 + 1).sum::<u64>();
        self.bar.set_position(batch.last().id().get());
        Ok(())
    }
}

/// The reader of standard output may leave; anything else is an error.
fn refused(error: Error) -> Failure {
    if error.target() == Some("-") && error.kind() == ErrorKind::Closed {
        return Failure::ReaderGone;
    }
    error.into()
}

/// Resolves some time after the first signal.
async fn out_of_patience(stop: &Stop) {
    stop.wait().await;
    tokio::time::sleep(GRACE).await;
}

/// Gathers a batch: at least one event, then whatever comes soon. `None` when there may be more to come.
async fn fill(missing: &mut Missing, batch: &mut Vec<Event>, stop: &Stop) -> Option<Next> {
    let mut bytes: usize = batch.iter().map(Event::size).sum();
    let mut linger = std::pin::pin!(tokio::time::sleep(LINGER));
    while batch.len() < BATCH_EVENTS_MAX && bytes < BATCH_BYTES_MAX {
        let next = if let Some(next) = stop.next_at_once(&mut missing.events) {
            next
        } else {
            tokio::select! {
                next = stop.next(&mut missing.events) => next,
                () = &mut linger, if !batch.is_empty() => return None,
            }
        };
        let Next::Event(event) = next else { return Some(next) };
        bytes += event.size();
        batch.push(event);
    }
    None
}

impl Summary {
    /// On standard output, unless the events go there.
    fn print(&self, json: bool, events_on_stdout: bool) -> Outcome<()> {
        let Self { from, to, copied, bytes, last_id } = self;
        let last = last_id.map_or_else(|| "is empty".to_owned(), |id| format!("ends at event {id}"));
        if events_on_stdout {
            if json {
                say(serde_json::to_string(self).expect("strings and numbers are JSON"));
            }
            return Ok(());
        }
        let mut output = Output::lock();
        if json {
            output.json(self)?;
        } else {
            output.text(format_args!("copied {copied} events ({bytes} bytes) from {from}; {to} {last}"))?;
        }
        output.flush()
    }
}
