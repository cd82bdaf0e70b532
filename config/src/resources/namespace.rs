//! Namespaces, each an environment.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1;

use super::{Annotations, Metadata};
use crate::model::{Origin, SourceLocation};
use crate::problem::Problem;

/// A Namespace, trimmed to the fields that are read.
#[derive(Debug, Clone, PartialEq)]
pub struct Namespace {
    /// Where it came from.
    pub origin: Origin,
    /// When it was created, in seconds since 1970; an object of unknown age counts as the newest.
    pub created: i64,
    /// Its labels with the prefix of Portcullis.
    pub labels: Annotations,
    /// All of its labels, by which environments are selected.
    pub all_labels: BTreeMap<String, String>,
    /// Its annotations with the prefix of Portcullis.
    pub annotations: Annotations,
}

// === impl Namespace ===

impl Namespace {
    /// Parses an object; `place` is its location, for one from a file.
    ///
    /// # Errors
    /// It has no name.
    pub fn from_object(
        object: &v1::Namespace,
        place: Option<SourceLocation>,
    ) -> Result<Self, Problem> {
        let Metadata { origin, created } =
            Metadata::read("Namespace", false, &object.metadata, place)?;
        let labels = Annotations::filter(object.metadata.labels.as_ref());
        let annotations = Annotations::filter(object.metadata.annotations.as_ref());
        let all_labels = object.metadata.labels.clone().unwrap_or_default();
        Ok(Self { origin, created, labels, all_labels, annotations })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.origin.name
    }
}
