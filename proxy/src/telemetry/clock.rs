//! The current time as one reading of the clock gives it, and as text, formatted once per second.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use http::HeaderValue;

/// How long the difference between both clocks of the system is relied on.
const STEADY: Duration = Duration::from_secs(1);

/// A worker's clock.
#[derive(Debug)]
pub(crate) struct Clock {
    /// One moment by both clocks of the system.
    moment: Cell<Option<(Instant, SystemTime)>>,
    second: Cell<Option<u64>>,
    date: RefCell<HeaderValue>,
    timestamp: RefCell<String>,
    combined: RefCell<String>,
}

// === impl Clock ===

impl Clock {
    pub(crate) fn new() -> Self {
        Self {
            moment: Cell::new(None),
            second: Cell::new(None),
            date: RefCell::new(HeaderValue::from_static("")),
            timestamp: RefCell::default(),
            combined: RefCell::default(),
        }
    }

    /// Returns the time of day at `now`, without another reading of the clock. It is off by as much
    /// as the system's clock was set in the second before.
    pub(crate) fn time_of_day(&self, now: Instant) -> SystemTime {
        if let Some((instant, time)) = self.moment.get()
            && let Some(since) = now.checked_duration_since(instant).filter(|since| *since < STEADY)
        {
            return time + since;
        }
        let time = SystemTime::now();
        self.moment.set(Some((now, time)));
        time
    }

    /// Returns the value of a `Date` header (RFC 9110 §5.6.7).
    pub(crate) fn date(&self, now: SystemTime) -> HeaderValue {
        self.refresh(now);
        self.date.borrow().clone()
    }

    /// Calls `f` with the time as `2026-11-21T10:15:00` (UTC), and the milliseconds of the second.
    pub(super) fn timestamp<T>(&self, now: SystemTime, f: impl FnOnce(&str, u32) -> T) -> T {
        let since = self.refresh(now);
        f(&self.timestamp.borrow(), since.subsec_millis())
    }

    /// Calls `f` with the time as `21/Nov/2026:10:15:00 +0000`, for the combined format.
    pub(super) fn combined<T>(&self, now: SystemTime, f: impl FnOnce(&str) -> T) -> T {
        self.refresh(now);
        f(&self.combined.borrow())
    }

    fn refresh(&self, now: SystemTime) -> Duration {
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        if self.second.replace(Some(since.as_secs())) != Some(since.as_secs()) {
            let date = httpdate::fmt_http_date(now.max(UNIX_EPOCH));
            if let Some(timestamp) = iso(&date) {
                self.combined.replace(combined(&timestamp).unwrap_or_default());
                self.timestamp.replace(timestamp);
            }
            if let Ok(date) = HeaderValue::try_from(date) {
                self.date.replace(date);
            }
        }
        since
    }
}

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// Converts `Sat, 21 Nov 2026 10:15:00 GMT` to `2026-11-21T10:15:00`.
fn iso(date: &str) -> Option<String> {
    let mut parts = date.split(' ').skip(1);
    let (day, month, year, time) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let month = MONTHS.iter().position(|name| *name == month)? + 1;
    Some(format!("{year}-{month:02}-{day}T{time}"))
}

/// Converts `2026-11-21T10:15:00` to `21/Nov/2026:10:15:00 +0000`, for the combined format.
pub(super) fn combined(timestamp: &str) -> Option<String> {
    let (date, time) = timestamp.split_once('T')?;
    let mut parts = date.split('-');
    let (year, month, day) = (parts.next()?, parts.next()?, parts.next()?);
    let month = MONTHS.get(month.parse::<usize>().ok()?.checked_sub(1)?)?;
    Some(format!("{day}/{month}/{year}:{time} +0000"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_has_three_formats() {
        let clock = Clock::new();
        let now = UNIX_EPOCH + Duration::from_millis(1_795_256_100_042);
        assert_eq!(clock.date(now), "Sat, 21 Nov 2026 10:15:00 GMT");
        clock.timestamp(now, |timestamp, milliseconds| {
            assert_eq!((timestamp, milliseconds), ("2026-11-21T10:15:00", 42));
            assert_eq!(combined(timestamp).unwrap(), "21/Nov/2026:10:15:00 +0000");
        });
        assert_eq!(clock.date(now + Duration::from_secs(1)), "Sat, 21 Nov 2026 10:15:01 GMT");
    }
}
