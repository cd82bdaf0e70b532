//! Copies of a request to shadows.

use super::backend_headers::BackendHeaders;
use super::context::RequestContext;
use crate::choose::Choice;
use crate::decision::Admitted;
use crate::forward::{ForwardStats, Outcome};
use crate::normalize::Request;
use crate::shadow::{Copies, Original};
use crate::telemetry::{AnswerClass, ShadowAnswer};

// === impl RequestContext ===

impl RequestContext<'_> {
    /// Begins to copy a request that is forwarded with these headers; `None` if no shadow gets it.
    pub(super) fn copies(
        &self,
        request: &Request,
        headers: &BackendHeaders,
        admitted: &Admitted,
        choice: &Choice<'_>,
    ) -> Option<Box<Copies>> {
        let routed = &admitted.routed;
        if routed.rule.filters.is_empty() {
            return None;
        }
        self.worker.shadows.begin(&Original {
            request,
            fields: &headers.fields,
            host: &headers.host,
            proxy: headers.proxy.as_ref(),
            identity: headers.identity.as_deref(),
            id: &self.id,
            environment: &routed.environment,
            rule: &routed.rule,
            backend: choice.backend,
        })
    }
}

/// How a request was responded to, for comparison with its copies.
pub(super) fn answer(outcome: Outcome, stats: &ForwardStats) -> ShadowAnswer {
    let class = match (outcome, stats.status) {
        (Outcome::Sent, Some(status)) => AnswerClass::of(status, stats.grpc_status),
        _ => AnswerClass::Failed,
    };
    ShadowAnswer { class, head_at: stats.head_at }
}
