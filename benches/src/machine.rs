//! The machine that the figures were measured on.

use std::fs;
use std::path::Path;
use std::process::Command;

/// Describes the machine in one line: processor, cores, memory, kernel, file system.
pub fn describe(dir: &Path) -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let cpu =
        field(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = field(&read("/proc/meminfo"), "MemTotal").and_then(|text| {
        let kib: u64 = text.split_whitespace().next()?.parse().ok()?;
        Some(format!("{} GiB", kib.div_ceil(1 << 20)))
    });
    let kernel = read("/proc/sys/kernel/osrelease");
    format!(
        "{cpu}, {cores} cores, {} of memory, Linux {}, {}",
        memory.as_deref().unwrap_or("?"),
        kernel.trim().split('-').next().unwrap_or_default(),
        file_system(dir).unwrap_or_else(|| "unknown file system".to_owned()),
    )
}

/// Returns the type of the file system that this directory is on.
fn file_system(dir: &Path) -> Option<String> {
    let dir = dir.ancestors().find_map(|existing| existing.canonicalize().ok())?;
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let mounts = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        Some((fields.next()?, fields.next()?))
    });
    let (_, name) = mounts.filter(|(at, _)| dir.starts_with(at)).max_by_key(|(at, _)| at.len())?;
    Some(name.to_owned())
}

/// Returns the most memory that this process ever had in use, in bytes.
pub fn memory_peak() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}

/// Drops the kernel's page cache, so that the next read comes from the disk. Returns whether this was done: only root
/// may do it.
pub fn drop_caches() -> bool {
    let synced = Command::new("sync").status().is_ok_and(|status| status.success());
    synced && fs::write("/proc/sys/vm/drop_caches", "3").is_ok()
}
