//! The traffic feed, as JSON has it: `docs/traffic-feed.md`.
//!
//! Later versions only add fields. Readers must ignore unknown fields.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::bucket_map::BucketMap;

/// The version of the format.
pub const VERSION: u32 = 1;

/// The classes of statuses.
pub(super) const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// Numbers of requests by latency: the edge of each step in microseconds, and how many were below
/// it, and not below the edge before.
pub type Latencies = BTreeMap<u64, u64>;

/// What one replica has counted since its start.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Feed {
    /// [`VERSION`].
    pub version: u32,
    /// Another one after each start of the process, which starts all counts at 0.
    pub start: String,
    /// When the process was started, in seconds since 1970.
    pub started_at: u64,
    /// When this was read, in seconds since 1970. A window is complete 10 s after its start.
    pub now: u64,
    /// Services with variants, and those that had requests, by environment, Namespace and name.
    pub services: Vec<Service>,
}

/// A service.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Service {
    /// The environment's name.
    pub environment: String,
    /// The Namespace.
    pub namespace: String,
    /// The service's name.
    pub service: String,
    /// Since when its requests are counted, in seconds since 1970: later than the start of the
    /// process if the service had been removed, and `null` if none was counted.
    #[serde(default)]
    pub counted_since: Option<u64>,
    /// The version of the split that all workers apply to new requests; `null` where the service
    /// has no variants.
    #[serde(default)]
    pub generation: Option<String>,
    /// The ranges of buckets of all variants but the stable one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ranges: Vec<BucketRange>,
    /// The variants, the stable one first.
    pub variants: Vec<Variant>,
    /// The last windows in which several variants had a weight, by time and generation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub windows: Vec<Window>,
    /// What was not counted although it should have been; absent if nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incomplete: Option<Incomplete>,
}

/// Why counts are missing: a limit was reached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Incomplete {
    /// Too many variants in all workers: requests of this service are not counted, or only some.
    pub counts: bool,
    /// Too many splits: this one has no windows.
    pub windows: bool,
    /// Windows that were dropped before they were 300 s old, and requests that ended too late for
    /// theirs.
    pub dropped_windows: u64,
}

/// Neighbouring buckets of one variant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketRange {
    /// The first bucket.
    pub first: u16,
    /// The last bucket.
    pub last: u16,
    /// The name of the variant.
    pub variant: String,
}

/// A variant of a service, with all requests that were assigned to it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Variant {
    /// The name of its Service.
    pub name: String,
    /// Its name in metrics and logs: `stable`, or the name of its Service.
    pub label: String,
    /// Its weight in percent.
    pub weight: f64,
    /// First attempts: the sum of `responses`, `failed` and `missed`.
    pub requests: u64,
    /// Of these, those with an error.
    pub errors: u64,
    /// Responses by class of status, such as `2xx`.
    pub responses: BTreeMap<String, u64>,
    /// Those without a complete response: no connection, timed out, or broken off.
    pub failed: u64,
    /// Those that the stable variant answered because no endpoint of this one did.
    pub missed: u64,
    /// Responses with a `grpc-status`, by its number, or `unknown`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub grpc: BTreeMap<String, u64>,
    /// Responses by the time to their heads.
    pub latency: Latencies,
    /// Attempts after the first of a request.
    pub retries: u64,
    /// Ejections of endpoints, summed over workers.
    pub ejections: u64,
    /// Requests in progress.
    pub in_flight: u64,
    /// Requests that are no evidence, and not among `requests`.
    pub left_out: LeftOut,
}

/// Requests that say nothing about their variant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LeftOut {
    /// Those that asked for their variant.
    pub forced: u64,
    /// Those that the gateway answered, for another reason than a lack of endpoints.
    pub own_replies: u64,
    /// Those whose client left before the response began, by the time after which it did.
    pub clients_left: Latencies,
}

