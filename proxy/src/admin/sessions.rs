//! Rotation of session keys by `portcullis sessions rotate`.

use portcullis_config::store::credentials::StoreError;
use portcullis_identity::session::rotation::{self, NotRotated};
use serde::{Deserialize, Serialize};

use super::Admin;
use crate::live_table::origin;

/// The result of a rotation of session keys.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotated {
    /// The origins of keys that operators provide: those are not changed.
    pub made_by_people: Vec<String>,
}

/// Why session keys were not rotated.
#[derive(Debug, thiserror::Error)]
pub(super) enum RotateError {
    #[error(
        "the gateway generates no session keys: `access.credentialsNamespace` is not set, or login \
         is disabled and the source is a directory"
    )]
    NotGenerated,
    #[error(transparent)]
    NotRotated(#[from] NotRotated),
}

// === impl Admin ===

impl Admin {
    /// Generates a new session key now; with `end`, revokes everything sealed by earlier keys.
    pub(super) async fn rotate_sessions(&self, end: bool) -> Result<Rotated, RotateError> {
        let store = self.sessions.as_ref().ok_or(RotateError::NotGenerated)?;
        let unchanged = rotation::rotate_now(&**store, &self.live, end).await?;
        Ok(Rotated { made_by_people: unchanged.iter().map(origin).collect() })
    }
}

// === impl RotateError ===

impl RotateError {
    /// Whether a retry may succeed.
    pub(super) fn is_temporary(&self) -> bool {
        matches!(
            self,
            Self::NotRotated(
                NotRotated::Unread
                    | NotRotated::Store(
                        StoreError::Superseded | StoreError::Timeout(_) | StoreError::Cluster(..)
                    )
            )
        )
    }
}
