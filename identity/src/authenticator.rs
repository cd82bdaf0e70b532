//! From the credentials that a request shows to who is calling.
//!
//! It is asked before the host is looked at, so that the same work is done for a host that exists
//! and for one that does not.

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
use super::session_authenticator::Logins;
use super::token::{CALLERS, Parts, caller};
use crate::client_network::ClientNetwork;
use crate::fair_queue;
use crate::session::{NoRandomness, Session, Sessions};

/// Credentials that are remembered, those that held and those that did not, each.
const REMEMBERED: usize = 16 * 1024;

/// Knows whose credentials hold. Shared by all workers.
pub struct Authenticator {
    issuers: Vec<Arc<Issuer>>,
    client_keys: ArcSwap<ClientKeys>,
    fingerprints: Arc<Fingerprints>,
    accepted: Cache<Remembered<Caller>>,
    refused: Cache<Remembered<Rejected>>,
    /// `None` where nobody can log in.
    logins: Option<Logins>,
    /// `None` where all tokens are signed.
    introspection: Option<Introspection>,
    /// `None` where no client certificate is asked for.
    authorities: Option<ClientAuthorities>,
    /// Grows when credentials may have lost their force.
    generation: AtomicU64,
}

/// What was found out about a token, and with which keys.
#[derive(Clone)]
struct Remembered<T> {
    what: T,
    issuer: usize,
    generation: u64,
}

/// A signature must be checked to say who is calling, and it was not to be checked now.
#[derive(Debug)]
pub struct NotNow;

/// Whose a token is that only its issuer can read; `None` where none is shown.
pub type Introspected = Option<Result<Caller, Rejected>>;

/// Who is calling, and what became of the credentials.
#[derive(Debug, Clone, Default)]
pub struct Authenticated {
    /// The application and the user.
    pub caller: Caller,
    /// Whether the bearer token is of an issuer of ours, whether it holds or not.
    pub token: bool,
    /// The session, where one was shown that holds.
    pub session: Option<Arc<Session>>,
    /// Why the first credential that does not hold does not.
    pub rejected: Option<Rejected>,
}

// === impl Authenticator ===

impl Authenticator {
    /// Reads the settings; the keys of issuers are fetched later, by [`follow`](Self::follow).
    ///
    /// # Errors
    /// The system gives no random numbers.
    pub fn new(
        settings: &AccessSettings,
        sessions: Option<Arc<Sessions>>,
    ) -> Result<Self, NoRandomness> {
        let issuers: Vec<_> =
            settings.issuers.iter().cloned().map(Issuer::new).map(Arc::new).collect();
        let fingerprints = Arc::new(Fingerprints::new()?);
        Ok(Self {
            client_keys: ArcSwap::default(),
            accepted: Cache::new(REMEMBERED),
            refused: Cache::new(REMEMBERED),
            logins: settings.login.as_ref().zip(sessions).map(|(login, sessions)| {
                Logins::new(sessions, settings, login, Arc::clone(&fingerprints), REMEMBERED)
            }),
            introspection: Introspection::new(&issuers, &fingerprints),
            issuers,
            fingerprints,
            authorities: settings
                .client_certificate_authorities
                .as_deref()
                .map(ClientAuthorities::new),
            generation: AtomicU64::new(0),
        })
    }

    /// The issuers whose tokens are believed.
    pub fn issuers(&self) -> &[Arc<Issuer>] {
        &self.issuers
    }

    /// Follows the client keys of the snapshot, and the issuers' keys, forever: a task of the
    /// control plane.
    pub async fn follow(&self, live: &Live) {
        let issuers = futures::future::join_all(self.issuers.iter().map(|issuer| issuer.follow()));
        let keys = live.follow(|snapshot| self.learn(&snapshot.credentials));
        let authorities = async {
            if let Some(authorities) = &self.authorities {
                authorities.follow().await;
            }
        };
        let introspection = async {
            if let Some(introspection) = &self.introspection {
                introspection.follow().await;
            }
        };
        tokio::join!(issuers, keys, authorities, introspection);
    }

