//! The time of day as text, made once a second.

use std::cell::{Cell, RefCell};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::HeaderValue;

/// A worker's clock.
#[derive(Debug)]
pub(crate) struct Clock {
    second: Cell<Option<u64>>,
    date: RefCell<HeaderValue>,
    stamp: RefCell<String>,
    combined: RefCell<String>,
}

// === impl Clock ===

impl Clock {
    pub(crate) fn new() -> Self {
        Self {
            second: Cell::new(None),
            date: RefCell::new(HeaderValue::from_static("")),
            stamp: RefCell::default(),
            combined: RefCell::default(),
        }
    }

    /// The value of a `Date` header (RFC 9110 §5.6.7).
    pub(crate) fn date(&self, now: SystemTime) -> HeaderValue {
        self.refresh(now);
        self.date.borrow().clone()
    }

    /// Gives `use_it` the time as `2026-11-21T10:15:00` (UTC), and the milliseconds that belong
    /// after it.
    pub(super) fn stamp<T>(&self, now: SystemTime, use_it: impl FnOnce(&str, u32) -> T) -> T {
        let since = self.refresh(now);
        use_it(&self.stamp.borrow(), since.subsec_millis())
    }

    /// Gives `use_it` the time as `21/Nov/2026:10:15:00 +0000`, as the combined format has it.
    pub(super) fn combined<T>(&self, now: SystemTime, use_it: impl FnOnce(&str) -> T) -> T {
        self.refresh(now);
        use_it(&self.combined.borrow())
    }

    fn refresh(&self, now: SystemTime) -> Duration {
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        if self.second.replace(Some(since.as_secs())) != Some(since.as_secs()) {
            let date = httpdate::fmt_http_date(now.max(UNIX_EPOCH));
            if let Some(stamp) = iso(&date) {
                self.combined.replace(combined(&stamp).unwrap_or_default());
                self.stamp.replace(stamp);
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

/// `Sat, 21 Nov 2026 10:15:00 GMT` as `2026-11-21T10:15:00`: one calendar for both.
fn iso(date: &str) -> Option<String> {
    let mut parts = date.split(' ').skip(1);
    let (day, month, year, time) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let month = MONTHS.iter().position(|name| *name == month)? + 1;
    Some(format!("{year}-{month:02}-{day}T{time}"))
}

/// `2026-11-21T10:15:00` as `21/Nov/2026:10:15:00 +0000`, as the combined format has it.
pub(super) fn combined(stamp: &str) -> Option<String> {
    let (date, time) = stamp.split_once('T')?;
    let mut parts = date.split('-');
    let (year, month, day) = (parts.next()?, parts.next()?, parts.next()?);
    let month = MONTHS.get(month.parse::<usize>().ok()?.checked_sub(1)?)?;
    Some(format!("{day}/{month}/{year}:{time} +0000"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_told_in_three_forms() {
        let clock = Clock::new();
        let now = UNIX_EPOCH + Duration::from_millis(1_795_256_100_042);
        assert_eq!(clock.date(now), "Sat, 21 Nov 2026 10:15:00 GMT");
        clock.stamp(now, |stamp, milliseconds| {
            assert_eq!((stamp, milliseconds), ("2026-11-21T10:15:00", 42));
            assert_eq!(combined(stamp).unwrap(), "21/Nov/2026:10:15:00 +0000");
        });
        assert_eq!(clock.date(now + Duration::from_secs(1)), "Sat, 21 Nov 2026 10:15:01 GMT");
    }
}
