//! Keeps a process that simulates on one CPU.
//!
//! Of the threads of a stepped process only one runs at a time. If two CPUs share them, each step waits until the other
//! CPU wakes up: that takes several times as long as the step.

/// Keeps this thread, and those that it starts, on one of the CPUs that it may use. Does nothing where the system cannot.
#[cfg(target_os = "linux")]
pub fn pin(number: u64) {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

    let Ok(allowed) = sched_getaffinity(None) else { return };
    let cpus: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).collect();
    let Some(index) = number.checked_rem(cpus.len() as u64) else { return };
    let mut one = CpuSet::new();
    one.set(cpus[usize::try_from(index).unwrap_or_default()]);
    // Only the speed depends on it.
    let _ = sched_setaffinity(None, &one);
}

/// Does nothing where the system cannot.
#[cfg(not(target_os = "linux"))]
pub fn pin(_number: u64) {}
