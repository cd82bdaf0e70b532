//! Which windows of which replicas are evidence.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::look::{Measure, Service, WINDOW, look};
use super::wire::{self, Feed, VERSION, Window};
use crate::analysis::Look;
use crate::rollout::Gateway;

/// The age in seconds from which on replicas may have dropped a window.
const OLDEST: u64 = 280;
/// How far the clock of a replica may be from the own one, in seconds.
const CLOCKS_APART: u64 = 5;

/// What was read from one replica of the gateway.
#[derive(Debug)]
pub struct Reading {
    /// The name of the replica.
    pub replica: String,
    /// Its feed, or why there is none.
    pub feed: Result<Feed, String>,
}

/// The windows of one service that have been looked at, as it is recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Watch {
    service: Service,
    measures: Vec<Measure>,
    /// The start of the first window that has not been looked at; `None` before the first reading.
    next: Option<u64>,
    /// The generation that all replicas had when they were read last.
    generation: Option<u64>,
    /// The replicas that were read last.
    replicas: BTreeMap<String, Process>,
}

/// What tells whether a replica has lost what it had counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Process {
    start: String,
    counted_since: Option<u64>,
    dropped: u64,
}

/// What a reading of all replicas resulted in.
#[derive(Debug, Default, PartialEq)]
pub struct Readout {
    /// The new looks, by the start of their windows in seconds since 1970.
    pub looks: Vec<(u64, Look)>,
    /// The windows that were left out.
    pub left_out: Option<LeftOut>,
}

/// Windows that are no evidence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// The start of the first one, in seconds since 1970.
    pub from: u64,
    /// The start of the window after the last one.
    pub until: u64,
    /// Why.
    pub reason: String,
}

// === impl Watch ===

impl Watch {
    /// A watch that has looked at nothing. The measures are those of the plan's metrics.
    #[must_use]
    pub fn new(service: Service, measures: Vec<Measure>) -> Self {
        Self { service, measures, next: None, generation: None, replicas: BTreeMap::new() }
    }

    /// The start of the first window that the next reading needs, in seconds since 1970.
    #[must_use]
    pub fn from(&self) -> u64 {
        self.next.unwrap_or_default()
    }

    /// Takes what was read from all replicas at `now`, in seconds since 1970. Windows that begin
    /// before `from`, when the pods had warmed up, are left out.
    ///
    /// What the replicas report of their generations is returned beside the looks.
    pub fn read(&mut self, readings: &[Reading], from: u64, now: u64) -> (Gateway, Readout) {
        let services = match self.services(readings, now) {
            Ok(services) => services,
            Err(why) => return (Gateway::Blind(why), Readout::default()),
        };
        let (generation, gateway) = match agreed(&services) {
            Ok(generation) => (Some(generation), Gateway::Agrees(generation)),
            Err(differ) => (None, Gateway::Differs(differ)),
        };
        let changed = self.changed(generation);
        let lost = self.lost(&services);
        self.generation = generation;
        self.replicas =
            services.iter().map(|one| (one.replica.to_owned(), one.process())).collect();
        // Windows of the next seconds may still grow on some replica.
        let complete = services.iter().map(|one| one.now.min(now)).min().unwrap_or(now);
        let until = (complete / WINDOW).saturating_sub(1) * WINDOW;
        let first = self.next.unwrap_or(until);
        // What a replica had counted of the window that is under way is lost, too.
        let resumed = complete / WINDOW * WINDOW + WINDOW;
        let last = if lost.is_some() { until.max(resumed) } else { until };
        self.next = Some(first.max(last));
        let reason = match changed.or(lost) {
            Some(reason) => Some((last, reason)),
            None if first < from => Some((from, "pods were warming up".to_owned())),
            None if first + OLDEST < now => {
                let reason = "replicas no longer have all of their windows".to_owned();
                Some(((now - OLDEST).next_multiple_of(WINDOW), reason))
            }
            None => None,
        };
        let (begin, left_out) = match reason {
            Some((end, reason)) => {
                let end = end.next_multiple_of(WINDOW).clamp(first, first.max(last));
                (end, (end > first).then_some(LeftOut { from: first, until: end, reason }))
            }
            None => (first, None),
        };
        let Some(generation) = generation else {
            return (gateway, Readout { looks: Vec::new(), left_out });
        };
        let looks = (begin..until).step_by(WINDOW as usize).map(|start| {
            let text = generation.to_string();
            let is_it = |window: &&Window| window.start == start && window.generation == text;
            let windows = services.iter().flat_map(|one| one.service.windows.iter()).filter(is_it);
            (start, look(windows, &self.service, &self.measures))
        });
        (gateway, Readout { looks: looks.collect(), left_out })
    }

