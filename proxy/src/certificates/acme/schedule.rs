//! When a certificate is ordered, renewed, and tried again: idle → ordering → valid → renewing,
//! without a clock of its own.

use std::collections::BTreeSet;
use std::time::Duration;

use super::state::{Record, Renewal, Seconds, Trouble};

/// The longest pause between two tries.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// How long an authority's advice on renewal is believed at least and at most before it is asked
/// again (RFC 9773 §4.3.2).
const ADVICE: (Seconds, Seconds) = (60, 24 * 3600);
/// The longest `Retry-After` that is obeyed.
const OBEYED: Seconds = 7 * 24 * 3600;
/// How far off a time may be until which something is not tried: what is further off was written by
/// a clock that was wrong.
const BELIEVED: Seconds = OBEYED + 24 * 3600;
/// How long there is no advice where none was to be had.
pub(super) const NO_ADVICE: Seconds = 6 * 3600;

/// What there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) names: BTreeSet<String>,
    pub(crate) not_before: Seconds,
    pub(crate) not_after: Seconds,
    /// Somebody asked to have it renewed now.
    pub(crate) renewal_asked: bool,
}

/// What is to be done for a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Ordered now: there is none, it is for too few names, or it is time for another.
    Order,
    /// The authority is asked when it would have it renewed.
    AskRenewal,
    /// Nothing before this time.
    Wait(Seconds),
}

/// What is to be done for `record`, of which `facts` is what there is that may be served.
/// `authorities` are those that are trusted with new certificates: one of another, such as a
/// staging one, is replaced.
pub(crate) fn step(
    record: &Record,
    facts: Option<&Facts>,
    authorities: &[&str],
    now: Seconds,
) -> Step {
    let blocked = record.trouble.as_ref().filter(|trouble| is_blocked(trouble, now));
    let order = blocked.map_or(Step::Order, |trouble| Step::Wait(trouble.until));
    let Some(facts) = facts else { return order };
    let is_trusted =
        record.authority.as_deref().is_some_and(|authority| authorities.contains(&authority));
    if !is_trusted || !record.names.is_subset(&facts.names) || facts.renewal_asked {
        return order;
    }
    let renewal = record.renewal.as_ref().filter(|renewal| renewal.not_after == facts.not_after);
    let due = due(facts, renewal);
    if due <= now {
        return order;
    }
    match renewal.map_or(0, |renewal| renewal.ask_again) {
        ask if ask <= now => Step::AskRenewal,
        ask => Step::Wait(due.min(ask)),
    }
}

/// Whether what failed is not to be tried again yet.
pub(crate) fn is_blocked(trouble: &Trouble, now: Seconds) -> bool {
    trouble.until > now && trouble.until - now <= BELIEVED
}

/// When what there is is to be renewed: by the authority's advice, else after two thirds of its
/// life.
pub(crate) fn due(facts: &Facts, renewal: Option<&Renewal>) -> Seconds {
    let life = facts.not_after.saturating_sub(facts.not_before);
    renewal.map_or(facts.not_before.saturating_add(life / 3 * 2), |renewal| renewal.at)
}

/// The advice of an authority to renew between `start` and `end`, and to ask again after `retry`: a
/// moment in that window is drawn by `random` (RFC 9773 §4.2). One that was drawn from the same
/// window before stays.
pub(crate) fn advised(
    facts: &Facts,
    before: Option<&Renewal>,
    window: (Seconds, Seconds),
    retry: Seconds,
    now: Seconds,
    random: u64,
) -> Renewal {
    let (start, end) = window;
    let inside = before.map(|before| before.at).filter(|at| (start..=end).contains(at));
    let drawn = || start.saturating_add(random % end.saturating_sub(start).saturating_add(1));
    // Advice never makes a certificate end unrenewed.
    let latest =
        facts.not_after.saturating_sub(facts.not_after.saturating_sub(facts.not_before) / 10);
    Renewal {
        not_after: facts.not_after,
        at: inside.unwrap_or_else(drawn).min(latest),
        ask_again: now.saturating_add(retry.clamp(ADVICE.0, ADVICE.1)),
    }
}

/// No advice was to be had: what holds without is not asked about for a while.
pub(crate) fn unadvised(facts: &Facts, before: Option<&Renewal>, now: Seconds) -> Renewal {
    let at = due(facts, before.filter(|before| before.not_after == facts.not_after));
    Renewal { not_after: facts.not_after, at, ask_again: now.saturating_add(NO_ADVICE) }
}

/// One more failure: the pause doubles each time, from `first` on, with a jitter of a half drawn by
/// `random`, and is never shorter than what the authority demands.
pub(crate) fn failed(
    before: Option<&Trouble>,
    error: String,
    first: Duration,
    demanded: Option<Seconds>,
    now: Seconds,
    random: u64,
) -> Trouble {
    let failures = before.map_or(0, |before| before.failures).saturating_add(1);
    let doublings = failures.saturating_sub(1).min(31);
    let most = first.saturating_mul(1 << doublings).min(LONGEST).as_millis();
    let most = u64::try_from(most).unwrap_or(u64::MAX);
    let pause = most / 2 + random % (most / 2).max(1);
    let demanded = demanded.unwrap_or(0).min(now.saturating_add(OBEYED));
    let until = now.saturating_add(pause.div_ceil(1000)).max(demanded);
    Trouble { failures, until, error }
}

#[cfg(test)]
#[path = "schedule_tests.rs"]
mod tests;
