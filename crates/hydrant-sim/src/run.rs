//! Runs a plan: one runtime, paused time, and a verdict.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;
use std::time::Duration;

use futures_util::FutureExt;

use crate::actors::{Actor, System};
use crate::check;
use crate::coverage::Table;
use serde::{Deserialize, Serialize};

use crate::plan::{Op, Plan};
use crate::watchdog;
use crate::world::{Failure, World};

/// A run hangs if it is not over after this much simulated time.
const RUN_MAX: Duration = Duration::from_secs(48 * 3600);
/// Programs that poll files are slow to simulate.
const RUN_WITH_FILES_MAX: Duration = Duration::from_secs(2 * 3600);

/// What a run showed.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Outcome {
    pub failure: Option<Failure>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trace: Vec<String>,
    pub operations: u64,
    /// Faults that struck.
    pub faults: u64,
    /// How often each cell of the tables of coverage was reached.
    pub covered: Vec<(Table, String, String, u64)>,
}

thread_local! {
    /// Panics of the code under test in this run; `None` outside of a run.
    static PANICS: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// Keeps the panics of a run off the terminal: those of the model sinks are planned, and all others fail the run.
pub fn catch_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let print = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            PANICS.with_borrow_mut(|panics| match panics {
                Some(panics) => panics.extend(unplanned(info)),
                None => print(info),
            });
        }));
    });
}

/// Describes a panic, unless a model store made it on purpose.
fn unplanned(info: &panic::PanicHookInfo<'_>) -> Option<String> {
    let payload = info.payload();
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
    let place = info.location().map_or_else(String::new, ToString::to_string);
    (!text.starts_with("sim: ")).then(|| format!("{text} ({place})"))
}

/// Runs a plan to its end or to the first failure.
///
/// # Panics
/// If no runtime can be built.
pub fn run(plan: &Plan, traced: bool) -> Outcome {
    PANICS.set(Some(Vec::new()));
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().start_paused(true).on_thread_park(watchdog::progress);
    let runtime = builder.build().expect("a runtime without threads needs nothing");
    let run_max = if plan.config.files.is_some() { RUN_WITH_FILES_MAX } else { RUN_MAX };
    let world = runtime.block_on(async {
        let world = World::new(plan, traced);
        let driving = AssertUnwindSafe(drive(&world, plan)).catch_unwind();
        let stuck = watchdog::begin(plan, &world);
        tokio::select! {
            biased;
            () = world.failed() => {}
            () = stuck => world.fail("busy", "simulated time does not advance: a task is polled again and again"),
            driven = driving => {
                if driven.is_err() {
                    world.fail("panic", format!("the simulator panicked: {:?}", PANICS.with_borrow(Clone::clone)));
                }
            }
            () = tokio::time::sleep(run_max) => world.fail("hang", format!("the run is not over after {run_max:?}")),
        }
        world
    });
    drop(runtime);
    watchdog::end();
    let panics = PANICS.take().unwrap_or_default();
    if let Some(panic) = panics.first() {
        world.fail("panic", panic.clone());
    }
    let mut state = world.lock();
    let places =
        state.fired.iter().map(|((site, effect), count)| (Table::Places, site.store.name(), *effect, *count));
    let of = |table, cells: &BTreeMap<(&'static str, &'static str), u64>| {
        cells.iter().map(|((row, column), count)| (table, *row, *column, *count)).collect::<Vec<_>>()
    };
    let disk = state.files.iter().flat_map(|files| of(Table::Places, &files.struck)).collect::<Vec<_>>();
    let covered = places
        .chain(disk)
        .chain(of(Table::Faults, &state.covered))
        .chain(of(Table::Outcomes, &state.outcomes))
        .chain(of(Table::States, &state.states))
        .map(|(table, row, column, count)| (table, row.to_owned(), column.to_owned(), count))
        .collect();
    Outcome {
        failure: state.failure.clone(),
        operations: state.operations,
        faults: state.fired.values().sum::<u64>()
            + state.files.as_ref().map_or(0, |files| files.struck.values().sum()),
        covered,
        trace: std::mem::take(&mut state.trace),
    }
}

async fn drive(world: &std::sync::Arc<World>, plan: &Plan) {
    if let Err(error) = crate::actors::write_other_log(world).await {
        world.fail("panic", format!("the other log cannot be written: {error}"));
    }
    world.with(|state| state.files.iter_mut().for_each(crate::world::files::Files::begin));
    let system = System::new(world.clone(), plan.config.topology);
    let supervisor = tokio::spawn(system.clone().supervise());
    let mut actors: BTreeMap<u8, Vec<Op>> = BTreeMap::new();
    for op in &plan.ops {
        actors.entry(op.actor).or_default().push(op.clone());
    }
    let running = actors.into_values().map(|ops| Actor::new(system.clone()).run(ops));
    futures_util::future::join_all(running).await;
    check::settle(system).await;
    supervisor.abort();
}
