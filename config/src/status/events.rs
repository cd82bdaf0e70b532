//! Notices as Events (`events.k8s.io/v1`) on the resources that they are about: `kubectl describe`
//! shows them.
//!
//! They are best effort: bounded in number and rate, and never retried.

mod object;

use std::fmt::Debug;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::{Namespace, ObjectReference, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::events::v1::Event;
use kube::api::{ListParams, PostParams};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep_until, timeout};

use super::Notice;
use super::notice_queue::NoticeQueue;
use crate::model::Origin;
use crate::model::vocabulary::prefixed;
use crate::rbac;

/// How many Events may be written in a burst.
const BURST: u32 = 20;
/// The interval of Events after a burst.
const INTERVAL: Duration = Duration::from_secs(1);
/// Timeout for writing one Event.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The `reportingController` of the Events.
pub(super) const CONTROLLER: &str = prefixed!("gateway");

/// Writes notices as Events; never returns.
pub async fn write(client: Client, notices: &NoticeQueue) {
    let instance = std::env::var("HOSTNAME").unwrap_or_else(|_| CONTROLLER.to_owned());
    let mut rate = Rate::new(Instant::now());
    let mut is_refused = false;
    loop {
        let notice = notices.pop().await;
        sleep_until(rate.next(Instant::now())).await;
        match timeout(TIMEOUT, write_one(&client, &instance, &notice)).await {
            Ok(Ok(())) => is_refused = false,
            Ok(Err(error)) => {
                let rule = rbac::missing_rule(&error).filter(|_| !is_refused);
                if let Some(rule) = rule {
                    tracing::warn!(origin = %notice.origin, help = %rule, "the API server refuses Events: problems are only in this log, in metrics, and in `portcullis routes`");
                    is_refused = true;
                }
                tracing::debug!(origin = %notice.origin, %error, "failed to write the Event")
            }
            Err(_) => tracing::debug!(origin = %notice.origin, "timed out while writing the Event"),
        }
    }
}

async fn write_one(client: &Client, instance: &str, notice: &Notice) -> Result<(), kube::Error> {
    let Some(regarding) = regarding(client, &notice.origin).await? else { return Ok(()) };
    let event = object::event(notice, regarding, instance, SystemTime::now());
    let namespace = event.metadata.namespace.clone().unwrap_or_default();
    let events = Api::<Event>::namespaced(client.clone(), &namespace);
    match events.create(&PostParams::default(), &event).await {
        // Another replica has written it, or this one has within the hour that Events are kept.
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        written => written.map(drop),
    }
}

/// The current object that a notice is about; `None` where it was deleted, or where its kind has no
/// Events.
async fn regarding(
    client: &Client,
    origin: &Origin,
) -> Result<Option<ObjectReference>, kube::Error> {
    let namespace = &*origin.namespace;
    match origin.kind {
        "Namespace" => find(&Api::<Namespace>::all(client.clone()), origin).await,
        "Service" => find(&Api::<Service>::namespaced(client.clone(), namespace), origin).await,
        "EndpointSlice" => {
            find(&Api::<EndpointSlice>::namespaced(client.clone(), namespace), origin).await
        }
        "Secret" => {
            // The notice may be that the Secret is missing: the Event then refers to it by name.
            let found = find(&Api::<Secret>::namespaced(client.clone(), namespace), origin)
                .await
                .unwrap_or_default();
            Ok(Some(found.unwrap_or_else(|| ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Secret".to_owned()),
                namespace: Some(namespace.to_owned()),
                name: Some(origin.name.to_string()),
                ..ObjectReference::default()
            })))
        }
        _ => Ok(None),
    }
}

/// Finds an object by a list with a field selector, which needs no right beyond those for watching.
/// `kubectl describe` finds Events by the object's uid.
async fn find<K>(api: &Api<K>, origin: &Origin) -> Result<Option<ObjectReference>, kube::Error>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let list =
        api.list(&ListParams::default().fields(&format!("metadata.name={}", origin.name))).await?;
    Ok(list.items.first().map(|object| object.object_ref(&())))
}

/// A token bucket.
struct Rate {
    tokens: u32,
    since: Instant,
}

// === impl Rate ===

impl Rate {
    fn new(now: Instant) -> Self {
        Self { tokens: BURST, since: now }
    }

    /// When the next Event may be written.
    fn next(&mut self, now: Instant) -> Instant {
        while self.tokens < BURST && now.saturating_duration_since(self.since) >= INTERVAL {
            self.since += INTERVAL;
            self.tokens += 1;
        }
        if self.tokens == BURST {
            self.since = now;
        }
        if let Some(rest) = self.tokens.checked_sub(1) {
            self.tokens = rest;
            return now;
        }
        self.since += INTERVAL;
        self.since
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_limited_to_one_per_second_after_a_burst() {
        let start = Instant::now();
        let mut rate = Rate::new(start);
        for _ in 0..BURST {
            assert_eq!(rate.next(start), start);
        }
        assert_eq!(rate.next(start), start + INTERVAL);
        assert_eq!(rate.next(start + INTERVAL), start + 2 * INTERVAL);
        let later = start + Duration::from_secs(3600);
        let burst = (0..=BURST).filter(|_| rate.next(later) == later).count();
        assert_eq!(burst, 20);
    }
}
