//! Bounds the log lines that clients without credentials can cause.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Maximum number of lines in each [`WINDOW`].
const MAX_LINES: u32 = 10;
/// Length of a window, from its first line on.
const WINDOW: Duration = Duration::from_secs(60);

/// Limits log lines of one kind, and counts those that are suppressed.
pub(crate) struct LogLimiter(Mutex<Window>);

struct Window {
    start: SystemTime,
    lines: u32,
    suppressed: u64,
}

// === impl LogLimiter ===

impl LogLimiter {
    /// Returns the number of lines that were suppressed since the last one, if another line may be
    /// written now.
    pub(crate) fn permit(&self, now: SystemTime) -> Option<u64> {
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A clock that was set back begins a new window.
        if now.duration_since(window.start).map_or(true, |passed| passed >= WINDOW) {
            (window.start, window.lines) = (now, 0);
        }
        if window.lines >= MAX_LINES {
            window.suppressed = window.suppressed.saturating_add(1);
            return None;
        }
        window.lines += 1;
        Some(std::mem::take(&mut window.suppressed))
    }
}

impl Default for LogLimiter {
    fn default() -> Self {
        Self(Mutex::new(Window { start: UNIX_EPOCH, lines: 0, suppressed: 0 }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_one_kind_are_bounded_and_the_others_counted() {
        let limiter = LogLimiter::default();
        let at = |seconds: u64| UNIX_EPOCH + Duration::from_secs(1000 + seconds);
        let written = (0..1000).filter(|_| limiter.permit(at(0)).is_some()).count();
        assert_eq!(written, MAX_LINES as usize);
        assert_eq!(limiter.permit(at(59)), None);
        assert_eq!(limiter.permit(at(60)), Some(1000 - u64::from(MAX_LINES) + 1));
        assert_eq!(limiter.permit(at(60)), Some(0));
        assert_eq!(limiter.permit(at(0)), Some(0), "the clock was set back");
    }
}
