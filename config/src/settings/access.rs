//! Settings of authentication: token issuers, client keys, client certificates, and the login
//! portal.

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{count, size};
use crate::model::{NamePattern, duration};

/// The `login.issuer` for GitHub, which does not support OpenID Connect.
pub const GITHUB: &str = "github";
/// The prefix of names of users and groups of GitHub.
pub const GITHUB_PREFIX: &str = "github:";

/// How callers are authenticated. By default, only services that require no credentials are
/// reachable.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AccessSettings {
    /// The issuers whose tokens are accepted.
    pub issuers: Vec<IssuerSettings>,
    /// The Namespace whose Secrets with the label `portcullis.dev/credential` are read: client
    /// keys, and the state of login sessions that replicas share, which the gateway also writes
    /// there. Write access to Secrets there grants access to all environments. Without it, no
    /// client key is accepted.
    pub credentials_namespace: Option<String>,
    /// How long a session key is used for sealing before the gateway generates the next one, in
    /// `credentialsNamespace`.
    #[serde(with = "duration")]
    #[schemars(with = "duration::Text")]
    pub key_rotation: Duration,
    /// A PEM file with the authorities of client certificates; without it, no client certificate is
    /// requested. Reloaded when it changes.
    pub client_certificate_authorities: Option<PathBuf>,
    /// The portal where users log in; without it, there is no login.
    pub login: Option<LoginSettings>,
    /// The signed assertion about callers that backends receive.
    pub assertion: AssertionSettings,
}

/// An issuer of tokens (OpenID Connect Core 1.0, RFC 9068).
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IssuerSettings {
    /// A short name for logs, metrics and `login.issuer`.
    pub name: String,
    /// The issuer's URL, exactly as in the `iss` claim of tokens. Its keys are discovered by
    /// `{issuer}/.well-known/openid-configuration`.
    pub issuer: String,
    /// The accepted audiences: the `aud` claim of a token must contain one.
    pub audiences: Vec<String>,
    /// The signature algorithms that are accepted.
    #[serde(default = "default_algorithms")]
    pub algorithms: Vec<SignatureAlgorithm>,
    /// The URL of the keys, instead of the discovered one.
    #[serde(default)]
    pub jwks_uri: Option<String>,
    /// A PEM file with the authorities for the issuer's certificate, instead of the system's.
    #[serde(default)]
    pub certificate_authorities: Option<PathBuf>,
    /// The claim that names the user. Of `email`, only one with `email_verified` counts.
    #[serde(default = "default_user_claim")]
    pub user_claim: String,
    /// The evidence that a bearer token represents a user: one entry is enough, and a token without
    /// any identifies only its application. The default is a verified `email`; with `[]`, no bearer
    /// token of this issuer represents a user. A login at the portal needs no evidence.
    #[serde(default)]
    pub user_evidence: Option<Vec<UserEvidence>>,
    /// The claim that lists the user's groups.
    #[serde(default = "default_group_claim")]
    pub group_claim: String,
    /// The claims that name the application that the token was issued to; the first one present
    /// counts.
    #[serde(default = "default_application_claims")]
    pub application_claims: Vec<String>,
    /// A prefix for the names of users, groups and applications, so that those of two issuers
    /// cannot be confused. At most one issuer may have none.
    #[serde(default)]
    pub prefix: String,
    /// Introspection of tokens that are not JWTs (RFC 7662); without it, such tokens are rejected.
    #[serde(default)]
    pub introspection: Option<IntrospectionSettings>,
}

/// A claim that only tokens of users have.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UserEvidence {
    /// A claim that only tokens of users have; of `email`, only one with `email_verified` counts.
    /// One matching entry is enough. The default of `userEvidence` is `email`; with `[]`, no bearer
    /// token of the issuer represents a user.
    pub claim: String,
    /// The required value of the claim, or of one of its items; a `*` at its beginning or end
    /// matches any text. Without it, any value except an empty one and `false` counts.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub value: Option<NamePattern>,
}

