//! Limits on the number of requests.

use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::model::Origin;

/// A limit on the number of requests: this many in a window, of which some may come at once.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct RateLimit {
    /// The Service or Namespace whose requests are counted together. It has no location: a limit
    /// that moves in its file is the same.
    #[serde(serialize_with = "name")]
    pub owner: Origin,
    /// The requests that are counted as one client's.
    pub per: RateScope,
    /// How many are allowed in a window.
    pub requests: NonZeroU32,
    /// The window.
    pub window: RateWindow,
    /// How many are allowed at once, after a time without any.
    pub burst: NonZeroU32,
    /// Whether replicas share it: each allows its part.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub divided: bool,
}

/// Which requests are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RateScope {
    /// Those of a user. Requests without one are counted for their application, else for their
    /// source.
    User,
    /// Those of an application. Requests without one are counted for their source.
    Application,
    /// Those of a client's address: an IPv4 address, or an IPv6 /64.
    Source,
    /// All requests to the Service.
    Service,
    /// All requests to the Services of the Namespace.
    Namespace,
}

/// The window of a rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RateWindow {
    /// A second.
    Second,
    /// A minute.
    Minute,
    /// An hour.
    Hour,
}

// === impl RateScope ===

impl RateScope {
    /// The name that annotations and response fields have for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Application => "application",
            Self::Source => "source",
            Self::Service => "service",
            Self::Namespace => "namespace",
        }
    }
}

impl fmt::Display for RateScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl RateWindow ===

impl RateWindow {
    /// Its length.
    #[must_use]
    pub fn duration(self) -> Duration {
        Duration::from_secs(match self {
            Self::Second => 1,
            Self::Minute => 60,
            Self::Hour => 3600,
        })
    }
}

fn name<S: Serializer>(origin: &Origin, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(origin)
}
