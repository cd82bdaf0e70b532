//! Login at an OpenID provider: authorization code flow (OpenID Connect Core 1.0 §3.1) with PKCE.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use portcullis_config::settings::access::LoginSettings;
use tokio::time::sleep;

use super::{
    AuthorizationRequest, AuthorizationResponse, LogoutToken, Person, ProviderError, RefreshToken,
    Registration, Tokens, UnusableProvider, authorization_url, json, with_query,
};
use crate::claims::Claims;
use crate::issuers::{Discovery, Issuer};
use crate::log_limiter::LogLimiter;
use crate::outbound::Client;
use crate::person::NoUser;
use crate::rejected::Rejected;
use crate::token::Parts;
use crate::{person, purpose};

/// Interval and number of checks for a key that is not known yet and is being fetched.
const KEY_WAIT: (Duration, usize) = (Duration::from_millis(100), 30);
/// The member of `events` that marks a logout token (OpenID Connect Back-Channel Logout 1.0 §2.4).
const LOGOUT_EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";

/// The scope of refresh tokens (OpenID Connect Core 1.0 §11).
const OFFLINE: &str = "offline_access";

/// What a user is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Login,
    Refresh,
}

/// An OpenID provider.
pub struct OpenId {
    issuer: Arc<Issuer>,
    client: Client,
    registration: Registration,
    scopes: Vec<String>,
    parameters: BTreeMap<String, String>,
    userinfo_log: LogLimiter,
}

// === impl OpenId ===

impl OpenId {
    pub(super) fn new(
        issuer: Arc<Issuer>,
        registration: Registration,
        login: &LoginSettings,
    ) -> Result<Self, UnusableProvider> {
        let client = Client::new(issuer.settings.certificate_authorities.as_deref())?;
        Ok(Self {
            issuer,
            client,
            registration,
            scopes: login.scopes.clone(),
            parameters: login.authorization_parameters.clone(),
            userinfo_log: LogLimiter::default(),
        })
    }

    pub(super) async fn begin(
        &self,
        request: &AuthorizationRequest<'_>,
    ) -> Result<String, ProviderError> {
        let discovery = self.issuer.discovery(&self.client).await?;
        let endpoint = discovery
            .authorization_endpoint
            .as_deref()
            .ok_or(ProviderError::Missing("authorization_endpoint"))?;
        // Google and others refuse logins with a scope that they do not know.
        let is_offered = |scope: &&str| {
            *scope != OFFLINE || discovery.scopes_supported.iter().any(|it| it == *scope)
        };
        let scopes: Vec<&str> = self.scopes.iter().map(String::as_str).filter(is_offered).collect();
        let scope = scopes.join(" ");
        let mut parameters = vec![
            ("response_type", "code"),
            ("client_id", &self.registration.id),
            ("redirect_uri", request.redirect_uri),
            ("scope", &scope),
            ("state", request.state),
            ("nonce", request.nonce),
            ("code_challenge", request.challenge),
            ("code_challenge_method", "S256"),
        ];
        if scopes.contains(&OFFLINE) {
            // OpenID Connect Core 1.0 §11: `offline_access` is ignored without it.
            parameters.push(("prompt", "consent"));
        }
        Ok(authorization_url(endpoint, &parameters, &self.parameters))
    }

    pub(super) async fn finish(
        &self,
        response: &AuthorizationResponse<'_>,
        now: SystemTime,
    ) -> Result<Person, ProviderError> {
        let discovery = self.issuer.discovery(&self.client).await?;
        let named = discovery.authorization_response_iss_parameter_supported;
        if response.issuer.map_or(named, |issuer| issuer != self.issuer.settings.issuer) {
            return Err(ProviderError::Mismatch);
        }
        let form = [
            ("grant_type", "authorization_code"),
            ("code", response.code),
            ("redirect_uri", response.redirect_uri),
            ("code_verifier", response.verifier),
        ];
        let tokens = self.tokens(&discovery, &form).await?;
        let token = tokens.id_token.as_deref().ok_or(ProviderError::Missing("id_token"))?;
        let claims = self.verified(token, now).await?;
        if claims.text("nonce") != Some(response.nonce) {
            return Err(ProviderError::Mismatch);
        }
        self.person(&discovery, Some(claims), tokens, Purpose::Login).await
    }

