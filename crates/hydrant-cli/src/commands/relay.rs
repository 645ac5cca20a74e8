//! `hydrant relay`: a fan-out over a log of another writer.

mod opening;
mod reader;
mod report;
mod state_dir;

use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::{BoxFuture, join_all};
use hydrant::{
    FanOutStatus, Laggard, Relay, RelayOptions, SecondaryOptions, SecondaryState, SecondaryStatus, StartAt,
};
use tokio::sync::watch;

use self::opening::{Unopened, opening};
use self::reader::UntilReaderLeaves;
use self::report::Report;
use self::state_dir::StateDir;
use crate::args::RelayArgs;
use crate::commands::copy::{refuse_same, whole};
use crate::exit::{Exit, Failure, Outcome, exit_of};
use crate::signals::Stop;
use crate::stores::{OpenSink, Reads};

/// How long a call waits for the reader of standard output. A slow reader is no failure.
const PATIENCE: Duration = Duration::from_hours(365 * 24);

/// Delivers to the end of the log, or for ever.
pub(crate) async fn run(args: RelayArgs, json: bool, stop: &Stop) -> Outcome {
    check(&args)?;
    if !args.follow {
        args.from.must_hold_a_log().await?;
    }
    let state_dir = StateDir::open(args.state_dir.as_deref()).await?;
    let source = args.from.source().await?;
    let options = RelayOptions::default().with_follow(args.follow);
    let relay = Relay::open(source, state_dir.roster(), options).await?;
    let (closings, reader) = attach(&relay, &args, &state_dir).await?;

    let mut report = Report::new(&args, json);
    let ended = deliver(&relay, &args, &mut report, reader.clone(), stop).await;
    let late = matches!(ended, Ok(Ended::Late));
    let laggards = relay.close(if late { Duration::ZERO } else { args.drain_timeout }).await;
    let status = relay.status();
    drop(relay);
    let closed = close_all(closings).await;
    let satisfied = |laggard: &Laggard| {
        reader.as_ref().is_some_and(|reader| reader.name == laggard.name && *reader.left.borrow())
    };
    let lacking: Vec<_> = laggards.into_iter().filter(|laggard| !satisfied(laggard)).collect();
    report.end(&status, &lacking)?;
    ended?;
    closed?;
    let exits = lacking.iter().map(|laggard| laggard.last_error.as_ref().map_or(Exit::Data, exit_of));
    let exit = exits.max().unwrap_or(Exit::Fine);
    if late && exit == Exit::Fine {
        let message = "the deadline passed before the end of the log; the same command goes on from there";
        return Err(Failure::Incomplete(message.to_owned()));
    }
    if exit == Exit::Fine && !args.follow { whole(&args.from).await } else { Ok(exit) }
}

/// What closes each sink.
type Closings = Vec<BoxFuture<'static, hydrant::Result<()>>>;

/// Closes every sink to its end, also where another fails: then the first of the errors is the answer.
async fn close_all(closings: Closings) -> hydrant::Result<()> {
    let closed = join_all(closings).await;
    for error in closed.iter().filter_map(|closed| closed.as_ref().err()) {
        tracing::warn!(%error, "a sink was not closed as it should be");
    }
    closed.into_iter().collect()
}

/// Attaches all sinks, each of which is opened by its own pump.
async fn attach(
    relay: &Relay,
    args: &RelayArgs,
    state_dir: &StateDir,
) -> Outcome<(Closings, Option<Reader>)> {
    let unopened = if args.follow { Unopened::Retries } else { Unopened::Parks };
    let mut reader = None;
    let mut closings = Vec::with_capacity(args.to.len());
    for to in &args.to {
        let (url, keeper) = (to.url.clone(), state_dir.keeper(&to.name));
        let OpenSink { mut sink, closing } = opening(&to.name, unopened, move || {
            let (url, keeper) = (url.clone(), keeper.clone());
            async move { url.sink(keeper).await }
        });
        let start = if args.from_snapshot { StartAt::OldestSnapshot } else { StartAt::Checkpoint };
        let mut options = SecondaryOptions::default().with_target(to.url.target()).with_start(start);
        if to.url.is_stdio() {
            let (until_reader_leaves, left) = UntilReaderLeaves::new(sink);
            (sink, reader) = (until_reader_leaves, Some(Reader { name: to.name.clone(), left }));
            options = options.with_call_timeout(PATIENCE);
        }
        if !to.url.has_memory() {
            sink = state_dir.checkpointed(to, sink).await?;
        }
        relay.attach(&to.name, sink, options).await?;
        closings.push(closing);
    }
    Ok((closings, reader))
}

