//! Namespaces: environments.

use std::sync::Arc;

use k8s_openapi::api::core::v1;

use super::{Annotations, Metadata};
use crate::model::{Origin, Place};
use crate::problem::Problem;

/// A Namespace, as far as it is read.
#[derive(Debug, Clone, PartialEq)]
pub struct Namespace {
    /// Where it came from.
    pub origin: Origin,
    /// When it was created, in seconds since 1970; an object of unknown age counts as the newest.
    pub created: i64,
    /// Its own labels.
    pub labels: Annotations,
    /// Its own annotations.
    pub annotations: Annotations,
}

// === impl Namespace ===

impl Namespace {
    /// Trims an object; `place` is where it was read, for one from a file.
    ///
    /// # Errors
    /// It has no name.
    pub fn from_object(object: &v1::Namespace, place: Option<Place>) -> Result<Self, Problem> {
        let Metadata { origin, created } =
            Metadata::read("Namespace", false, &object.metadata, place)?;
        let labels = Annotations::keep(object.metadata.labels.as_ref());
        let annotations = Annotations::keep(object.metadata.annotations.as_ref());
        Ok(Self { origin, created, labels, annotations })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.origin.name
    }
}
