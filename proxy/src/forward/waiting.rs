//! Waits for an endpoint when all of a service are full.

use std::time::Instant;

use super::attempt::unless_ended;
use super::attempts::{Attempts, Cost};
use super::{ForwardRequest, Outcome};
use crate::exchange::Respond;
use crate::upstream::exchange::Load;

/// Waits for a place at an endpoint of the backend, or of the fallback if the request has `crossed`
/// over to it. `until` is the end of the time for that, from when the request first waits. Returns
/// `None` if there is no place in time, if other clients displace the request, or if the attempt
/// would exceed the retry budget.
///
/// # Errors
/// The time of the whole request passes, or the client disconnects.
pub(super) async fn wait<R: Respond>(
    request: &ForwardRequest<'_>,
    attempts: &Attempts,
    cost: Cost,
    crossed: bool,
    until: &mut Option<Instant>,
    respond: &mut R,
) -> Result<Option<Load>, Outcome> {
    let now = Instant::now();
    let until = *until.get_or_insert_with(|| now + request.deadlines.connect);
    let fallback = request.fallback.filter(|_| crossed);
    let backend = fallback.unwrap_or(request.backend);
    let queued = {
        let balancer = request.upstreams.balancer(&backend.endpoints, &backend.protocol, now);
        if cost == Cost::Paid && !balancer.retry_budget.withdraw(now) {
            request.meter.upstream_retry_denied();
            return Ok(None);
        }
        balancer.queue(request.requester, |address| attempts.was_full(address))
    };
    let place = match queued {
        Ok(load) => return Ok(Some(load)),
        Err(place) => place,
    };
    let _waiting = request.meter.upstream_wait();
    let waiting = tokio::time::timeout_at(until.into(), place);
    let waited = unless_ended(waiting, &request.deadlines, respond).await?;
    Ok(waited.ok().and_then(Result::ok))
}
