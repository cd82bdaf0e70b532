//! Sets the weights of a Service's variants: what `portcullis traffic set` and rollouts write.
//!
//! The weights of all variants are in one annotation of the stable Service, `split`, as ranges of
//! buckets. So one write changes all of them at once, and its `split-generation` says which change a
//! replica has applied. New ranges are computed from those that are there ([`rebalance`]), so that
//! raising and lowering weights moves as few callers as possible.
//!
//! [`plan()`] is pure. [`cluster`] and [`folder`] read, plan and write.

pub mod cluster;
pub mod folder;
mod plan;
mod rebalance;
mod selector;

pub use self::plan::{Change, Edit, InvalidChange, Plan, State, plan};
pub use self::selector::{NotFound, Selector};

use crate::model::NamespacedName;
use crate::source::SourceError;
use crate::translate::SplitView;

/// What was changed, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The Service.
    pub service: NamespacedName,
    /// What was planned. Without an edit nothing was written.
    pub plan: Plan,
}

/// Why weights cannot be set.
#[derive(Debug, thiserror::Error)]
pub enum TrafficError {
    /// There is no such Service, or more than one.
    #[error(transparent)]
    NotFound(#[from] NotFound),
    /// The change is not possible.
    #[error(transparent)]
    Invalid(#[from] InvalidChange),
    /// Someone else sets the weights.
    #[error("the split of Service {service} is set by {}", owners.join(" and "))]
    Owned {
        /// The Service.
        service: NamespacedName,
        /// The field managers that set it.
        owners: Vec<String>,
    },
    /// Someone else changes it at the same time.
    #[error("{0}")]
    Conflict(String),
    /// The generation is not the one that was expected.
    #[error("{service} has generation {found}, not {expected}: its split was changed meanwhile")]
    Generation {
        /// The Service.
        service: NamespacedName,
        /// The expected generation.
        expected: u64,
        /// The generation that it has.
        found: u64,
    },
    /// A manifest cannot be read, changed or written.
    #[error("{0}")]
    Manifest(String),
    /// There is no API server.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A call of the API server failed.
    #[error("failed to {0}: {1}")]
    Cluster(&'static str, #[source] Box<kube::Error>),
}

fn check_generation(
    service: &NamespacedName,
    view: &SplitView,
    expected: Option<u64>,
) -> Result<(), TrafficError> {
    let found = view.split.as_ref().map_or(0, |split| split.generation().number());
    match expected {
        Some(expected) if expected != found => {
            Err(TrafficError::Generation { service: service.clone(), expected, found })
        }
        _ => Ok(()),
    }
}
