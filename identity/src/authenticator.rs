//! Authenticates the credentials of a request.
//!
//! This runs before the host is looked up, so that existing and unknown hosts take the same work.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use http::HeaderValue;
use portcullis_config::live::Live;
use portcullis_config::settings::access::AccessSettings;
use portcullis_config::snapshot::access::Credentials;
use rustls::server::danger::ClientCertVerifier;

use super::cache::{Cache, Fingerprints};
use super::caller::Caller;
use super::client_certificate::ClientAuthorities;
use super::client_keys::ClientKeys;
use super::introspection::Introspection;
use super::issuers::Issuer;
use super::person::{self, NoUser};
use super::presented::{Bearer, Presented};
use super::purpose;
use super::rejected::Rejected;
use super::session_authenticator::SessionAuthenticator;
use super::token::{CALLERS, Parts, caller};
use crate::client_network::ClientNetwork;
use crate::fair_queue;
use crate::session::{NoRandomness, Session, Sessions};
use crate::visitor::Visitors;

/// Capacity of each cache: accepted and rejected credentials.
const CACHE_CAPACITY: usize = 16 * 1024;

/// Authenticates callers. Shared by all workers.
pub struct Authenticator {
    issuers: Vec<Arc<Issuer>>,
    client_keys: ArcSwap<ClientKeys>,
    fingerprints: Arc<Fingerprints>,
    accepted_cache: Cache<CachedVerdict<Caller>>,
    rejected_cache: Cache<CachedVerdict<Rejected>>,
    /// `None` without a login configuration.
    sessions: Option<SessionAuthenticator>,
    /// `None` if all tokens are signed.
    introspection: Option<Introspection>,
    /// `None` if client certificates are not requested.
    authorities: Option<ClientAuthorities>,
    visitors: Visitors,
    /// Grows when credentials may have been revoked.
    generation: AtomicU64,
}

/// A cached verdict about a token, and the generation of the keys that it was made with.
#[derive(Clone)]
struct CachedVerdict<T> {
    verdict: T,
    issuer: usize,
    generation: u64,
}

/// A signature must be verified to identify the caller, and the verification was not permitted now.
#[derive(Debug)]
pub struct VerificationDenied;

/// The result of token introspection; `None` without an opaque token.
pub type Introspected = Option<Result<Caller, Rejected>>;

/// The caller, and the result for its credentials.
#[derive(Debug, Clone, Default)]
pub struct Authenticated {
    /// The application and the user.
    pub caller: Caller,
    /// Whether the bearer token is of a configured issuer, valid or not.
    pub token: bool,
    /// The session, if a valid one was presented; it identifies the user only if the provider
    /// confirmed them recently enough.
    pub session: Option<Arc<Session>>,
    /// When the portal must have the provider confirm the session's user, by a navigation.
    pub revalidate_at: Option<SystemTime>,
    /// Why the first invalid credential was rejected.
    pub rejected: Option<Rejected>,
}

// === impl Authenticator ===

impl Authenticator {
    /// Reads the settings; [`watch`](Self::watch) fetches the keys of the issuers.
    ///
    /// # Errors
    /// The system returned no random numbers.
    pub fn new(
        settings: &AccessSettings,
        sessions: Option<Arc<Sessions>>,
    ) -> Result<Self, NoRandomness> {
        let issuers = Issuer::all(settings);
        let fingerprints = Arc::new(Fingerprints::new()?);
        Ok(Self {
            client_keys: ArcSwap::default(),
            accepted_cache: Cache::new(CACHE_CAPACITY),
            rejected_cache: Cache::new(CACHE_CAPACITY),
            sessions: settings.login.as_ref().zip(sessions).map(|(login, sessions)| {
                SessionAuthenticator::new(
                    sessions,
                    settings,
                    login,
                    Arc::clone(&fingerprints),
                    CACHE_CAPACITY,
                )
            }),
            introspection: Introspection::new(&issuers, &fingerprints),
            issuers,
            fingerprints,
            authorities: settings
                .client_certificate_authorities
                .as_deref()
                .map(ClientAuthorities::new),
            visitors: Visitors::new()?,
            generation: AtomicU64::new(0),
        })
    }

    /// Returns what seals the cookies of anonymous browsers.
    pub fn visitors(&self) -> &Visitors {
        &self.visitors
    }

    /// Returns the issuers whose tokens are accepted.
    pub fn issuers(&self) -> &[Arc<Issuer>] {
        &self.issuers
    }

    /// Watches the client keys of the snapshot and the keys of the issuers, forever: a task of the
    /// control plane.
    pub async fn watch(&self, live: &Live) {
        let issuers = futures::future::join_all(self.issuers.iter().map(|issuer| issuer.watch()));
        let keys = live.watch(|snapshot| self.load(&snapshot.credentials));
        let authorities = async {
            if let Some(authorities) = &self.authorities {
                authorities.watch().await;
            }
        };
        let introspection = async {
            if let Some(introspection) = &self.introspection {
                introspection.run().await;
            }
        };
        tokio::join!(issuers, keys, authorities, introspection);
    }

