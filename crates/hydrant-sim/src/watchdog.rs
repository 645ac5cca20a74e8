//! Detects a busy loop: simulated time stands still while the machine's goes on.
//!
//! A task that is polled again and again never lets the runtime park, so time never advances. The run then fails. A
//! task that does not even return from its poll cannot be stopped: the plan is printed, and the process ends.

use std::cell::RefCell;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::plan::Plan;
use crate::world::World;

/// How long a run may make no progress, in time of the machine. Runs take some ten milliseconds.
const PATIENCE: Duration = Duration::from_secs(4);
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
pub fn progress() {
    CURRENT.with_borrow(|current| {
        if let Some(watched) = current {
            watched.parks.fetch_add(1, Ordering::Relaxed);
        }
    });
}

/// Watches the run of this thread; the future ends when the run is stuck.
pub fn begin(plan: &Plan, world: &Arc<World>) -> impl Future<Output = ()> {
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
pub fn end() {
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
    let mut seen: Vec<(Arc<Watched>, u64, u32)> = Vec::new();
    loop {
        std::thread::sleep(PATIENCE);
        {
            let mut all = all().lock().unwrap_or_else(PoisonError::into_inner);
            seen.extend(all.drain(..).map(|watched| (watched, u64::MAX, 0)));
        }
        seen.retain(|(watched, _, _)| !watched.is_over.load(Ordering::Relaxed));
        for (watched, parks, strikes) in &mut seen {
            let now = watched.parks.load(Ordering::Relaxed);
            *strikes = if now == *parks { *strikes + 1 } else { 0 };
            *parks = now;
            match *strikes {
                0 => {}
                1 => watched.stuck.notify_one(),
                _ => give_up(watched),
            }
        }
    }
}

fn give_up(watched: &Watched) {
    eprintln!("stuck: a poll does not return. The plan: {}", watched.plan);
    if let Ok(path) = std::env::var("HYDRANT_SIM_STUCK") {
        drop(std::fs::write(path, &watched.plan));
    }
    // The lock may be held by the poll that does not return.
    if let Some(state) = watched.world.try_lock() {
        for line in state.trace.iter().rev().take(40).rev() {
            eprintln!("{line}");
        }
    }
    std::process::exit(EXIT_STUCK);
}