/// A signature algorithm (RFC 7518 §3.1, RFC 8037). Algorithms with a shared secret, and `none`,
/// are not supported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[allow(missing_docs, reason = "the names are the registered ones")]
pub enum SignatureAlgorithm {
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    ES256,
    ES384,
    EdDSA,
}

/// Introspection of tokens that are not JWTs (RFC 7662).
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IntrospectionSettings {
    /// The URL of the endpoint, instead of the discovered one.
    #[serde(default)]
    pub endpoint: Option<String>,
    /// The gateway's client identifier at the endpoint.
    pub client_id: String,
    /// A file with the gateway's client secret at the endpoint.
    pub client_secret_file: PathBuf,
    /// How long a valid token stays accepted while the endpoint is unavailable or overloaded, in
    /// addition to the 4 s for which each response is cached; never beyond the token's expiry.
    #[serde(default = "default_stale_if_error", with = "duration")]
    #[schemars(with = "duration::Text")]
    pub stale_if_error: Duration,
    /// Concurrent requests to the endpoint. A quarter is reserved for tokens that were valid
    /// before.
    #[serde(default = "default_introspection_concurrency")]
    pub concurrency: NonZeroUsize,
    /// Requests to the endpoint per second. A token in use takes one every three seconds, and these
    /// have priority.
    #[serde(default = "default_introspection_rate")]
    pub rate: NonZeroU32,
}

/// The portal where users log in: a host of its own, which passes sessions on to the hosts of
/// services.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LoginSettings {
    /// The portal's host; the default is `login.{zone}`.
    #[serde(default)]
    pub host: Option<String>,
    /// The public port of HTTPS, where it is not 443.
    #[serde(default = "default_port")]
    pub port: u16,
    /// The identity provider: the name of one of `access.issuers`, or `github`.
    pub issuer: String,
    /// The gateway's client identifier at the provider.
    pub client_id: String,
    /// A file with the gateway's client secret; without it, the client is a public one.
    #[serde(default)]
    pub client_secret_file: Option<PathBuf>,
    /// The scopes that are requested; `offline_access` only if the provider's discovery document
    /// has it in `scopes_supported`.
    #[serde(default = "default_scopes")]
    pub scopes: Vec<String>,
    /// How long a session lasts without a request.
    #[serde(default = "default_idle", with = "duration")]
    #[schemars(with = "duration::Text")]
    pub idle: Duration,
    /// How long a session lasts at most.
    #[serde(default = "default_absolute", with = "duration")]
    #[schemars(with = "duration::Text")]
    pub absolute: Duration,
    /// How long a session is accepted after the provider last confirmed its user. After that a
    /// navigation asks the provider first, and other requests are rejected.
    #[serde(default = "default_revalidate_within", with = "duration")]
    #[schemars(with = "duration::Text")]
    pub revalidate_within: Duration,
    /// How much longer a session is accepted while the provider is unavailable.
    #[serde(default = "default_login_stale_if_error", with = "duration")]
    #[schemars(with = "duration::Text")]
    pub stale_if_error: Duration,
    /// Further parameters of the authorization request, such as `access_type: offline` for Google;
    /// an empty value removes `prompt=consent`, which `offline_access` needs at some providers.
    #[serde(default)]
    pub authorization_parameters: BTreeMap<String, String>,
    /// GitHub, or a GitHub Enterprise server, where `issuer` is `github`.
    #[serde(default)]
    pub github: GithubSettings,
}

/// GitHub as the identity provider. Users are `github:LOGIN`, groups
/// `github:ORGANISATION` and `github:ORGANISATION/TEAM`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct GithubSettings {
    /// The URL where users log in.
    pub url: String,
    /// The URL of its API.
    pub api_url: String,
    /// A PEM file with the authorities for its certificate, instead of the system's.
    pub certificate_authorities: Option<PathBuf>,
}

