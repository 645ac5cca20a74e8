//! `hydrant verify A --against B`: two stores side by side, event by event, in bounded memory.

mod report;

use std::sync::Arc;

use futures_util::future::{try_join, try_join_all};
use futures_util::{FutureExt as _, StreamExt as _};
use hydrant::{Error, ErrorKind, Event, EventId, EventSource, EventStream, ReadFrom, Retry};

use self::report::Report;
use crate::args::VerifyArgs;
use crate::commands::cat::interrupted;
use crate::commands::copy::{refuse_live, whole};
use crate::commands::unless_stopped;
use crate::exit::{Failure, Outcome};
use crate::signals::{Next, Stop};
use crate::stores::Reads;
use crate::url::StoreUrl;

/// Compares to the end of both, or the event that was asked for.
pub(crate) async fn run(args: &VerifyArgs, against: &StoreUrl, json: bool, stop: &Stop) -> Outcome {
    let urls = [&args.url, against];
    refuse_nonsense(urls)?;
    let looking = async {
        try_join_all(urls.map(|url| url.must_hold_a_log())).await?;
        Ok(try_join_all(urls.map(|url| url.head())).await?)
    };
    let heads = unless_stopped(stop, looking).await?;
    let end = args.until.or(heads.into_iter().max().flatten());
    let mut report = Report::new(urls.map(ToString::to_string), json, args.common, end);
    let compared = compare(args, urls, &mut report, stop).await;
    let exit = report.end(compared.is_ok())?;
    compared?;
    for url in urls {
        whole(url).await?;
    }
    Ok(exit)
}

fn refuse_nonsense([a, b]: [&StoreUrl; 2]) -> Outcome<()> {
    refuse_live(a)?;
    refuse_live(b)?;
    if a.identity() != b.identity() {
        return Ok(());
    }
    Err(Failure::Usage(if a.is_stdio() {
        "standard input can be read only once; name a store to compare it with".to_owned()
    } else {
        format!("{a} would be compared with itself; name another store")
    }))
}

async fn compare(args: &VerifyArgs, urls: [&StoreUrl; 2], report: &mut Report, stop: &Stop) -> Outcome<()> {
    let Opened { mut a, mut b, pruned } = unless_stopped(stop, open(args, urls)).await?;
    // The end of a copy is looked at before that of the log which it follows: it is never ahead then.
    a.fill(stop).await?;
    loop {
        let filled = try_join(a.fill(stop), b.fill(stop)).now_or_never();
        if let Some(filled) = filled {
            filled?;
        } else {
            report.flush()?; // before there is a reason to wait
            try_join(a.fill(stop), b.fill(stop)).await?;
        }
        if let Some((side, floor)) = pruned.filter(|_| a.holds_more || b.holds_more) {
            report.pruned(side, floor)?;
        }
        let Some(id) = a.id().into_iter().chain(b.id()).min() else { return Ok(()) };
        match (a.take(id), b.take(id)) {
            (Some(ours), Some(theirs)) => report.pair(&ours, &theirs)?,
            (ours, _) => report.missing_in(usize::from(ours.is_some()), id)?,
        }
    }
}

/// Both sides, each before its first event.
struct Opened {
    a: Side,
    b: Side,
    /// Which of them begins later, because it was pruned, and where.
    pruned: Option<(usize, EventId)>,
}

/// One of two stores that are compared.
struct Side {
    name: String,
    events: EventStream,
    /// Neither store is compared below this event, because one was pruned.
    floor: Option<EventId>,
    until: Option<EventId>,
    next: Option<Event>,
    last: Option<EventId>,
    ended: bool,
    /// Whether it holds events below the floor.
    holds_more: bool,
}

async fn open(args: &VerifyArgs, urls: [&StoreUrl; 2]) -> Outcome<Opened> {
    let sources = try_join_all(urls.map(|url| url.source())).await?;
    let beginnings =
        try_join_all(urls.iter().zip(&sources).map(|(url, source)| begin(url, source, args.after))).await?;
    let pruned = |(side, begins): (usize, &Begins)| match begins {
        Begins::Pruned(oldest) => Some((*oldest, side)),
        Begins::At(_) => None,
    };
    let pruned = beginnings.iter().enumerate().filter_map(pruned).max();
    let floor = pruned.map(|(oldest, _)| oldest);
    let mut sides = urls.iter().zip(sources).zip(beginnings).map(|((url, source), begins)| {
        let before_floor = floor.and_then(|floor| floor.get().checked_sub(1)).map(EventId::new);
        let again = url.reads() == Reads::Again;
        let after = if again { before_floor.or(args.after) } else { args.after };
        Side {
            name: url.to_string(),
            events: source.read(ReadFrom::from(after)),
            floor,
            until: args.until,
            next: None,
            last: None,
            ended: false,
            holds_more: begins.id().is_some_and(|first| floor.is_some_and(|floor| first < floor)),
        }
    });
    let (Some(a), Some(b)) = (sides.next(), sides.next()) else { unreachable!("two went in") };
    Ok(Opened { a, b, pruned: pruned.map(|(oldest, side)| (side, oldest)) })
}

/// Where a store begins, above where it was asked to.
enum Begins {
    /// With this event; `None` if there is none, or if it is unknown before a read.
    At(Option<EventId>),
    /// With this one, because those before it were pruned.
    Pruned(EventId),
}

impl Begins {
    fn id(&self) -> Option<EventId> {
        match self {
            Self::At(first) => *first,
            Self::Pruned(oldest) => Some(*oldest),
        }
    }
}

async fn begin(url: &StoreUrl, source: &Arc<dyn EventSource>, after: Option<EventId>) -> Outcome<Begins> {
    if url.reads() != Reads::Again {
        return Ok(Begins::At(None));
    }
    match source.read(ReadFrom::from(after)).next().await.transpose() {
        Ok(first) => Ok(Begins::At(first.map(|event| event.id()))),
        Err(error) => match error.kind() {
            ErrorKind::Pruned { oldest } => Ok(Begins::Pruned(oldest)),
            _ => Err(error.into()),
        },
    }
}

impl Side {
    /// Makes sure of the next event, unless it has ended.
    ///
    /// # Cancel safety
    /// No event is lost when it is dropped.
    async fn fill(&mut self, stop: &Stop) -> Outcome<()> {
        while self.next.is_none() && !self.ended {
            let event = match stop.next(&mut self.events).await {
                Next::Event(event) => event,
                Next::End => {
                    self.ended = true;
                    break;
                }
                Next::Failed(error) => return Err(error.into()),
                Next::Stopped => return Err(interrupted(self.last)),
            };
            let id = event.id();
            // What compares stores does not believe them.
            if let Some(last) = self.last.filter(|last| id <= *last) {
                let message = format!("it gave this event behind event {last}; please report it");
                let error = Error::new(ErrorKind::Bug, Retry::Never, message);
                return Err(error.at_target(&self.name).at(id).into());
            }
            self.last = Some(id);
            if self.until.is_some_and(|until| id > until) {
                self.ended = true;
            } else if self.floor.is_some_and(|floor| id < floor) {
                self.holds_more = true;
            } else {
                self.next = Some(event);
            }
        }
        Ok(())
    }

    /// The id of the next event.
    fn id(&self) -> Option<EventId> {
        self.next.as_ref().map(Event::id)
    }

    /// The next event, if it is this one.
    fn take(&mut self, id: EventId) -> Option<Event> {
        self.next.take_if(|event| event.id() == id)
    }
}
