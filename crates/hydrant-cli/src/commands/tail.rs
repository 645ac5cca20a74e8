//! `hydrant tail`: events as they come, until Ctrl-C.

use hydrant::ReadFrom;

use crate::args::TailArgs;
use crate::exit::{Exit, Outcome};
use crate::output::Output;
use crate::signals::{Next, Stop};

/// Prints what comes, each batch as soon as it is there.
pub(crate) async fn run(args: TailArgs, stop: &Stop) -> Outcome {
    let after = if args.origin || args.after.is_some() { args.after } else { args.url.head().await? };
    let source = args.url.source().await?;
    let mut events = source.follow(ReadFrom::from(after));
    let mut output = Output::lock();
    loop {
        let next = if let Some(next) = stop.next_at_once(&mut events) {
            next
        } else {
            output.flush()?; // before there is a reason to wait
            stop.next(&mut events).await
        };
        let ended = match next {
            Next::Event(event) => {
                output.event(&event)?;
                continue;
            }
            Next::Failed(error) => Err(error.into()),
            Next::End | Next::Stopped => Ok(Exit::Fine),
        };
        output.flush()?;
        return ended;
    }
}
