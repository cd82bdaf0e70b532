//! Who says who a person is: an OpenID provider, or GitHub. Asked on the control runtime, when
//! people log in and while they stay.

mod github;
mod openid;

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

/// The one whom people log in at.
pub enum Provider {
    /// An OpenID provider.
    OpenId(Box<OpenId>),
    /// GitHub.
    Github(Box<Github>),
}

/// The provider's client that this gateway is.
struct Registration {
    id: String,
    secret_file: Option<PathBuf>,
}

/// What a person is sent to the provider with.
pub struct Sent<'a> {
    /// Where the provider sends the person back to.
    pub redirect_uri: &'a str,
    /// The state of the login (RFC 6749 §4.1.1).
    pub state: &'a str,
    /// The nonce that the ID token must repeat (OpenID Connect Core 1.0 §3.1.2.1).
    pub nonce: &'a str,
    /// The S256 challenge of PKCE (RFC 7636 §4.2).
    pub challenge: &'a str,
}

/// What she comes back with, and what must fit to it.
pub struct Returned<'a> {
    /// Where the provider sends the person back to.
    pub redirect_uri: &'a str,
    /// The authorization code.
    pub code: &'a str,
    /// Who says to have answered (RFC 9207).
    pub issuer: Option<&'a str>,
    /// The nonce that the ID token must repeat (OpenID Connect Core 1.0 §3.1.2.1).
    pub nonce: &'a str,
    /// The verifier of PKCE (RFC 7636 §4.1).
    pub verifier: &'a str,
}

/// A person as the provider knows her.
pub struct Person {
    /// The user that grants name.
    pub user: User,
    /// The provider's own session (`sid`).
    pub session: Option<Box<str>>,
    /// The token by which the provider can be asked again.
    pub refresh_token: Option<RefreshToken>,
}

/// By which the provider can be asked about her again.
#[derive(Clone, PartialEq, Eq, serde::Serialize, Deserialize)]
#[serde(transparent)]
pub struct RefreshToken(String);

/// Whose sessions a provider ends (OpenID Connect Back-Channel Logout 1.0 §2.4): one session's, or
/// all of a person.
#[derive(Debug, PartialEq, Eq)]
pub struct Ended {
    /// The issuer's name in the configuration.
    pub issuer: Box<str>,
    /// The person's subject (`sub`).
    pub subject: Option<Box<str>>,
    /// The provider's session (`sid`).
    pub session: Option<Box<str>>,
}

/// Why a provider does not say who a person is.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// The provider could not be asked.
    #[error("the provider {0}")]
    Fetch(#[from] FetchError),
    /// Its discovery document could not be fetched.
    #[error("the provider's discovery document cannot be had: {0}")]
    Discovery(#[from] KeysError),
    /// With one of OAuth 2's words (RFC 6749 §5.2).
    #[error("the provider refused: {0}")]
    Refused(Box<str>),
    /// It answered with this status.
    #[error("the provider answered with status {0}")]
    Status(u16),
    /// Its answer lacks this.
    #[error("the provider's answer has no usable {0}")]
    Missing(&'static str),
    /// Its token is rejected.
    #[error("the provider's token is not believed: {0}")]
    Token(Rejected),
    /// Its token belongs to another login or person.
    #[error("the provider's token is for another login, or about another person")]
    Other,
    /// Its token shows no user.
    #[error("the provider's token shows no user: {0}")]
    Nobody(NoUser),
    /// The client secret cannot be read.
    #[error("the client secret cannot be read: {0}")]
    Secret(io::Error),
}

/// Why a provider cannot be used at all.
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
    /// The one that the settings name.
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
            return Ok(Self::OpenId(Box::new(OpenId::new(
                issuer.clone(),
                registration,
                login.scopes.join(" "),
            )?)));
        }
        if login.issuer == GITHUB {
            return Ok(Self::Github(Box::new(Github::new(&login.github, registration)?)));
        }
        Err(UnusableProvider::Unknown(login.issuer.clone()))
    }

    /// Where a person is sent to log in.
    pub async fn begin(&self, sent: &Sent<'_>) -> Result<String, ProviderError> {
        match self {
            Self::OpenId(openid) => openid.begin(sent).await,
            Self::Github(github) => Ok(github.begin(sent)),
        }
    }

    /// Who came back.
    pub async fn finish(
        &self,
        returned: &Returned<'_>,
        now: SystemTime,
    ) -> Result<Person, ProviderError> {
        match self {
            Self::OpenId(openid) => openid.finish(returned, now).await,
            Self::Github(github) => github.finish(returned).await,
        }
    }

    /// Who she is now, if the provider still says so.
    pub async fn again(
        &self,
        subject: &str,
        token: &RefreshToken,
        now: SystemTime,
    ) -> Result<Person, ProviderError> {
        match self {
            Self::OpenId(openid) => openid.again(subject, token, now).await,
            // A token of an OAuth app has no end, and none to ask with.
            Self::Github(_) => Err(ProviderError::Missing("refresh_token")),
        }
    }

    /// Where a person can end her session at the provider too; never waits for the network.
    pub fn sign_out(&self) -> Option<String> {
        match self {
            Self::OpenId(openid) => openid.sign_out(),
            Self::Github(_) => None,
        }
    }

    /// Whom a logout token names.
    pub fn ended(&self, token: &str, now: SystemTime) -> Result<Ended, Rejected> {
        match self {
            Self::OpenId(openid) => openid.ended(token, now),
            Self::Github(_) => Err(Rejected::UnknownIssuer),
        }
    }
}

// === impl ProviderError ===

impl ProviderError {
    /// One word, for metrics and the access log.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Fetch(_) | Self::Discovery(_) => "provider_away",
            Self::Refused(_) => "code_refused",
            Self::Status(_) | Self::Missing(_) => "provider_malformed",
            Self::Token(rejected) => rejected.word(),
            Self::Other => "other_login",
            Self::Nobody(_) => "nobody",
            Self::Secret(_) => "client_secret",
        }
    }

    /// Whether the provider said that she is not to be let in any more; everything else may pass.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Refused(word) => &**word == "invalid_grant",
            Self::Other | Self::Nobody(_) => true,
            _ => false,
        }
    }
}

// === impl Registration ===

impl Registration {
    /// The client's secret, read anew each time, so that it can be changed under way.
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

/// What a token endpoint answers (RFC 6749 §5.1, OpenID Connect Core 1.0 §3.1.3.3).
#[derive(Default, Deserialize)]
#[serde(default)]
struct Tokens {
    access_token: Option<String>,
    id_token: Option<String>,
    refresh_token: Option<RefreshToken>,
}

impl Tokens {
    /// Reads the answer. GitHub refuses with status 200.
    fn read(answer: &Answer) -> Result<Self, ProviderError> {
        #[derive(Deserialize)]
        struct Refusal {
            error: String,
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

/// `url` with further query parameters.
fn with_query(url: &str, parameters: &[(&str, &str)]) -> String {
    let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(parameters).finish();
    format!("{url}{}{query}", if url.contains('?') { '&' } else { '?' })
}
