//! The simulator as a program; `cargo xtask sim` runs it.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hydrant_sim::child::{self, Runner, Worker};
use hydrant_sim::coverage;
use hydrant_sim::minimise::minimise;
use hydrant_sim::mutants::{MUTANTS, Mutant, hunt};
use hydrant_sim::one_cpu;
use hydrant_sim::plan::{FILES_FROM, Plan, generate};
use hydrant_sim::report::{self, Totals};
use hydrant_sim::run::{Outcome, catch_panics, run};
use hydrant_sim::world::Failure;

/// Where the fixed range of seeds begins.
const FROM: u64 = 1;
/// How many runs, and how much time, the minimiser may take.
const MINIMISE_RUNS: usize = 4_000;
const MINIMISE_MAX: Duration = Duration::from_secs(60);
/// How many lines of a trace are shown when a search fails. A replay shows all.
const TRACE_LINES: usize = 120;

#[derive(Debug)]
struct Args {
    seeds: Option<u64>,
    seconds: Option<u64>,
    from: u64,
    plan: Option<String>,
    jobs: usize,
    /// Continues after a failure, and prints one line for each.
    all: bool,
    /// Where minimised plans are written.
    out: Option<String>,
    commit: String,
    /// Runs seeds from here on for a parent, and prints an outcome for each.
    worker: Option<u64>,
    step: u64,
    /// Runs the plans on standard input for a parent.
    plans: bool,
    /// Hunts every mutant, `--seconds` each.
    mutants: bool,
    /// Only these mutants.
    only: Vec<String>,
}

fn main() -> ExitCode {
    let args = match parse() {
        Ok(args) => args,
        Err(message) => {
            eprintln!("error: {message}");
            return ExitCode::from(2);
        }
    };
    catch_panics();
    if args.mutants {
        return hunt_all(&args);
    }
    if args.plans {
        return answer();
    }
    match (&args.plan, args.worker) {
        (Some(path), _) => replay(path),
        (None, Some(from)) => serve(from, args.step),
        (None, None) => search(&args),
    }
}

fn parse() -> Result<Args, String> {
    let mut args = Args {
        seeds: None,
        seconds: None,
        from: FROM,
        plan: None,
        jobs: 1,
        all: false,
        out: None,
        commit: "unknown".to_owned(),
        worker: None,
        step: 1,
        plans: false,
        mutants: false,
        only: vec![],
    };
    let mut files = false;
    let mut given = std::env::args().skip(1);
    while let Some(name) = given.next() {
        if name == "--mutants" {
            args.mutants = true;
            continue;
        }
        if name == "--files" {
            files = true;
            continue;
        }
        if name == "--all" {
            args.all = true;
            continue;
        }
        let value = given.next().ok_or_else(|| format!("{name} needs a value"))?;
        let number = || value.parse::<u64>().map_err(|_| format!("{name} needs a number, not {value:?}"));
        match name.as_str() {
            "--seeds" => args.seeds = Some(number()?),
            "--seconds" => args.seconds = Some(number()?),
            "--from" => args.from = number()?,
            "--jobs" => args.jobs = usize::try_from(number()?).unwrap_or(1).max(1),
            "--plan" => args.plan = Some(value),
            "--worker" => args.worker = Some(number()?),
            "--plans" => args.plans = true,
            "--step" => args.step = number()?,
            // Selected by the environment, where `cargo xtask sim` puts it.
            "--mutant" => {}
            "--only" => args.only.extend(value.split(',').map(str::to_owned)),
            "--out" => args.out = Some(value),
            "--commit" => args.commit = value,
            _ => return Err(format!("unknown option {name}")),
        }
    }
    if args.seeds.is_none() && args.seconds.is_none() {
        args.seeds = Some(1_000);
    }
    if files {
        args.from += FILES_FROM;
    }
    Ok(args)
}

