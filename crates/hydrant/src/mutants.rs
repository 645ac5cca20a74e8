//! Faults that the simulator must find, selected at run time in a build with `--cfg sim_mutants`.
//!
//! Six faults are not among them. In the simulator, no change of the roster lands late enough, no source of a relay is pruned,
//! and a failover rarely comes between a comparison and its append. The tests find these: `HYDRANT_SIM_MUTANT=NAME RUSTFLAGS="--cfg sim_mutants" cargo test -p hydrant TESTS` fails.
//!
//! | name | fault | tests |
//! |---|---|---|
//! | `late-attach-hidden` | `prune` does not show a name of the roster that the status does not have | `roster_late` |
//! | `unmarked-entry` | a change that lands late fits the entry of a later `attach` | `roster_late` |
//! | `prune-by-roster-alone` | `prune` ignores an attached sink whose entry is gone | `roster_late` |
//! | `head-of-the-reply` | a secondary at the head begins where the log ends once its sink replies | `starts` |
//! | `lost-in-between` | a batch takes the place of an event that the primary lost since it was compared | `lost_tail` |
//! | `pruned-ends-relay` | a sink that needs pruned events ends the relay of all | `relay_pruned` |

/// Returns whether the fault of this name is selected. Always `false` in any other build.
#[cfg(not(sim_mutants))]
#[inline]
pub(crate) const fn mutant(_name: &str) -> bool {
    false
}

/// Returns whether `HYDRANT_SIM_MUTANT` names this fault.
#[cfg(sim_mutants)]
pub(crate) fn mutant(name: &str) -> bool {
    static SELECTED: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    SELECTED.get_or_init(|| std::env::var("HYDRANT_SIM_MUTANT").ok()).as_deref() == Some(name)
}
