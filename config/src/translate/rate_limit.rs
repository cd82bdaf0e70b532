//! Rate limits from annotations: those of a Service, and those of its Namespace besides.

use std::num::NonZeroU32;
use std::sync::Arc;

use super::annotations::Reader;
use crate::model::Origin;
use crate::model::vocabulary::RATE_LIMIT;
use crate::snapshot::rate_limit::{RateLimit, RateScope, RateWindow};

/// The largest number of requests in a window, and at once.
const MAX_REQUESTS: u32 = 1_000_000;
/// The most limits of one annotation: each costs every request a look-up.
const MAX_LIMITS: usize = 4;

/// All limits of a Service: its own, then those of its Namespace, which it cannot widen.
pub(super) fn of_service(namespace: &[RateLimit], service: &mut Reader<'_>) -> Arc<[RateLimit]> {
    let own = read(service);
    let service = owner(service.origin);
    let inherited = namespace.iter().map(|limit| match limit.per {
        // Each Service of the Namespace by itself.
        RateScope::Service => RateLimit { owner: service.clone(), ..limit.clone() },
        _ => limit.clone(),
    });
    let mut limits: Vec<RateLimit> = Vec::new();
    for limit in own.into_iter().chain(inherited) {
        // Twice the same limit would count each request twice.
        if !limits.contains(&limit) {
            limits.push(limit);
        }
    }
    limits.into()
}

/// Reports that a limit is not divided, because the number of replicas is `unknown`.
pub(super) fn check_divided(limits: &[RateLimit], unknown: bool, service: &mut Reader<'_>) {
    if unknown && limits.iter().any(|limit| limit.divided) {
        let message = "`divided` has no effect in a gateway that reads a folder: it does not know \
                       the number of replicas, so that each allows the whole limit";
        let help = "let the gateway read the cluster, or write a lower limit";
        service.warn("NotDivided", message.to_owned(), help);
    }
}

/// The limits of a Namespace or a Service.
pub(super) fn read(reader: &mut Reader<'_>) -> Vec<RateLimit> {
    let help = "write limits such as `100/s` or `1000/m burst 50 per application divided`, separated \
                by commas; until then this limit does not apply";
    let owner = owner(reader.origin);
    let mut count = 0;
    let read = reader.read_list(RATE_LIMIT, help, |text| {
        let limit = limit(&owner, text)?;
        count += 1;
        if count > MAX_LIMITS {
            return Err(format!("is one limit too many: there can be {MAX_LIMITS}"));
        }
        Ok(limit)
    });
    read.good().unwrap_or_default()
}

/// The resource that has the limits, wherever it was read from.
fn owner(origin: &Origin) -> Origin {
    Origin { place: None, ..origin.clone() }
}

/// Parses `REQUESTS/UNIT [burst REQUESTS] [per SCOPE] [divided]`.
fn limit(owner: &Origin, text: &str) -> Result<RateLimit, String> {
    let mut words = text.split_ascii_whitespace();
    let rate = words.next().and_then(|rate| rate.split_once('/'));
    let (requests, unit) = rate.ok_or("is not a rate such as `100/s`")?;
    let requests = number(requests)?;
    let window = match unit {
        "s" => RateWindow::Second,
        "m" => RateWindow::Minute,
        "h" => RateWindow::Hour,
        _ => return Err("has a unit that is not `s`, `m` or `h`".to_owned()),
    };
    let (mut burst, mut per, mut divided) = (None, None, false);
    while let Some(word) = words.next() {
        if word == "divided" && !divided {
            divided = true;
            continue;
        }
        match (word, words.next()) {
            ("burst", Some(value)) if burst.is_none() => burst = Some(number(value)?),
            ("per", Some(value)) if per.is_none() => per = Some(scope(owner, value)?),
            _ => return Err("has words after the rate that are not understood".to_owned()),
        }
    }
    let (per, burst) = (per.unwrap_or(RateScope::User), burst.unwrap_or(requests));
    Ok(RateLimit { owner: owner.clone(), per, requests, window, burst, divided })
}

fn number(text: &str) -> Result<NonZeroU32, String> {
    let digits = Some(text).filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    digits
        .and_then(|digits| digits.parse().ok())
        .filter(|number: &NonZeroU32| number.get() <= MAX_REQUESTS)
        .ok_or_else(|| format!("has a number that is not from 1 to {MAX_REQUESTS}"))
}

fn scope(owner: &Origin, text: &str) -> Result<RateScope, String> {
    match text {
        "user" => Ok(RateScope::User),
        "application" => Ok(RateScope::Application),
        "source" => Ok(RateScope::Source),
        "service" => Ok(RateScope::Service),
        "namespace" if owner.kind == "Namespace" => Ok(RateScope::Namespace),
        "namespace" => {
            Err("counts a whole Namespace, which only its own annotation can".to_owned())
        }
        _ => {
            Err("counts per something that is not user, application, source or service".to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Option<(u32, RateWindow, u32, RateScope)> {
        let limit = limit(&Origin::default(), text).ok()?;
        Some((limit.requests.get(), limit.window, limit.burst.get(), limit.per))
    }

    #[test]
    fn a_limit_is_a_rate_with_a_burst_and_a_scope() {
        let (second, minute) = (RateWindow::Second, RateWindow::Minute);
        for (text, expected) in [
            ("100/s", (100, second, 100, RateScope::User)),
            ("1000/m burst 50 per application", (1000, minute, 50, RateScope::Application)),
            ("1000/m  per source  burst 5", (1000, minute, 5, RateScope::Source)),
            ("1/h per service", (1, RateWindow::Hour, 1, RateScope::Service)),
            ("1000000/s burst 1000000", (1_000_000, second, 1_000_000, RateScope::User)),
        ] {
            assert_eq!(parsed(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn a_limit_is_divided_where_it_says_so() {
        let divided = |text| limit(&Origin::default(), text).map(|limit| limit.divided);
        for text in ["9/s divided", "9/s per user divided", "9/s divided burst 3 per user"] {
            assert_eq!(divided(text), Ok(true), "{text}");
        }
        assert_eq!(divided("9/s per user"), Ok(false));
        assert!(divided("9/s divided divided").is_err() && divided("9/s per divided").is_err());
    }

    #[test]
    fn what_is_no_limit_is_rejected() {
        for text in [
            "",
            "100",
            "100/",
            "/s",
            "100/d",
            "100/S",
            "0/s",
            "-1/s",
            "+1/s",
            "1.5/s",
            "1000001/s",
            "100/s burst",
            "100/s burst 0",
            "100/s burst 5 burst 6",
            "100/s per",
            "100/s per team",
            "100/s per user per source",
            "100/s user",
            "100 /s",
            "100/s per namespace",
        ] {
            assert_eq!(parsed(text), None, "{text}");
        }
    }
}
