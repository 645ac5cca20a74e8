//! The clock that event times are read from.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use jiff::Timestamp;

use crate::mutants::mutant;

/// The clock that new events take their times from. A test brings its own.
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

/// The start of the year 0, in seconds from 1970: RFC 3339 has no earlier time.
const RFC_3339_MIN_SECONDS: i64 = -62_167_219_200;

impl Clock {
    /// The length of every [`text`](Clock::text), in bytes.
    pub(super) const TEXT_BYTES: usize = "1970-01-01T00:00:00.000000000Z".len();

    /// The clock of the machine.
    #[expect(clippy::disallowed_methods, reason = "the one place where the machine's clock comes in")]
    pub fn system() -> Self {
        Self::from_fn(SystemTime::now)
    }

    /// A clock that calls `now` each time it is read.
    pub fn from_fn(now: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// Returns the current time.
    pub fn now(&self) -> SystemTime {
        (self.0)()
    }

    /// Returns the current time as RFC 3339 in UTC with all nine digits of the nanoseconds.
    ///
    /// A time outside of the years 0 to 9999, which RFC 3339 cannot express, becomes the nearest one inside: times
    /// order nothing.
    pub(super) fn text(&self) -> String {
        let now = self.now();
        if mutant("clock-out-of-range") {
            return format!("{:.9}", Timestamp::try_from(now).expect("the clock is right"));
        }
        let nearest = if now < SystemTime::UNIX_EPOCH { Timestamp::MIN } else { Timestamp::MAX };
        let min = Timestamp::from_second(RFC_3339_MIN_SECONDS).unwrap_or(Timestamp::UNIX_EPOCH);
        let now = Timestamp::try_from(now).unwrap_or(nearest).max(min);
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
    fn text_has_nanoseconds_and_one_length() {
        let epoch = SystemTime::UNIX_EPOCH;
        let after = |seconds, nanos| epoch + Duration::new(seconds, nanos);
        let before = |seconds| epoch - Duration::from_secs(seconds);
        for (now, expected) in [
            (after(1_767_603_600, 0), "2026-01-05T09:00:00.000000000Z"),
            (after(1_767_603_600, 120_000_007), "2026-01-05T09:00:00.120000007Z"),
            (after(1 << 60, 0), "9999-12-30T22:00:00.999999999Z"),
            (before(1), "1969-12-31T23:59:59.000000000Z"),
            (before(62_167_219_201), "0000-01-01T00:00:00.000000000Z"),
            (before(1 << 60), "0000-01-01T00:00:00.000000000Z"),
        ] {
            let text = Clock::from_fn(move || now).text();
            assert_eq!(text, expected);
            assert_eq!(text.len(), Clock::TEXT_BYTES);
        }
    }
}
