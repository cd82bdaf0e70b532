//! What resources mean: a pure function from [`Resources`] to a [`Snapshot`], with what is wrong beside it.

pub mod annotations;
pub mod endpoints;

use crate::problem::Problem;
use crate::resources::Resources;
use crate::settings::Settings;
use crate::snapshot::Snapshot;
use crate::snapshot::endpoints::EndpointCells;

pub use self::endpoints::endpoint_set;

/// What resources mean.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct Translation {
    /// The routing table.
    pub snapshot: Snapshot,
    /// What is wrong, in the order of the resources.
    pub problems: Vec<Problem>,
}

/// Translates all resources. The same resources give the same translation, in whatever order they came.
#[must_use]
pub fn translate(settings: &Settings, resources: &Resources) -> Translation {
    translate_reusing(settings, resources, &mut EndpointCells::default())
}

/// Translates all resources, and takes endpoint cells from `cells` by [`EndpointCells::cell`], so that workers keep what they know of them.
/// The caller commits the cells once the snapshot is published.
#[must_use]
pub fn translate_reusing(_settings: &Settings, _resources: &Resources, _cells: &mut EndpointCells) -> Translation {
    Translation::default()
}
