//! Shadows: Services that get copies of the requests of another one, and whose responses are dropped.
//!
//! A copy is a task of its own. The request itself waits for nothing of it: neither for room, nor for
//! a connection or a response. Copies are bounded in number, memory and time, with a fair share for
//! each Namespace and service ([`budget`]); what exceeds a limit is not copied, and counted. They are
//! sent once, without credentials ([`copied`]), and counted apart from requests ([`comparison`]).

mod budget;
mod comparison;
mod copied;
mod copies;
mod send;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use portcullis_config::settings::Settings;
use portcullis_config::snapshot::backend::Backend;
use portcullis_config::snapshot::filter::Mirror;
use portcullis_config::snapshot::rule::Rule;

use self::budget::{Budget, Usage};
pub(crate) use self::copies::{CopiedBody, Copies};
use crate::access::identity_headers::IdentityHeaders;
use crate::choose::Dealer;
use crate::filter;
use crate::normalize::Request;
use crate::proxy_headers::RequestId;
use crate::proxy_headers::prepared::PreparedHeaders;
use crate::random::Random;
use crate::telemetry::Meter;
use crate::upstream::Upstreams;

/// The copies of a worker's requests.
pub(crate) struct Shadows {
    context: Rc<ShadowContext>,
    dealer: Dealer,
}

/// What all copies of a worker share.
struct ShadowContext {
    upstreams: Rc<Upstreams>,
    meter: Rc<Meter>,
    random: Random,
    budget: Rc<Budget>,
    connect_timeout: Duration,
    /// Timeout of a whole copy.
    timeout: Duration,
    /// How much of a response is read.
    response_octets: usize,
}

/// A request that is forwarded.
#[derive(Clone, Copy)]
pub(crate) struct Original<'a> {
    /// The request, without its fields.
    pub(crate) request: &'a Request,
    /// The fields as the backend gets them, with the next ones.
    pub(crate) fields: &'a HeaderMap,
    pub(crate) host: &'a HeaderValue,
    pub(crate) proxy: Option<&'a Rc<PreparedHeaders>>,
    pub(crate) identity: Option<&'a IdentityHeaders>,
    pub(crate) id: &'a RequestId,
    pub(crate) environment: &'a Arc<str>,
    pub(crate) rule: &'a Rule,
    /// The backend that is to respond.
    pub(crate) backend: &'a Backend,
}

// === impl Shadows ===

impl Shadows {
    pub(crate) fn new(
        settings: &Settings,
        upstreams: Rc<Upstreams>,
        meter: Rc<Meter>,
        random: Random,
    ) -> Self {
        let limit = Usage {
            copies: settings.limits.shadows.get(),
            octets: settings.limits.shadow_memory.get(),
        };
        let dealer = Dealer::new(|| random.next());
        let context = ShadowContext {
            upstreams,
            budget: Budget::new(limit, Rc::clone(&meter)),
            meter,
            random,
            connect_timeout: settings.timeouts.connect,
            timeout: settings.timeouts.shadow,
            response_octets: settings.limits.shadow_response_bytes.get(),
        };
        Self { context: Rc::new(context), dealer }
    }

    /// Begins to copy a request, if it is one of those that a shadow gets. The copies are sent as
    /// soon as its body was read.
    pub(crate) fn begin(&self, original: &Original<'_>) -> Option<Box<Copies>> {
        let mut mirrors = original.rule.mirrors().filter(|mirror| self.is_dealt(mirror, original));
        let first = mirrors.next()?;
        Copies::begin(&self.context, original, std::iter::once(first).chain(mirrors))
    }

    /// Whether a mirror gets a copy of this request. A Service that responds itself gets none.
    fn is_dealt(&self, mirror: &Mirror, original: &Original<'_>) -> bool {
        let id = mirror.backend.endpoints.id();
        id != original.backend.endpoints.id()
            && filter::is_mirrored(mirror, original.request)
            && is_within(self.dealer.next(id), mirror.per_million)
    }
}

/// Whether a point, uniform over `u64`, is in the first `per_million` parts of a million.
fn is_within(point: u64, per_million: u32) -> bool {
    (u128::from(point) * 1_000_000) >> 64 < u128::from(per_million)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_exact_to_a_few_requests() {
        for per_million in [0, 100, 2_500, 50_000, 999_900, 1_000_000] {
            let dealer = Dealer::new(|| 7);
            let dealt = |_: &u32| is_within(dealer.next(1), per_million);
            let count = (0..1_000_000).filter(dealt).count();
            assert!(count.abs_diff(per_million as usize) < 8, "{count} of {per_million}");
        }
    }
}
