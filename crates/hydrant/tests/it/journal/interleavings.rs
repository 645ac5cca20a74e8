//! Random interleavings of submissions, appends and failures: the log is what was acknowledged, in call order.

use std::time::Duration;

use hydrant::{Durable, Error, ErrorKind, EventId, Journal, Result, Retry};
use tokio::task::JoinHandle;

use super::{log, open, settle};
use crate::support::{Fault, Scripted, poll_once, seeds};

fn fault(rng: &mut fastrand::Rng) -> Option<Fault> {
    match rng.u8(..12) {
        0 => Some(Fault::Before(ErrorKind::Full)),
        1 | 2 => Some(Fault::Busy),
        3 => Some(Fault::Lost),
        4 => Some(Fault::After),
        5 => Some(Fault::Hang { applied: rng.bool() }),
        6..8 => Some(Fault::Slow(Duration::from_millis(rng.u64(..500)))),
        _ => None,
    }
}

/// The answer to one call.
enum Outcome {
    /// A submission: its ids are known.
    Submitted { first: EventId, durable: Durable },
    /// An append or a snapshot in a task of its own.
    Appending(JoinHandle<Result<EventId>>),
    /// The id of the first event, or why there is none.
    Answered(Result<EventId>),
}

struct Call {
    texts: Vec<String>,
    is_submission: bool,
    outcome: Outcome,
}

impl Call {
    /// Notes the answer if it is there.
    async fn look(&mut self) {
        let answer = match &mut self.outcome {
            Outcome::Answered(_) => return,
            Outcome::Submitted { first, durable } => {
                let first = *first;
                poll_once(durable).await.map_ok(|()| first)
            }
            Outcome::Appending(task) => poll_once(task).await.map(Result::unwrap),
        };
        if let std::task::Poll::Ready(answer) = answer {
            self.outcome = Outcome::Answered(answer);
        }
    }

    fn answer(&self) -> Option<&Result<EventId>> {
        match &self.outcome {
            Outcome::Answered(answer) => Some(answer),
            _ => None,
        }
    }
}

struct Run {
    journal: Journal<String>,
    calls: Vec<Call>,
    rng: fastrand::Rng,
    /// Pairs of calls: the second is a submission that was made while the first had no answer.
    behind: Vec<(usize, usize)>,
}

impl Run {
    fn texts(&mut self) -> Vec<String> {
        let (call, count) = (self.calls.len(), self.rng.usize(1..4));
        let bad = self.rng.u8(..15) == 0;
        let text = |n| format!("{call}-{n}{}", if bad && n + 1 == count { " bad" } else { "" });
        (0..count).map(text).collect()
    }

    async fn look(&mut self) {
        for call in &mut self.calls {
            call.look().await;
        }
    }

    /// Submits, on a state that holds every call before it.
    async fn submit(&mut self) {
        self.look().await;
        let texts = self.texts();
        let events: Vec<_> = texts.iter().map(|text| (text.clone(), None)).collect();
        let submitted = self.journal.try_reserve().unwrap().submit(&events).unwrap();
        let new = self.calls.len();
        let open = self.calls.iter().enumerate().filter(|(_, call)| call.answer().is_none());
        self.behind.extend(open.map(|(before, _)| (before, new)));
        let outcome = Outcome::Submitted { first: *submitted.ids.start(), durable: submitted.durable };
        self.calls.push(Call { texts, is_submission: true, outcome });
    }

    async fn append(&mut self) {
        let (texts, journal) = (self.texts(), self.journal.clone());
        let events = texts.clone();
        let task = tokio::spawn(async move { Ok(*journal.append_all(&events).await?.start()) });
        self.calls.push(Call { texts, is_submission: false, outcome: Outcome::Appending(task) });
        settle().await; // its first poll hands it over, in call order
    }

    async fn answers(mut self) -> (Vec<Call>, Vec<(usize, usize)>) {
        self.journal.close().await.unwrap();
        self.look().await;
        (self.calls, self.behind)
    }
}

fn is_expected(error: &Error, texts: &[String]) -> bool {
    match error.kind() {
        ErrorKind::Invalid => texts.iter().any(|text| text.ends_with("bad")),
        ErrorKind::Full | ErrorKind::Unavailable => error.retry() == Retry::Safe,
        _ => false,
    }
}

async fn run(seed: u64) {
    println!("HYDRANT_SEED={seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let store = Scripted::new((0..10_000).map(|_| fault(&mut rng)).collect::<Vec<_>>());
    store.refuse("bad");
    let journal = open(store.clone()).await;
    let mut run = Run { journal, calls: Vec::new(), rng, behind: Vec::new() };
    for _ in 0..60 {
        match run.rng.u8(..10) {
            0..5 => run.submit().await,
            5..8 => run.append().await,
            8 => settle().await,
            _ => tokio::time::sleep(Duration::from_millis(run.rng.u64(..40_000))).await,
        }
    }
    store.clear(); // a journal that closes does not wait for back-pressure without end
    let (calls, behind) = run.answers().await;

    let mut expected = Vec::new();
    for call in &calls {
        match call.answer().expect("close answers every call") {
            Ok(first) => {
                expected.extend((first.get()..).zip(&call.texts).map(|(id, text)| format!("{id}:{text}")));
            }
            Err(error) => assert!(is_expected(error, &call.texts), "{:?}: {error}", call.texts),
        }
    }
    assert_eq!(log(&store).await, expected, "acknowledged, in call order, each once");
    for (before, later) in behind {
        let (before, later) = (&calls[before], &calls[later]);
        let failed = |call: &Call| matches!(call.answer(), Some(Err(_)));
        assert!(
            later.is_submission && (!failed(before) || failed(later)),
            "{:?} after {:?}",
            later.texts,
            before.texts
        );
    }
}

#[tokio::test(start_paused = true)]
async fn acknowledged_ids_are_exactly_the_log_in_order() {
    for seed in seeds(300) {
        run(seed).await;
    }
}
