//! The schedule of orders, renewals and retries: idle → ordering → valid → renewing. The caller
//! provides the time.

use std::collections::BTreeSet;
use std::time::Duration;

use super::state::{Failure, Record, Renewal, Seconds};

/// The longest pause between two attempts.
const MAX_PAUSE: Duration = Duration::from_secs(24 * 3600);
/// The shortest and the longest time between two queries for renewal advice (RFC 9773 §4.3.2).
const ADVICE_INTERVAL: (Seconds, Seconds) = (60, 24 * 3600);
/// The longest `Retry-After` that is respected.
const MAX_RETRY_AFTER: Seconds = 7 * 24 * 3600;
/// The longest plausible time until a retry: a later one was written when the clock was wrong.
const MAX_PLAUSIBLE: Seconds = MAX_RETRY_AFTER + 24 * 3600;
/// The time until the next query if there is no advice.
pub(super) const NO_ADVICE_INTERVAL: Seconds = 6 * 3600;

/// The facts about an existing certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) names: BTreeSet<String>,
    pub(crate) not_before: Seconds,
    pub(crate) not_after: Seconds,
    /// An operator requested its renewal.
    pub(crate) renewal_requested: bool,
}

/// The next step for a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Order now: it does not exist, lacks names, or is due for renewal.
    Order,
    /// Ask the authority for renewal advice.
    QueryRenewal,
    /// Do nothing before this time.
    Wait(Seconds),
}

/// The next step for `record`; `facts` are those of the existing certificate, if it is usable.
/// A certificate of none of the configured `authorities`, such as a staging one, is replaced.
pub(crate) fn step(
    record: &Record,
    facts: Option<&Facts>,
    authorities: &[&str],
    now: Seconds,
) -> Step {
    let blocked = record.failure.as_ref().filter(|failure| is_blocked(failure, now));
    let order = blocked.map_or(Step::Order, |failure| Step::Wait(failure.until));
    let Some(facts) = facts else { return order };
    let is_trusted =
        record.authority.as_deref().is_some_and(|authority| authorities.contains(&authority));
    if !is_trusted || !record.names.is_subset(&facts.names) || facts.renewal_requested {
        return order;
    }
    let renewal = record.renewal.as_ref().filter(|renewal| renewal.not_after == facts.not_after);
    let due = due(facts, renewal);
    if due <= now {
        return order;
    }
    match renewal.map_or(0, |renewal| renewal.next_query) {
        query if query <= now => Step::QueryRenewal,
        query => Step::Wait(due.min(query)),
    }
}

/// Whether a retry after `failure` must wait.
pub(crate) fn is_blocked(failure: &Failure, now: Seconds) -> bool {
    failure.until > now && failure.until - now <= MAX_PLAUSIBLE
}

/// When to renew a certificate: by the authority's advice, else after two thirds of its lifetime.
pub(crate) fn due(facts: &Facts, renewal: Option<&Renewal>) -> Seconds {
    let life = facts.not_after.saturating_sub(facts.not_before);
    renewal.map_or(facts.not_before.saturating_add(life / 3 * 2), |renewal| renewal.at)
}

/// The renewal by an authority's advice: at a random time in `window`, which `random` selects (RFC
/// 9773 §4.2), with the next query after `retry`. A time selected before stays if it is within the
/// window.
pub(crate) fn advised(
    facts: &Facts,
    before: Option<&Renewal>,
    window: (Seconds, Seconds),
    retry: Seconds,
    now: Seconds,
    random: u64,
) -> Renewal {
    let (start, end) = window;
    let previous = before.map(|before| before.at).filter(|at| (start..=end).contains(at));
    let selected = || start.saturating_add(random % end.saturating_sub(start).saturating_add(1));
    // Advice never lets a certificate expire.
    let latest =
        facts.not_after.saturating_sub(facts.not_after.saturating_sub(facts.not_before) / 10);
    Renewal {
        not_after: facts.not_after,
        at: previous.unwrap_or_else(selected).min(latest),
        next_query: now.saturating_add(retry.clamp(ADVICE_INTERVAL.0, ADVICE_INTERVAL.1)),
    }
}

/// The renewal without advice: the time does not change, and the next query is later.
pub(crate) fn unadvised(facts: &Facts, before: Option<&Renewal>, now: Seconds) -> Renewal {
    let at = due(facts, before.filter(|before| before.not_after == facts.not_after));
    Renewal { not_after: facts.not_after, at, next_query: now.saturating_add(NO_ADVICE_INTERVAL) }
}

/// The state after one more failure: the pause starts at `first` and doubles each time, with a
/// jitter of one half from `random`, and never ends before the time that the authority demands.
pub(crate) fn after_failure(
    before: Option<&Failure>,
    error: String,
    first: Duration,
    demanded: Option<Seconds>,
    now: Seconds,
    random: u64,
) -> Failure {
    let failures = before.map_or(0, |before| before.failures).saturating_add(1);
    let doublings = failures.saturating_sub(1).min(31);
    let most = first.saturating_mul(1 << doublings).min(MAX_PAUSE).as_millis();
    let most = u64::try_from(most).unwrap_or(u64::MAX);
    let pause = most / 2 + random % (most / 2).max(1);
    let demanded = demanded.unwrap_or(0).min(now.saturating_add(MAX_RETRY_AFTER));
    let until = now.saturating_add(pause.div_ceil(1000)).max(demanded);
    Failure { failures, until, error }
}

#[cfg(test)]
#[path = "schedule_tests.rs"]
mod tests;
