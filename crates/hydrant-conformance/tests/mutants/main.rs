//! The kit proves itself: stores that are broken in one way each, and the law that catches each of them.

mod bugs;
mod on_paper;
mod paper;

use std::collections::BTreeSet;

use hydrant_conformance::{Case, Law, Limits, Side, cases, check, seed};

use crate::bugs::Bug;
use crate::on_paper::OnPaper;

fn case(name: &str) -> &'static Case {
    cases().iter().find(|case| case.name == name).unwrap_or_else(|| panic!("no case is called {name}"))
}

/// One named test for each mutant, and the table of them.
macro_rules! mutants {
    ($($test:ident: $bug:ident is caught by $case:ident;)*) => {
        /// Each mutant, and the case that catches it.
        const MUTANTS: &[(Bug, &str)] = &[$((Bug::$bug, stringify!($case))),*];

        $(
            #[test]
            fn $test() {
                let case = case(stringify!($case));
                match check(|| OnPaper::new(Bug::$bug), case, seed()) {
                    Err(violation) => {
                        assert_eq!(violation.law, case.law);
                        let message = violation.to_string();
                        assert!(message.contains(case.law.sentence()), "{message}");
                    }
                    Ok(report) => panic!("{:?} passed {} with {report:?}", Bug::$bug, case.name),
                }
            }
        )*
    };
}

