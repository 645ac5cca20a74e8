//! Reports a comparison: the first differences, each on its own line, and the count of each kind.

use hydrant::{Digest, Event, EventId};
use indicatif::ProgressBar;
use serde::Serialize;

use crate::exit::{Exit, Outcome};
use crate::output::Output;
use crate::progress;

/// How many differences are shown one by one. All are counted.
const SHOWN_MAX: u64 = 20;
/// How often the progress is shown, in events.
const SHOW_EVERY: u64 = 256;

/// Counts and shows what is compared.
pub(crate) struct Report {
    names: [String; 2],
    json: bool,
    /// What was pruned from one of them is no difference.
    common: bool,
    output: Output,
    bar: ProgressBar,
    /// Consecutive events that only one of the two has, not shown yet.
    run: Option<Run>,
    pruned: bool,
    shown: u64,
    more: u64,
    same: u64,
    differing: u64,
    missing: [u64; 2],
    first: Option<EventId>,
    last: Option<EventId>,
}

/// Events without one in between that the other store has.
struct Run {
    missing_in: usize,
    first: EventId,
    last: EventId,
    events: u64,
}

/// One line of the report, as machines get it.
#[derive(Serialize)]
#[serde(untagged, rename_all_fields = "camelCase")]
enum Line<'a> {
    Differs { event_id: EventId, members: &'a [&'static str], digest: Digest, against_digest: Digest },
    Missing { missing_in: &'a str, first_id: EventId, last_id: EventId, events: u64 },
    Pruned { pruned_from: &'a str, before: EventId },
    More { differences_not_shown: u64 },
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary<'a> {
    store: &'a str,
    against: &'a str,
    same: u64,
    first_id: Option<EventId>,
    last_id: Option<EventId>,
    differing: u64,
    missing: u64,
    extra: u64,
    complete: bool,
}

impl Report {
    /// Nothing is compared yet; `end` is the last event to come, where that is known.
    pub(crate) fn new(names: [String; 2], json: bool, common: bool, end: Option<EventId>) -> Self {
        Self {
            names,
            json,
            common,
            output: Output::lock(),
            bar: progress::bar("verify", end.map(EventId::get)),
            run: None,
            pruned: false,
            shown: 0,
            more: 0,
            same: 0,
            differing: 0,
            missing: [0; 2],
            first: None,
            last: None,
        }
    }

    /// Two events with one id.
    pub(crate) fn pair(&mut self, ours: &Event, theirs: &Event) -> Outcome<()> {
        self.end_run()?;
        if ours == theirs {
            self.same += 1;
            self.first = self.first.or(Some(ours.id()));
            self.last = Some(ours.id());
            if self.same.is_multiple_of(SHOW_EVERY) {
                self.bar.set_position(ours.id().get());
            }
            return Ok(());
        }
        self.differing += 1;
        let members = &members_that_differ(ours, theirs);
        let (digest, against_digest) = (ours.digest(), theirs.digest());
        self.show(&Line::Differs { event_id: ours.id(), members, digest, against_digest })
    }

    /// An event that one of the two does not have.
    pub(crate) fn missing_in(&mut self, side: usize, id: EventId) -> Outcome<()> {
        self.missing[side] += 1;
        if let Some(run) = self.run.as_mut().filter(|run| run.missing_in == side) {
            (run.last, run.events) = (id, run.events + 1);
            return Ok(());
        }
        self.end_run()?;
        self.run = Some(Run { missing_in: side, first: id, last: id, events: 1 });
        Ok(())
    }

    /// Shows once that one of the two no longer has the events before this one.
    pub(crate) fn pruned(&mut self, side: usize, before: EventId) -> Outcome<()> {
        if std::mem::replace(&mut self.pruned, true) {
            return Ok(());
        }
        let pruned_from = &self.names[side].clone();
        self.show(&Line::Pruned { pruned_from, before })
    }

    /// Writes out the lines so far.
    pub(crate) fn flush(&mut self) -> Outcome<()> {
        self.output.flush()
    }

    /// Shows the counts; `complete` unless the comparison ended early.
    pub(crate) fn end(mut self, complete: bool) -> Outcome {
        self.end_run()?;
        self.bar.finish_and_clear();
        if self.more > 0 {
            let line = Line::More { differences_not_shown: self.more };
            self.write(&line)?;
        }
        let [store, against] = &self.names;
        let Self { same, differing, missing: [missing, extra], first, last, .. } = self;
        if self.json {
            let (first_id, last_id) = (first, last);
            let summary =
                Summary { store, against, same, first_id, last_id, differing, missing, extra, complete };
            self.output.json(&summary)?;
        } else {
            let counts = [
                (differing, "differs", "differ", ""),
                (missing, "is missing in ", "are missing in ", store),
                (extra, "is missing in ", "are missing in ", against),
            ];
            let counts = counts.into_iter().filter(|(count, ..)| *count > 0);
            let counts: Vec<_> = counts
                .map(|(count, one, many, place)| {
                    format!("{count} {}{place}", if count == 1 { one } else { many })
                })
                .collect();
            let counts = if counts.is_empty() { "none differs".to_owned() } else { counts.join(", ") };
            let range =
                first.zip(last).map_or_else(String::new, |(first, last)| format!(", {first} to {last}"));
            let are = if same == 1 { "event is" } else { "events are" };
            let so_far = if complete { "" } else { " so far" };
            self.output.text(format_args!("{same} {are} the same{range}; {counts}{so_far}"))?;
        }
        self.output.flush()?;
        let is_same = differing + missing + extra == 0 && (self.common || !self.pruned);
        Ok(if is_same { Exit::Fine } else { Exit::Data })
    }

    fn end_run(&mut self) -> Outcome<()> {
        let Some(Run { missing_in, first, last, events }) = self.run.take() else { return Ok(()) };
        let missing_in = &self.names[missing_in].clone();
        self.show(&Line::Missing { missing_in, first_id: first, last_id: last, events })
    }

    fn show(&mut self, line: &Line<'_>) -> Outcome<()> {
        if self.shown == SHOWN_MAX {
            self.more += 1;
            return Ok(());
        }
        self.shown += 1;
        self.write(line)
    }

    fn write(&mut self, line: &Line<'_>) -> Outcome<()> {
        if self.json {
            return self.output.json(line);
        }
        let [a, b] = &self.names;
        match line {
            Line::Differs { event_id, members, digest, against_digest } => {
                let members = members.join(", ");
                let digests = format_args!("digest {digest} in {a}, {against_digest} in {b}");
                self.output.text(format_args!("event {event_id}: {members}: {digests}"))
            }
            Line::Missing { missing_in, first_id, events: 1, .. } => {
                self.output.text(format_args!("event {first_id}: missing in {missing_in}"))
            }
            Line::Missing { missing_in, first_id, last_id, events } => self
                .output
                .text(format_args!("events {first_id} to {last_id} ({events}): missing in {missing_in}")),
            Line::Pruned { pruned_from, before } => {
                let advice = if self.common { "" } else { "; compare what both keep with --common" };
                self.output.text(format_args!("events before {before}: pruned from {pruned_from}{advice}"))
            }
            Line::More { differences_not_shown } => {
                self.output.text(format_args!("{differences_not_shown} more differences are not shown"))
            }
        }
    }
}

/// The names of the parts that are not the same, byte for byte.
fn members_that_differ(ours: &Event, theirs: &Event) -> Vec<&'static str> {
    let parts = [
        ("payload", ours.payload() != theirs.payload()),
        ("time", ours.time() != theirs.time()),
        ("metadata", ours.metadata() != theirs.metadata()),
        ("isSnapshot", ours.is_snapshot() != theirs.is_snapshot()),
        ("other members", ours.members() != theirs.members()),
    ];
    parts.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect()
}