    pub(super) async fn refresh(
        &self,
        subject: &str,
        token: &RefreshToken,
        now: SystemTime,
    ) -> Result<Person, ProviderError> {
        let discovery = self.issuer.discovery(&self.client).await?;
        let tokens = self
            .tokens(&discovery, &[("grant_type", "refresh_token"), ("refresh_token", &token.0)])
            .await?;
        let claims = match tokens.id_token.as_deref() {
            Some(token) => Some(self.verified(token, now).await?),
            None => None,
        };
        let mut person = self.person(&discovery, claims, tokens, Purpose::Refresh).await?;
        if &*person.user.subject != subject {
            return Err(ProviderError::Mismatch);
        }
        // RFC 6749 §6: without a new refresh token, the old one stays valid.
        person.refresh_token = person.refresh_token.or_else(|| Some(token.clone()));
        Ok(person)
    }

    pub(super) async fn is_unavailable(&self) -> bool {
        self.issuer.is_unavailable(&self.client).await
    }

    pub(super) fn sign_out(&self) -> Option<String> {
        let discovery = self.issuer.discovered()?;
        let endpoint = discovery.end_session_endpoint.as_deref()?;
        Some(with_query(endpoint, &[("client_id", &self.registration.id)]))
    }

    pub(super) fn verify_logout_token(
        &self,
        token: &str,
        now: SystemTime,
    ) -> Result<LogoutToken, Rejected> {
        let parts = Parts::read(token)?;
        if !parts.is_of_type(&["logout+jwt", "JWT"]) {
            return Err(Rejected::Type);
        }
        let keys = self.issuer.keys();
        let audience = std::slice::from_ref(&self.registration.id);
        let verified = parts
            .verify(&self.issuer.settings, &keys.keys, audience, now)
            .inspect_err(|rejected| self.request_key(*rejected));
        let (claims, _) = verified?;
        let is_logout = claims
            .get("events")
            .and_then(|events| events.get(LOGOUT_EVENT))
            .is_some_and(serde_json::Value::is_object);
        let logout = LogoutToken {
            issuer: self.issuer.settings.name.as_str().into(),
            subject: claims.text("sub").map(Into::into),
            session: claims.text("sid").map(Into::into),
        };
        let has_target = logout.subject.is_some() || logout.session.is_some();
        // A nonce would make it an ID token.
        if is_logout && has_target && claims.get("nonce").is_none() {
            Ok(logout)
        } else {
            Err(Rejected::Claims)
        }
    }

    /// Verifies an ID token for this client (OpenID Connect Core 1.0 §3.1.3.7).
    async fn verified(&self, token: &str, now: SystemTime) -> Result<Claims, ProviderError> {
        let audience = std::slice::from_ref(&self.registration.id);
        for _ in 0..KEY_WAIT.1 {
            let parts = Parts::read(token).map_err(ProviderError::Token)?;
            if !parts.is_of_type(&["JWT"]) {
                return Err(ProviderError::Token(Rejected::Type));
            }
            let keys = self.issuer.keys();
            match parts.verify(&self.issuer.settings, &keys.keys, audience, now) {
                Ok((claims, _)) => {
                    purpose::check_identity(&claims).map_err(ProviderError::Token)?;
                    let party = claims.get("azp").filter(|party| !party.is_null());
                    let is_ours =
                        party.is_none_or(|party| party.as_str() == Some(&self.registration.id));
                    return if is_ours {
                        Ok(claims)
                    } else {
                        Err(ProviderError::Token(Rejected::Audience))
                    };
                }
                Err(Rejected::UnknownKey) => {
                    self.request_key(Rejected::UnknownKey);
                    sleep(KEY_WAIT.0).await;
                }
                Err(rejected) => return Err(ProviderError::Token(rejected)),
            }
        }
        Err(ProviderError::Token(Rejected::UnknownKey))
    }

