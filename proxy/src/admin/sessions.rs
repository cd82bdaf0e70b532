//! The keys of sessions on command, as `portcullis sessions` gives it.

use portcullis_config::store::session::StoreError;
use portcullis_identity::session::rotation::{self, NotRotated};
use serde::{Deserialize, Serialize};

use super::Admin;
use crate::live_table::origin;

/// What became of the keys that seal sessions.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotated {
    /// Where the keys are that people made: those stay as they are.
    pub made_by_people: Vec<String>,
}

/// Why no key was made.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoKeys {
    #[error(
        "the gateway makes no session keys: `access.credentialsNamespace` is not set, or nobody \
         can log in and it reads a folder"
    )]
    NotMade,
    #[error(transparent)]
    NotRotated(#[from] NotRotated),
}

// === impl Admin ===

impl Admin {
    /// Makes another session key now; with `end` everything ends that others have sealed.
    pub(super) async fn rotate_sessions(&self, end: bool) -> Result<Rotated, NoKeys> {
        let store = self.sessions.as_ref().ok_or(NoKeys::NotMade)?;
        let stay = rotation::rotate_now(&**store, &self.live, end).await?;
        Ok(Rotated { made_by_people: stay.iter().map(origin).collect() })
    }
}

// === impl NoKeys ===

impl NoKeys {
    /// Whether it helps to try again.
    pub(super) fn is_passing(&self) -> bool {
        matches!(
            self,
            Self::NotRotated(
                NotRotated::Unread
                    | NotRotated::Store(
                        StoreError::Superseded | StoreError::Late | StoreError::Cluster(_)
                    )
            )
        )
    }
}
