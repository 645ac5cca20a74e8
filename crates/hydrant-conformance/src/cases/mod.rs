//! The cases: each law, tried in several ways.

mod bounded;
mod commit;
mod compare;
mod complete;
mod concurrent;
mod follow;
mod handle;
mod held;
mod lineage;
mod lost;
mod roster;
mod walk;
mod whole;

use hydrant::Capabilities;

use crate::{Case, Law, Side};

/// All cases, by name: the one list that the suites and the table of mutants are made from.
#[doc(hidden)]
#[macro_export]
macro_rules! __cases {
    ($($then:ident)::+ ! ($($args:tt)*)) => {
        $($then)::+! {
            ($($args)*)
            Sink {
                1 law_01_what_was_acknowledged_is_held_after_reopening [MEMORY] held::reopening;
                1 law_01_what_was_acknowledged_survives_a_crash [MEMORY] held::crash;
                1 law_01_batches_of_every_size_are_held [NONE] held::batches_of_every_size;
                1 law_01_batches_above_the_default_of_a_fan_out_are_held [NONE] held::large_batches;
                1 law_01_payloads_are_held_byte_for_byte [NONE] held::payloads;
                1 law_01_a_payload_of_ten_mebibytes_is_held [NONE] held::ten_mebibytes;
                1 law_01_every_part_of_an_envelope_is_held [NONE] held::envelopes;
                2 law_02_ids_may_leave_gaps [NONE] held::gapped_ids;
                2 law_02_the_first_id_is_anything [NONE] held::first_id_is_anything;
                2 law_02_the_order_of_arrival_is_held [NONE] held::order_of_arrival;
                3 law_03_the_same_batch_again_changes_nothing [IDEMPOTENT] compare::again;
                3 law_03_any_part_again_changes_nothing [IDEMPOTENT] compare::any_part_again;
                3 law_03_of_an_overlap_only_the_new_part_is_appended [IDEMPOTENT] compare::overlapping;
                3 law_03_the_same_batch_from_many_at_once_is_held_once [IDEMPOTENT] compare::many_at_once;
                4 law_04_a_hole_is_a_gap [FENCING] compare::hole;
                4 law_04_a_hole_before_the_first_event_is_a_gap [FENCING] compare::hole_in_nothing;
                4 law_04_another_event_at_the_head_is_fenced [FENCING] compare::other_event_at_the_head;
                4 law_04_another_event_inside_is_fenced [FENCING] compare::other_event_inside;
                4 law_04_every_part_of_an_event_counts [FENCING] compare::every_part_counts;
                4 law_04_an_id_that_was_skipped_is_fenced [FENCING] compare::skipped;
                4 law_04_a_snapshot_of_an_outdated_state_is_fenced [FENCING] compare::outdated_snapshot;
                4 law_04_a_second_writer_is_fenced [FENCING] compare::second_writer;
                4 law_04_of_rivals_for_an_id_one_wins [FENCING] compare::race_of_writers;
                4 law_04_an_empty_sink_starts_at_a_snapshot [FENCING] compare::starts_at_a_snapshot;
                4 law_04_below_the_floor_is_pruned [FENCING SEGMENTS] compare::below_the_floor;
                4 law_04_a_random_walk_agrees_with_a_model [IDEMPOTENT FENCING MEMORY] walk::random;
                5 law_05_the_checkpoint_of_nothing_is_empty [MEMORY] held::empty;
                5 law_05_the_checkpoint_follows_what_is_acknowledged [MEMORY] held::checkpoint_follows;
                5 law_05_the_checkpoint_is_never_ahead_of_what_is_durable [MEMORY] held::checkpoint_is_durable;
                5 law_05_a_refusal_does_not_move_the_checkpoint [MEMORY FENCING] held::refusals_do_not_move_it;
                5 law_05_a_checkpoint_is_unknown_only_without_memory [NONE] held::unknown_without_memory;
                5 law_05_two_handles_report_one_log [MEMORY FENCING] commit::two_handles;
                5 law_05_the_head_is_the_newest_event_acknowledged [MEMORY FENCING] commit::head;
                6 law_06_an_append_dropped_at_any_await_is_whole [NONE] whole::cancel;
                6 law_06_an_append_cut_by_a_crash_is_whole [MEMORY] whole::crash;
                6 law_06_a_rotation_cut_by_a_crash_is_whole [MEMORY] whole::crash_in_a_rotation;
                6 law_06_a_batch_that_is_refused_is_refused_whole [NONE] whole::refused_whole;
                6 law_06_a_checkpoint_dropped_at_any_await_harms_nothing [NONE] whole::cancel_checkpoint;
                6 law_06_a_prune_dropped_at_any_await_harms_nothing [SEGMENTS] whole::cancel_prune;
                7 law_07_a_refusal_says_what_to_do_next [FENCING] whole::refusals;
                7 law_07_an_error_that_is_safe_applied_nothing [MEMORY] whole::failing_server;
                7 law_07_a_handle_works_again_after_a_retryable_error [NONE] handle::works_again;
                7 law_07_an_append_returns_by_its_deadline [NONE] handle::deadline;
                8 law_08_no_call_blocks_its_thread [NONE] handle::blocks_its_thread;
                9 law_09_closed_it_leaves_nothing [NONE] concurrent::closed;
                9 law_09_dropped_it_leaves_nothing [NONE] concurrent::dropped;
                9 law_09_an_open_dropped_at_any_await_leaves_nothing [NONE] concurrent::dropped_open;
                11 law_11_an_event_that_is_too_large_is_refused_by_name [NONE] bounded::event_bytes_max;
                14 law_14_the_checkpoint_names_its_history [MEMORY] lineage::digests;
                14 law_14_a_sink_of_the_same_history_catches_up [MEMORY IDEMPOTENT] lineage::own_history;
                14 law_14_a_sink_of_another_history_is_parked_untouched [MEMORY] lineage::other_history;
                14 law_14_a_sink_beyond_the_head_is_parked_untouched [MEMORY] lineage::beyond_the_head;
            }
            Source {
                8 law_08_ten_readers_beside_a_writer_see_prefixes [SOURCE] concurrent::ten_readers;
                8 law_08_a_reader_never_blocks_the_writer [SOURCE] concurrent::stalled_reader;
                8 law_08_readers_see_rotations_whole [SOURCE] follow::rotation_under_readers;
                9 law_09_dropped_reads_leave_nothing [SOURCE] concurrent::dropped_reads;
                10 law_10_an_empty_log_reads_empty [SOURCE] complete::empty;
                10 law_10_logs_of_every_length_read_whole [SOURCE] complete::counts;
                10 law_10_fifty_thousand_events_read_whole [SOURCE] complete::fifty_thousand;
                10 law_10_after_is_exclusive_everywhere [SOURCE] complete::after_is_exclusive;
                10 law_10_at_is_inclusive_everywhere [SOURCE] complete::at_is_inclusive;
                10 law_10_a_snapshot_read_begins_at_the_newest [SOURCE] complete::snapshots;
                10 law_10_a_rotated_log_reads_like_one_that_is_not [SOURCE] complete::rotated_is_unrotated;
                10 law_10_a_read_ends_where_the_log_ended [SOURCE] complete::a_read_ends;
                10 law_10_a_read_given_up_and_taken_up_again_loses_nothing [SOURCE] concurrent::reads_dropped_at_each_await;
                10 law_10_a_follower_sees_history_and_then_what_comes [SOURCE] follow::history_then_live;
                10 law_10_a_follower_begins_anywhere [SOURCE] follow::from_everywhere;
                10 law_10_a_follower_of_an_empty_log_waits [SOURCE] follow::an_empty_log;
                10 law_10_ten_followers_beside_a_writer_miss_nothing [SOURCE] follow::beside_a_writer;
                11 law_11_memory_does_not_grow_with_the_log [SOURCE] bounded::memory;
                13 law_13_damage_is_an_error_that_says_where [SOURCE] bounded::damage_is_an_error;
                13 law_13_a_torn_tail_takes_nothing_with_it [SOURCE] bounded::torn_tail;
                13 law_13_a_follower_of_a_replaced_log_diverges [SOURCE] lost::replaced;
                13 law_13_a_verification_beside_a_writer_finds_nothing [SOURCE] lost::verify_beside_a_writer;
                14 law_14_a_primary_knows_its_own_sinks [SOURCE] lineage::as_the_primary;
            }
            Store {
                8 law_08_many_tasks_append_at_once [SOURCE FENCING MEMORY] concurrent::appends_from_many_tasks;
                10 law_10_below_the_floor_is_pruned [SOURCE SEGMENTS] complete::floor;
                10 law_10_a_read_under_a_prune_skips_nothing [SOURCE SEGMENTS] complete::prune_under_a_read;
                10 law_10_a_read_that_meets_a_prune_is_whole_or_pruned [SOURCE SEGMENTS] complete::prune_meets_reads;
                10 law_10_at_the_floor_a_read_begins_there [SOURCE SEGMENTS] complete::at_the_floor;
                12 law_12_what_was_shown_survives_a_crash [SOURCE MEMORY] bounded::shown_is_durable;
                12 law_12_nothing_is_shown_beyond_the_checkpoint [SOURCE MEMORY] bounded::shown_before_the_checkpoint;
                12 law_12_what_was_shown_of_a_dropped_append_stays [SOURCE MEMORY] bounded::shown_of_a_dropped_append;
                13 law_13_an_error_is_the_last_item [SOURCE FENCING] bounded::error_is_last;
            }
            Roster {
                5 law_05_the_roster_moves_by_compare_and_swap [NONE] roster::compare_and_swap;
                5 law_05_the_roster_keeps_entries_of_every_name_in_order [NONE] roster::entries;
                5 law_05_the_roster_keeps_what_is_beside_a_checkpoint [NONE] roster::beside;
                6 law_06_a_swap_dropped_at_any_await_lands_at_once [NONE] roster::dropped_swap;
                8 law_08_of_runners_that_swap_at_once_one_wins [NONE] roster::race;
            }
        }
    };
}

macro_rules! table {
    (() $($side:ident { $($law:literal $name:ident [$($needs:ident)*] $($run:ident)::+;)* })*) => {
        pub(crate) const CASES: &[Case] = &[$($(Case {
            law: Law::new($law),
            name: stringify!($name),
            side: Side::$side,
            needs: all(&[$(Capabilities::$needs),*]),
            run: |trial| Box::pin($($run)::+(trial)),
        },)*)*];
    };
}

const fn all(capabilities: &[Capabilities]) -> Capabilities {
    let mut of_all = Capabilities::NONE;
    let mut at = 0;
    while at < capabilities.len() {
        of_all = of_all.with(capabilities[at]);
        at += 1;
    }
    of_all
}

__cases!(table!());
