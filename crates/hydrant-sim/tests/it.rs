//! The simulator itself: it repeats, its checkers fail on broken models, and plans that once failed pass.

use std::time::Duration;

use hydrant_sim::minimise::minimise;
use hydrant_sim::plan::{Broken, FILES_FROM, Plan, generate};
use hydrant_sim::run::{catch_panics, run};

#[test]
fn the_same_plan_gives_the_same_trace() {
    catch_panics();
    for seed in (1..40).chain(FILES_FROM + 1..FILES_FROM + 8) {
        let plan = generate(seed);
        let (one, two) = (run(&plan, true), run(&plan, true));
        let differs = one.trace.iter().zip(&two.trace).find(|(one, two)| one != two);
        assert_eq!(differs, None, "seed {seed}");
    }
}

#[test]
fn a_plan_survives_its_json() {
    let plan = generate(7);
    let json = serde_json::to_string(&plan).unwrap();
    assert_eq!(serde_json::from_str::<Plan>(&json).unwrap(), plan);
}

#[test]
fn a_seed_has_enough_operations_and_faults() {
    catch_panics();
    let outcomes: Vec<_> = (1..60).map(|seed| run(&generate(seed), false)).collect();
    let operations: u64 = outcomes.iter().map(|outcome| outcome.operations).sum();
    let faults: u64 = outcomes.iter().map(|outcome| outcome.faults).sum();
    assert!(operations > 59 * 200 && faults > 59 * 5, "{operations} operations, {faults} faults");
}

#[test]
fn the_minimiser_keeps_the_failure() {
    catch_panics();
    let broken = |seed| {
        let mut plan = generate(seed);
        plan.config.broken = Some(Broken::SinkDropsEvent);
        let failure = run(&plan, false).failure?;
        Some((plan, failure))
    };
    let (plan, failure) = (1..20).find_map(broken).expect("a hole is found");
    let mut again = |plan: &Plan| run(plan, false).failure;
    let (small, kept) = minimise(&plan, &failure, &mut again, 400, Duration::from_secs(60));
    assert_eq!(kept.checker, failure.checker);
    assert_eq!(run(&small, false).failure, Some(kept));
    assert!(small.ops.len() < plan.ops.len() / 4, "{} of {} operations", small.ops.len(), plan.ops.len());
}

/// Plans that failed once: regressions, each named after what it found.
#[test]
fn plans_that_failed_once_pass() {
    catch_panics();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/plans");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let plan: Plan = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let failure = run(&plan, false).failure;
        assert_eq!(failure, None, "{}", path.display());
        count += 1;
    }
    assert!(count > 0, "no plan in {folder}");
}
