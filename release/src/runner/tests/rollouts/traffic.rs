//! A gateway with two replicas in memory, whose canary fails as often as it is told.

use std::sync::{Arc, Mutex, MutexGuard};

use serde_json::{Value, json};

use crate::cluster::ClusterError;
use crate::feed::{Reading, Service};
use crate::gateway::{Answer, Gateway, WrittenSplit};
use crate::model::Time;
use crate::rollout::Split;

/// The requests of a window on each replica, all of them dealt one by one.
const REQUESTS: u64 = 20_000;

/// A handle on a gateway; clones share it.
#[derive(Clone)]
pub(super) struct Traffic(Arc<Mutex<Content>>);

#[derive(Clone)]
struct Content {
    now: Time,
    split: Split,
    /// Who has set it, if not the builder.
    by: Option<&'static str>,
    /// The weights that were set.
    weights: Vec<u16>,
    /// Errors of the canary and of the stable variant, of 1,000 requests.
    errors: (u64, u64),
    silent: Option<&'static str>,
    refusal: Option<&'static str>,
    threshold: Option<u64>,
}

// === impl Traffic ===

impl Traffic {
    /// One whose variants fail as often, of 1,000 requests.
    pub(super) fn new(canary: u64, stable: u64) -> Self {
        Self(Arc::new(Mutex::new(Content {
            now: Time::now(),
            split: Split { weight: 0, generation: 7 },
            by: None,
            weights: Vec::new(),
            errors: (canary, stable),
            silent: None,
            refusal: None,
            threshold: None,
        })))
    }

    /// A copy that shares nothing with this one.
    pub(super) fn copy(&self) -> Self {
        Self(Arc::new(Mutex::new(self.content().clone())))
    }

    /// The time after ten further seconds.
    pub(super) fn later(&self) -> Time {
        let mut content = self.content();
        content.now.0 += 10_000;
        content.now
    }

    pub(super) fn weights(&self) -> Vec<u16> {
        self.content().weights.clone()
    }

    pub(super) fn weight(&self) -> u16 {
        self.content().split.weight
    }

    /// A replica cannot be read any more, or all can be again.
    pub(super) fn silence(&self, why: Option<&'static str>) {
        self.content().silent = why;
    }

    /// Weights cannot be set.
    pub(super) fn refuse(&self, why: &'static str) {
        self.content().refusal = Some(why);
    }

    /// Sets the weight as a person does.
    pub(super) fn interfere(&self, weight: u16) {
        let mut content = self.content();
        let generation = content.split.generation + 1;
        content.split = Split { weight, generation };
        content.by = Some("helm");
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.0.lock().unwrap()
    }
}

impl Gateway for Traffic {
    fn split<'a>(&'a self, _: &'a Service) -> Answer<'a, WrittenSplit> {
        let (split, by) = {
            let content = self.content();
            (content.split, content.by.map(str::to_owned))
        };
        let reported = Some(split.generation);
        Box::pin(async move { Ok(WrittenSplit { split, reported, by }) })
    }

    fn set_weight<'a>(&'a self, _: &'a Service, weight: u16, if_generation: u64) -> Answer<'a, ()> {
        Box::pin(async move {
            let mut content = self.content();
            if let Some(why) = content.refusal {
                return Err(ClusterError::Rejected(why.to_owned()));
            }
            if content.split.generation == if_generation {
                content.split = Split { weight, generation: if_generation + 1 };
                content.weights.push(weight);
            }
            Ok(())
        })
    }

    fn set_latency_threshold<'a>(&'a self, _: &'a Service, milliseconds: u64) -> Answer<'a, ()> {
        Box::pin(async move {
            self.content().threshold = Some(milliseconds);
            Ok(())
        })
    }

    fn read<'a>(&'a self, service: &'a Service, from: u64) -> Answer<'a, Vec<Reading>> {
        let content = self.content();
        let feed = || {
            let feed = content.feed(service, from);
            serde_json::from_value(feed).map_err(|error| error.to_string())
        };
        let first = Reading { replica: "gateway-1".to_owned(), feed: feed() };
        let feed = match content.silent {
            Some(why) => Err(why.to_owned()),
            None => feed(),
        };
        let second = Reading { replica: "gateway-2".to_owned(), feed };
        Box::pin(async move { Ok(vec![first, second]) })
    }
}

// === impl Content ===

impl Content {
    fn feed(&self, service: &Service, from: u64) -> Value {
        let now = self.now.0 / 1000;
        let generation = self.split.generation.to_string();
        let of_canary = REQUESTS * u64::from(self.split.weight) / 10_000;
        let variant = |name: &str, requests: u64, errors: u64| {
            let dealt = json!({ "requests": requests, "errors": requests * errors / 1000,
                "latency": { "5120": requests } });
            json!({ "name": name, "sticky": {}, "dealt": dealt })
        };
        let variants = [
            variant(&service.name, REQUESTS - of_canary, self.errors.1),
            variant(&service.canary, of_canary, self.errors.0),
        ];
        let starts = (0..4).map(|back| (now / 10 - back) * 10).filter(|start| *start >= from);
        let windows = starts.map(|start| {
            json!({ "start": start, "generation": generation,
                "latencyThreshold": self.threshold.map(|threshold| threshold * 1000),
                "variants": variants })
        });
        json!({ "version": 1, "start": "s", "now": now, "services": [{
            "namespace": service.namespace, "service": service.name, "countedSince": 1,
            "generation": generation, "windows": windows.collect::<Vec<Value>>(),
            "variants": [{ "name": service.name, "latency": { "5120": 10_000 } }],
        }] })
    }
}
