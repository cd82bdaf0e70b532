//! TLS policy and HTTP Strict Transport Security.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Settings;
use super::check::ErrorSink;
use crate::model::duration;

/// The smallest `maxAge` that browsers' preload lists accept (<https://hstspreload.org>).
const PRELOAD_LEAST: Duration = Duration::from_secs(365 * 24 * 3600);

/// A TLS policy: Mozilla's profiles (<https://wiki.mozilla.org/Security/Server_Side_TLS>).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum TlsPolicy {
    /// TLS 1.3, and TLS 1.2 with forward secrecy and authenticated encryption.
    Intermediate,
    /// TLS 1.3 only.
    Modern,
}

/// HTTP Strict Transport Security (RFC 6797).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HstsSettings {
    /// How long browsers use only HTTPS for the host; `0s` makes browsers forget the policy, unlike
    /// `hsts: null`, which sends no header.
    #[serde(with = "duration")]
    #[schemars(with = "duration::Text")]
    pub max_age: Duration,
    /// Whether the policy includes all subdomains of the host.
    pub include_subdomains: bool,
    /// Whether the zone may be added to the preload lists of browsers. Removal from them takes
    /// months.
    pub preload: bool,
}

// === impl HstsSettings ===

impl Default for HstsSettings {
    /// Two years, as in Mozilla's profiles.
    fn default() -> Self {
        Self { max_age: 2 * PRELOAD_LEAST, include_subdomains: false, preload: false }
    }
}

/// Validates what the types do not express.
pub(super) fn validate(settings: &Settings, report: &mut ErrorSink<'_>) {
    let Some(hsts) = &settings.listeners.https.hsts else { return };
    if hsts.preload && (!hsts.include_subdomains || hsts.max_age < PRELOAD_LEAST) {
        report(
            &["listeners", "https", "hsts", "preload"],
            "preload lists require subdomains to be included, and at least a year".to_owned(),
            "write `includeSubdomains: true` and a `maxAge` of `8760h` or more, or leave \
             `preload` out"
                .to_owned(),
        );
    }
}
