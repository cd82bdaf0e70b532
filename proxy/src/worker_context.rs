//! The state of a worker, which [`worker`](crate::worker) creates.
//!
//! No other thread accesses it, so it uses `Rc` and `Cell`: no locks and no atomics on the request
//! path.

use std::rc::Rc;
use std::sync::Arc;

use portcullis_config::live::Live;
use portcullis_config::settings::Settings;
use portcullis_identity::authenticator::Authenticator;
use portcullis_identity::portal::PortalClient;

use crate::access::caller_cache::CallerCache;
use crate::access::identity_headers::IdentityHeadersCache;
use crate::access::reauthorization::Reauthorization;
use crate::access::verification_queue::VerificationQueue;
use crate::choose::Dealer;
use crate::decision::LocalPaths;
use crate::hsts::Hsts;
use crate::limit::RateLimiter;
use crate::proxy_headers::ProxyHeaderSettings;
use crate::proxy_headers::prepared::PreparedCache;
use crate::random::Random;
use crate::shadow::Shadows;
use crate::telemetry::Meter;
use crate::upstream::Upstreams;

/// The state that all connections of a worker share.
pub(crate) struct WorkerContext {
    pub(crate) settings: Arc<Settings>,
    pub(crate) live: Arc<Live>,
    pub(crate) proxy_headers: ProxyHeaderSettings,
    pub(crate) prepared_headers: PreparedCache,
    pub(crate) upstreams: Rc<Upstreams>,
    pub(crate) shadows: Shadows,
    pub(crate) meter: Rc<Meter>,
    pub(crate) authenticator: Arc<Authenticator>,
    pub(crate) identity_headers: Arc<IdentityHeadersCache>,
    /// `None` without login.
    pub(crate) portal: Option<PortalClient>,
    pub(crate) caller_cache: CallerCache,
    pub(crate) reauthorization: Reauthorization,
    pub(crate) verification_queue: VerificationQueue,
    pub(crate) rate_limiter: RateLimiter,
    pub(crate) local_paths: Arc<LocalPaths>,
    pub(crate) hsts: Hsts,
    pub(crate) random: Random,
    pub(crate) dealer: Dealer,
}
