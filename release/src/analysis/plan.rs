//! What is judged, and with which error rates.

use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

/// A number between 0 and 1, neither included: a probability or an error ratio.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Share(f64);

/// How many times as many events as the stable variant: more than 1, at most [`Ratio::MAX`].
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Ratio(f64);

/// The judgement of one rollout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// α: the probability that a canary that is no worse is taken back, for the whole rollout.
    pub alpha: Share,
    /// β: the probability that a canary that is [`ratio`](Self::ratio) times worse clears.
    pub beta: Share,
    /// R: how many times as many errors a bad canary has.
    pub ratio: Ratio,
    /// What is counted. Each metric has a part of α by its weight, and must clear by itself.
    pub metrics: Vec<Metric>,
}

/// Something that can happen to a request, such as an error.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metric {
    /// Its name, such as `errors`.
    pub name: String,
    /// What happens, as the end of "12 people …", such as `met an error`.
    pub phrase: String,
    /// Its weight among the weights of all metrics.
    pub weight: NonZeroU32,
    /// The ratio of requests to which it may happen. A canary that is within it is not bad, even if
    /// it is worse than the stable variant. Without one, comparison alone decides.
    pub objective: Option<Share>,
}

/// A number that is no [`Share`] or no [`Ratio`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OutOfRange;

// === impl Share ===

impl Share {
    /// 1 %.
    pub const ONE_PERCENT: Self = Self(0.01);
    /// 5 %.
    pub const FIVE_PERCENT: Self = Self(0.05);
    /// 10 %.
    pub const TEN_PERCENT: Self = Self(0.1);
    /// 50 %.
    pub const HALF: Self = Self(0.5);
    /// 90 %.
    pub const NINE_TENTHS: Self = Self(0.9);
    /// 99 %.
    pub const NINETY_NINE_PERCENT: Self = Self(0.99);

    /// A share; `None` if it is not between 0 and 1.
    #[must_use]
    pub fn new(value: f64) -> Option<Self> {
        (value > 0.0 && value < 1.0).then_some(Self(value))
    }

    /// Its value.
    #[must_use]
    pub fn value(self) -> f64 {
        self.0
    }

    /// What must be refuted of an objective: half of it. People fail unequally, and the few who
    /// meet most of the errors may not be among those whom a canary has.
    pub(super) fn guard(self) -> Self {
        Self(self.0 / 2.0)
    }

    /// ln(1 / share): what evidence must reach.
    pub(super) fn limit(self) -> f64 {
        -self.0.ln()
    }
}

impl TryFrom<f64> for Share {
    type Error = OutOfRange;

    fn try_from(value: f64) -> Result<Self, OutOfRange> {
        Self::new(value).ok_or(OutOfRange)
    }
}

impl From<Share> for f64 {
    fn from(share: Share) -> Self {
        share.0
    }
}

// === impl Ratio ===

impl Ratio {
    /// The largest one.
    pub const MAX: f64 = 30.0;
    /// Three times as many.
    pub const THREE: Self = Self(3.0);

    /// A ratio; `None` if it is not above 1, or above [`Self::MAX`].
    #[must_use]
    pub fn new(value: f64) -> Option<Self> {
        (value > 1.0 && value <= Self::MAX).then_some(Self(value))
    }

    /// Its value.
    #[must_use]
    pub fn value(self) -> f64 {
        self.0
    }

    /// R′: the ratio that must be refuted, halfway to 1. People fail unequally, have one vote each,
    /// and many meet an error in one look, so that a canary that is 3 times worse looks less so by
    /// buckets.
    #[must_use]
    pub fn guard(self) -> Self {
        Self(f64::midpoint(1.0, self.0))
    }
}

impl TryFrom<f64> for Ratio {
    type Error = OutOfRange;

    fn try_from(value: f64) -> Result<Self, OutOfRange> {
        Self::new(value).ok_or(OutOfRange)
    }
}

impl From<Ratio> for f64 {
    fn from(ratio: Ratio) -> Self {
        ratio.0
    }
}

// === impl Plan ===

impl Plan {
    /// The part of α that a metric has: its weight among all weights.
    pub(super) fn part(&self, metric: &Metric) -> f64 {
        let all: u64 = self.metrics.iter().map(|metric| u64::from(metric.weight.get())).sum();
        f64::from(metric.weight.get()) / all as f64
    }
}

// === impl OutOfRange ===

impl std::fmt::Display for OutOfRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the number is out of range")
    }
}

impl std::error::Error for OutOfRange {}