fn replay(path: &str) -> ExitCode {
    let plan = std::fs::read_to_string(path).map_err(|cause| cause.to_string());
    let plan = plan.and_then(|text| serde_json::from_str::<Plan>(&text).map_err(|cause| cause.to_string()));
    match plan {
        Ok(plan) => {
            let outcome = run(&plan, true);
            if let Some(failure) = outcome.failure {
                println!("{}", report::failure(&plan, &failure, &outcome.trace, usize::MAX));
                return ExitCode::FAILURE;
            }
            outcome.trace.iter().for_each(|line| println!("{line}"));
            println!("the plan passes");
            ExitCode::SUCCESS
        }
        Err(cause) => {
            eprintln!("error: {path}: {cause}");
            ExitCode::from(2)
        }
    }
}

/// Runs the plans on standard input, one a line, and prints an outcome for each.
fn answer() -> ExitCode {
    one_cpu::pin(0);
    for line in std::io::stdin().lines() {
        let plan = line.map_err(|cause| cause.to_string());
        match plan.and_then(|line| serde_json::from_str::<Plan>(&line).map_err(|cause| cause.to_string())) {
            Ok(plan) => drop(print_outcome(&run(&plan, false))),
            Err(cause) => {
                eprintln!("error: {cause}");
                return ExitCode::from(2);
            }
        }
    }
    ExitCode::SUCCESS
}

/// Runs every `step`th seed until the parent ends this process.
fn serve(from: u64, step: u64) -> ExitCode {
    one_cpu::pin(from);
    let mut seed = from;
    while print_outcome(&run(&generate(seed), false)) {
        seed += step;
    }
    ExitCode::SUCCESS
}

fn print_outcome(outcome: &Outcome) -> bool {
    let json = serde_json::to_string(outcome).expect("an outcome is plain data");
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{json}").and_then(|()| stdout.flush()).is_ok()
}

