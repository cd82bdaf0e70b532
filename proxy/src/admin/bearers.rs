//! Authorization of readers of telemetry, by bearer token.
//!
//! A review by the cluster costs two requests to the API server. So its verdict is cached
//! ([`verdicts`]), and reviews of unknown tokens are limited by client address
//! ([`review_limiter`]).

mod review_limiter;
mod verdicts;

use std::collections::HashSet;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use http::HeaderMap;
use http::header::AUTHORIZATION;
use portcullis_config::bearer_review::{BearerReview, Verdict};
use portcullis_config::settings::Settings;
use portcullis_config::settings::telemetry::TelemetryAccess;
use portcullis_identity::cache::{Fingerprint, Fingerprints};
use portcullis_identity::session::NoRandomness;
use tokio::io::AsyncReadExt;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use self::review_limiter::ReviewLimiter;
use self::verdicts::{CachedVerdict, Verdicts};
use crate::access::bearer_token;

/// Concurrent reviews; others wait in order of arrival, one for each address.
const MAX_REVIEWS: usize = 4;
/// The longest token file, in octets.
const MAX_TOKEN_FILE: u64 = 16 * 1024;

/// The policy that authorizes bearers.
#[derive(Debug)]
pub(super) enum Bearers {
    /// Everyone may read.
    Open,
    /// Bearers of the token in a file.
    TokenFile(TokenFile),
    /// Bearers that the cluster allows.
    Reviewed(Box<TokenReviews>),
    /// No one may read.
    Closed,
}

/// Why a request is denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Denied {
    /// It has no bearer token, or an invalid one.
    Unauthenticated,
    /// The token's account may not read.
    Forbidden,
    /// Its address has sent too many unknown tokens.
    TooMany,
    /// The token cannot be checked now.
    Unavailable,
}

/// A token in a file, which is read for each request: a replaced file takes effect at once.
#[derive(Debug)]
pub(super) struct TokenFile {
    path: PathBuf,
    is_broken: AtomicBool,
}

/// Bearers that the cluster reviews.
pub(super) struct TokenReviews {
    reviewer: Arc<dyn BearerReview>,
    fingerprints: Fingerprints,
    verdicts: Mutex<Verdicts>,
    limiter: Mutex<ReviewLimiter>,
    /// The addresses that are waiting for a review.
    waiting: Mutex<HashSet<IpAddr>>,
    permits: Semaphore,
    is_unavailable: AtomicBool,
}

/// An address that is waiting for a review, until this is dropped.
struct Waiting<'r> {
    waiting: &'r Mutex<HashSet<IpAddr>>,
    peer: IpAddr,
}

// === impl Bearers ===

impl Bearers {
    /// Creates the policy of `settings`; `reviewer` is the cluster, if there is one.
    pub(super) fn new(
        settings: &Settings,
        reviewer: Option<Arc<dyn BearerReview>>,
    ) -> Result<Self, NoRandomness> {
        Ok(match (settings.telemetry_access(), reviewer) {
            (TelemetryAccess::Open, _) => Self::Open,
            (TelemetryAccess::TokenFile(path), _) => Self::TokenFile(TokenFile::new(path)),
            (TelemetryAccess::TokenReview, Some(reviewer)) => {
                Self::Reviewed(Box::new(TokenReviews::new(reviewer)?))
            }
            (TelemetryAccess::TokenReview, None) => Self::Closed,
        })
    }

    /// Whether everyone may read.
    pub(super) fn is_open(&self) -> bool {
        matches!(self, Self::Open)
    }

    /// Authorizes a request with these fields, from `peer`, to read telemetry.
    pub(super) async fn check(&self, headers: &HeaderMap, peer: IpAddr) -> Result<(), Denied> {
        if self.is_open() {
            return Ok(());
        }
        let mut fields = headers.get_all(AUTHORIZATION).iter();
        let field = fields.next().filter(|_| fields.next().is_none());
        let token = field.and_then(bearer_token).ok_or(Denied::Unauthenticated)?;
        match self {
            Self::Open => Ok(()),
            Self::TokenFile(file) => file.check(token).await,
            Self::Reviewed(reviews) => reviews.check(token, peer).await,
            Self::Closed => Err(Denied::Unavailable),
        }
    }
}

// === impl TokenFile ===

