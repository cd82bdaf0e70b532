//! Which of the certificates that are due are ordered now: several at a time, renewals by their
//! end, and fair between Namespaces. The caller provides the time.
//!
//! An order may take minutes to fail, and an authority limits the orders of an account. So the
//! orders of a Namespace use up neither the slots nor the orders of others:
//!
//! - a Namespace has at most half of the slots;
//! - one slot is for renewals alone;
//! - half of the slots are for Namespaces whose orders succeed: retries, and Namespaces that had a
//!   failed order within the hour, share the others;
//! - a Namespace whose orders failed too often within the hour waits, and so do all new
//!   certificates if the orders of all failed too often;
//! - new certificates are ordered by turns of their Namespaces.

use std::collections::BTreeMap;

use super::failed_orders::FailedOrders;
use super::state::Seconds;

/// The most failed orders of all Namespaces within an hour, after which only existing certificates
/// are renewed: half of what Let's Encrypt allows an account (300 new orders in 3 hours).
pub(super) const MAX_FAILED: usize = 50;

/// The limits of an installation.
#[derive(Debug, Clone, Copy)]
pub(super) struct QueueLimits {
    /// Orders at a time.
    pub(super) orders: usize,
    /// Failed orders of one Namespace within an hour.
    pub(super) failed_orders: usize,
}

/// A certificate that is to be ordered now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Due {
    /// Its own name.
    pub(super) certificate: String,
    /// The Namespace that its names belong to; empty for the gateway itself.
    pub(super) namespace: String,
    /// When the existing one expires; `None` if there is none that is usable.
    pub(super) end: Option<Seconds>,
    /// Whether its last order failed.
    pub(super) is_retry: bool,
}

/// The orders under way, and whose turn it is.
#[derive(Debug, Default)]
pub(super) struct OrderQueue {
    /// The orders under way, by the certificate.
    running: BTreeMap<String, Due>,
    /// The number of the last order of each Namespace that has had one.
    turns: BTreeMap<String, u64>,
    started: u64,
}

// === impl Due ===

impl Due {
    fn is_renewal(&self) -> bool {
        self.end.is_some()
    }

    /// A tenant's; the gateway's own certificate has no limit but its back-off.
    fn is_limited(&self) -> bool {
        !self.namespace.is_empty()
    }

    /// Whether its order will probably fail.
    fn is_doubtful(&self, failed: &FailedOrders, now: Seconds) -> bool {
        self.is_limited() && (self.is_retry || failed.of(&self.namespace, now) > 0)
    }
}

// === impl OrderQueue ===

impl OrderQueue {
    /// Whether a certificate is being ordered.
    pub(super) fn is_running(&self, certificate: &str) -> bool {
        self.running.contains_key(certificate)
    }

    /// Starts the next order of `due`; `None` if none may start now.
    pub(super) fn start(
        &mut self,
        due: &[Due],
        failed: &FailedOrders,
        limits: QueueLimits,
        now: Seconds,
    ) -> Option<Due> {
        let may_start = |due: &&Due| {
            !self.is_running(&due.certificate)
                && self.has_slot(due, failed, limits, now)
                && blocked_until(due, failed, limits, now) <= now
        };
        let next = due.iter().filter(may_start).min_by_key(|due| self.rank(due, failed, now))?;
        self.started += 1;
        self.turns.insert(next.namespace.clone(), self.started);
        self.running.insert(next.certificate.clone(), next.clone());
        Some(next.clone())
    }

    /// Records the end of an order.
    pub(super) fn finish(&mut self, certificate: &str) {
        self.running.remove(certificate);
        if self.running.is_empty() && self.turns.len() > 1000 {
            self.turns.clear();
        }
    }

    fn has_slot(
        &self,
        due: &Due,
        failed: &FailedOrders,
        limits: QueueLimits,
        now: Seconds,
    ) -> bool {
        let running =
            |is: &dyn Fn(&Due) -> bool| self.running.values().filter(|one| is(one)).count();
        let half = (limits.orders / 2).max(1);
        let most_new = limits.orders.saturating_sub(1).max(1);
        let is_doubtful = |due: &Due| due.is_doubtful(failed, now);
        running(&|_| true) < limits.orders
            && running(&|one| one.namespace == due.namespace) < half
            && (due.is_renewal() || running(&|one| !one.is_renewal()) < most_new)
            && (!is_doubtful(due) || running(&is_doubtful) < half)
    }

    /// Renewals first, by their end; new certificates by turns, and first those of Namespaces with
    /// the fewest failures.
    fn rank<'d>(
        &self,
        due: &'d Due,
        failed: &FailedOrders,
        now: Seconds,
    ) -> (Seconds, usize, u64, &'d str) {
        let turn = self.turns.get(&due.namespace).copied().unwrap_or(0);
        match due.end {
            Some(end) => (end, 0, 0, &due.certificate),
            None => (Seconds::MAX, failed.of(&due.namespace, now), turn, &due.certificate),
        }
    }
}

/// Until when the failed orders of the last hour forbid an order; 0 if they do not.
pub(super) fn blocked_until(
    due: &Due,
    failed: &FailedOrders,
    limits: QueueLimits,
    now: Seconds,
) -> Seconds {
    if !due.is_limited() {
        return 0;
    }
    let own = failed.below(&due.namespace, limits.failed_orders, now);
    let all = if due.is_renewal() { 0 } else { failed.all_below(MAX_FAILED, now) };
    own.max(all)
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