/// What ended in 10 seconds, of the requests that were assigned by one generation of the split.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Window {
    /// The start of the 10 seconds, in seconds since 1970: a multiple of 10.
    pub start: u64,
    /// The generation by which the requests were assigned.
    pub generation: String,
    /// The edge from which on a latency is slow, in microseconds, if one is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_threshold: Option<u64>,
    /// The variants that had requests.
    pub variants: Vec<WindowVariant>,
}

/// A variant in a window.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct WindowVariant {
    /// The name of its Service.
    pub name: String,
    /// Requests that were assigned by the bucket of a user, browser, address or value.
    pub sticky: Tally,
    /// Requests that were dealt one by one.
    pub dealt: Tally,
}

/// Requests of a window.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Tally {
    /// First attempts.
    pub requests: u64,
    /// Of these, those with an error.
    pub errors: u64,
    /// Responses by the time to their heads.
    pub latency: Latencies,
    /// Clients that left before the response began, which are not among `requests`.
    pub clients_left: Latencies,
    /// The buckets that had requests; only where they decide.
    #[serde(skip_serializing_if = "BucketMap::is_empty")]
    pub seen: BucketMap,
    /// The buckets that had errors.
    #[serde(skip_serializing_if = "BucketMap::is_empty")]
    pub erred: BucketMap,
    /// The buckets that waited for the head of a response for the threshold of the window or
    /// longer, be it in vain.
    #[serde(skip_serializing_if = "BucketMap::is_empty")]
    pub slow: BucketMap,
}

// === impl Service ===

impl Service {
    /// Adds what another replica has counted of this service.
    pub fn add(&mut self, other: &Self) {
        for variant in &other.variants {
            match self.variants.iter_mut().find(|one| one.name == variant.name) {
                Some(one) => one.add(variant),
                None => self.variants.push(variant.clone()),
            }
        }
        other.windows.iter().for_each(|window| add_window(&mut self.windows, window));
    }
}

// === impl Variant ===

impl Variant {
    fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.errors += other.errors;
        self.failed += other.failed;
        self.missed += other.missed;
        self.retries += other.retries;
        self.ejections += other.ejections;
        self.in_flight += other.in_flight;
        add_counts(&mut self.responses, &other.responses);
        add_counts(&mut self.grpc, &other.grpc);
        add_counts(&mut self.latency, &other.latency);
        self.left_out.forced += other.left_out.forced;
        self.left_out.own_replies += other.left_out.own_replies;
        add_counts(&mut self.left_out.clients_left, &other.left_out.clients_left);
    }
}

// === impl Window ===

/// Adds a window to the one of the same time, generation and threshold, in order.
pub(super) fn add_window(windows: &mut Vec<Window>, window: &Window) {
    let key = |window: &Window| (window.start, window.generation.clone(), window.latency_threshold);
    match windows.binary_search_by_key(&key(window), key) {
        Ok(at) => {
            if let Some(one) = windows.get_mut(at) {
                one.add(window);
            }
        }
        Err(at) => windows.insert(at, window.clone()),
    }
}

impl Window {
    fn add(&mut self, other: &Self) {
        for variant in &other.variants {
            match self.variants.iter_mut().find(|one| one.name == variant.name) {
                Some(one) => {
                    one.sticky.add(&variant.sticky);
                    one.dealt.add(&variant.dealt);
                }
                None => self.variants.push(variant.clone()),
            }
        }
        self.variants.sort_by(|one, other| one.name.cmp(&other.name));
    }
}

// === impl Tally ===

impl Tally {
    /// Adds other requests.
    pub fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.errors += other.errors;
        add_counts(&mut self.latency, &other.latency);
        add_counts(&mut self.clients_left, &other.clients_left);
        self.seen.add(&other.seen);
        self.erred.add(&other.erred);
        self.slow.add(&other.slow);
    }
}

fn add_counts<K: Ord + Clone>(counts: &mut BTreeMap<K, u64>, other: &BTreeMap<K, u64>) {
    for (key, count) in other {
        *counts.entry(key.clone()).or_default() += count;
    }
}