    /// Returns the verifier that requests client certificates, if they are configured.
    pub fn client_verifier(&self) -> Option<Arc<dyn ClientCertVerifier>> {
        self.authorities.as_ref().map(ClientAuthorities::verifier)
    }

    /// Loads the credentials of a snapshot.
    pub fn load(&self, credentials: &Credentials) {
        self.client_keys.store(Arc::new(ClientKeys::new(&credentials.client_keys)));
        self.visitors.load(&credentials.session_keys);
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Grows when credentials may have been revoked: cached callers must be authenticated again.
    pub fn generation(&self) -> u64 {
        let issuers: u64 = self.issuers.iter().map(|issuer| issuer.generation()).sum();
        let authorities = self.authorities.as_ref().map_or(0, ClientAuthorities::generation);
        self.generation.load(Ordering::Acquire)
            + issuers
            + authorities
            + self.sessions.as_ref().map_or(0, SessionAuthenticator::generation)
    }

    /// Introspects an opaque token, to be awaited before [`authenticate`](Self::authenticate). It
    /// takes as long for every host.
    pub async fn introspect(
        &self,
        presented: &Presented<'_>,
        client: ClientNetwork,
        now: SystemTime,
    ) -> Introspected {
        let (introspection, token) = self.introspected(presented)?;
        Some(introspection.ask(token, client, now).await)
    }

    /// Whether the issuer of a presented token has to be asked about it.
    pub fn needs_introspection(&self, presented: &Presented<'_>) -> bool {
        self.introspected(presented).is_some()
    }

    /// Like [`introspect`](Self::introspect), but from the cache alone.
    pub fn introspect_cached(
        &self,
        presented: &Presented<'_>,
        client: ClientNetwork,
        now: SystemTime,
    ) -> Introspected {
        let (introspection, token) = self.introspected(presented)?;
        Some(introspection.find(token, client, now))
    }

    fn introspected<'p>(&self, presented: &Presented<'p>) -> Option<(&Introspection, &'p str)> {
        let introspection = self.introspection.as_ref()?;
        match presented.bearer {
            Some(Bearer::Token(token)) if Introspection::is_for(token) => {
                Some((introspection, token))
            }
            _ => None,
        }
    }

    /// Returns the counters of the introspection queues, for metrics.
    pub fn queues(&self) -> impl Iterator<Item = &Arc<fair_queue::Counts>> {
        self.introspection.iter().flat_map(Introspection::queues)
    }

    /// Authenticates the credentials of a request; an invalid one counts as absent. `introspected`
    /// is the result of [`introspect`](Self::introspect).
    ///
    /// `may_verify` is asked before a signature is verified, which some requests cost.
    ///
    /// The application is, in this order, that of `X-Api-Key`, of the client certificate (both are
    /// sent by the program itself), or the client of the token.
    ///
    /// # Errors
    /// `may_verify` returned false.
    pub fn authenticate(
        &self,
        presented: &Presented<'_>,
        host: &str,
        now: SystemTime,
        introspected: &Introspected,
        may_verify: impl FnOnce() -> bool,
    ) -> Result<Authenticated, VerificationDenied> {
        let mut found =
            Authenticated { rejected: presented.unreadable, ..Authenticated::default() };
        if presented.is_empty() {
            return Ok(found);
        }
        match presented.bearer {
            None => {}
            Some(Bearer::ClientKey(key)) => found.add(self.client_keys.load().find(key, now)),
            Some(Bearer::Token(token)) => {
                let caller = match introspected {
                    Some(introspected) => introspected.clone(),
                    None => self.token(token, now, may_verify)?,
                };
                found.token = !matches!(caller, Err(Rejected::Malformed | Rejected::UnknownIssuer));
                found.add(caller);
            }
        }
        if let (Some(authorities), Some(certificate)) = (&self.authorities, presented.certificate) {
            found.add_first(authorities.verify(certificate, now));
        }
        if let Some(key) = presented.api_key {
            found.add_first(self.client_keys.load().find(key, now));
        }
        if let (Some(sessions), Some(value)) = (&self.sessions, presented.session) {
            let session = sessions.find(host, value, now);
            // Other credentials take precedence: the session only identifies the portal's own
            // client.
            found.add(
                session
                    .as_ref()
                    .map_err(|rejected| *rejected)
                    .and_then(|session| sessions.caller(session, now)),
            );
            found.revalidate_at =
                session.as_ref().ok().map(|session| sessions.revalidate_at(session));
            found.session = session.ok();
        }
        Ok(found)
    }

    /// Returns the `Set-Cookie` that renews the caller's session, if that is due.
    pub fn renewal(
        &self,
        authenticated: &Authenticated,
        host: &str,
        now: SystemTime,
    ) -> Option<HeaderValue> {
        self.sessions.as_ref()?.renewal(authenticated.session.as_ref()?, host, now)
    }

