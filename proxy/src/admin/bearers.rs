//! Who may read telemetry.
//!
//! A review by the cluster costs two questions to the API server. So what came of it is kept for a
//! while ([`verdicts`]), and whoever comes with a token that is not known gets few of them
//! ([`questions`]).

mod questions;
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

use self::questions::Questions;
use self::verdicts::{Known, Verdicts};
use crate::access::bearer_token;

/// Reviews under way at a time; others wait in the order in which they came, one for each address.
const REVIEWS: usize = 4;
/// The most octets of a token's file.
const MAX_TOKEN_FILE: u64 = 16 * 1024;

/// Decides about bearers.
#[derive(Debug)]
pub(super) enum Bearers {
    /// All may read.
    Open,
    /// Whoever has the token in a file.
    TokenFile(TokenFile),
    /// Whom the cluster admits.
    Reviewed(Box<Reviews>),
    /// Nobody may read.
    Closed,
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Denied {
    /// It has no bearer token, or one that is nobody's.
    Unauthenticated,
    /// The token's account may not read.
    Forbidden,
    /// Too many unknown tokens came from its address.
    TooMany,
    /// There is nobody to decide.
    Unavailable,
}

/// The token in a file, which is read each time: a replaced file takes effect at once.
#[derive(Debug)]
pub(super) struct TokenFile {
    path: PathBuf,
    is_broken: AtomicBool,
}

/// Bearers that a cluster reviews.
pub(super) struct Reviews {
    reviewer: Arc<dyn BearerReview>,
    fingerprints: Fingerprints,
    verdicts: Mutex<Verdicts>,
    questions: Mutex<Questions>,
    /// The addresses that wait for a review.
    waiting: Mutex<HashSet<IpAddr>>,
    places: Semaphore,
    is_away: AtomicBool,
}

/// A place of an address among those that wait, until this is dropped.
struct Waiting<'r> {
    waiting: &'r Mutex<HashSet<IpAddr>>,
    peer: IpAddr,
}

// === impl Bearers ===

impl Bearers {
    /// By what `settings` demand; `reviewer` is the cluster where they name one.
    pub(super) fn new(
        settings: &Settings,
        reviewer: Option<Arc<dyn BearerReview>>,
    ) -> Result<Self, NoRandomness> {
        Ok(match (settings.telemetry_access(), reviewer) {
            (TelemetryAccess::Open, _) => Self::Open,
            (TelemetryAccess::TokenFile(path), _) => Self::TokenFile(TokenFile::new(path)),
            (TelemetryAccess::TokenReview, Some(reviewer)) => {
                Self::Reviewed(Box::new(Reviews::new(reviewer)?))
            }
            (TelemetryAccess::TokenReview, None) => Self::Closed,
        })
    }

    /// Whether all may read.
    pub(super) fn is_open(&self) -> bool {
        matches!(self, Self::Open)
    }

    /// Whether a request with these fields, from `peer`, may read telemetry.
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
        // Digests, so that not even the length shows in the time.
        let (shown, expected) = (digest(&SHA256, token.as_bytes()), digest(&SHA256, &expected));
        verify_slices_are_equal(shown.as_ref(), expected.as_ref())
            .map_err(|_| Denied::Unauthenticated)
    }

    /// The token; `None` where the file has none.
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
                    tracing::warn!(%file, %error, "failed to read the token of telemetry: nobody can read metrics");
                }
                None
            }
        }
    }
}

// === impl Reviews ===

impl Reviews {
    fn new(reviewer: Arc<dyn BearerReview>) -> Result<Self, NoRandomness> {
        Ok(Self {
            reviewer,
            fingerprints: Fingerprints::new()?,
            verdicts: Mutex::default(),
            questions: Mutex::default(),
            waiting: Mutex::default(),
            places: Semaphore::new(REVIEWS),
            is_away: AtomicBool::new(false),
        })
    }

    async fn check(&self, token: &str, peer: IpAddr) -> Result<(), Denied> {
        let bearer = self.fingerprints.of("telemetry", &[token]).ok_or(Denied::Unavailable)?;
        let known = lock(&self.verdicts).find(&bearer, Instant::now());
        match known {
            Known::Decided(verdict) => decided(verdict),
            // Admitted bearers are few, and are asked for once a minute each: they need not wait
            // for those who are nobody.
            Known::WasAllowed => self.review(bearer, token).await.map_or(Ok(()), decided),
            Known::Nothing => {
                let peer = peer.to_canonical();
                let _waiting = Waiting::new(&self.waiting, peer).ok_or(Denied::TooMany)?;
                if !lock(&self.questions).take(peer, Instant::now()) {
                    return Err(Denied::TooMany);
                }
                let _place = self.places.acquire().await.map_err(|_| Denied::Unavailable)?;
                self.review(bearer, token).await.map_or(Err(Denied::Unavailable), decided)
            }
        }
    }

    /// Asks the cluster, and remembers what it says; `None` where it says nothing.
    async fn review(&self, bearer: Fingerprint, token: &str) -> Option<Verdict> {
        let reviewed = self.reviewer.review(token.to_owned()).await;
        let was_away = self.is_away.swap(reviewed.is_err(), Ordering::Relaxed);
        match reviewed {
            Ok(verdict) => {
                lock(&self.verdicts).learn(bearer, verdict, Instant::now());
                Some(verdict)
            }
            Err(error) => {
                if !was_away {
                    tracing::warn!(%error, "failed to review a bearer of telemetry: those admitted before stay so for {} min", verdicts::OUTLIVES.as_secs() / 60);
                }
                None
            }
        }
    }
}

impl fmt::Debug for Reviews {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reviews").field("reviewer", &self.reviewer).finish_non_exhaustive()
    }
}

fn decided(verdict: Verdict) -> Result<(), Denied> {
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
    /// A place; `None` where the address has one.
    fn new(waiting: &'r Mutex<HashSet<IpAddr>>, peer: IpAddr) -> Option<Self> {
        let is_new = lock(waiting).insert(peer);
        // Not made where another one has the place: dropped, it would give that back.
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