/// The signed assertion about callers that backends receive.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AssertionSettings {
    /// Whether `X-Portcullis-Jwt-Assertion` is sent to backends.
    pub enabled: bool,
}

fn default_algorithms() -> Vec<SignatureAlgorithm> {
    vec![SignatureAlgorithm::RS256, SignatureAlgorithm::ES256, SignatureAlgorithm::EdDSA]
}

fn default_user_claim() -> String {
    "email".to_owned()
}

fn default_group_claim() -> String {
    "groups".to_owned()
}

fn default_application_claims() -> Vec<String> {
    vec!["azp".to_owned(), "client_id".to_owned()]
}

fn default_scopes() -> Vec<String> {
    ["openid", "email", "profile", "offline_access"].map(str::to_owned).into()
}

const fn default_stale_if_error() -> Duration {
    Duration::from_secs(5 * 60)
}

const fn default_introspection_concurrency() -> NonZeroUsize {
    size(32)
}

const fn default_introspection_rate() -> NonZeroU32 {
    count(500)
}

const fn default_revalidate_within() -> Duration {
    Duration::from_secs(3600)
}

const fn default_login_stale_if_error() -> Duration {
    Duration::from_secs(8 * 3600)
}

const fn default_port() -> u16 {
    443
}

const fn default_idle() -> Duration {
    Duration::from_secs(8 * 3600)
}

const fn default_absolute() -> Duration {
    Duration::from_secs(24 * 3600)
}

// === impl AccessSettings ===

impl Default for AccessSettings {
    fn default() -> Self {
        Self {
            issuers: Vec::new(),
            credentials_namespace: None,
            key_rotation: Duration::from_secs(30 * 24 * 3600),
            client_certificate_authorities: None,
            login: None,
            assertion: AssertionSettings::default(),
        }
    }
}

impl AccessSettings {
    /// The longest lifetime of anything that session keys seal: that of login sessions, or its
    /// default where there is no login.
    #[must_use]
    pub fn session_lifetime(&self) -> Duration {
        self.login.as_ref().map_or(default_absolute(), |login| login.absolute)
    }

    /// The prefixes by which names of different issuers are distinguished, none of them empty.
    pub fn name_prefixes(&self) -> impl Iterator<Item = &str> + Clone {
        let of_github = self.login.iter().filter(|login| login.issuer == GITHUB);
        let prefixes = self.issuers.iter().map(|issuer| issuer.prefix.as_str());
        prefixes.filter(|prefix| !prefix.is_empty()).chain(of_github.map(|_| GITHUB_PREFIX))
    }

    /// The paths of all files that it names.
    pub(super) fn files(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let issuers = self.issuers.iter_mut().flat_map(|issuer| {
            let secret = issuer
                .introspection
                .as_mut()
                .map(|introspection| &mut introspection.client_secret_file);
            issuer.certificate_authorities.iter_mut().chain(secret)
        });
        let login = self.login.iter_mut();
        let login = login.flat_map(|login| {
            login.client_secret_file.iter_mut().chain(&mut login.github.certificate_authorities)
        });
        self.client_certificate_authorities.iter_mut().chain(issuers).chain(login)
    }
}

// === impl LoginSettings ===

impl LoginSettings {
    /// The portal's host in this zone.
    #[must_use]
    pub fn hostname(&self, zone: &str) -> String {
        self.host.clone().unwrap_or_else(|| format!("login.{zone}"))
    }
}

// === impl GithubSettings ===

impl Default for GithubSettings {
    fn default() -> Self {
        Self {
            url: "https://github.com".to_owned(),
            api_url: "https://api.github.com".to_owned(),
            certificate_authorities: None,
        }
    }
}

// === impl AssertionSettings ===

impl Default for AssertionSettings {
    fn default() -> Self {
        Self { enabled: true }
    }
}
