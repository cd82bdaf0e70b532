//! Secrets of a cluster, changed by merge patches (RFC 7396): the API server applies each to the
//! current Secret.

use std::fmt;

use futures::future::BoxFuture;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Map, Value, json};

use super::{Store, StoreError};
use crate::model::credential::CREDENTIAL;
use crate::session::Change;
use crate::settings::KubernetesSettings;
use crate::source::SourceError;
use crate::source::kubernetes::client;

/// The Secrets of a Namespace.
pub(super) struct Cluster {
    api: Api<Secret>,
}

// === impl Cluster ===

impl Cluster {
    pub(super) async fn new(
        settings: &KubernetesSettings,
        namespace: &str,
    ) -> Result<Self, SourceError> {
        Ok(Self { api: Api::namespaced(client(settings).await?, namespace) })
    }
}

impl Store for Cluster {
    fn change(&self, change: Change) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            match self
                .api
                .patch(change.secret, &PatchParams::default(), &Patch::Merge(patch(&change)))
                .await
            {
                Ok(_) => Ok(()),
                Err(kube::Error::Api(status)) if status.code == 409 => Err(StoreError::Superseded),
                Err(kube::Error::Api(status)) if status.code == 404 => {
                    Err(StoreError::Missing(change.secret))
                }
                Err(error) => Err(StoreError::Cluster(Box::new(error))),
            }
        })
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("namespace", &self.api.namespace()).finish_non_exhaustive()
    }
}

/// A merge patch: `null` removes an entry, and is no error if there is none.
fn patch(change: &Change) -> Value {
    let removed = change.remove.iter().map(|name| (name.clone(), Value::Null));
    let added = change
        .add
        .iter()
        .map(|(name, value)| (name.clone(), json!(ByteString(value.expose().to_vec()))));
    let data: Map<String, Value> = removed.chain(added).collect();
    let mut metadata = Map::from_iter([("labels".into(), json!({ CREDENTIAL: change.kind }))]);
    // With a version the API server rejects the patch if the Secret has changed since.
    if let Some(version) = change.only_if.as_ref().and_then(|seen| seen.version.as_deref()) {
        metadata.insert("resourceVersion".into(), json!(version));
    }
    json!({ "metadata": metadata, "data": data })
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::session::Seen;
    use crate::snapshot::certificate::SecretBytes;

    #[test]
    fn a_patch_contains_only_added_and_removed_entries() {
        let change = Change {
            secret: "one",
            kind: "session-keys",
            add: BTreeMap::from([("b".to_owned(), SecretBytes::from(vec![1, 2]))]),
            remove: BTreeSet::from(["a".to_owned()]),
            only_if: Some(Seen { version: Some("7".into()), ..Seen::default() }),
        };
        let labels = json!({ "portcullis.dev/credential": "session-keys" });
        let expected = json!({ "metadata": { "labels": labels, "resourceVersion": "7" }, "data": { "a": null, "b": "AQI=" } });
        assert_eq!(patch(&change), expected);
        let unconditional = Change { only_if: None, add: BTreeMap::new(), ..change };
        assert_eq!(
            patch(&unconditional),
            json!({ "metadata": { "labels": labels }, "data": { "a": null } })
        );
    }
}
