//! The description of the API (OpenAPI 3.1), from its types.

use utoipa::OpenApi;

use super::body::Answer;
use crate::access::Principal;

/// Releases of Portcullis
#[derive(OpenApi)]
#[openapi(paths(
    super::releases::create,
    super::releases::list,
    super::releases::show,
    super::deployments::deploy,
    super::deployments::promote,
    super::deployments::roll_back,
    super::deployments::pin,
    super::deployments::list,
    super::deployments::show,
    super::events::follow,
    super::rollouts::list,
    super::rollouts::show,
    super::rollouts::history,
    super::rollouts::looks,
    super::rollouts::picture,
    super::rollouts::order,
    super::events::follow_rollout,
    super::diffs::show,
    super::diffs::of_deployment,
    super::diffs::dry_run,
    super::images::list,
    super::environments::list,
    super::environments::show,
    super::environments::freeze,
    super::environments::audit,
    super::callers::list,
    super::settings::list,
    super::settings::change,
    super::repositories::list,
    super::repositories::show,
    super::repositories::fetch,
    super::builds::list,
    super::builds::request,
    super::builds::show,
    super::builds::log,
    super::builds::cancel,
))]
struct Api;

/// The description.
#[must_use]
pub fn document() -> utoipa::openapi::OpenApi {
    Api::openapi()
}

/// Serves the description to callers with a key.
pub(super) async fn serve(_: Principal) -> Answer<utoipa::openapi::OpenApi> {
    Answer(document())
}
