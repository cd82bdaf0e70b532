//! The traffic feed, as far as rollouts read it: `docs/traffic-feed.md`. Unknown fields are
//! ignored.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use portcullis_config::snapshot::split::BUCKETS;
use serde::{Deserialize, Deserializer, de};

use crate::analysis::{Buckets, Latencies};

/// The version of the format.
pub(super) const VERSION: u32 = 1;
/// The size of a bit map, in octets.
const OCTETS: usize = BUCKETS as usize / 8;

/// What one replica has counted since its start.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Feed {
    pub(super) version: u32,
    /// Another one after each start of the process.
    pub(super) start: String,
    /// When this was read, in seconds since 1970.
    pub(super) now: u64,
    pub(super) services: Vec<Counted>,
}

/// A service.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Counted {
    pub(super) namespace: String,
    pub(super) service: String,
    /// Another one if the service was removed meanwhile; `None` before its first request.
    #[serde(default)]
    pub(super) counted_since: Option<u64>,
    #[serde(default)]
    pub(super) generation: Option<String>,
    #[serde(default)]
    pub(super) variants: Vec<Total>,
    #[serde(default)]
    pub(super) windows: Vec<Window>,
    #[serde(default)]
    pub(super) incomplete: Option<Incomplete>,
}

/// What a variant has had since the replica began to count.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub(super) struct Total {
    pub(super) name: String,
    #[serde(default)]
    pub(super) latency: Latencies,
}

/// Why counts are missing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Incomplete {
    pub(super) counts: bool,
    pub(super) windows: bool,
    pub(super) dropped_windows: u64,
}

/// What ended in 10 seconds, of the requests that were assigned by one generation of the split.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Window {
    /// In seconds since 1970: a multiple of 10.
    pub(super) start: u64,
    pub(super) generation: String,
    /// From which edge on a latency is slow, in microseconds, if the split has a threshold.
    #[serde(default)]
    pub(super) latency_threshold: Option<u64>,
    pub(super) variants: Vec<Variant>,
}

/// A variant in a window.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub(super) struct Variant {
    pub(super) name: String,
    pub(super) sticky: Requests,
    pub(super) dealt: Requests,
}

/// Requests of a window.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Requests {
    pub(super) requests: u64,
    pub(super) errors: u64,
    pub(super) latency: Latencies,
    /// Clients that left before the response began, which are not among `requests`.
    pub(super) clients_left: Latencies,
    #[serde(deserialize_with = "buckets")]
    pub(super) seen: Buckets,
    #[serde(deserialize_with = "buckets")]
    pub(super) erred: Buckets,
    /// Those that waited for the threshold or longer, be it in vain.
    #[serde(deserialize_with = "buckets")]
    pub(super) slow: Buckets,
}

// === impl Requests ===

impl Requests {
    /// Adds what another replica has counted.
    pub(super) fn add(&mut self, other: &Self) {
        self.requests = self.requests.saturating_add(other.requests);
        self.errors = self.errors.saturating_add(other.errors);
        for (sum, other) in
            [(&mut self.latency, &other.latency), (&mut self.clients_left, &other.clients_left)]
        {
            for (edge, count) in other {
                let sum = sum.entry(*edge).or_default();
                *sum = sum.saturating_add(*count);
            }
        }
        self.seen.add(&other.seen);
        self.erred.add(&other.erred);
        self.slow.add(&other.slow);
    }
}

fn buckets<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Buckets, D::Error> {
    let text = String::deserialize(deserializer)?;
    decode(&text).ok_or_else(|| de::Error::custom("not a set of buckets"))
}

/// A set of buckets from Base64: a bit map, or a list of numbers.
pub(super) fn decode(text: &str) -> Option<Buckets> {
    let octets = STANDARD.decode(text).ok()?;
    if octets.len() == OCTETS {
        let is_set = |bucket: &u16| {
            let octet = octets.get(usize::from(bucket / 8));
            octet.is_some_and(|octet| octet >> (bucket % 8) & 1 == 1)
        };
        return Some((0..BUCKETS).filter(is_set).collect());
    }
    let (numbers, []) = octets.as_chunks::<2>() else { return None };
    let numbers = numbers.iter().map(|number| u16::from_be_bytes(*number));
    let numbers = numbers.map(|number| (number < BUCKETS).then_some(number));
    numbers.collect()
}