    /// What asks for client certificates, where they are asked for.
    pub fn client_verifier(&self) -> Option<Arc<dyn ClientCertVerifier>> {
        self.authorities.as_ref().map(ClientAuthorities::verifier)
    }

    /// Takes the credentials of a snapshot into use.
    pub fn learn(&self, credentials: &Credentials) {
        self.client_keys.store(Arc::new(ClientKeys::new(&credentials.client_keys)));
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Grows when credentials that held may not hold any more: those that are in use are to be
    /// looked at again.
    pub fn generation(&self) -> u64 {
        let issuers: u64 = self.issuers.iter().map(|issuer| issuer.generation()).sum();
        let authorities = self.authorities.as_ref().map_or(0, ClientAuthorities::generation);
        self.generation.load(Ordering::Acquire)
            + issuers
            + authorities
            + self.logins.as_ref().map_or(0, Logins::generation)
    }

    /// Finds out what only others know of these credentials: to be awaited before
    /// [`authenticate`](Self::authenticate). It takes as long for every host.
    pub async fn introspect(
        &self,
        presented: &Presented<'_>,
        client: ClientNetwork,
        now: SystemTime,
    ) -> Introspected {
        let (introspection, token) = self.introspected(presented)?;
        Some(introspection.ask(token, client, now).await)
    }

    /// The same as far as it is known, without asking anybody.
    pub fn introspect_known(
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

    /// What metrics tell of the queues for issuers.
    pub fn queues(&self) -> impl Iterator<Item = &Arc<fair_queue::Counts>> {
        self.introspection.iter().flat_map(Introspection::queues)
    }

    /// Who shows these credentials. One that does not hold counts as not shown. `introspected` is
    /// what [`introspect`](Self::introspect) found out about them.
    ///
    /// `may_check` is asked before a signature is checked, which is work for some requests.
    ///
    /// For the application a key in `X-Api-Key` counts most, then the client certificate: the
    /// program itself shows them. The client of a token counts least.
    ///
    /// # Errors
    /// `may_check` said no.
    pub fn authenticate(
        &self,
        presented: &Presented<'_>,
        host: &str,
        now: SystemTime,
        introspected: &Introspected,
        may_check: impl FnOnce() -> bool,
    ) -> Result<Authenticated, NotNow> {
        let mut found = Authenticated::default();
        if presented.is_empty() {
            return Ok(found);
        }
        match presented.bearer {
            None => {}
            Some(Bearer::ClientKey(key)) => found.add(self.client_keys.load().find(key, now)),
            Some(Bearer::Token(token)) => {
                let caller = match introspected {
                    Some(introspected) => introspected.clone(),
                    None => self.token(token, now, may_check)?,
                };
                found.token = !matches!(caller, Err(Rejected::Malformed | Rejected::UnknownIssuer));
                found.add(caller);
            }
        }
        if let (Some(authorities), Some(certificate)) = (&self.authorities, presented.certificate) {
            found.add_first(authorities.judge(certificate, now));
        }
        if let Some(key) = presented.api_key {
            found.add_first(self.client_keys.load().find(key, now));
        }
        if let (Some(logins), Some(value)) = (&self.logins, presented.session) {
            let login = logins.find(host, value, now);
            found.session = login.as_ref().ok().map(|(_, session)| Arc::clone(session));
            // What is shown beside a session counts more: only the browser stands behind the
            // portal's own client.
            found.add(login.map(|(caller, _)| caller));
        }
        Ok(found)
    }

    /// The `Set-Cookie` by which the session of a caller goes on, where it is time for that.
    pub fn renewal(
        &self,
        authenticated: &Authenticated,
        host: &str,
        now: SystemTime,
    ) -> Option<HeaderValue> {
        self.logins.as_ref()?.renewal(authenticated.session.as_ref()?, host, now)
    }

    /// Why the signed bearer token of these credentials shows no user, if it holds.
    pub fn why_no_user(&self, presented: &Presented<'_>) -> Option<NoUser> {
        let Some(Bearer::Token(token)) = presented.bearer else { return None };
        let (parts, _, issuer) = self.read(token).ok()?;
        person::of_bearer(parts.unverified(), &issuer.settings).err()
    }

    fn token(
        &self,
        token: &str,
        now: SystemTime,
        may_check: impl FnOnce() -> bool,
    ) -> Result<Result<Caller, Rejected>, NotNow> {
        let Some(fingerprint) = self.fingerprints.of("token", &[token]) else {
            return Ok(Err(Rejected::Unanswered));
        };
        if let Some(known) = self.accepted.get(&fingerprint).filter(|known| self.is_current(known))
        {
            return Ok(if known.what.until.is_some_and(|until| until <= now) {
                Err(Rejected::Expired)
            } else {
                Ok(known.what)
            });
        }
        if let Some(known) = self.refused.get(&fingerprint).filter(|known| self.is_current(known)) {
            return Ok(Err(known.what));
        }
        let (parts, place, issuer) = match self.read(token) {
            Ok(read) => read,
            Err(rejected) => return Ok(Err(rejected)),
        };
        let keys = issuer.known();
        let signed =
            match parts.check(&issuer.settings, &keys.keys, &issuer.settings.audiences, now) {
                Ok(signed) => signed,
                Err(rejected) => {
                    if rejected == Rejected::UnknownKey {
                        issuer.want();
                    }
                    // That is found out for less than a look at the cache costs, or becomes true by
                    // itself.
                    return Ok(Err(rejected));
                }
            };
        if !may_check() {
            return Err(NotNow);
        }
        let generation = keys.generation;
        Ok(match signed.verify() {
            Ok((claims, until)) => {
                let caller = caller(&claims, &issuer.settings, until);
                self.accepted.insert(
                    fingerprint,
                    Remembered { what: caller.clone(), issuer: place, generation },
                );
                Ok(caller)
            }
            Err(rejected) => {
                self.refused
                    .insert(fingerprint, Remembered { what: rejected, issuer: place, generation });
                Err(rejected)
            }
        })
    }

    /// Takes a token apart, and finds whose it says to be.
    fn read<'t>(&self, token: &'t str) -> Result<(Parts<'t>, usize, &Issuer), Rejected> {
        let parts = Parts::read(token)?;
        let named = parts.issuer();
        let place = self.issuers.iter().position(|issuer| Some(&*issuer.settings.issuer) == named);
        let (place, issuer) = place
            .and_then(|place| Some((place, self.issuers.get(place)?)))
            .ok_or(Rejected::UnknownIssuer)?;
        if !parts.is_of_type(&CALLERS) {
            return Err(Rejected::Type);
        }
        purpose::check_bearer(parts.unverified())?;
        Ok((parts, place, issuer))
    }

    fn is_current<T>(&self, known: &Remembered<T>) -> bool {
        self.issuers.get(known.issuer).is_some_and(|issuer| issuer.generation() == known.generation)
    }
}

// === impl Authenticated ===

impl Authenticated {
    /// Whether a credential says who is calling.
    pub fn is_somebody(&self) -> bool {
        self.caller.application.is_some() || self.caller.user.is_some()
    }

    /// Whether there is a bearer token that holds, and no user.
    pub fn has_token_without_user(&self) -> bool {
        self.token && self.rejected.is_none() && self.caller.user.is_none()
    }

    /// Whether it could not be found out what a credential is worth: who is calling may be
    /// somebody else, or more.
    pub fn is_unchecked(&self) -> bool {
        self.rejected == Some(Rejected::Unanswered)
    }

    /// Whether one of the credentials has ended by now.
    pub fn has_ended(&self, now: SystemTime) -> bool {
        self.caller.until.is_some_and(|until| until <= now)
    }

    /// What another credential shows beside those before it.
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

    /// The same, but what it shows counts more.
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
