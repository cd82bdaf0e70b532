//! What a forwarded request says about its variant, for the traffic feed.

use std::time::Instant;

use super::context::{LogContext, RequestContext};
use crate::choose::Reason;
use crate::forward::{CALL_EXPIRED, Crossing, ForwardStats, Outcome, UPSTREAM_FULL};
use crate::telemetry::traffic::{Ended, Ending, Request, Response};

// === impl RequestContext ===

impl RequestContext<'_> {
    /// Counts the first attempt of a request that has ended.
    pub(super) fn count_evidence(&self, outcome: Outcome, log: &LogContext<'_>) {
        let (Some(entered), Some(routed)) = (log.entered, log.routed) else { return };
        let assignment = log.choice.and_then(|choice| choice.assignment);
        let reason = assignment.map(|assignment| assignment.reason);
        let ForwardStats { crossing, first_failed, tries, .. } = log.stats;
        let since = |at: Instant| at.duration_since(self.started);
        let response = log.stats.status.zip(log.stats.head_at).map(|(status, at)| Response {
            status: status.as_u16(),
            grpc_status: log.stats.grpc_status,
            latency: since(at),
        });
        let ended = Ended {
            is_forced: matches!(reason, Some(Reason::ForcedHeader | Reason::ForcedCookie)),
            is_missed: crossing == Some(Crossing::Missed),
            first: first_failed,
            response,
            // A client fills its share of a backend by itself.
            ending: if crossing.is_some() { Ending::OwnReply } else { ending(outcome) },
            duration: log.stats.ended_at.map(since).unwrap_or_default(),
        };
        // To the stable variant, it is not a retry.
        let retries = if crossing.is_some() { 0 } else { tries.saturating_sub(1) };
        let (rule, arrived) = (&routed.rule, self.at);
        let request = Request { rule, assignment, ended, retries, arrived };
        self.worker.meter.traffic().end(entered, &request);
    }
}

fn ending(outcome: Outcome) -> Ending {
    match outcome {
        Outcome::Sent => Ending::Complete,
        Outcome::ClientClosed
        | Outcome::Aborted("client_stalled" | "request_body" | CALL_EXPIRED)
        | Outcome::Failed { reason: CALL_EXPIRED, .. } => Ending::ClientLeft,
        Outcome::Failed { reason: UPSTREAM_FULL, .. } => Ending::OwnReply,
        Outcome::Failed { .. } | Outcome::Aborted(_) => Ending::Failed,
        Outcome::Refused(_) | Outcome::Revoked => Ending::OwnReply,
    }
}