/// The table of mutants: what it took to find each.
fn hunt_all(args: &Args) -> ExitCode {
    let patience = Duration::from_secs(args.seconds.unwrap_or(60));
    let mut missed = 0;
    println!("{:<26}{:>8}{:>9}  found by", "mutant", "seeds", "seconds");
    let wanted = |mutant: &&Mutant| args.only.is_empty() || args.only.iter().any(|name| name == mutant.name);
    for Mutant { name, what, needs_files } in MUTANTS.iter().filter(wanted) {
        let from = if *needs_files { args.from + FILES_FROM } else { args.from };
        if let Some(found) = hunt(name, from, args.jobs as u64, patience) {
            let (seeds, seconds) = (found.seeds, found.seconds);
            println!("{name:<26}{seeds:>8}{seconds:>9.1}  {}: {what}", found.failure.checker);
        } else {
            missed += 1;
            println!("{name:<26}{:>8}{:>9}  NOT FOUND: {what}", "-", "-");
        }
    }
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A seed that fails: its plan, how, and after how many seconds.
type Found = (u64, Plan, Failure, f64);

/// What the threads of a search share.
struct Search {
    stop: AtomicBool,
    found: Mutex<Vec<Found>>,
    totals: Mutex<Totals>,
}

#[expect(clippy::disallowed_methods, reason = "the rate is measured in time of the machine")]
fn search(args: &Args) -> ExitCode {
    let begin = Instant::now();
    let shared = Search { stop: AtomicBool::new(false), found: Mutex::default(), totals: Mutex::default() };
    println!("seeds from {}, commit {}", args.from, args.commit);
    std::thread::scope(|scope| {
        for job in 0..args.jobs as u64 {
            let shared = &shared;
            scope.spawn(move || work(args, shared, begin, args.from + job));
        }
    });
    let seconds = begin.elapsed().as_secs_f64();
    let totals = shared.totals.into_inner().expect("no thread panicked");
    let mut found = shared.found.into_inner().expect("no thread panicked");
    found.sort_by_key(|(seed, ..)| *seed);
    println!("{}", totals.coverage.tables());
    #[expect(clippy::cast_precision_loss, reason = "rates are rough")]
    let rate = |count: u64, of: f64| count as f64 / of;
    #[expect(clippy::cast_precision_loss, reason = "rates are rough")]
    let seeds = (totals.seeds as f64).max(1.0);
    println!(
        "{} seeds in {seconds:.1} s, {:.0} seeds/s, {:.0} operations and {:.1} faults a seed, {} failed",
        totals.seeds,
        rate(totals.seeds, seconds),
        rate(totals.operations, seeds),
        rate(totals.faults, seeds),
        found.len()
    );
    if args.all {
        summarise(&found);
    } else if let Some((seed, plan, failure, _)) = found.first() {
        show(args, *seed, plan, failure);
    }
    let missing = totals.coverage.missing();
    // The cells are those of models: a file log does not fork, for one.
    let is_thin = args.from < FILES_FROM && totals.seeds >= coverage::SEEDS && !missing.is_empty();
    if is_thin {
        println!("{} seeds never reached: {}", totals.seeds, missing.join("; "));
    }
    if found.is_empty() && !is_thin { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Lets one process after the other run every `jobs`th seed.
fn work(args: &Args, shared: &Search, begin: Instant, first: u64) {
    let step = args.jobs as u64;
    let mut totals = Totals::default();
    let mut seed = first;
    let mut worker = Worker::spawn(seed, step, None);
    while !shared.stop.load(Ordering::Relaxed) {
        let is_over = args.seeds.is_some_and(|seeds| seed >= args.from + seeds)
            || args.seconds.is_some_and(|seconds| begin.elapsed() >= Duration::from_secs(seconds));
        if is_over {
            break;
        }
        let outcome = worker.as_mut().and_then(Worker::outcome).unwrap_or_else(|| {
            worker = Worker::spawn(seed + step, step, None);
            Outcome { failure: Some(child::stuck()), ..Outcome::default() }
        });
        totals.add(&outcome);
        if let Some(failure) = outcome.failure {
            let mut found = shared.found.lock().expect("no thread panicked");
            found.push((seed, generate(seed), failure, begin.elapsed().as_secs_f64()));
            if !args.all {
                shared.stop.store(true, Ordering::Relaxed);
            }
        }
        seed += step;
    }
    shared.totals.lock().expect("no thread panicked").join(&totals);
}

fn show(args: &Args, seed: u64, plan: &Plan, failure: &Failure) {
    println!("seed {seed} fails: {}: {}; minimising", failure.checker, failure.message);
    // A run that gets stuck would take this process with it.
    let mut runner = Runner::default();
    let (plan, failure) = minimise(plan, failure, &mut |plan| runner.run(plan), MINIMISE_RUNS, MINIMISE_MAX);
    // Traced in this process: not what would get it stuck.
    let trace = if failure.checker == child::STUCK { vec![] } else { run(&plan, true).trace };
    println!("{}", report::failure(&plan, &failure, &trace, TRACE_LINES));
    let json = serde_json::to_string_pretty(&plan).expect("a plan is plain data");
    match &args.out {
        Some(path) => {
            if let Err(cause) = std::fs::write(path, json + "\n") {
                eprintln!("error: {path}: {cause}");
            } else {
                println!("the plan is in {path}; replay it with `cargo xtask sim --plan {path}`");
            }
        }
        None => println!("{json}"),
    }
    println!("seed {seed}, commit {}", args.commit);
}

/// One line for each sort of failure: how often, when first, by which seed.
fn summarise(found: &[Found]) {
    let mut sorts: Vec<(String, Vec<&Found>)> = Vec::new();
    for each in found {
        let text: String = each.2.message.chars().filter(|c| !c.is_ascii_digit()).take(60).collect();
        let sort = format!("{}: {text}", each.2.checker);
        match sorts.iter_mut().find(|(known, _)| *known == sort) {
            Some((_, list)) => list.push(each),
            None => sorts.push((sort, vec![each])),
        }
    }
    for (sort, list) in sorts {
        let (seed, _, failure, seconds) = list[0];
        println!(
            "{:>5} x  {sort}\n         seed {seed} after {seconds:.1} s: {}",
            list.len(),
            failure.message
        );
    }
}
