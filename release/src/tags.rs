//! Tags for people: a tag such as `production` follows what runs in an environment.
//!
//! A deployment does not wait for it, and nothing that the builder does depends on it: releases have
//! digests. What a tag should be is compared with what it was moved to last, so that a builder that
//! was killed, or a registry that was away, leaves no tag behind for long.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::iter;
use tokio::time::{Instant, sleep};

use crate::model::{Placement, Time};
use crate::registry::Registries;
use crate::settings::TagSettings;
use crate::store::{By, Store, StoreError};

/// How often what runs is compared with the tags.
const COMPARED_EVERY: Duration = Duration::from_secs(2);
/// The first and the longest pause after a tag could not be moved.
const PAUSES: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));
/// The tags that are moved at the same time.
const AT_ONCE: usize = 4;
/// Who moves tags, in the audit log.
const ACTOR: &str = "portcullis";

/// Moves tags to what runs.
pub struct Tags {
    store: Arc<dyn Store>,
    registries: Arc<Registries>,
    settings: Vec<TagSettings>,
}

/// When a tag that could not be moved is tried again.
#[derive(Debug, Clone, Copy)]
struct Retry {
    at: Instant,
    pause: Duration,
}

// === impl Tags ===

impl Tags {
    /// Creates what moves these tags.
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        registries: Arc<Registries>,
        settings: &[TagSettings],
    ) -> Self {
        Self { store, registries, settings: settings.to_vec() }
    }

    /// Moves tags until it is dropped.
    pub async fn run(self) {
        if self.settings.is_empty() {
            return;
        }
        // Only of services that run: it has as many entries as there are placements.
        let mut retries = HashMap::new();
        loop {
            for tag in &self.settings {
                if let Err(error) = self.follow(tag, &mut retries).await {
                    tracing::error!(%error, "failed to read which tags are behind");
                }
            }
            sleep(COMPARED_EVERY).await;
        }
    }

    async fn follow(
        &self,
        tag: &TagSettings,
        retries: &mut HashMap<Placement, Retry>,
    ) -> Result<(), StoreError> {
        let now = Instant::now();
        let environment = &tag.environment;
        let place = |service| Placement { service, environment: environment.clone() };
        let behind = self.store.untagged(environment, &tag.repository).await?;
        let behind: Vec<(Placement, String)> =
            behind.into_iter().map(|(service, image)| (place(service), image)).collect();
        let is_due =
            |placement: &Placement| retries.get(placement).is_none_or(|retry| retry.at <= now);
        let due = behind.iter().filter(|(placement, _)| is_due(placement));
        let moves = due.map(|(placement, image)| async move {
            (placement, self.move_tag(placement, image, &tag.tag).await)
        });
        let moved: Vec<(&Placement, bool)> = iter(moves).buffer_unordered(AT_ONCE).collect().await;
        for (placement, is_moved) in moved {
            if is_moved {
                retries.remove(placement);
            } else {
                let pause = retries.get(placement).map_or(PAUSES.0, |retry| retry.pause * 2);
                let pause = pause.min(PAUSES.1);
                retries.insert(placement.clone(), Retry { at: Instant::now() + pause, pause });
            }
        }
        Ok(())
    }

    /// Moves a tag; whether it could be.
    async fn move_tag(&self, placement: &Placement, image: &str, tag: &str) -> bool {
        let Placement { service, environment } = placement;
        if let Err(error) = self.registries.tag(image, tag).await {
            tracing::warn!(%service, %environment, tag, %error, "failed to move a tag");
            return false;
        }
        let by = By {
            actor: ACTOR.to_owned(),
            reason: format!("it runs in {environment}"),
            at: Time::now(),
            idempotency: None,
        };
        match self.store.tagged(placement, image, tag, by).await {
            Ok(()) => true,
            Err(error) => {
                tracing::error!(%service, %environment, %error, "failed to record a moved tag");
                false
            }
        }
    }
}