impl TokenFile {
    fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), is_broken: AtomicBool::new(false) }
    }

    async fn check(&self, token: &str) -> Result<(), Denied> {
        let expected = self.read().await.ok_or(Denied::Unavailable)?;
        // Digests are compared, so that timing does not reveal the length.
        let (presented, expected) = (digest(&SHA256, token.as_bytes()), digest(&SHA256, &expected));
        verify_slices_are_equal(presented.as_ref(), expected.as_ref())
            .map_err(|_| Denied::Unauthenticated)
    }

    /// Reads the token; `None` if the file has none.
    async fn read(&self) -> Option<Vec<u8>> {
        let read = async {
            let mut text = Vec::new();
            let file = tokio::fs::File::open(&self.path).await?;
            file.take(MAX_TOKEN_FILE).read_to_end(&mut text).await?;
            match text.trim_ascii() {
                [] => Err(std::io::Error::other("it is empty")),
                token => Ok(token.to_vec()),
            }
        };
        let read = read.await;
        let was_broken = self.is_broken.swap(read.is_err(), Ordering::Relaxed);
        match read {
            Ok(token) => Some(token),
            Err(error) => {
                if !was_broken {
                    let file = self.path.display();
                    tracing::warn!(%file, %error, "failed to read the telemetry token: requests for metrics are denied");
                }
                None
            }
        }
    }
}

// === impl TokenReviews ===

impl TokenReviews {
    fn new(reviewer: Arc<dyn BearerReview>) -> Result<Self, NoRandomness> {
        Ok(Self {
            reviewer,
            fingerprints: Fingerprints::new()?,
            verdicts: Mutex::default(),
            limiter: Mutex::default(),
            waiting: Mutex::default(),
            permits: Semaphore::new(MAX_REVIEWS),
            is_unavailable: AtomicBool::new(false),
        })
    }

    async fn check(&self, token: &str, peer: IpAddr) -> Result<(), Denied> {
        let bearer = self.fingerprints.of("telemetry", &[token]).ok_or(Denied::Unavailable)?;
        let cached = lock(&self.verdicts).find(&bearer, Instant::now());
        match cached {
            CachedVerdict::Decided(verdict) => into_result(verdict),
            // Allowed bearers are few, and reviewed once a minute each: they need not wait behind
            // unknown ones.
            CachedVerdict::WasAllowed => {
                self.review(bearer, token).await.map_or(Ok(()), into_result)
            }
            CachedVerdict::Unknown => {
                let peer = peer.to_canonical();
                let _waiting = Waiting::new(&self.waiting, peer).ok_or(Denied::TooMany)?;
                if !lock(&self.limiter).take(peer, Instant::now()) {
                    return Err(Denied::TooMany);
                }
                let _permit = self.permits.acquire().await.map_err(|_| Denied::Unavailable)?;
                self.review(bearer, token).await.map_or(Err(Denied::Unavailable), into_result)
            }
        }
    }

    /// Has the cluster review the token, and caches the verdict; `None` if it is unavailable.
    async fn review(&self, bearer: Fingerprint, token: &str) -> Option<Verdict> {
        let reviewed = self.reviewer.review(token.to_owned()).await;
        let was_unavailable = self.is_unavailable.swap(reviewed.is_err(), Ordering::Relaxed);
        match reviewed {
            Ok(verdict) => {
                lock(&self.verdicts).insert(bearer, verdict, Instant::now());
                Some(verdict)
            }
            Err(error) => {
                if !was_unavailable {
                    tracing::warn!(%error, "failed to review a telemetry bearer: those allowed before stay allowed for {} min", verdicts::GRACE.as_secs() / 60);
                }
                None
            }
        }
    }
}

impl fmt::Debug for TokenReviews {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenReviews").field("reviewer", &self.reviewer).finish_non_exhaustive()
    }
}

fn into_result(verdict: Verdict) -> Result<(), Denied> {
    match verdict {
        Verdict::Allowed => Ok(()),
        Verdict::Forbidden => Err(Denied::Forbidden),
        Verdict::Unauthenticated => Err(Denied::Unauthenticated),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Waiting ===

impl<'r> Waiting<'r> {
    /// Registers the address; `None` if it is waiting already.
    fn new(waiting: &'r Mutex<HashSet<IpAddr>>, peer: IpAddr) -> Option<Self> {
        let is_new = lock(waiting).insert(peer);
        // Not built for a duplicate: its drop would remove the first registration.
        is_new.then(|| Self { waiting, peer })
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        lock(self.waiting).remove(&self.peer);
    }
}

#[cfg(test)]
mod tests;
