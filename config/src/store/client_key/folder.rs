//! Client keys in a folder of manifests: one file for each Secret.

use std::fs;
use std::path::PathBuf;
use std::time::SystemTime;

use super::{ClientKeys, StoreError};
use crate::atomic_file;
use crate::client_key::secret;
use crate::resources::Object;
use crate::resources::credential::Credential;
use crate::snapshot::access::ClientKey;
use crate::source::manifest::Manifests;
use crate::source::{Secrets, directory};

/// The Secrets of a Namespace in a folder.
pub(super) struct Folder {
    path: PathBuf,
    secrets: Secrets,
}

// === impl Folder ===

impl Folder {
    pub(super) fn new(path: PathBuf, namespace: &str) -> Self {
        Self {
            path,
            secrets: Secrets { credentials: Some(namespace.into()), ..Secrets::default() },
        }
    }

    pub(super) fn list(&self) -> Result<ClientKeys, StoreError> {
        fs::read_dir(&self.path).map_err(|error| StoreError::File(self.path.clone(), error))?;
        let Manifests { objects, problems, .. } =
            directory::read(vec![self.path.clone()], self.secrets.clone());
        let keys = objects.into_iter().filter_map(|object| match object {
            Object::Credential(Credential::ClientKey(key)) => Some((key, None)),
            _ => None,
        });
        let mut keys: Vec<_> = keys.collect();
        keys.sort_by(|(one, _), (other, _)| one.origin.name.cmp(&other.origin.name));
        Ok(ClientKeys { keys, problems })
    }

    pub(super) fn create(&self, key: &ClientKey) -> Result<(), StoreError> {
        let path = self.path.join(format!("{}.yaml", key.origin.name));
        atomic_file::create(&path, secret::manifest(key).as_bytes())
            .map_err(|error| StoreError::File(path, error))
    }

    pub(super) fn expire(&self, key: &ClientKey, expires: SystemTime) -> Result<(), StoreError> {
        let path = own_file(key)?;
        let expiring = ClientKey { expires: Some(expires), ..key.clone() };
        atomic_file::replace(&path, secret::manifest(&expiring).as_bytes())
            .map_err(|error| StoreError::File(path, error))
    }

    pub(super) fn revoke(&self, key: &ClientKey) -> Result<(), StoreError> {
        let path = own_file(key)?;
        atomic_file::remove(&path).map_err(|error| StoreError::File(path, error))
    }
}

/// The file of a key, if it contains nothing else.
fn own_file(key: &ClientKey) -> Result<PathBuf, StoreError> {
    let path =
        key.origin.place.as_ref().map(|location| location.file.to_path_buf()).unwrap_or_default();
    match fs::read_to_string(&path) {
        Ok(text) if text == secret::manifest(key) => Ok(path),
        Ok(_) => Err(StoreError::Changed(path)),
        Err(error) => Err(StoreError::File(path, error)),
    }
}