mutants! {
    one_that_loses_on_reopen: LosesOnReopen is caught by law_01_what_was_acknowledged_is_held_after_reopening;
    one_that_acknowledges_early: AcknowledgesEarly is caught by law_01_what_was_acknowledged_survives_a_crash;
    one_that_truncates_large_batches: TruncatesLargeBatches is caught by law_01_batches_of_every_size_are_held;
    one_that_truncates_at_the_default_of_a_fan_out: TruncatesTheDefaultOfAFanOut is caught by law_01_batches_above_the_default_of_a_fan_out_are_held;
    one_that_rewrites_numbers: RewritesNumbers is caught by law_01_payloads_are_held_byte_for_byte;
    one_that_unescapes_text: UnescapesText is caught by law_01_payloads_are_held_byte_for_byte;
    one_that_drops_what_is_large: DropsWhatIsLarge is caught by law_01_a_payload_of_ten_mebibytes_is_held;
    one_that_drops_time: DropsTime is caught by law_01_every_part_of_an_envelope_is_held;
    one_that_drops_metadata: DropsMetadata is caught by law_01_every_part_of_an_envelope_is_held;
    one_that_drops_members: DropsMembers is caught by law_01_every_part_of_an_envelope_is_held;
    one_that_forgets_snapshot_marks: ForgetsSnapshotMarks is caught by law_01_every_part_of_an_envelope_is_held;
    one_that_renumbers: Renumbers is caught by law_02_ids_may_leave_gaps;
    one_that_starts_at_zero: StartsAtZero is caught by law_02_the_first_id_is_anything;
    one_that_reorders: Reorders is caught by law_02_the_order_of_arrival_is_held;
    one_that_forgets_to_deduplicate: ForgetsToDeduplicate is caught by law_03_the_same_batch_again_changes_nothing;
    one_that_forgets_to_deduplicate_parts: ForgetsToDeduplicate is caught by law_03_any_part_again_changes_nothing;
    one_that_forgets_to_deduplicate_at_once: ForgetsToDeduplicate is caught by law_03_the_same_batch_from_many_at_once_is_held_once;
    one_that_refuses_what_is_held: RefusesWhatIsHeld is caught by law_03_of_an_overlap_only_the_new_part_is_appended;
    one_that_accepts_holes: AcceptsHoles is caught by law_04_a_hole_is_a_gap;
    one_that_accepts_a_hole_at_the_start: AcceptsHoles is caught by law_04_a_hole_before_the_first_event_is_a_gap;
    one_that_is_never_fenced: NeverFenced is caught by law_04_another_event_at_the_head_is_fenced;
    one_that_compares_the_head_only: ComparesTheHeadOnly is caught by law_04_another_event_inside_is_fenced;
    one_that_compares_payloads_only: ComparesPayloadsOnly is caught by law_04_every_part_of_an_event_counts;
    one_that_accepts_skipped_ids: AcceptsSkipped is caught by law_04_an_id_that_was_skipped_is_fenced;
    one_that_accepts_outdated_snapshots: AcceptsOutdatedSnapshots is caught by law_04_a_snapshot_of_an_outdated_state_is_fenced;
    one_that_trusts_its_own_head: TrustsItsOwnHead is caught by law_04_a_second_writer_is_fenced;
    one_that_lets_all_rivals_win: WritesWithoutTurns is caught by law_04_of_rivals_for_an_id_one_wins;
    one_that_starts_nowhere: StartsNowhere is caught by law_04_an_empty_sink_starts_at_a_snapshot;
    one_that_forgets_the_floor: ForgetsTheFloor is caught by law_04_below_the_floor_is_pruned;
    one_that_calls_the_floor_fenced: CallsTheFloorFenced is caught by law_04_an_empty_sink_starts_at_a_snapshot;
    one_that_compares_the_head_only_on_a_walk: ComparesTheHeadOnly is caught by law_04_a_random_walk_agrees_with_a_model;
    one_that_is_never_fenced_on_a_walk: NeverFenced is caught by law_04_a_random_walk_agrees_with_a_model;
    one_whose_checkpoint_is_one_too_high: CheckpointOneTooHigh is caught by law_05_the_checkpoint_follows_what_is_acknowledged;
    one_whose_checkpoint_is_ahead: CheckpointBeforeDurable is caught by law_05_the_checkpoint_is_never_ahead_of_what_is_durable;
    one_whose_checkpoint_hides_holes: CheckpointHidesHoles is caught by law_05_a_refusal_does_not_move_the_checkpoint;
    one_that_forgets_its_checkpoint: CheckpointForgottenOnReopen is caught by law_05_the_checkpoint_follows_what_is_acknowledged;
    one_that_pretends_to_remember: PretendsToRemember is caught by law_05_a_checkpoint_is_unknown_only_without_memory;
    one_for_which_nothing_is_zero: NothingIsZero is caught by law_05_the_checkpoint_of_nothing_is_empty;
    one_that_reports_its_own_head: ReportsItsOwnHead is caught by law_05_two_handles_report_one_log;
    one_whose_head_is_its_checkpoint: HeadIsTheCheckpoint is caught by law_05_the_head_is_the_newest_event_acknowledged;
    one_that_swaps_without_comparing: SwapsWithoutComparing is caught by law_05_the_roster_moves_by_compare_and_swap;
    one_that_keeps_foreign_entries: KeepsForeignEntries is caught by law_05_the_roster_moves_by_compare_and_swap;
    one_that_folds_names: FoldsNames is caught by law_05_the_roster_keeps_entries_of_every_name_in_order;
    one_that_lists_in_any_order: ListsInAnyOrder is caught by law_05_the_roster_keeps_entries_of_every_name_in_order;
    one_that_keeps_known_members: KeepsKnownMembers is caught by law_05_the_roster_keeps_what_is_beside_a_checkpoint;
    one_that_swaps_without_turns: SwapsWithoutTurns is caught by law_08_of_runners_that_swap_at_once_one_wins;
    one_that_locks_in_its_task: LocksInItsTask is caught by law_06_an_append_dropped_at_any_await_is_whole;
    one_whose_swaps_land_late: SwapsLandLate is caught by law_06_a_swap_dropped_at_any_await_lands_at_once;
    one_that_halves_a_dropped_batch: HalfBatchWhenDropped is caught by law_06_an_append_dropped_at_any_await_is_whole;
    one_that_halves_a_batch_in_a_crash: HalfBatchAfterACrash is caught by law_06_an_append_cut_by_a_crash_is_whole;
    one_that_halves_a_rotation_in_a_crash: HalfBatchAfterACrash is caught by law_06_a_rotation_cut_by_a_crash_is_whole;
    one_that_lands_late: LandsLate is caught by law_06_an_append_dropped_at_any_await_is_whole;
    one_that_refuses_half: HalfRefuses is caught by law_06_a_batch_that_is_refused_is_refused_whole;
    one_that_prunes_half_when_dropped: HalfPrunesWhenDropped is caught by law_06_a_prune_dropped_at_any_await_harms_nothing;
    one_that_stays_busy_when_dropped: StaysBusyWhenDropped is caught by law_06_a_checkpoint_dropped_at_any_await_harms_nothing;
    one_that_says_safe_after_applying: SafeAfterApplying is caught by law_07_an_error_that_is_safe_applied_nothing;
    one_whose_command_lands_late: CommandLandsLate is caught by law_07_a_handle_works_again_after_a_retryable_error;
    one_that_keeps_a_dead_connection: KeepsADeadConnection is caught by law_07_a_handle_works_again_after_a_retryable_error;
    one_that_stops_after_a_retryable_error: StopsAfterAnError is caught by law_07_a_handle_works_again_after_a_retryable_error;
    one_that_works_though_it_stopped: WorksThoughItStopped is caught by law_07_a_handle_works_again_after_a_retryable_error;
    one_whose_fault_does_not_fire: MissesItsFault is caught by law_07_an_error_that_is_safe_applied_nothing;
    one_that_ignores_its_deadline: IgnoresTheDeadline is caught by law_07_an_append_returns_by_its_deadline;
    one_that_calls_a_deadline_never: CallsADeadlineNever is caught by law_07_an_append_returns_by_its_deadline;
    one_that_blocks_its_thread: BlocksItsThread is caught by law_08_no_call_blocks_its_thread;
    one_whose_gap_is_for_ever: GapIsForEver is caught by law_07_a_refusal_says_what_to_do_next;
    one_whose_fenced_is_safe: FencedIsSafe is caught by law_07_a_refusal_says_what_to_do_next;
    one_whose_readers_block_the_writer: ReadersBlockTheWriter is caught by law_08_a_reader_never_blocks_the_writer;
    one_that_writes_without_turns: WritesWithoutTurns is caught by law_08_many_tasks_append_at_once;
    one_that_is_unreadable_while_rotating: UnreadableWhileRotating is caught by law_08_readers_see_rotations_whole;
    one_that_shows_holes_while_writing: ShowsHolesWhileWriting is caught by law_08_ten_readers_beside_a_writer_see_prefixes;
    one_that_leaks_a_task: LeaksATask is caught by law_09_closed_it_leaves_nothing;
    one_that_leaks_a_descriptor: LeaksADescriptor is caught by law_09_closed_it_leaves_nothing;
    one_that_leaks_a_task_when_dropped: LeaksATask is caught by law_09_dropped_it_leaves_nothing;
    one_that_leaks_from_a_dropped_open: LeaksADescriptor is caught by law_09_an_open_dropped_at_any_await_leaves_nothing;
    one_that_keeps_its_lock: KeepsItsLock is caught by law_09_closed_it_leaves_nothing;
    one_that_leaks_followers: LeaksFollowers is caught by law_09_dropped_reads_leave_nothing;
    one_that_refuses_unknown_positions: RefusesUnknownPositions is caught by law_10_an_empty_log_reads_empty;
    one_that_reads_one_page: ReadsOnePage is caught by law_10_logs_of_every_length_read_whole;
    one_that_reads_one_page_of_many: ReadsOnePage is caught by law_10_fifty_thousand_events_read_whole;
    one_whose_after_is_inclusive: AfterIsInclusive is caught by law_10_after_is_exclusive_everywhere;
    one_whose_at_is_exclusive: AtIsExclusive is caught by law_10_at_is_inclusive_everywhere;
    one_whose_at_is_exclusive_at_the_floor: AtIsExclusive is caught by law_10_at_the_floor_a_read_begins_there;
    one_whose_prune_tears_reads: PruneTearsReads is caught by law_10_a_read_that_meets_a_prune_is_whole_or_pruned;
    one_whose_snapshot_is_the_oldest: SnapshotIsTheOldest is caught by law_10_a_snapshot_read_begins_at_the_newest;
    one_that_is_silent_below_the_floor: SilentBelowTheFloor is caught by law_10_below_the_floor_is_pruned;
    one_that_prunes_the_newest: PrunesTheNewest is caught by law_10_below_the_floor_is_pruned;
    one_that_skips_behind_a_seal: SkipsBehindASeal is caught by law_10_a_rotated_log_reads_like_one_that_is_not;
    one_that_skips_what_is_pruned: SkipsWhatIsPruned is caught by law_10_a_read_under_a_prune_skips_nothing;
    one_that_never_ends_a_read: NeverEndsARead is caught by law_10_a_read_ends_where_the_log_ended;
    one_that_loses_when_given_up: LosesWhenGivenUp is caught by law_10_a_read_given_up_and_taken_up_again_loses_nothing;
    one_whose_follow_ends: FollowEnds is caught by law_10_a_follower_of_an_empty_log_waits;
    one_whose_follow_repeats: FollowRepeats is caught by law_10_a_follower_sees_history_and_then_what_comes;
    one_whose_follow_misses: FollowMissesWhatComesMeanwhile is caught by law_10_a_follower_begins_anywhere;
    one_whose_followers_skip_behind_a_seal: SkipsBehindASeal is caught by law_10_ten_followers_beside_a_writer_miss_nothing;
    one_that_reads_all_into_memory: ReadsAllIntoMemory is caught by law_11_memory_does_not_grow_with_the_log;
    one_that_reads_ahead_without_bound: FollowsReadAheadWithoutBound is caught by law_11_memory_does_not_grow_with_the_log;
    one_that_accepts_what_is_too_large: AcceptsTooLarge is caught by law_11_an_event_that_is_too_large_is_refused_by_name;
    one_that_names_nothing: InvalidNamesNothing is caught by law_11_an_event_that_is_too_large_is_refused_by_name;
    one_that_misstates_its_limit: MisstatesItsLimit is caught by law_11_an_event_that_is_too_large_is_refused_by_name;
    one_that_shows_what_is_unsynced: ShowsWhatIsUnsynced is caught by law_12_what_was_shown_survives_a_crash;
    one_that_shows_beyond_its_checkpoint: ShowsWhatIsUnsynced is caught by law_12_nothing_is_shown_beyond_the_checkpoint;
    one_that_shows_what_is_in_flight: ShowsWhatIsInFlight is caught by law_12_what_was_shown_of_a_dropped_append_stays;
    one_that_skips_what_is_damaged: SkipsWhatIsDamaged is caught by law_13_damage_is_an_error_that_says_where;
    one_that_ends_at_damage: EndsAtDamage is caught by law_13_damage_is_an_error_that_says_where;
    one_that_calls_damage_unavailable: DamageIsUnavailable is caught by law_13_damage_is_an_error_that_says_where;
    one_that_goes_on_behind_an_error: GoesOnBehindAnError is caught by law_13_damage_is_an_error_that_says_where;
    one_whose_error_is_not_the_last: GoesOnBehindAnError is caught by law_13_an_error_is_the_last_item;
    one_that_cuts_a_commit_with_the_torn_tail: CutsACommitWithTheTornTail is caught by law_13_a_torn_tail_takes_nothing_with_it;
    one_that_follows_another_log: FollowsAnotherLog is caught by law_13_a_follower_of_a_replaced_log_diverges;
    one_whose_verification_misses_a_segment: VerifyMissesASegment is caught by law_13_a_verification_beside_a_writer_finds_nothing;
    one_whose_digest_is_of_nothing: DigestOfNothing is caught by law_14_the_checkpoint_names_its_history;
    one_whose_digest_parks_it: DigestOfNothing is caught by law_14_a_sink_of_the_same_history_catches_up;
    one_that_forgets_whose_it_is: CheckpointForgottenOnReopen is caught by law_14_a_sink_of_another_history_is_parked_untouched;
    one_that_forgets_how_far_it_is: CheckpointForgottenOnReopen is caught by law_14_a_sink_beyond_the_head_is_parked_untouched;
    one_whose_inclusive_after_confuses_histories: AfterIsInclusive is caught by law_14_a_primary_knows_its_own_sinks;
}

