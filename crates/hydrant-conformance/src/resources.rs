//! What a process holds: descriptors, bytes of memory; and how long a thread waited for a processor.

use std::time::Duration;

/// The target of each descriptor that this process has open, sockets included; `None` if the system does not list
/// them.
pub(crate) fn open_descriptors() -> Option<Vec<String>> {
    let entries = std::fs::read_dir("/proc/self/fd").ok()?;
    let target = |entry: std::io::Result<std::fs::DirEntry>| std::fs::read_link(entry.ok()?.path()).ok();
    let mut names: Vec<_> = entries.filter_map(target).map(|path| path.display().to_string()).collect();
    names.sort();
    Some(names)
}

/// How long this thread was ready to run and waited for a processor; zero if the system does not report it.
///
/// On a busy machine a thread is late for that reason alone, and not because something blocked it.
pub(crate) fn queued() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = stat.split_whitespace().nth(1).and_then(|text| text.parse().ok());
    Duration::from_nanos(nanoseconds.unwrap_or(0))
}

#[cfg(feature = "track-memory")]
pub(crate) use tracking::{Peak, TRACKS_MEMORY};
#[cfg(not(feature = "track-memory"))]
pub(crate) use untracked::{Peak, TRACKS_MEMORY};

#[cfg(feature = "track-memory")]
mod tracking {
    use std::alloc::{GlobalAlloc, Layout, System};
    use std::sync::atomic::{AtomicIsize, Ordering::Relaxed};

    pub(crate) const TRACKS_MEMORY: bool = true;

    static LIVE: AtomicIsize = AtomicIsize::new(0);
    static PEAK: AtomicIsize = AtomicIsize::new(0);

    struct Tracking;

    #[global_allocator]
    static ALLOCATOR: Tracking = Tracking;

    fn grow(bytes: usize) {
        let live = LIVE.fetch_add(bytes.cast_signed(), Relaxed) + bytes.cast_signed();
        PEAK.fetch_max(live, Relaxed);
    }

    #[expect(unsafe_code, reason = "an allocator is unsafe by its trait; this one counts and hands on")]
    // SAFETY: every call goes to the system's allocator unchanged.
    unsafe impl GlobalAlloc for Tracking {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            grow(layout.size());
            unsafe { System.alloc(layout) }
        }

        unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
            grow(layout.size());
            unsafe { System.alloc_zeroed(layout) }
        }

        unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
            LIVE.fetch_sub(layout.size().cast_signed(), Relaxed);
            unsafe { System.dealloc(memory, layout) }
        }

        unsafe fn realloc(&self, memory: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
            LIVE.fetch_sub(layout.size().cast_signed(), Relaxed);
            grow(bytes);
            unsafe { System.realloc(memory, layout, bytes) }
        }
    }

    /// How far the memory of the process rises above a base.
    pub(crate) struct Peak {
        base: isize,
    }

    impl Peak {
        pub(crate) fn start() -> Self {
            let base = LIVE.load(Relaxed);
            PEAK.store(base, Relaxed);
            Self { base }
        }

        /// The most bytes since `start`, above what there was then.
        pub(crate) fn bytes(&self) -> usize {
            usize::try_from(PEAK.load(Relaxed) - self.base).unwrap_or(0)
        }
    }
}

#[cfg(not(feature = "track-memory"))]
mod untracked {
    pub(crate) const TRACKS_MEMORY: bool = false;

    /// Measures nothing; the case asks [`TRACKS_MEMORY`] first.
    pub(crate) struct Peak(usize);

    impl Peak {
        pub(crate) fn start() -> Self {
            Self(0)
        }

        pub(crate) fn bytes(&self) -> usize {
            self.0
        }
    }
}
