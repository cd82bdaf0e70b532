//! How callers are known: issuers of tokens, client keys, client certificates, and the portal where
//! people log in.

use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{count, size};
use crate::model::{NamePattern, duration};

/// The `login.issuer` that means GitHub, which is none of OpenID Connect.
pub const GITHUB: &str = "github";

/// How callers are known. Without any of it, only services that demand no credentials can be
/// reached.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AccessSettings {
    /// Who issues tokens that are accepted.
    pub issuers: Vec<IssuerSettings>,
    /// The Namespace whose Secrets with the label `portcullis.dev/credential` are read: client
    /// keys, and what replicas share of login sessions, which the gateway also writes there.
    /// Whoever may write Secrets there decides about access to all environments. Without it,
    /// no client key is accepted.
    pub credentials_namespace: Option<String>,
    /// How long a session key seals before the gateway makes the next one, in
    /// `credentialsNamespace`.
    #[serde(with = "duration")]
    #[schemars(with = "duration::Text")]
    pub key_rotation: Duration,
    /// A PEM file with the authorities of client certificates; without it, no client certificate
    /// is asked for. Read anew when it changes.
    pub client_certificate_authorities: Option<PathBuf>,
    /// The portal where people log in; without it, nobody can.
    pub login: Option<LoginSettings>,
    /// What backends are told of callers, signed.
    pub assertion: AssertionSettings,
}

/// Who issues tokens (OpenID Connect Core 1.0, RFC 9068).
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IssuerSettings {
    /// A short name for logs, metrics and `login.issuer`.
    pub name: String,
    /// The issuer's URL, exactly as the tokens' `iss` has it. Its keys are found by
    /// `{issuer}/.well-known/openid-configuration`.
    pub issuer: String,
    /// What a token's `aud` must have one of.
    pub audiences: Vec<String>,
    /// The signature algorithms that are accepted.
    #[serde(default = "default_algorithms")]
    pub algorithms: Vec<SignatureAlgorithm>,
    /// Where the keys are, instead of what discovery says.
    #[serde(default)]
    pub jwks_uri: Option<String>,
    /// A PEM file with the authorities for the issuer's own certificate, instead of the system's.
    #[serde(default)]
    pub certificate_authorities: Option<PathBuf>,
    /// The claim that names the user. Of `email`, only one with `email_verified` counts.
    #[serde(default = "default_user_claim")]
    pub user_claim: String,
    /// What shows that a bearer token speaks for a person: one of these is enough, and a token
    /// without any shows its application alone. Without the key it is a verified `email`; with
    /// `[]`, no bearer token of this issuer is a user's. A login at the portal needs none.
    #[serde(default)]
    pub user_evidence: Option<Vec<UserEvidence>>,
    /// The claim that lists the user's groups.
    #[serde(default = "default_group_claim")]
    pub group_claim: String,
    /// The claims that name the application that the token was issued to; the first that is there
    /// counts.
    #[serde(default = "default_application_claims")]
    pub application_claims: Vec<String>,
    /// Put before the names of users, groups and applications, so that those of two issuers cannot
    /// be mistaken. At most one issuer may have none.
    #[serde(default)]
    pub prefix: String,
    /// How tokens that are no JWTs are looked up (RFC 7662); without it, none is accepted.
    #[serde(default)]
    pub introspection: Option<IntrospectionSettings>,
}

/// A claim that only tokens of people have.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UserEvidence {
    /// A claim that only tokens of people have; of `email`, only one with `email_verified` counts.
    /// One entry that holds is enough. Without `userEvidence` it is `email`; with `[]`, no bearer
    /// token of the issuer is a user's.
    pub claim: String,
    /// What the claim's text, or one of its texts, has to be; a `*` at its beginning or end stands
    /// for anything. Without it, anything but an empty value and `false` counts.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub value: Option<NamePattern>,
}

/// A signature algorithm (RFC 7518 §3.1, RFC 8037). Those with a shared secret are not among them,
/// nor is `none`.
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

/// How tokens that are no JWTs are looked up (RFC 7662).
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IntrospectionSettings {
    /// The endpoint, instead of what discovery says.
    #[serde(default)]
    pub endpoint: Option<String>,
    /// The gateway's own client identifier there.
    pub client_id: String,
    /// A file with the gateway's own secret there.
    pub client_secret_file: PathBuf,
    /// How long a token that was good stays so while the endpoint is away or overloaded, beyond
    /// the 4 s for which each of its answers counts; never beyond the token's own end.
    #[serde(default = "default_stale_if_error", with = "duration")]
    #[schemars(with = "duration::Text")]
    pub stale_if_error: Duration,
    /// Questions to the endpoint at a time. A quarter is kept free for tokens that were good
    /// before.
    #[serde(default = "default_introspection_concurrency")]
    pub concurrency: NonZeroUsize,
    /// Questions to the endpoint in a second. A token that is in use costs one in three seconds,
    /// and those go first.
    #[serde(default = "default_introspection_rate")]
    pub rate: NonZeroU32,
}

/// The portal where people log in: a host of its own, from which a session is handed to the hosts
/// of services.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LoginSettings {
    /// The portal's host; the default is `login.{zone}`.
    #[serde(default)]
    pub host: Option<String>,
    /// The port of HTTPS as browsers see it, where it is not 443.
    #[serde(default = "default_port")]
    pub port: u16,
    /// Who says who a person is: the name of one of `access.issuers`, or `github`.
    pub issuer: String,
    /// The gateway's client identifier there.
    pub client_id: String,
    /// A file with the gateway's client secret there; without it, the client is a public one.
    #[serde(default)]
    pub client_secret_file: Option<PathBuf>,
    /// The scopes that are asked for.
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
    /// GitHub, or a GitHub Enterprise server, where `issuer` is `github`.
    #[serde(default)]
    pub github: GithubSettings,
}

/// GitHub as the one who says who a person is. Users are `github:LOGIN`, groups
/// `github:ORGANISATION` and `github:ORGANISATION/TEAM`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct GithubSettings {
    /// Where people log in.
    pub url: String,
    /// Its API.
    pub api_url: String,
    /// A PEM file with the authorities for its certificate, instead of the system's.
    pub certificate_authorities: Option<PathBuf>,
}

/// What backends are told of callers, signed.
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
    /// How long what session keys seal lasts at most: login sessions, or where nobody logs in what
    /// lasts as long by default.
    #[must_use]
    pub fn sessions_last(&self) -> Duration {
        self.login.as_ref().map_or(default_absolute(), |login| login.absolute)
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
