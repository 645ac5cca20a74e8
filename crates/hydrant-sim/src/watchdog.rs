//! Detects a busy loop: simulated time does not advance while the time of the machine does.
//!
//! A task that is polled again and again never lets the runtime park, so time never advances. The run then fails. A
//! task that does not even return from its poll cannot be stopped: the process prints the plan and ends. In a search, the
//! parent has the seed, and prints the plan.

use std::cell::RefCell;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::plan::Plan;
use crate::world::World;

/// How much processor time a run may use without waiting once. A whole run takes about ten milliseconds.
const PATIENCE: Duration = Duration::from_millis(700);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How the process ends where a poll does not return.
pub const EXIT_STUCK: i32 = 77;

/// One run, as the watchdog sees it.
struct Watched {
    parks: AtomicU64,
    stuck: Notify,
    is_over: AtomicBool,
    plan: String,
    world: Arc<World>,
}

thread_local! {
    static CURRENT: RefCell<Option<Arc<Watched>>> = const { RefCell::new(None) };
}

/// The runtime of this thread has nothing to do now: time will advance.
pub(crate) fn progress() {
    CURRENT.with_borrow(|current| {
        if let Some(watched) = current {
            watched.parks.fetch_add(1, Ordering::Relaxed);
        }
    });
}

/// How many times the runtime of this thread had nothing to do.
pub(crate) fn parks() -> u64 {
    CURRENT.with_borrow(|current| current.as_ref().map_or(0, |watched| watched.parks.load(Ordering::Relaxed)))
}

/// Watches the run of this thread; the future ends when the run is stuck.
pub(crate) fn begin(plan: &Plan, world: &Arc<World>) -> impl Future<Output = ()> {
    let watched = Arc::new(Watched {
        parks: AtomicU64::new(0),
        stuck: Notify::new(),
        is_over: AtomicBool::new(false),
        plan: serde_json::to_string(plan).unwrap_or_default(),
        world: world.clone(),
    });
    CURRENT.set(Some(watched.clone()));
    all().lock().unwrap_or_else(PoisonError::into_inner).push(watched.clone());
    async move { watched.stuck.notified().await }
}

/// The run of this thread is over.
pub(crate) fn end() {
    if let Some(watched) = CURRENT.take() {
        watched.is_over.store(true, Ordering::Relaxed);
    }
}

fn all() -> &'static Mutex<Vec<Arc<Watched>>> {
    static ALL: OnceLock<Mutex<Vec<Arc<Watched>>>> = OnceLock::new();
    ALL.get_or_init(|| {
        std::thread::spawn(watch);
        Mutex::default()
    })
}

#[expect(clippy::disallowed_methods, reason = "the one place that measures the machine's time")]
fn watch() {
    let mut seen: Vec<(Arc<Watched>, u64, Duration)> = Vec::new();
    loop {
        std::thread::sleep(LOOK_EVERY);
        let now = computed();
        {
            let mut all = all().lock().unwrap_or_else(PoisonError::into_inner);
            seen.extend(all.drain(..).map(|watched| (watched, u64::MAX, now)));
        }
        seen.retain(|(watched, _, _)| !watched.is_over.load(Ordering::Relaxed));
        for (watched, parks, since) in &mut seen {
            let parked = watched.parks.load(Ordering::Relaxed);
            if parked != *parks {
                (*parks, *since) = (parked, now);
            } else if now.saturating_sub(*since) > 2 * PATIENCE {
                give_up(watched);
            } else if now.saturating_sub(*since) > PATIENCE {
                watched.stuck.notify_one();
            }
        }
    }
}

/// The processor time of this process: a machine that is busy with other things does not count.
fn computed() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let ticks: u64 =
        fields.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

fn give_up(watched: &Watched) {
    eprintln!("stuck: a poll does not return; the plan: {}", watched.plan);
    // The lock may be held by the poll that does not return.
    if let Some(state) = watched.world.try_lock() {
        for line in state.trace.iter().rev().take(40).rev() {
            eprintln!("{line}");
        }
    }
    std::process::exit(EXIT_STUCK);
}
