//! Weights of variants, as users write them.

use std::fmt;
use std::str::FromStr;

use super::BUCKETS;

/// The share of a variant in hundredths of a percent, from 0 to [`BUCKETS`]: a number of buckets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Weight(u16);

/// A text that is no weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a weight is a percentage from 0 to 100 with two decimals at most, such as 5 or 0.25")]
pub struct InvalidWeight;

// === impl Weight ===

impl Weight {
    /// The weight of that number of buckets; `None` above [`BUCKETS`].
    #[must_use]
    pub fn new(buckets: u16) -> Option<Self> {
        (buckets <= BUCKETS).then_some(Self(buckets))
    }

    /// Its number of buckets.
    #[must_use]
    pub fn buckets(self) -> u16 {
        self.0
    }
}

impl FromStr for Weight {
    type Err = InvalidWeight;

    /// Parses a percentage with two decimals at most.
    fn from_str(text: &str) -> Result<Self, InvalidWeight> {
        let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
        let is_number = |text: &str, length| {
            (1..=length).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
        };
        if !is_number(whole, 3) || !is_number(decimals, 2) {
            return Err(InvalidWeight);
        }
        let number = |text: &str| text.parse::<u16>().map_err(|_| InvalidWeight);
        let hundredths = number(decimals)? * if decimals.len() == 1 { 10 } else { 1 };
        let buckets = number(whole)?.checked_mul(100).and_then(|n| n.checked_add(hundredths));
        buckets.and_then(Self::new).ok_or(InvalidWeight)
    }
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&percent(self.0.into()))
    }
}

/// Formats hundredths of a percent, as in `5` and `0.25`.
#[must_use]
pub fn percent(hundredths: u64) -> String {
    let (whole, rest) = (hundredths / 100, hundredths % 100);
    if rest == 0 { whole.to_string() } else { format!("{whole}.{rest:02}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_hundredths_of_a_percent() {
        for (text, expected) in [
            ("0", Some(0)),
            ("5", Some(500)),
            ("0.25", Some(25)),
            ("0.5", Some(50)),
            ("0.01", Some(1)),
            ("99.99", Some(9_999)),
            ("100", Some(10_000)),
            ("100.00", Some(10_000)),
            ("007", Some(700)),
            ("100.01", None),
            ("101", None),
            ("-1", None),
            ("+1", None),
            ("0.001", None),
            ("1.", None),
            (".5", None),
            ("5%", None),
            ("1e1", None),
            ("", None),
            ("NaN", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(text.parse().ok().map(Weight::buckets), expected, "{text}");
        }
    }

    #[test]
    fn a_weight_is_read_as_it_is_written() {
        for buckets in 0..=BUCKETS {
            let weight = Weight::new(buckets).unwrap();
            assert_eq!(weight.to_string().parse(), Ok(weight));
        }
    }
}