/// The reader of standard output, under the name of that sink.
#[derive(Clone)]
struct Reader {
    name: String,
    left: watch::Receiver<bool>,
}

/// Resolves when the reader leaves.
async fn reader_left(reader: &mut Option<Reader>) -> String {
    if let Some(reader) = reader
        && reader.left.wait_for(|left| *left).await.is_ok()
    {
        return reader.name.clone();
    }
    std::future::pending().await
}

/// Checks what the command line alone shows.
fn check(args: &RelayArgs) -> Outcome<()> {
    if args.from.reads() != Reads::Again {
        return Err(Failure::Usage(format!(
            "{} cannot be read again from where a sink stands; copy it into a store, and relay that",
            args.from
        )));
    }
    if let Some(dir) = args.state_dir.as_deref().filter(|dir| dir.join("state").is_file()) {
        let dir = dir.display();
        return Err(Failure::Usage(format!(
            "--state-dir {dir}: this directory holds a log (there is a file `state`); name another directory"
        )));
    }
    for (index, to) in args.to.iter().enumerate() {
        refuse_same(&args.from, &to.url)?;
        let before = &args.to[..index];
        if before.iter().any(|other| other.name == to.name) {
            let name = &to.name;
            return Err(Failure::Usage(format!(
                "two sinks are called `{name}`; give each a name of its own: --to NAME={}",
                to.url
            )));
        }
        if before.iter().any(|other| other.url.identity() == to.url.identity()) {
            return Err(Failure::Usage(format!("two sinks write to {}; keep one", to.url)));
        }
        if !to.url.has_memory() && args.state_dir.is_none() {
            return Err(Failure::Usage(format!(
                "{} has no memory of what it was given; say where to keep its checkpoint: --state-dir DIR",
                to.url
            )));
        }
    }
    Ok(())
}

/// How a delivery ended.
enum Ended {
    /// At the end of the log, by a signal, or because every sink has ended.
    InTime,
    /// By `--deadline`.
    Late,
}

async fn deliver(
    relay: &Relay,
    args: &RelayArgs,
    report: &mut Report,
    mut reader: Option<Reader>,
    stop: &Stop,
) -> Outcome<Ended> {
    let mut deadline = std::pin::pin!(tokio::time::sleep(args.deadline.unwrap_or_default()));
    let mut statuses = std::pin::pin!(relay.watch());
    let mut finished = std::pin::pin!(relay.finished());
    loop {
        tokio::select! {
            () = stop.wait() => {
                if args.follow {
                    return Ok(Ended::InTime);
                }
                let message = "stopped by a signal before the end; the same command goes on from there";
                return Err(Failure::Incomplete(message.to_owned()));
            }
            ended = &mut finished => {
                drop(ended?); // closing the relay reports the laggards
                return Ok(Ended::InTime);
            }
            () = &mut deadline, if args.deadline.is_some() => return Ok(Ended::Late),
            name = reader_left(&mut reader) => {
                relay.park(&name)?;
                reader = None;
            }
            Some(status) = statuses.next() => {
                report.show(&status)?;
                if attached(&status).all(|secondary| secondary.state == SecondaryState::Parked) {
                    return Ok(Ended::InTime);
                }
            }
        }
    }
}

/// The secondaries of this run; the state directory may know others from before.
fn attached(status: &FanOutStatus) -> impl Iterator<Item = &SecondaryStatus> {
    status.secondaries.iter().filter(|secondary| secondary.state != SecondaryState::Detached)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::FutureExt as _;
    use hydrant::Error;

    use super::*;

    #[tokio::test]
    async fn a_sink_that_fails_to_close_keeps_no_other_from_being_closed() {
        let closed = Arc::new(AtomicUsize::new(0));
        let closing = |fails: Option<&'static str>| {
            let closed = closed.clone();
            async move {
                if let Some(message) = fails {
                    return Err(Error::fenced(message));
                }
                tokio::task::yield_now().await;
                closed.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            .boxed()
        };
        let closings = [None, Some("one"), None, Some("other"), None].into_iter().map(closing).collect();
        assert_eq!(close_all(closings).await.unwrap_err().message(), "one");
        assert_eq!(closed.load(Ordering::Relaxed), 3);
    }
}