    fn request_key(&self, rejected: Rejected) {
        if rejected == Rejected::UnknownKey {
            self.issuer.request_refresh();
        }
    }

    /// Builds the user from the claims and userinfo (OpenID Connect Core 1.0 §5.3).
    async fn person(
        &self,
        discovery: &Discovery,
        claims: Option<Claims>,
        tokens: Tokens,
        purpose: Purpose,
    ) -> Result<Person, ProviderError> {
        let settings = &self.issuer.settings;
        let is_named =
            claims.as_ref().is_some_and(|claims| person::of_login(claims, settings).is_ok());
        let has_groups = claims.as_ref().is_some_and(|claims| {
            claims.get(&settings.group_claim).is_some_and(|value| !value.is_null())
        });
        let more = match (&discovery.userinfo_endpoint, &tokens.access_token) {
            (Some(endpoint), Some(token)) if !(is_named && has_groups) => {
                match self.userinfo(endpoint, token).await {
                    Ok(more) => Some(more),
                    // The ID token is sufficient. A refresh is repeated later instead: the user's
                    // groups may come from here.
                    Err(error)
                        if is_named && !(error.is_unavailable() && purpose == Purpose::Refresh) =>
                    {
                        self.report_userinfo(&error);
                        None
                    }
                    Err(error) => return Err(error),
                }
            }
            _ => None,
        };
        let claims = match (claims, more) {
            (Some(claims), Some(more)) if claims.text("sub") == more.text("sub") => {
                claims.filled(more)
            }
            // §5.3.2: userinfo of another subject must not be used.
            (Some(_), Some(_)) => return Err(ProviderError::Mismatch),
            (claims, more) => claims.or(more).ok_or(ProviderError::Missing("claims"))?,
        };
        let session = claims.text("sid").map(Into::into);
        let user = person::of_login(&claims, settings).map_err(ProviderError::NoUser)?;
        let user = self.issuer.own_user(user).ok_or(ProviderError::NoUser(NoUser::Foreign))?;
        Ok(Person { user, session, refresh_token: tokens.refresh_token })
    }

    fn report_userinfo(&self, error: &ProviderError) {
        if let Some(suppressed) = self.userinfo_log.permit(SystemTime::now()) {
            tracing::warn!(%error, suppressed, "failed to fetch userinfo: the user is known by the ID token alone, which may lack groups");
        }
    }

    async fn userinfo(&self, endpoint: &str, token: &str) -> Result<Claims, ProviderError> {
        json(&self.client.get_as(endpoint, "application/json", token).await?, "userinfo")
    }

    async fn tokens(
        &self,
        discovery: &Discovery,
        form: &[(&str, &str)],
    ) -> Result<Tokens, ProviderError> {
        let endpoint =
            discovery.token_endpoint.as_deref().ok_or(ProviderError::Missing("token_endpoint"))?;
        let id = self.registration.id.as_str();
        let secret = self.registration.secret().await?;
        let methods = &discovery.token_endpoint_auth_methods_supported;
        // OpenID Connect Discovery 1.0 §3: this is the default.
        let by_header =
            methods.is_empty() || methods.iter().any(|method| method == "client_secret_basic");
        let mut form = form.to_vec();
        let basic = match secret.as_deref() {
            Some(secret) if by_header => Some((id, secret)),
            secret => {
                form.push(("client_id", id));
                form.extend(secret.map(|secret| ("client_secret", secret)));
                None
            }
        };
        Tokens::read(&self.client.post_form(endpoint, &form, basic).await?)
    }
}