    /// Returns why the signed bearer token identifies no user, if the token is valid.
    pub fn why_no_user(&self, presented: &Presented<'_>) -> Option<NoUser> {
        let Some(Bearer::Token(token)) = presented.bearer else { return None };
        let (parts, _, issuer) = self.read(token).ok()?;
        match person::of_bearer(parts.unverified(), &issuer.settings) {
            Ok(user) => issuer.own_user(user).is_none().then_some(NoUser::Foreign),
            Err(no_user) => Some(no_user),
        }
    }

    fn token(
        &self,
        token: &str,
        now: SystemTime,
        may_verify: impl FnOnce() -> bool,
    ) -> Result<Result<Caller, Rejected>, VerificationDenied> {
        let Some(fingerprint) = self.fingerprints.of("token", &[token]) else {
            return Ok(Err(Rejected::Unanswered));
        };
        if let Some(cached) =
            self.accepted_cache.get(&fingerprint).filter(|cached| self.is_current(cached))
        {
            return Ok(if cached.verdict.until.is_some_and(|until| until <= now) {
                Err(Rejected::Expired)
            } else {
                Ok(cached.verdict)
            });
        }
        if let Some(cached) =
            self.rejected_cache.get(&fingerprint).filter(|cached| self.is_current(cached))
        {
            return Ok(Err(cached.verdict));
        }
        let (parts, index, issuer) = match self.read(token) {
            Ok(read) => read,
            Err(rejected) => return Ok(Err(rejected)),
        };
        let keys = issuer.keys();
        let signed =
            match parts.check(&issuer.settings, &keys.keys, &issuer.settings.audiences, now) {
                Ok(signed) => signed,
                Err(rejected) => {
                    if rejected == Rejected::UnknownKey {
                        issuer.request_refresh();
                    }
                    // Not cached: the checks cost less than a cache lookup, or the result changes
                    // with time.
                    return Ok(Err(rejected));
                }
            };
        if !may_verify() {
            return Err(VerificationDenied);
        }
        let generation = keys.generation;
        Ok(match signed.verify() {
            Ok((claims, until)) => {
                let caller = issuer.own(caller(&claims, &issuer.settings, until));
                self.accepted_cache.insert(
                    fingerprint,
                    CachedVerdict { verdict: caller.clone(), issuer: index, generation },
                );
                Ok(caller)
            }
            Err(rejected) => {
                self.rejected_cache.insert(
                    fingerprint,
                    CachedVerdict { verdict: rejected, issuer: index, generation },
                );
                Err(rejected)
            }
        })
    }

    /// Parses a token, and finds the issuer that it names.
    fn read<'t>(&self, token: &'t str) -> Result<(Parts<'t>, usize, &Issuer), Rejected> {
        let parts = Parts::read(token)?;
        let named = parts.issuer();
        let index = self.issuers.iter().position(|issuer| Some(&*issuer.settings.issuer) == named);
        let (index, issuer) = index
            .and_then(|index| Some((index, self.issuers.get(index)?)))
            .ok_or(Rejected::UnknownIssuer)?;
        if !parts.is_of_type(&CALLERS) {
            return Err(Rejected::Type);
        }
        purpose::check_bearer(parts.unverified())?;
        Ok((parts, index, issuer))
    }

    fn is_current<T>(&self, cached: &CachedVerdict<T>) -> bool {
        self.issuers
            .get(cached.issuer)
            .is_some_and(|issuer| issuer.generation() == cached.generation)
    }
}

// === impl Authenticated ===

impl Authenticated {
    /// Whether a credential identifies the caller.
    pub fn is_identified(&self) -> bool {
        self.caller.application.is_some() || self.caller.user.is_some()
    }

    /// Whether the bearer token is valid and identifies no user.
    pub fn has_token_without_user(&self) -> bool {
        self.token && self.rejected.is_none() && self.caller.user.is_none()
    }

    /// Whether a credential could not be verified, so that the caller may be another one.
    pub fn is_unchecked(&self) -> bool {
        self.rejected == Some(Rejected::Unanswered)
    }

    /// Whether one of the credentials has expired.
    pub fn is_expired(&self, now: SystemTime) -> bool {
        self.caller.until.is_some_and(|until| until <= now)
    }

    /// Adds the result of another credential, after those added before.
    fn add(&mut self, other: Result<Caller, Rejected>) {
        match other {
            Ok(other) => {
                self.caller.application = self.caller.application.take().or(other.application);
                self.caller.user = self.caller.user.take().or(other.user);
                self.caller.until = earlier(self.caller.until, other.until);
            }
            Err(rejected) => self.rejected = self.rejected.or(Some(rejected)),
        }
    }

    /// Adds the result of a credential that takes precedence over those added before.
    fn add_first(&mut self, other: Result<Caller, Rejected>) {
        let before = std::mem::take(&mut self.caller);
        self.add(other);
        self.add(Ok(before));
    }
}

fn earlier(one: Option<SystemTime>, other: Option<SystemTime>) -> Option<SystemTime> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}
