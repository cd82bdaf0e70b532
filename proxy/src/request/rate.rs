//! Rate limits of admitted requests.

use std::num::NonZeroU32;

use super::context::{LogContext, RequestContext};
use super::reply::Reply;
use crate::decision::Admitted;
use crate::exchange::Respond;
use crate::limit::RateExceeded;
use crate::local_reply;
use crate::normalize::Request;
use crate::telemetry::RATE_LIMITED;

// === impl RequestContext ===

impl RequestContext<'_> {
    /// Counts an admitted request. Others are not counted, and never learn of a limit: it would
    /// reveal that the host exists.
    ///
    /// # Errors
    /// The request exceeds a limit.
    pub(super) fn check_rate(&self, admitted: &Admitted) -> Result<(), Box<RateExceeded>> {
        let limits = &admitted.routed.rule.policy.rate_limits;
        let limiter = &self.worker.rate_limiter;
        let replicas = || self.worker.live.replicas().unwrap_or(NonZeroU32::MIN);
        let checked = limiter.admit(limits, self.requester(admitted), replicas, self.started);
        let displaced = match &checked {
            Ok(displaced) => *displaced,
            Err(exceeded) => exceeded.displaced,
        };
        if displaced > 0 {
            self.worker.meter.rate_limit_displaced(displaced);
        }
        checked.map(|_| ())
    }

    /// Rejects a request that exceeds a limit.
    pub(super) fn reject_rate<R: Respond>(
        &self,
        exceeded: &RateExceeded,
        admitted: &Admitted,
        request: &Request,
        respond: &mut R,
    ) -> Reply {
        let log = LogContext {
            request: Some(request),
            routed: Some(&admitted.routed),
            caller: Some(&admitted.caller.authenticated.caller),
            failure: Some(RATE_LIMITED),
            ..LogContext::default()
        };
        let reply = local_reply::rate_limited(exceeded, &self.reply_context());
        self.reply(reply, log, respond)
    }
}
