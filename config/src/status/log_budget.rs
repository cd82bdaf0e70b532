//! How many log lines about the problems of one Namespace are written. A tenant may change its
//! objects as often as the API server allows.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

/// The most lines about one Namespace in each [`WINDOW`].
const MAX_LINES: u32 = 100;
/// The length of a window, from its first line on.
const WINDOW: Duration = Duration::from_secs(60);

/// The lines of the current window of each Namespace.
#[derive(Debug, Default)]
pub(super) struct LogBudget(BTreeMap<Arc<str>, Window>);

#[derive(Debug)]
struct Window {
    start: Instant,
    lines: u32,
    suppressed: u64,
}

// === impl LogBudget ===

impl LogBudget {
    /// Whether a line about `namespace` may be written at `now`.
    pub(super) fn permit(&mut self, namespace: &Arc<str>, now: Instant) -> bool {
        let new = || Window { start: now, lines: 0, suppressed: 0 };
        let window = self.0.entry(Arc::clone(namespace)).or_insert_with(new);
        let is_permitted = window.lines < MAX_LINES;
        if is_permitted {
            window.lines += 1;
        } else {
            window.suppressed += 1;
        }
        is_permitted
    }

    /// Ends the windows that are past; returns how many lines about each Namespace were suppressed
    /// in them.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<(Arc<str>, u64)> {
        let mut suppressed = Vec::new();
        self.0.retain(|namespace, window| {
            let is_past = now.saturating_duration_since(window.start) >= WINDOW;
            if is_past && window.suppressed > 0 {
                suppressed.push((Arc::clone(namespace), window.suppressed));
            }
            !is_past
        });
        suppressed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_of_a_namespace_are_bounded_and_the_others_counted() {
        let (mut budget, now) = (LogBudget::default(), Instant::now());
        let (evil, shop): (Arc<str>, Arc<str>) = ("evil".into(), "shop".into());
        let permitted = (0..1000).filter(|_| budget.permit(&evil, now)).count();
        assert_eq!(permitted, MAX_LINES as usize);
        assert!(budget.permit(&shop, now));
        assert_eq!(budget.expire(now + WINDOW - Duration::from_secs(1)), []);
        let suppressed = 1000 - u64::from(MAX_LINES);
        assert_eq!(budget.expire(now + WINDOW), [(Arc::clone(&evil), suppressed)]);
        assert!(budget.permit(&evil, now + WINDOW));
    }
}
