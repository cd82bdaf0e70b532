//! Secrets in a folder of manifests: one file each, changed under a lock that all gateways with
//! this folder share.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::{Instant, sleep};

use super::{Store, StoreError};
use crate::atomic_file;
use crate::model::credential::CREDENTIAL;
use crate::session::Change;

/// The maximum size of a file, in bytes.
const MAX_BYTES: u64 = 4 << 20;
/// The longest wait for the lock.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);
/// The interval between attempts to lock.
const LOCK_RETRY: Duration = Duration::from_millis(10);
/// The lock file. Its name starts with a dot, so that it is not read as a manifest.
const LOCK: &str = ".portcullis-sessions.lock";

/// The Secrets of a Namespace in a folder.
#[derive(Debug, Clone)]
pub(super) struct Folder {
    path: PathBuf,
    namespace: Arc<str>,
}

// === impl Folder ===

impl Folder {
    pub(super) fn new(path: PathBuf, namespace: &str) -> Self {
        Self { path, namespace: namespace.into() }
    }

    /// Applies a change. The caller must hold the lock.
    fn apply(&self, change: &Change) -> Result<(), StoreError> {
        let path = self.path.join(format!("{}.json", change.secret));
        let mut entries = self.read(&path, change)?;
        if change.only_if.as_ref().is_some_and(|seen| !seen.entries.iter().eq(entries.keys())) {
            return Err(StoreError::Superseded);
        }
        entries.retain(|name, _| !change.remove.contains(name));
        entries.extend(
            change
                .add
                .iter()
                .map(|(name, value)| (name.clone(), ByteString(value.expose().to_vec()))),
        );
        let manifest = serde_json::to_vec_pretty(&self.object(change, entries));
        let manifest = manifest.map_err(|error| StoreError::File(path.clone(), error.into()))?;
        atomic_file::replace(&path, &manifest).map_err(|error| StoreError::File(path, error))
    }

    /// Acquires the lock, which is held only while a small file is written.
    async fn lock(&self) -> Result<File, StoreError> {
        let path = self.path.join(LOCK);
        let wrong = |error| StoreError::File(path.clone(), error);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(wrong)?;
        let deadline = Instant::now() + LOCK_TIMEOUT;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    sleep(LOCK_RETRY).await
                }
                Err(error) => return Err(wrong(error.into())),
            }
        }
    }

    /// The entries of the file; empty if there is no file.
    fn read(
        &self,
        path: &Path,
        change: &Change,
    ) -> Result<BTreeMap<String, ByteString>, StoreError> {
        let mut bytes = Vec::new();
        match File::open(path).and_then(|file| file.take(MAX_BYTES).read_to_end(&mut bytes)) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            Err(error) => return Err(StoreError::File(path.to_owned(), error)),
        }
        let secret: Secret =
            serde_json::from_slice(&bytes).map_err(|_| StoreError::Changed(path.to_owned()))?;
        let own = self.object(change, BTreeMap::new());
        // Any other content would be lost.
        if (&secret.metadata, &secret.string_data) != (&own.metadata, &None) {
            return Err(StoreError::Changed(path.to_owned()));
        }
        Ok(secret.data.unwrap_or_default())
    }

    fn object(&self, change: &Change, entries: BTreeMap<String, ByteString>) -> Secret {
        Secret {
            metadata: ObjectMeta {
                name: Some(change.secret.to_owned()),
                namespace: Some(self.namespace.to_string()),
                labels: Some([(CREDENTIAL.to_owned(), change.kind.to_owned())].into()),
                ..ObjectMeta::default()
            },
            type_: Some("Opaque".to_owned()),
            data: Some(entries),
            ..Secret::default()
        }
    }
}

impl Store for Folder {
    fn change(&self, change: Change) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            let lock = self.lock().await?;
            let folder = self.clone();
            let apply = move || {
                // Held here, because the caller may be dropped before the file is written.
                let _lock = lock;
                folder.apply(&change)
            };
            let panicked =
                |error: JoinError| StoreError::File(self.path.clone(), io::Error::other(error));
            spawn_blocking(apply).await.map_err(panicked)?
        })
    }
}

#[cfg(test)]
mod tests;
