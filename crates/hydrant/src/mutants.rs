//! Faults that the simulator must find, selected at run time in a build with `--cfg sim_mutants`.

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
