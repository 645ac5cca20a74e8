//! Random runs under paused time: whatever the store does, the laws hold.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::StreamExt;
use hydrant::{ErrorKind, Event, EventSourceExt, Journal, ReadFrom};

use super::options;
use crate::support::{Fault, Scripted, seeds};

fn fault(rng: &mut fastrand::Rng) -> Option<Fault> {
    match rng.u8(..14) {
        0 => Some(Fault::Lost),
        1 | 2 => Some(Fault::After),
        3 => Some(Fault::Before(ErrorKind::Unavailable)),
        4 => Some(Fault::Hang { applied: rng.bool() }),
        5 | 6 => Some(Fault::Slow(Duration::from_millis(rng.u64(..500)))),
        _ => None,
    }
}

/// One caller: appends, and sometimes gives up waiting. Returns the answers that it got, by text.
async fn caller(
    journal: Journal<String>,
    name: usize,
    mut rng: fastrand::Rng,
) -> BTreeMap<String, Option<u64>> {
    let mut answers = BTreeMap::new();
    for round in 0..12 {
        tokio::time::sleep(Duration::from_millis(rng.u64(..200))).await;
        let count = rng.usize(1..4);
        let bad = rng.u8(..12) == 0;
        let text = |n| format!("{name}-{round}-{n}{}", if bad && n + 1 == count { " bad" } else { "" });
        let texts: Vec<String> = (0..count).map(text).collect();
        let patience = Duration::from_millis(if rng.u8(..5) == 0 { rng.u64(..50) } else { 1_000_000 });
        match tokio::time::timeout(patience, journal.append_all(&texts)).await {
            Ok(Ok(ids)) => {
                assert!(!bad);
                answers.extend((ids.start().get()..).zip(texts).map(|(id, text)| (text, Some(id))));
            }
            Ok(Err(error)) => {
                let expected = if bad { ErrorKind::Invalid } else { ErrorKind::Unavailable };
                assert!(error.kind() == expected || error.kind() == ErrorKind::Unavailable, "{error}");
                answers.extend(texts.into_iter().map(|text| (text, None)));
            }
            Err(_) => {} // a caller that gave up knows nothing
        }
    }
    answers
}

async fn run(seed: u64) {
    println!("HYDRANT_SEED={seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let store = Scripted::new((0..10_000).map(|_| fault(&mut rng)).collect::<Vec<_>>());
    store.refuse("bad");
    let options = options()
        .with_seed(seed)
        .with_in_flight_events_max(rng.usize(1..20))
        .with_in_flight_bytes_max(rng.usize(1..300))
        .with_append_timeout(Duration::from_secs(1))
        .with_resolve_timeout(Duration::from_secs(100_000));
    let journal: Journal<String> = Journal::open(store.clone(), options).await.unwrap();

    let mut follow = journal.follow(ReadFrom::Origin);
    let follower = tokio::spawn(async move {
        let mut seen = Vec::new();
        while let Ok(Some(saved)) = tokio::time::timeout(Duration::from_secs(10_000), follow.next()).await {
            seen.push(saved.unwrap().event);
        }
        seen
    });
    let callers: Vec<_> =
        (0..8).map(|name| tokio::spawn(caller(journal.clone(), name, rng.fork()))).collect();
    let mut answers = BTreeMap::new();
    for caller in callers {
        answers.extend(caller.await.unwrap());
    }
    journal.close().await.unwrap();

    let log = store.collect(ReadFrom::Origin).await.unwrap();
    // Ids have no gap, and each is one event, whatever was sent under it and refused.
    assert!(log.iter().map(|event| event.id().get()).eq(0..log.len() as u64));
    let held: BTreeMap<String, u64> =
        log.iter().map(|event| (event.decode().unwrap(), event.id().get())).collect();
    assert_eq!(held.len(), log.len(), "nothing is there twice");
    for (text, answer) in &answers {
        assert_eq!(held.get(text), answer.as_ref(), "{text} is held as its caller was answered");
    }
    // What one caller appends together is there as a whole, without anything between.
    for (text, id) in held.iter().filter(|(text, _)| !text.ends_with("-0")) {
        let (rest, n) = text.rsplit_once('-').unwrap();
        let before = format!("{rest}-{}", n.parse::<u64>().unwrap() - 1);
        assert_eq!(held.get(&before), Some(&(id - 1)), "{before} comes before {text}");
    }
    let seen: Vec<Event> = follower.await.unwrap();
    assert_eq!(seen, log, "history, then live: no gap, no duplicate");
}

#[tokio::test(start_paused = true)]
async fn under_any_faults_the_log_holds_what_was_answered() {
    for seed in seeds(60) {
        run(seed).await;
    }
}
