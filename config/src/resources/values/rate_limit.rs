//! The syntax of rate limits.

use std::num::NonZeroU32;

use crate::model::Origin;
use crate::snapshot::rate_limit::{RateLimit, RateScope, RateWindow};

/// The largest number of requests in a window, and at once.
const MAX_REQUESTS: u32 = 1_000_000;
/// The most limits of one annotation: each costs every request a look-up.
pub(crate) const MAX_LIMITS: usize = 4;

/// Parses limits, separated by commas; `None` unless all of them are valid.
pub(crate) fn rate_limits(owner: &Origin, text: &str) -> Option<Vec<RateLimit>> {
    let limits: Option<Vec<_>> =
        text.split(',').map(|item| rate_limit(owner, item.trim()).ok()).collect();
    limits.filter(|limits| limits.len() <= MAX_LIMITS)
}

/// Parses `REQUESTS/UNIT [burst REQUESTS] [per SCOPE] [divided]`. The error is the end of a sentence
/// that starts with the text.
pub(crate) fn rate_limit(owner: &Origin, text: &str) -> Result<RateLimit, String> {
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
        let limit = rate_limit(&Origin::default(), text).ok()?;
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
        let divided = |text| rate_limit(&Origin::default(), text).map(|limit| limit.divided);
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
