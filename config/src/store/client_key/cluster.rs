//! Client keys in Secrets of a cluster.

use std::time::SystemTime;

use k8s_openapi::api::core::v1;
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::time::timeout;

use super::{ClientKeys, REQUEST, StoreError};
use crate::client_key::secret;
use crate::model::credential::{CLIENT_KEY, CREDENTIAL, EXPIRES};
use crate::model::vocabulary::PREFIX;
use crate::resources::credential::Credential;
use crate::settings::KubernetesSettings;
use crate::snapshot::access::ClientKey;
use crate::source::Secrets;
use crate::source::kubernetes::Kubernetes;

/// The Secrets of a Namespace.
pub(super) struct Cluster {
    api: Api<v1::Secret>,
}

// === impl Cluster ===

impl Cluster {
    pub(super) async fn new(
        settings: &KubernetesSettings,
        namespace: &str,
    ) -> Result<Self, StoreError> {
        let kubernetes = Kubernetes::new(settings, Secrets::default(), false).await?;
        Ok(Self { api: Api::namespaced(kubernetes.client().clone(), namespace) })
    }

    pub(super) async fn list(&self) -> Result<ClientKeys, StoreError> {
        let params = ListParams::default().labels(&format!("{CREDENTIAL}={CLIENT_KEY}"));
        let mut found = ClientKeys::default();
        for secret in within("list its Secrets", self.api.list(&params)).await? {
            match Credential::from_secret(&secret, None) {
                Ok(Credential::ClientKey(key)) => {
                    found.keys.push((
                        key,
                        secret.metadata.creation_timestamp.map(|time| SystemTime::from(time.0)),
                    ));
                }
                Ok(_) => {}
                Err(problem) => found.problems.push(problem),
            }
        }
        Ok(found)
    }

    pub(super) async fn create(&self, key: &ClientKey) -> Result<(), StoreError> {
        within("create the Secret", self.api.create(&PostParams::default(), &secret::object(key)))
            .await
            .map(drop)
    }

    pub(super) async fn expire(
        &self,
        key: &ClientKey,
        expires: SystemTime,
    ) -> Result<(), StoreError> {
        let patch = json!({"metadata": {"annotations": {format!("{PREFIX}{EXPIRES}"): secret::write_time(expires)}}});
        within(
            "change the Secret",
            self.api.patch(&key.origin.name, &PatchParams::default(), &Patch::Merge(patch)),
        )
        .await
        .map(drop)
    }

    pub(super) async fn revoke(&self, key: &ClientKey) -> Result<(), StoreError> {
        within("delete the Secret", self.api.delete(&key.origin.name, &DeleteParams::default()))
            .await
            .map(drop)
    }
}

async fn within<T>(
    what: &'static str,
    request: impl Future<Output = kube::Result<T>>,
) -> Result<T, StoreError> {
    match timeout(REQUEST, request).await {
        Ok(result) => result.map_err(|error| StoreError::Cluster(what, Box::new(error))),
        Err(_) => Err(StoreError::Timeout(what)),
    }
}
