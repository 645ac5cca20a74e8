//! The clock that event times are read from.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use jiff::Timestamp;

/// Tells the time for new events; a test brings its own.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use hydrant::Clock;
///
/// let noon = Clock::from_fn(|| SystemTime::UNIX_EPOCH + Duration::from_secs(12 * 3600));
/// assert_eq!(noon.now(), SystemTime::UNIX_EPOCH + Duration::from_secs(43_200));
/// ```
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> SystemTime + Send + Sync>);

impl Clock {
    /// The clock of the machine.
    #[expect(clippy::disallowed_methods, reason = "the one place where the machine's clock comes in")]
    pub fn system() -> Self {
        Self::from_fn(SystemTime::now)
    }

    /// A clock that asks `now` each time.
    pub fn from_fn(now: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// What it is now.
    pub fn now(&self) -> SystemTime {
        (self.0)()
    }

    /// What it is now, as RFC 3339 in UTC with all nine digits of the nanoseconds.
    pub(super) fn text(&self) -> String {
        // Beyond the year 9999 there is no RFC 3339; time orders nothing, so the last instant will do.
        let now = Timestamp::try_from(self.now()).unwrap_or(Timestamp::MAX);
        format!("{now:.9}")
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::system()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_time_is_written_to_the_nanosecond() {
        let at = |seconds, nanos| {
            Clock::from_fn(move || SystemTime::UNIX_EPOCH + Duration::new(seconds, nanos)).text()
        };
        assert_eq!(at(1_767_603_600, 0), "2026-01-05T09:00:00.000000000Z");
        assert_eq!(at(1_767_603_600, 120_000_007), "2026-01-05T09:00:00.120000007Z");
        assert_eq!(at(1 << 60, 0), "9999-12-30T22:00:00.999999999Z");
    }
}
