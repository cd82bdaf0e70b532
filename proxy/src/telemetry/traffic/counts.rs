//! The counters of a variant in one worker.

use std::sync::OnceLock;

use super::evidence::Evidence;
use super::feed::{CLASSES, Variant};
use super::latency::Histogram;
use crate::telemetry::counter::Counter;
use crate::telemetry::series::GRPC_CODES;

/// What one worker has counted of a variant. That worker alone writes it.
#[derive(Debug, Default)]
pub(super) struct VariantCounts {
    pub(super) started: Counter,
    pub(super) ended: Counter,
    pub(super) retries: Counter,
    pub(super) ejections: Counter,
    errors: Counter,
    classes: [Counter; CLASSES.len()],
    failed: Counter,
    missed: Counter,
    forced: Counter,
    own_replies: Counter,
    latency: Histogram,
    /// What few services see.
    grpc: OnceLock<Box<[Counter; GRPC_CODES]>>,
    clients_left: OnceLock<Box<Histogram>>,
}

// === impl VariantCounts ===

impl VariantCounts {
    /// Counts a request that has ended.
    pub(super) fn count(&self, evidence: Evidence) {
        match evidence {
            Evidence::Response { status, grpc_code, latency, .. } => {
                let class = usize::from(status / 100).saturating_sub(1).min(CLASSES.len() - 1);
                if let Some(class) = self.classes.get(class) {
                    class.add(1);
                }
                if let Some(code) = grpc_code
                    && let Some(counter) = self.grpc.get_or_init(Box::default).get(code)
                {
                    counter.add(1);
                }
                self.latency.add(latency);
            }
            Evidence::Failed => self.failed.add(1),
            Evidence::Missed => self.missed.add(1),
            Evidence::ClientLeft(after) => {
                self.clients_left.get_or_init(Box::default).add(after);
            }
            Evidence::Forced => self.forced.add(1),
            Evidence::OwnReply => self.own_replies.add(1),
        }
        if evidence.is_error() == Some(true) {
            self.errors.add(1);
        }
    }

    /// Adds the counts to those of other workers.
    pub(super) fn add_to(&self, sum: &mut Variant) {
        // What has ended is read first, so that it never exceeds what has started.
        let ended = self.ended.get();
        sum.in_flight += self.started.get().saturating_sub(ended);
        sum.retries += self.retries.get();
        sum.ejections += self.ejections.get();
        sum.errors += self.errors.get();
        sum.failed += self.failed.get();
        sum.missed += self.missed.get();
        sum.requests += self.failed.get() + self.missed.get();
        for (name, counter) in CLASSES.into_iter().zip(&self.classes) {
            let count = counter.get();
            if count > 0 {
                *sum.responses.entry(name.to_owned()).or_default() += count;
                sum.requests += count;
            }
        }
        for (code, counter) in
            self.grpc.get().into_iter().flat_map(|codes| codes.iter().enumerate())
        {
            let count = counter.get();
            if count > 0 {
                *sum.grpc.entry(grpc_name(code)).or_default() += count;
            }
        }
        for (step, count) in self.latency.iter() {
            *sum.latency.entry(step.edge()).or_default() += count;
        }
        let left = self.clients_left.get().into_iter().flat_map(|left| left.iter());
        for (step, count) in left {
            *sum.left_out.clients_left.entry(step.edge()).or_default() += count;
        }
        sum.left_out.forced += self.forced.get();
        sum.left_out.own_replies += self.own_replies.get();
    }
}

fn grpc_name(code: usize) -> String {
    if code > 16 { "unknown".to_owned() } else { code.to_string() }
}