/// Faults of a sink on a server that the kit once missed, and the cases that catch them now.
const FOUND_ON_A_SERVER: [(Bug, &str); 5] = [
    (Bug::KeepsADeadConnection, "law_07_a_handle_works_again_after_a_retryable_error"),
    (Bug::CommandLandsLate, "law_07_a_handle_works_again_after_a_retryable_error"),
    (Bug::LocksInItsTask, "law_06_an_append_dropped_at_any_await_is_whole"),
    (Bug::TruncatesTheDefaultOfAFanOut, "law_01_batches_above_the_default_of_a_fan_out_are_held"),
    (Bug::BlocksItsThread, "law_08_no_call_blocks_its_thread"),
];

/// Tests mutants of a sink that the kit cannot read, so that it has to look again for what may show late. With the
/// default patience, each fails in seconds; `--show-output` prints the seconds.
#[test]
fn a_sink_alone_is_caught_in_seconds() {
    let dropped = (Bug::LandsLate, "law_06_an_append_dropped_at_any_await_is_whole");
    for (bug, name) in FOUND_ON_A_SERVER.into_iter().chain([dropped]) {
        let patience = Limits::default().patience;
        let alone = || OnPaper { alone: true, patience, ..OnPaper::new(bug) };
        #[expect(
            clippy::disallowed_methods,
            reason = "how long a case takes is measured on the machine's clock"
        )]
        let begun = std::time::Instant::now();
        let violation = check(alone, case(name), seed()).expect_err(name);
        println!("{bug:?} fails {name} after {:.1} s", begun.elapsed().as_secs_f64());
        assert_eq!(violation.law, case(name).law, "{violation}");
    }
}

