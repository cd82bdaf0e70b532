//! What a worker has. How it is started is told by [`worker`](crate::worker).
//!
//! It is never seen by another thread, so it is `Rc` and `Cell`: no lock and no atomic on the way of
//! a request.

use std::rc::Rc;
use std::sync::Arc;

use portcullis_config::live::Live;
use portcullis_config::settings::Settings;
use portcullis_identity::authenticator::Authenticator;
use portcullis_identity::portal::Reception;

use crate::access::caller_cache::Recent;
use crate::access::identity_headers::Introductions;
use crate::access::reauthorization::Reviews;
use crate::access::verification_queue::Turns;
use crate::certificates::acme::challenges::Challenges;
use crate::hsts::Hsts;
use crate::proxy_headers::Forwarding;
use crate::random::Random;
use crate::telemetry::Meter;
use crate::upstream::Upstreams;

/// What all connections of one worker share.
pub(crate) struct WorkerContext {
    pub(crate) settings: Arc<Settings>,
    pub(crate) live: Arc<Live>,
    pub(crate) forwarding: Forwarding,
    pub(crate) upstreams: Upstreams,
    pub(crate) meter: Rc<Meter>,
    pub(crate) authenticator: Arc<Authenticator>,
    pub(crate) introductions: Arc<Introductions>,
    /// `None` where nobody can log in.
    pub(crate) reception: Option<Reception>,
    pub(crate) recent: Recent,
    pub(crate) reviews: Reviews,
    pub(crate) turns: Turns,
    pub(crate) challenges: Arc<Challenges>,
    pub(crate) hsts: Hsts,
    pub(crate) random: Random,
}
