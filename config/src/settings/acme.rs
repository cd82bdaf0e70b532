//! Settings of certificates that the gateway orders by ACME (RFC 8555).

pub(super) mod check;

use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{count, size};
use crate::model::duration;

/// The directory of Let's Encrypt.
pub const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";
/// The directory of Let's Encrypt's staging environment: its certificates are not trusted, and its
/// rate limits are high.
pub const LETS_ENCRYPT_STAGING: &str = "https://acme-staging-v02.api.letsencrypt.org/directory";

/// Certificates that the gateway orders by ACME.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AcmeSettings {
    /// The authorities, in order of preference: where one is unavailable or refuses temporarily,
    /// the next one is used.
    pub authorities: Vec<AuthoritySettings>,
    /// Whether each authority's staging directory is used instead of its directory, for testing.
    pub staging: bool,
    /// How control of a name is proven.
    pub challenge: ChallengeKind,
    /// How records for `dns-01` are created.
    pub dns: DnsSettings,
    /// The most names in one certificate.
    pub names_per_certificate: NonZeroUsize,
    /// The delay before a failed order is retried. It doubles each time, up to a day, and is never
    /// shorter than the authority demands.
    #[serde(with = "duration")]
    #[schemars(with = "duration::Text")]
    pub retry_after: Duration,
    /// How many certificates are ordered at a time. The names of one Namespace use at most half of
    /// them.
    pub concurrent_orders: NonZeroUsize,
    /// The most failed orders for names of one Namespace within an hour; after that, the Namespace
    /// waits, so that it uses up neither the time nor the authority's quota of others.
    pub failed_orders_per_hour: NonZeroUsize,
    /// How long an ordered certificate that is no longer needed is kept.
    #[serde(with = "duration")]
    #[schemars(with = "duration::Text")]
    pub keep_unwanted: Duration,
    /// Where account keys, certificates and challenges are stored; without it, in the gateway's
    /// Namespace. Required where the source is a folder.
    pub store: Option<StoreSettings>,
}

/// An authority that issues certificates by ACME.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AuthoritySettings {
    /// The URL of its directory (`https`).
    pub directory: String,
    /// The URL of its staging directory, where it has one. That of Let's Encrypt is built in.
    #[serde(default)]
    pub staging: Option<String>,
    /// A PEM file with the only authorities that are trusted for its HTTPS; without it, those of
    /// the system.
    #[serde(default)]
    pub root_file: Option<PathBuf>,
    /// Contact URLs for the authority, such as `mailto:ops@example.com`.
    #[serde(default)]
    pub contact: Vec<String>,
    /// The external account that new ACME accounts are bound to, where the authority requires one
    /// (RFC 8555 §7.3.4).
    #[serde(default)]
    pub external_account: Option<ExternalAccountSettings>,
    /// The certificate profile, one of those that the authority offers.
    #[serde(default)]
    pub profile: Option<String>,
    /// The common name of the root of the preferred chain, where the authority offers several; the
    /// default, also where none matches, is the first.
    #[serde(default)]
    pub preferred_chain: Option<String>,
}

/// An external account (RFC 8555 §7.3.4).
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExternalAccountSettings {
    /// The key's identifier.
    pub key_id: String,
    /// A file with the key in base64url, as issued by the authority.
    pub key_file: PathBuf,
}

/// How control of a name is proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum ChallengeKind {
    /// A DNS record. One wildcard certificate covers the zone, so no name of an environment appears
    /// in public certificate logs.
    #[serde(rename = "dns-01")]
    Dns01,
    /// A page on port 80 of every name.
    #[serde(rename = "http-01")]
    Http01,
    /// A TLS handshake on port 443 of every name.
    #[serde(rename = "tls-alpn-01")]
    TlsAlpn01,
}

/// How records for `dns-01` are created.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct DnsSettings {
    /// The provider that creates them.
    pub provider: Option<DnsProviderSettings>,
    /// Recursive resolvers that find the zone of a record and its nameservers; without them, those
    /// of `/etc/resolv.conf`.
    #[schemars(with = "Vec<String>")]
    pub resolvers: Vec<SocketAddr>,
    /// The servers that must have a record before the challenge is submitted; without them, all
    /// nameservers of the zone.
    #[schemars(with = "Vec<String>")]
    pub nameservers: Vec<SocketAddr>,
    /// How long propagation to these servers may take.
    #[serde(with = "duration")]
    #[schemars(with = "duration::Text")]
    pub propagation_timeout: Duration,
    /// The records' time to live, in seconds.
    pub ttl: NonZeroU32,
}

/// A provider that creates DNS records.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum DnsProviderSettings {
    /// A DNS server that accepts updates (RFC 2136) signed by TSIG (RFC 8945).
    Rfc2136(Rfc2136Settings),
    /// A program, run for each record.
    Exec(ExecSettings),
    /// An HTTPS service, called for each record.
    Webhook(WebhookSettings),
}

