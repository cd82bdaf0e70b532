//! Whether a bearer may read telemetry, as a cluster's API server decides it.

mod cluster;

use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;

use self::cluster::Cluster;
use crate::settings::telemetry::TelemetryAccess;
use crate::settings::{Settings, SourceSettings};
use crate::source::SourceError;

/// The non-resource URL that a bearer must be allowed to `get`.
pub const PATH: &str = "/metrics";

/// Reviews bearer tokens.
pub trait BearerReview: Send + Sync + fmt::Debug + 'static {
    /// Decides about a bearer token: whose it is, and whether that account may read telemetry.
    ///
    /// # Errors
    /// There is no decision: the API server did not answer within some seconds, or refused the
    /// question.
    fn review(&self, token: String) -> BoxFuture<'_, Result<Verdict, Unavailable>>;
}

/// What a review comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The account may read telemetry.
    Allowed,
    /// The account may not.
    Forbidden,
    /// The token is nobody's.
    Unauthenticated,
}

/// Why a bearer was not reviewed.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    /// It took too long.
    #[error("the API server did not answer in time")]
    Late,
    /// The API server gave an error or nothing.
    #[error("the API server: {0}")]
    Cluster(#[source] Box<kube::Error>),
}

/// The reviewer that `settings` ask for; `None` where bearers are not reviewed by a cluster.
///
/// # Errors
/// The way to the API server is not known.
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
