//! Secrets of a cluster, changed by merge patches (RFC 7396): the API server applies each to the
//! current Secret.

use std::fmt;
use std::time::SystemTime;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Map, Value, json};

use super::{ClientKeys, StoreError};
use crate::model::credential::{CLIENT_KEY, CREDENTIAL};
use crate::resources::credential::Credential;
use crate::session::Change;
use crate::settings::KubernetesSettings;
use crate::source::SourceError;
use crate::source::kubernetes::client;

/// The Secrets of a Namespace.
#[derive(Clone)]
pub struct Cluster {
    pub(super) api: Api<Secret>,
}

// === impl Cluster ===

impl Cluster {
    pub(super) async fn new(
        settings: &KubernetesSettings,
        namespace: &str,
    ) -> Result<Self, SourceError> {
        Ok(Self::with(client(settings).await?, namespace))
    }

    pub(super) fn with(client: Client, namespace: &str) -> Self {
        Self { api: Api::namespaced(client, namespace) }
    }

    pub(super) async fn client_keys(&self) -> Result<ClientKeys, StoreError> {
        let params = ListParams::default().labels(&format!("{CREDENTIAL}={CLIENT_KEY}"));
        let mut found = ClientKeys::default();
        let listed = self.api.list(&params).await;
        for secret in listed.map_err(|error| failed("list its Secrets", error))? {
            match Credential::from_secret(&secret, None) {
                Ok(Credential::ClientKey(key)) => {
                    let created = secret.metadata.creation_timestamp;
                    found.keys.push((key, created.map(|time| SystemTime::from(time.0))));
                }
                Ok(_) => {}
                Err(problem) => found.problems.push(problem),
            }
        }
        Ok(found)
    }

    pub(super) async fn create(&self, secret: &Secret) -> Result<(), StoreError> {
        let created = self.api.create(&PostParams::default(), secret).await;
        created.map(drop).map_err(|error| failed("create the Secret", error))
    }

    pub(super) async fn change(&self, change: &Change) -> Result<(), StoreError> {
        let patch = Patch::Merge(patch(change));
        match self.api.patch(&change.secret, &PatchParams::default(), &patch).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 409 => Err(StoreError::Superseded),
            Err(kube::Error::Api(status)) if status.code == 404 => {
                Err(StoreError::Missing(change.secret.to_string()))
            }
            Err(error) => Err(failed("change the Secret", error)),
        }
    }

    pub(super) async fn delete(&self, name: &str) -> Result<(), StoreError> {
        let deleted = self.api.delete(name, &DeleteParams::default()).await;
        deleted.map(drop).map_err(|error| failed("delete the Secret", error))
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("namespace", &self.api.namespace()).finish_non_exhaustive()
    }
}

fn failed(what: &'static str, error: kube::Error) -> StoreError {
    StoreError::Cluster(what, Box::new(error))
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
    if !change.annotate.is_empty() {
        metadata.insert("annotations".into(), json!(change.annotate));
    }
    // With a version the API server rejects the patch if the Secret has changed since.
    if let Some(version) = change.only_if.as_ref().and_then(|seen| seen.version.as_deref()) {
        metadata.insert("resourceVersion".into(), json!(version));
    }
    json!({ "metadata": metadata, "data": data })
}
