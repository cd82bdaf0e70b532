//! Asks a cluster's API server whether the bearer of a token may read telemetry.

mod cluster;

use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;

use self::cluster::Cluster;
use crate::rbac;
use crate::settings::telemetry::TelemetryAccess;
use crate::settings::{Settings, SourceSettings};
use crate::source::SourceError;

/// The non-resource URL that a bearer must be allowed to `get`.
pub const PATH: &str = "/metrics";

/// Reviews bearer tokens.
pub trait BearerReview: Send + Sync + fmt::Debug + 'static {
    /// Authenticates a bearer token, and decides whether its account may read telemetry.
    ///
    /// # Errors
    /// The API server did not answer within some seconds, or rejected the review.
    fn review(&self, token: String) -> BoxFuture<'_, Result<Verdict, Unavailable>>;
}

/// The result of a review.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The account may read telemetry.
    Allowed,
    /// The account may not.
    Forbidden,
    /// The token belongs to no account.
    Unauthenticated,
}

/// Why a bearer could not be reviewed.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    /// It took too long.
    #[error("the API server did not answer in time")]
    Late,
    /// The API server could not be reached, or returned an error.
    #[error("the API server returned no review: {}", rbac::reason(.0))]
    Cluster(#[source] Box<kube::Error>),
}

/// Creates the reviewer that `settings` ask for; `None` where no cluster reviews bearers.
///
/// # Errors
/// The API server's address or the credentials for it cannot be found.
pub async fn open(settings: &Settings) -> Result<Option<Arc<dyn BearerReview>>, SourceError> {
    match (settings.telemetry_access(), &settings.source) {
        (TelemetryAccess::TokenReview, SourceSettings::Kubernetes(kubernetes))
            if settings.telemetry.address.is_some() =>
        {
            Ok(Some(Arc::new(Cluster::new(kubernetes).await?)))
        }
        _ => Ok(None),
    }
}
