//! Records releases: of API calls, and of builds.

use crate::manifest::{Template, TemplateProblem};
use crate::model::{ReleaseId, ServiceName};
use crate::registry::{ImageError, Registries};
use crate::rollout::Settings;
use crate::store::{By, NewRelease, ReleaseSummary, Store, StoreError};

/// A release that is requested.
#[derive(Debug, Clone)]
pub struct RequestedRelease {
    /// The service.
    pub service: ServiceName,
    /// The source commit, if known.
    pub commit: Option<String>,
    /// The image, by tag or digest.
    pub image: String,
    /// The template, whose Secrets are sealed.
    pub template: Template,
    /// Why it cannot be undone, if it cannot.
    pub irreversible: Option<String>,
}

/// Why a release is not recorded.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// The template is not valid.
    #[error("the template is not valid{}", .0.first().map(|it| format!(": {}", it.message)).unwrap_or_default())]
    Template(Vec<TemplateProblem>),
    /// The image is not there, or not known to be.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// It cannot be recorded.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Records a release with the verified digest of its image, or returns the one that the idempotency
/// key of its request made.
///
/// # Errors
/// The template is not valid, the image is not there, or the store fails.
pub async fn record(
    store: &dyn Store,
    registries: &Registries,
    request: RequestedRelease,
    by: By,
) -> Result<ReleaseSummary, ReleaseError> {
    // What was made before needs no registry.
    if let Some(made) = store.made_release(&by).await? {
        return Ok(made);
    }
    let RequestedRelease { service, commit, image: requested, template, irreversible } = request;
    // The number does not matter for what is checked.
    let checked = Settings::check(&template, &ReleaseId { service: service.clone(), number: 1 });
    checked.map_err(ReleaseError::Template)?;
    let image = registries.resolve(&requested).await?;
    let release = NewRelease { service, commit, requested, image, template, irreversible, by };
    Ok(store.create_release(release).await?)
}