/// A DNS server that accepts updates.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rfc2136Settings {
    /// Its address and port.
    #[schemars(with = "String")]
    pub server: SocketAddr,
    /// The TSIG key's name.
    pub key_name: String,
    /// The TSIG key's algorithm.
    #[serde(default)]
    pub algorithm: TsigAlgorithm,
    /// A file with the TSIG key in base64.
    pub key_file: PathBuf,
}

/// An algorithm of TSIG (RFC 8945 §6).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TsigAlgorithm {
    /// HMAC with SHA-256.
    #[default]
    HmacSha256,
    /// HMAC with SHA-384.
    HmacSha384,
    /// HMAC with SHA-512.
    HmacSha512,
}

/// A program that creates DNS records.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExecSettings {
    /// The program and its first arguments; `present` or `cleanup`, the name and the value of the
    /// record are appended.
    pub command: Vec<String>,
}

/// An HTTPS service that creates DNS records.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WebhookSettings {
    /// Its URL; `/present` or `/cleanup` is appended.
    pub url: String,
    /// A file with the value of the `Authorization` header.
    #[serde(default)]
    pub authorization_file: Option<PathBuf>,
    /// A PEM file with the only authorities that are trusted for it; without it, those of the
    /// system.
    #[serde(default)]
    pub root_file: Option<PathBuf>,
}

/// Where account keys, certificates and challenges are stored.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum StoreSettings {
    /// A local folder, which one gateway at a time writes to.
    Folder(PathBuf),
    /// Secrets and a Lease in one Namespace, for any number of replicas.
    Kubernetes(KubernetesStoreSettings),
}

/// Secrets and a Lease.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct KubernetesStoreSettings {
    /// The Namespace; the default is that of the gateway's pod (`POD_NAMESPACE`), else
    /// `portcullis`.
    pub namespace: Option<String>,
}

// === impl AcmeSettings ===

impl Default for AcmeSettings {
    fn default() -> Self {
        Self {
            authorities: vec![AuthoritySettings::new(LETS_ENCRYPT)],
            staging: false,
            challenge: ChallengeKind::Http01,
            dns: DnsSettings::default(),
            names_per_certificate: size(100),
            retry_after: Duration::from_secs(60),
            concurrent_orders: size(4),
            failed_orders_per_hour: size(10),
            keep_unwanted: Duration::from_secs(7 * 24 * 3600),
            store: None,
        }
    }
}

impl AcmeSettings {
    /// The authorities with the directory in use, in order of preference.
    pub fn directories(&self) -> impl Iterator<Item = (&AuthoritySettings, &str)> {
        self.authorities
            .iter()
            .filter_map(|authority| Some((authority, authority.directory(self.staging)?)))
    }

    /// All paths, to be resolved relative to the configuration's folder.
    pub(super) fn paths(&mut self) -> Vec<&mut PathBuf> {
        let mut paths = Vec::new();
        for authority in &mut self.authorities {
            paths.extend(&mut authority.root_file);
            paths.extend(authority.external_account.as_mut().map(|account| &mut account.key_file));
        }
        match &mut self.dns.provider {
            Some(DnsProviderSettings::Rfc2136(settings)) => paths.push(&mut settings.key_file),
            Some(DnsProviderSettings::Webhook(settings)) => {
                paths.extend(&mut settings.authorization_file);
                paths.extend(&mut settings.root_file);
            }
            Some(DnsProviderSettings::Exec(_)) | None => {}
        }
        if let Some(StoreSettings::Folder(folder)) = &mut self.store {
            paths.push(folder);
        }
        paths
    }
}

// === impl AuthoritySettings ===

impl AuthoritySettings {
    fn new(directory: &str) -> Self {
        Self {
            directory: directory.to_owned(),
            staging: None,
            root_file: None,
            contact: Vec::new(),
            external_account: None,
            profile: None,
            preferred_chain: None,
        }
    }

    fn directory(&self, staging: bool) -> Option<&str> {
        match (staging, &self.staging) {
            (false, _) => Some(&self.directory),
            (true, Some(staging)) => Some(staging),
            (true, None) => (self.directory == LETS_ENCRYPT).then_some(LETS_ENCRYPT_STAGING),
        }
    }
}

// === impl DnsSettings ===

impl Default for DnsSettings {
    fn default() -> Self {
        Self {
            provider: None,
            resolvers: Vec::new(),
            nameservers: Vec::new(),
            propagation_timeout: Duration::from_secs(120),
            ttl: count(60),
        }
    }
}

// === impl StoreSettings ===

impl StoreSettings {
    /// The path of a folder store.
    #[must_use]
    pub fn folder(&self) -> Option<&Path> {
        match self {
            Self::Folder(folder) => Some(folder),
            Self::Kubernetes(_) => None,
        }
    }
}
