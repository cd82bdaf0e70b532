//! Who sends a request: the unit by which requests are counted, and by which they are treated fairly.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::num::NonZeroU64;

use portcullis_config::snapshot::rate_limit::RateScope;
use portcullis_identity::caller::Caller;
use portcullis_identity::client_network::ClientNetwork;

/// The sender of a request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Requester<'a> {
    pub(crate) caller: &'a Caller,
    /// The client's address.
    pub(crate) address: IpAddr,
}

// === impl Requester ===

impl Requester<'_> {
    /// Returns a hash of the identity that `scope` counts. A request without one is counted by the
    /// next that it has, so that none is outside a limit: many people may share one address, but
    /// each has credentials of their own.
    pub(crate) fn key(self, hasher: &RandomState, scope: RateScope) -> NonZeroU64 {
        let Caller { application, user, .. } = self.caller;
        let user = user.as_deref().filter(|_| scope == RateScope::User);
        let application = application.as_deref().filter(|_| scope != RateScope::Source);
        let hash = match (user, application) {
            (Some(user), _) => hasher.hash_one((0_u8, &*user.name)),
            (None, Some(application)) => hasher.hash_one((1_u8, application)),
            (None, None) => hasher.hash_one((2_u8, ClientNetwork::from(self.address))),
        };
        NonZeroU64::new(hash).unwrap_or(NonZeroU64::MIN)
    }
}
