//! `grpc-timeout` (gRPC over HTTP/2, "Timeout"): up to eight digits and a unit.

use std::time::Duration;

use http::{HeaderName, HeaderValue};

/// The name of the field.
pub(crate) static GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// The largest number of eight digits.
const MAX: u128 = 99_999_999;

/// Parses a value; `None` if it is malformed.
pub(crate) fn parse(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit())
    {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

/// Formats a timeout in the smallest unit from microseconds that has room for it, rounded down.
pub(crate) fn format(timeout: Duration) -> HeaderValue {
    let micros = timeout.as_micros();
    let units: [(u128, char); 4] = [(1, 'u'), (1_000, 'm'), (1_000_000, 'S'), (60_000_000, 'M')];
    let fitting = units.into_iter().find(|(length, _)| micros / length <= MAX);
    let (number, unit) = match fitting {
        Some((length, unit)) => (micros / length, unit),
        None => ((micros / 3_600_000_000).min(MAX), 'H'),
    };
    HeaderValue::try_from(format!("{number}{unit}")).unwrap_or(HeaderValue::from_static("0u"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_up_to_eight_digits_and_a_unit() {
        for (text, expected) in [
            ("1H", Some(Duration::from_secs(3_600))),
            ("00000002M", Some(Duration::from_secs(120))),
            ("99999999n", Some(Duration::from_nanos(99_999_999))),
            ("100000000n", None),
            ("5", None),
            ("S", None),
            ("", None),
            ("-1S", None),
            ("1s", None),
        ] {
            assert_eq!(parse(&HeaderValue::from_static(text)), expected, "{text}");
        }
    }

    #[test]
    fn a_formatted_timeout_is_no_longer_than_the_timeout() {
        for (timeout, expected) in [
            (Duration::ZERO, "0u"),
            (Duration::from_nanos(1_999), "1u"),
            (Duration::from_micros(99_999_999), "99999999u"),
            (Duration::from_secs(100), "100000m"),
            (Duration::from_secs(100_000), "100000S"),
            (Duration::from_secs(100_000_000), "1666666M"),
            (Duration::from_secs(u64::MAX), "99999999H"),
        ] {
            let formatted = format(timeout);
            assert_eq!(formatted, expected);
            assert!(parse(&formatted).unwrap() <= timeout);
        }
    }
}
