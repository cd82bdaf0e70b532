//! Identity providers for login: OpenID Connect or GitHub.
//!
//! They are asked on the control runtime, at login and when a session is refreshed.

mod github;
mod openid;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::SystemTime;

use portcullis_config::settings::access::{GITHUB, LoginSettings};
use serde::Deserialize;

use self::github::Github;
use self::openid::OpenId;
use crate::authenticator::Authenticator;
use crate::caller::User;
use crate::issuers::KeysError;
use crate::outbound::{Answer, FetchError};
use crate::person::NoUser;
use crate::rejected::Rejected;
use crate::tls_roots::AuthoritiesError;

/// The identity provider of logins.
pub enum Provider {
    /// An OpenID provider.
    OpenId(Box<OpenId>),
    /// GitHub.
    Github(Box<Github>),
}

/// The gateway's client registration at the provider.
struct Registration {
    id: String,
    secret_file: Option<PathBuf>,
}

/// Parameters of an authorization request.
pub struct AuthorizationRequest<'a> {
    /// Where the provider redirects the browser.
    pub redirect_uri: &'a str,
    /// The state of the login (RFC 6749 §4.1.1).
    pub state: &'a str,
    /// The nonce that the ID token must repeat (OpenID Connect Core 1.0 §3.1.2.1).
    pub nonce: &'a str,
    /// The S256 challenge of PKCE (RFC 7636 §4.2).
    pub challenge: &'a str,
}

/// Parameters of an authorization response, and what they must match.
pub struct AuthorizationResponse<'a> {
    /// The redirect URI of the request.
    pub redirect_uri: &'a str,
    /// The authorization code.
    pub code: &'a str,
    /// The issuer identifier of the response (RFC 9207).
    pub issuer: Option<&'a str>,
    /// The nonce that the ID token must repeat (OpenID Connect Core 1.0 §3.1.2.1).
    pub nonce: &'a str,
    /// The verifier of PKCE (RFC 7636 §4.1).
    pub verifier: &'a str,
}

/// A user, as returned by the provider.
pub struct Person {
    /// The user that grants name.
    pub user: User,
    /// The provider's session (`sid`).
    pub session: Option<Box<str>>,
    /// The token to refresh the user with.
    pub refresh_token: Option<RefreshToken>,
}

/// A refresh token of the provider (RFC 6749 §1.5).
#[derive(Clone, PartialEq, Eq, serde::Serialize, Deserialize)]
#[serde(transparent)]
pub struct RefreshToken(String);

/// A verified logout token (OpenID Connect Back-Channel Logout 1.0 §2.4): it names one provider
/// session, or all sessions of a user.
#[derive(Debug, PartialEq, Eq)]
pub struct LogoutToken {
    /// The issuer's name in the configuration.
    pub issuer: Box<str>,
    /// The user's subject (`sub`).
    pub subject: Option<Box<str>>,
    /// The provider's session (`sid`).
    pub session: Option<Box<str>>,
}