#[test]
fn a_sink_alone_on_paper_passes_the_laws_of_a_sink() {
    for case in cases().iter().filter(|case| case.side == Side::Sink) {
        let alone = || OnPaper { alone: true, ..OnPaper::new(Bug::None) };
        check(alone, case, seed()).unwrap_or_else(|error| panic!("{error}"));
    }
}

/// Wrong content is reported as such, and not as a leak.
#[test]
fn a_leak_is_no_other_name_for_wrong_content() {
    let case = case("law_09_closed_it_leaves_nothing");
    let violation = check(|| OnPaper::new(Bug::LosesOnReopen), case, seed()).expect_err("it loses");
    assert_eq!(violation.law.number(), 1, "{violation}");
}

#[test]
fn every_law_has_a_mutant_that_it_catches() {
    let caught: BTreeSet<Law> = MUTANTS.iter().map(|(_, name)| case(name).law).collect();
    let without: Vec<_> = Law::all().filter(|law| !caught.contains(law)).collect();
    assert!(without.is_empty(), "no mutant for {without:?}");
}

#[test]
fn every_case_has_a_mutant_that_it_catches() {
    let caught: BTreeSet<&str> = MUTANTS.iter().map(|(_, name)| *name).collect();
    let without: Vec<_> = cases().iter().filter(|case| !caught.contains(case.name)).collect();
    assert!(without.is_empty(), "no mutant for {without:?}");
}

#[test]
fn without_a_bug_the_store_on_paper_passes_every_law() {
    for case in cases() {
        let report =
            check(|| OnPaper::new(Bug::None), case, seed()).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(report, hydrant_conformance::Report::default(), "{}", case.name);
    }
}

#[test]
fn a_weak_store_on_paper_passes_every_law() {
    for case in cases() {
        let weak = || OnPaper { weak: true, ..OnPaper::new(Bug::None) };
        check(weak, case, seed()).unwrap_or_else(|error| panic!("{error}"));
    }
}