    /// The service in the feed of each replica.
    fn services<'a>(&self, readings: &'a [Reading], now: u64) -> Result<Vec<InFeed<'a>>, String> {
        if readings.is_empty() {
            return Err("the gateway has no replicas".to_owned());
        }
        let counted = readings.iter().map(|Reading { replica, feed }| {
            let feed = feed.as_ref().map_err(|why| format!("{replica} cannot be read: {why}"))?;
            if feed.version != VERSION {
                return Err(format!("{replica} has version {} of the feed", feed.version));
            }
            if feed.now.abs_diff(now) > CLOCKS_APART {
                let apart = feed.now.abs_diff(now);
                return Err(format!("the clock of {replica} is {apart} s away from the builder's"));
            }
            let service = feed.services.iter().find(|one| {
                (&one.namespace, &one.service) == (&self.service.namespace, &self.service.name)
            });
            let service = service.ok_or_else(|| format!("{replica} does not list the service"))?;
            let is_incomplete = service.incomplete.is_some_and(|one| one.counts || one.windows);
            if is_incomplete {
                return Err(format!("{replica} does not count all requests of the service"));
            }
            Ok(InFeed { replica, start: &feed.start, now: feed.now, service })
        });
        counted.collect()
    }

    /// Why what was counted since the last reading is not of one generation, if it is not.
    fn changed(&self, generation: Option<u64>) -> Option<String> {
        if generation.is_none() {
            return Some("replicas had different generations".to_owned());
        }
        let is_other = self.next.is_some() && self.generation != generation;
        is_other.then(|| "the weight has changed".to_owned())
    }

    /// Which replica has lost what it had counted since the last reading, if one has.
    fn lost(&self, services: &[InFeed<'_>]) -> Option<String> {
        let found = services.iter().find_map(|one| match self.replicas.get(one.replica) {
            _ if self.next.is_none() => None,
            None => Some(format!("{} is a new replica", one.replica)),
            Some(before) => {
                let process = one.process();
                if process.dropped > before.dropped {
                    return Some(format!("{} has dropped windows", one.replica));
                }
                let is_other = process.start != before.start
                    || (before.counted_since.is_some()
                        && process.counted_since != before.counted_since);
                is_other.then(|| format!("{} was restarted", one.replica))
            }
        });
        let is_missing = |name: &String| services.iter().all(|one| one.replica != *name);
        found.or_else(|| {
            let missing = self.replicas.keys().find(|name| is_missing(name))?;
            Some(format!("{missing} has gone"))
        })
    }
}

/// The service in the feed of one replica.
struct InFeed<'a> {
    replica: &'a str,
    start: &'a str,
    now: u64,
    service: &'a wire::Counted,
}

// === impl InFeed ===

impl InFeed<'_> {
    fn process(&self) -> Process {
        let dropped = self.service.incomplete.map_or(0, |one| one.dropped_windows);
        let counted_since = self.service.counted_since;
        Process { start: self.start.to_owned(), counted_since, dropped }
    }
}

/// The generation that all replicas have, or which ones they have.
fn agreed(services: &[InFeed<'_>]) -> Result<u64, String> {
    let generation = |one: &InFeed<'_>| one.service.generation.as_deref()?.parse::<u64>().ok();
    let first = services.first().and_then(generation);
    match first {
        Some(first) if services.iter().all(|one| generation(one) == Some(first)) => Ok(first),
        _ => {
            let each = services.iter().map(|one| {
                let generation = one.service.generation.as_deref().unwrap_or("none");
                format!("{} has generation {generation}", one.replica)
            });
            Err(each.collect::<Vec<String>>().join(", "))
        }
    }
}
