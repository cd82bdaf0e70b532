//! Secrets in a folder of manifests: a file for each that is made here.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use tempfile::NamedTempFile;

use super::{ClientKeys, StoreError};
use crate::client_key::secret;
use crate::resources::Object;
use crate::resources::credential::Credential;
use crate::snapshot::access::ClientKey;
use crate::source::{Secrets, directory};

/// What a folder has of a Namespace.
pub(super) struct Folder {
    path: PathBuf,
    secrets: Secrets,
}

// === impl Folder ===

impl Folder {
    pub(super) fn new(path: PathBuf, namespace: &str) -> Self {
        Self { path, secrets: Secrets { credentials: Some(namespace.into()), ..Secrets::default() } }
    }

    pub(super) fn list(&self) -> Result<ClientKeys, StoreError> {
        fs::read_dir(&self.path).map_err(|error| StoreError::File(self.path.clone(), error))?;
        let (objects, problems) = directory::read(self.path.clone(), self.secrets.clone());
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
        let write =
            || temporary(&path, &secret::manifest(key))?.persist_noclobber(&path).map_err(|error| error.error).and_then(|_| sync(&path));
        write().map_err(|error| StoreError::File(path.clone(), error))
    }

    pub(super) fn end(&self, key: &ClientKey, expires: SystemTime) -> Result<(), StoreError> {
        let path = own_file(key)?;
        let ending = ClientKey { expires: Some(expires), ..key.clone() };
        let write = || temporary(&path, &secret::manifest(&ending))?.persist(&path).map_err(|error| error.error).and_then(|_| sync(&path));
        write().map_err(|error| StoreError::File(path.clone(), error))
    }

    pub(super) fn revoke(&self, key: &ClientKey) -> Result<(), StoreError> {
        let path = own_file(key)?;
        fs::remove_file(&path).and_then(|()| sync(&path)).map_err(|error| StoreError::File(path, error))
    }
}

/// The file of a key, where it holds nothing else.
fn own_file(key: &ClientKey) -> Result<PathBuf, StoreError> {
    let path = key.origin.place.as_ref().map(|place| place.file.to_path_buf()).unwrap_or_default();
    match fs::read_to_string(&path) {
        Ok(text) if text == secret::manifest(key) => Ok(path),
        Ok(_) => Err(StoreError::Changed(path)),
        Err(error) => Err(StoreError::File(path, error)),
    }
}

/// A file beside `path` that nobody else may read, whole and on the disk; its name begins with a point, so that no gateway reads it.
fn temporary(path: &Path, text: &str) -> io::Result<NamedTempFile> {
    let mut file = tempfile::Builder::new().prefix(".").tempfile_in(path.parent().unwrap_or(Path::new(".")))?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    Ok(file)
}

/// Until its folder is on the disk, a rename is not.
fn sync(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}
