//! Faults that the simulator must find, selected at run time in a build with `--cfg sim_mutants`.
//!
//! Eleven faults are not among them, because the simulator meets them too rarely. The tests of this crate find them:
//! `HYDRANT_SIM_MUTANT=NAME RUSTFLAGS="--cfg sim_mutants" cargo test -p hydrant-file --features sim TESTS` fails.
//!
//! | name | fault | tests |
//! |---|---|---|
//! | `first-line-unchecked` | a follower of an empty log skips what comes before its first event | `opening` |
//! | `examine-meets-opening` | a reader examines `state` while a writer cuts it | `meet` |
//! | `unread-is-torn` | what cannot be read at open counts as torn | `opening` |
//! | `write-behind-a-hole` | an append behind a hole, which a cut left, is acknowledged | `append` |
//! | `stopped-is-safe` | a failure that stops the log says that nothing was applied | `append` |
//! | `short-log-is-silent` | a follower of a log that became shorter waits forever | `replaced` |
//! | `newer-is-torn` | lines of a newer format count as a torn tail | `opening` |
//! | `foreign-unsynced` | what hydra-node sealed is shown before it is durable | `foreign` |
//! | `failed-sync-forgotten` | a sync that fails at open leaves no trace in `lock` | `doubt` |
//! | `name-unsynced` | the name of a log's directory is not made durable | `opening` |
//! | `reader-forgets-failed-sync` | a reader trusts a file after its sync failed | `doubt` |
//!
//! A copy of the module in `hydrant`: to share it, that crate would have to publish a function that is for tests only.

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