/// Why the provider did not return a user.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// The request failed.
    #[error("the provider {0}")]
    Fetch(#[from] FetchError),
    /// Its discovery document could not be fetched.
    #[error("failed to fetch the provider's discovery document: {0}")]
    Discovery(#[from] KeysError),
    /// It returned an OAuth error code (RFC 6749 §5.2).
    #[error("the provider returned the error `{0}`")]
    Refused(Box<str>),
    /// It responded with this status.
    #[error("the provider responded with status {0}")]
    Status(u16),
    /// Its response lacks this.
    #[error("the provider's response has no valid {0}")]
    Missing(&'static str),
    /// Its token is rejected.
    #[error("the provider's token is rejected: {0}")]
    Token(Rejected),
    /// Its token belongs to another login or user.
    #[error("the provider's token belongs to another login or another user")]
    Mismatch,
    /// Its token identifies no user.
    #[error("the provider's token identifies no user: {0}")]
    NoUser(NoUser),
    /// The client secret cannot be read.
    #[error("the client secret cannot be read: {0}")]
    Secret(io::Error),
}

/// Why a provider cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum UnusableProvider {
    /// No issuer has this name.
    #[error("access.login.issuer `{0}` is neither the name of one of access.issuers nor `github`")]
    Unknown(String),
    /// Its certificate authorities cannot be read.
    #[error("its certificateAuthorities: {0}")]
    Authorities(#[from] AuthoritiesError),
}

// === impl Provider ===

impl Provider {
    /// Creates the provider that the settings name.
    ///
    /// # Errors
    /// There is no such issuer, or its authorities cannot be read.
    pub fn new(
        login: &LoginSettings,
        authenticator: &Authenticator,
    ) -> Result<Self, UnusableProvider> {
        let registration = Registration {
            id: login.client_id.clone(),
            secret_file: login.client_secret_file.clone(),
        };
        if let Some(issuer) =
            authenticator.issuers().iter().find(|issuer| issuer.settings.name == login.issuer)
        {
            return Ok(Self::OpenId(Box::new(OpenId::new(issuer.clone(), registration, login)?)));
        }
        if login.issuer == GITHUB {
            return Ok(Self::Github(Box::new(Github::new(login, registration)?)));
        }
        Err(UnusableProvider::Unknown(login.issuer.clone()))
    }

    /// Returns the URL of the authorization request.
    pub async fn begin(&self, request: &AuthorizationRequest<'_>) -> Result<String, ProviderError> {
        match self {
            Self::OpenId(openid) => openid.begin(request).await,
            Self::Github(github) => Ok(github.begin(request)),
        }
    }

    /// Exchanges the authorization code for a user.
    pub async fn finish(
        &self,
        response: &AuthorizationResponse<'_>,
        now: SystemTime,
    ) -> Result<Person, ProviderError> {
        match self {
            Self::OpenId(openid) => openid.finish(response, now).await,
            Self::Github(github) => github.finish(response).await,
        }
    }

    /// Refreshes a user, if the provider still confirms them.
    pub async fn refresh(
        &self,
        subject: &str,
        token: &RefreshToken,
        now: SystemTime,
    ) -> Result<Person, ProviderError> {
        match self {
            Self::OpenId(openid) => openid.refresh(subject, token, now).await,
            // Tokens of OAuth apps do not expire, and there is no refresh token.
            Self::Github(_) => Err(ProviderError::Missing("refresh_token")),
        }
    }

    /// Whether the provider cannot be reached at the moment.
    pub async fn is_unavailable(&self) -> bool {
        match self {
            Self::OpenId(openid) => openid.is_unavailable().await,
            Self::Github(github) => github.is_unavailable().await,
        }
    }

    /// Returns the provider's logout URL; never waits for the network.
    pub fn sign_out(&self) -> Option<String> {
        match self {
            Self::OpenId(openid) => openid.sign_out(),
            Self::Github(_) => None,
        }
    }

    /// Verifies a logout token.
    pub fn verify_logout_token(
        &self,
        token: &str,
        now: SystemTime,
    ) -> Result<LogoutToken, Rejected> {
        match self {
            Self::OpenId(openid) => openid.verify_logout_token(token, now),
            Self::Github(_) => Err(Rejected::UnknownIssuer),
        }
    }
}

// === impl ProviderError ===

impl ProviderError {
    /// The error as a label, for metrics and the access log.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Fetch(_) | Self::Discovery(_) => "provider_away",
            Self::Refused(_) => "code_refused",
            Self::Status(_) | Self::Missing(_) => "provider_malformed",
            Self::Token(rejected) => rejected.label(),
            Self::Mismatch => "other_login",
            Self::NoUser(_) => "nobody",
            Self::Secret(_) => "client_secret",
        }
    }

    /// Whether the provider could not be asked, or could not answer, and would have denied nobody
    /// that it knows.
    pub fn is_unavailable(&self) -> bool {
        match self {
            Self::Fetch(_) | Self::Discovery(_) | Self::Secret(_) => true,
            Self::Status(status) => *status >= 500 || *status == 429,
            // RFC 6749 §4.1.2.1.
            Self::Refused(code) => matches!(&**code, "temporarily_unavailable" | "server_error"),
            _ => false,
        }
    }

    /// Whether the provider denies the user; all other errors may be temporary.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Refused(code) => &**code == "invalid_grant",
            Self::Mismatch | Self::NoUser(_) => true,
            _ => false,
        }
    }
}

// === impl Registration ===

impl Registration {
    /// Reads the client secret, at each use, so that it can be rotated at run time.
    async fn secret(&self) -> Result<Option<String>, ProviderError> {
        let Some(file) = &self.secret_file else { return Ok(None) };
        let text = tokio::fs::read_to_string(file).await.map_err(ProviderError::Secret)?;
        Ok(Some(text.trim().to_owned()))
    }
}

// === impl RefreshToken ===

impl fmt::Debug for RefreshToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// A response of a token endpoint (RFC 6749 §5.1, OpenID Connect Core 1.0 §3.1.3.3).
#[derive(Default, Deserialize)]
#[serde(default)]
struct Tokens {
    access_token: Option<String>,
    id_token: Option<String>,
    refresh_token: Option<RefreshToken>,
}

impl Tokens {
    /// Reads a response. GitHub returns errors with status 200.
    fn read(answer: &Answer) -> Result<Self, ProviderError> {
        #[derive(Deserialize)]
        struct Refusal {
            error: String,
        }
        if answer.status.is_server_error() {
            return Err(ProviderError::Status(answer.status.as_u16()));
        }
        if let Ok(refusal) = serde_json::from_slice::<Refusal>(&answer.body) {
            let is_plain = |char: &char| char.is_ascii_alphanumeric() || *char == '_';
            return Err(ProviderError::Refused(
                refusal.error.chars().filter(is_plain).take(64).collect(),
            ));
        }
        json(answer, "token answer")
    }
}

fn json<T: for<'de> Deserialize<'de>>(
    answer: &Answer,
    what: &'static str,
) -> Result<T, ProviderError> {
    if answer.status != http::StatusCode::OK {
        return Err(ProviderError::Status(answer.status.as_u16()));
    }
    serde_json::from_slice(&answer.body).map_err(|_| ProviderError::Missing(what))
}

/// Returns the URL of an authorization request: `own` parameters and configured ones, which replace
/// those of the same name. An empty value removes a parameter.
fn authorization_url(
    endpoint: &str,
    own: &[(&str, &str)],
    configured: &BTreeMap<String, String>,
) -> String {
    let is_kept = |(name, _): &&(&str, &str)| !configured.contains_key(*name);
    let more = configured.iter().filter(|(_, value)| !value.is_empty());
    let more = more.map(|(name, value)| (name.as_str(), value.as_str()));
    with_query(endpoint, &own.iter().filter(is_kept).copied().chain(more).collect::<Vec<_>>())
}

/// Appends query parameters to `url`.
fn with_query(url: &str, parameters: &[(&str, &str)]) -> String {
    let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(parameters).finish();
    format!("{url}{}{query}", if url.contains('?') { '&' } else { '?' })
}
