//! What HTTPS agrees to, and what it promises.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Settings;
use super::check::Complain;
use crate::model::duration;

/// The least `maxAge` of what browsers' own lists take in (<https://hstspreload.org>).
const PRELOAD_LEAST: Duration = Duration::from_secs(365 * 24 * 3600);

/// What of TLS is agreed to: Mozilla's profiles (<https://wiki.mozilla.org/Security/Server_Side_TLS>).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum TlsPolicy {
    /// TLS 1.3, and TLS 1.2 with forward secrecy and authenticated encryption.
    Intermediate,
    /// TLS 1.3 alone.
    Modern,
}

/// What browsers are told of HTTPS (RFC 6797).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HstsSettings {
    /// For how long a browser that has seen the host uses HTTPS alone; `0s` makes browsers forget
    /// it. `hsts: null` tells them nothing.
    #[serde(with = "duration")]
    #[schemars(with = "duration::Text")]
    pub max_age: Duration,
    /// Whether that holds for all names below the host's too.
    pub include_subdomains: bool,
    /// Whether the zone may be taken into the lists that browsers come with. It takes months to
    /// get out of them.
    pub preload: bool,
}

// === impl HstsSettings ===

impl Default for HstsSettings {
    /// Two years, as in Mozilla's profiles.
    fn default() -> Self {
        Self { max_age: 2 * PRELOAD_LEAST, include_subdomains: false, preload: false }
    }
}

/// What the types do not say.
pub(super) fn meaning(settings: &Settings, complain: &mut Complain<'_>) {
    let Some(hsts) = &settings.listeners.https.hsts else { return };
    if hsts.preload && (!hsts.include_subdomains || hsts.max_age < PRELOAD_LEAST) {
        complain(
            &["listeners", "https", "hsts", "preload"],
            "browsers' lists take in what includes subdomains, for a year at least".to_owned(),
            "write `includeSubdomains: true` and a `maxAge` of `8760h` or more, or leave \
             `preload` out"
                .to_owned(),
        );
    }
}
