//! Each checker sees a model or an actor that is broken on purpose.

use std::process::Command;

use hydrant_sim::EXIT_STUCK;
use hydrant_sim::plan::{Broken, Plan, SinkConfig, SinkKind, Topology, generate};
use hydrant_sim::run::{catch_panics, run};

const SEEDS: std::ops::Range<u64> = 1..80;

/// Runs seeds without faults until the checker fails for one.
fn is_found(broken: Broken, checker: &str, change: impl Fn(&mut Plan)) {
    catch_panics();
    let mut others = Vec::new();
    for seed in SEEDS {
        let mut plan = generate(seed);
        plan.faults.clear();
        plan.config.broken = Some(broken);
        change(&mut plan);
        match run(&plan, false).failure {
            Some(failure) if failure.checker == checker => return,
            Some(failure) => others.push(failure.checker),
            None => {}
        }
    }
    panic!("{broken:?} is found by {others:?}, not by {checker}");
}

fn all_sinks(plan: &mut Plan, change: impl Fn(&mut SinkConfig)) {
    plan.config.sinks.iter_mut().for_each(change);
}

fn all_are(kind: SinkKind) -> impl Fn(&mut Plan) {
    move |plan| all_sinks(plan, |sink| (sink.kind, sink.start) = (kind, None))
}

/// One test for each broken model: its name, what is broken, the checker, and how the plan is changed.
macro_rules! sees {
    ($($name:ident: $broken:ident, $checker:literal, $change:expr;)*) => {
        $(
            #[test]
            fn $name() {
                is_found(Broken::$broken, $checker, $change);
            }
        )*
    };
}

sees! {
    a_hole_in_a_sink_is_found: SinkDropsEvent, "history", |_| {};
    a_checkpoint_ahead_of_its_sink_is_found: SinkReportsAhead, "ahead", all_are(SinkKind::Buffered);
    // A refusal is retried until the end: with pauses of a millisecond, that is millions of calls.
    a_sink_that_gets_nothing_is_found: SinkRefuses, "deliver", |plan| {
        all_sinks(plan, |sink| sink.backoff_ms = (1_000, 5_000));
    };
    a_close_that_leaves_work_is_found: SinkIsSlow, "close", |plan| {
        all_sinks(plan, |sink| (sink.kind, sink.call_ms) = (SinkKind::Plain, 60_000));
    };
    a_handle_that_is_kept_is_found: SinkIsKept, "leak", |_| {};
    an_acknowledgement_without_an_event_is_found: PrimaryStoresNothing, "acknowledged", |_| {};
    an_event_shown_before_it_is_durable_is_found: PrimaryShowsUndurable, "early", |plan| {
        plan.config.accepts_ms = Some(700);
    };
    an_event_that_is_written_twice_is_found: PrimaryRepeats, "once", |_| {};
    a_log_that_takes_no_append_is_found: PrimaryRefuses, "append", |_| {};
    a_refusal_of_what_was_written_is_found: PrimaryDeniesWrite, "refused", |_| {};
    an_outcome_that_stays_open_is_found: AppendsStayOpen, "resolved", |_| {};
    an_event_in_the_place_of_another_is_found: IdsComeAgain, "new", |_| {};
    an_event_after_a_lost_one_is_found: IsAnotherHistory, "continues", |_| {};
    an_attach_after_close_is_found: CountsAsClosed, "attach", |_| {};
    a_log_that_stops_without_a_loss_is_found: PrimaryReportsOther, "alarm", |_| {};
    a_prune_beyond_a_sink_is_found: PrimaryPrunesAll, "prune", |_| {};
    memory_that_grows_is_found: ReadsHoard, "memory", |_| {};
    an_id_of_another_event_is_found: IdsAreShifted, "ids", |_| {};
    a_follower_that_skips_is_found: FollowSkips, "follow", |_| {};
    a_read_that_skips_is_found: ReadSkips, "read", |plan| plan.config.topology = Topology::FanOut;
    a_fold_that_forgets_is_found: FoldForgets, "fold", |_| {};
    a_delivery_that_is_not_is_found: DeliveredAtOnce, "delivered", |_| {};
    a_status_without_lag_is_found: ShowsNoLag, "status", |_| {};
    a_lag_that_is_too_long_is_found: ShowsMoreLag, "lag", |_| {};
    a_state_that_is_too_good_is_found: ShowsLive, "live", |_| {};
    a_primary_shown_as_stale_is_found: ShowsStale, "stale", |_| {};
    a_good_event_behind_poison_is_found: ShowsPoison, "poison", all_are(SinkKind::Picky);
    a_head_that_is_not_shown_is_found: ShowsNoHead, "publish", |_| {};
    a_watcher_that_stops_is_found: WatchStops, "watch", |_| {};
    a_call_without_an_end_is_found: CallsHang, "bound", |_| {};
    a_run_without_an_end_is_found: ActorSleeps, "hang", |_| {};
    a_task_that_spins_is_found: TaskSpins, "busy", |_| {};
    a_task_that_wakes_for_nothing_is_found: TaskTicks, "idle", |_| {};
    a_task_that_stays_is_found: TaskStays, "task", |_| {};
    a_task_that_panics_is_found: TaskPanics, "panic", |_| {};
}

#[test]
fn a_poll_that_does_not_return_is_found() {
    let mut plan = generate(1);
    plan.config.broken = Some(Broken::PollLoops);
    let file = std::env::temp_dir().join(format!("hydrant-sim-stuck-{}.json", std::process::id()));
    std::fs::write(&file, serde_json::to_string(&plan).unwrap()).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_hydrant-sim")).arg("--plan").arg(&file).output().unwrap();
    std::fs::remove_file(&file).unwrap();
    assert_eq!(output.status.code(), Some(EXIT_STUCK), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_log_that_was_closed_and_looks_open_is_found() {
    is_found(Broken::ShowsOpen, "status", |_| {});
}
