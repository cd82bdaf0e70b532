//! Secrets in a folder of manifests: one file each, changed under a lock that all gateways with
//! this folder share.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::{Instant, sleep};

use super::{ClientKeys, StoreError, applies, apply};
use crate::atomic_file;
use crate::client_key::secret;
use crate::model::credential::{CLIENT_KEY, CREDENTIAL};
use crate::resources::Object;
use crate::resources::credential::Credential;
use crate::session::Change;
use crate::source::manifest::{Manifests, read_manifests};
use crate::source::{Secrets, directory};

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
pub struct Folder {
    path: PathBuf,
    namespace: Arc<str>,
}

/// How a Secret is written: client keys as people write manifests, others as JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    ClientKey,
    Json,
}

// === impl Folder ===

impl Folder {
    pub(super) fn new(path: PathBuf, namespace: &str) -> Self {
        Self { path, namespace: namespace.into() }
    }

    pub(super) fn client_keys(&self) -> Result<ClientKeys, StoreError> {
        fs::read_dir(&self.path).map_err(|error| StoreError::File(self.path.clone(), error))?;
        let Manifests { objects, problems, .. } =
            directory::read(vec![self.path.clone()], self.secrets());
        let keys = objects.into_iter().filter_map(|object| match object {
            Object::Credential(Credential::ClientKey(key)) => Some((key, None)),
            _ => None,
        });
        Ok(ClientKeys { keys: keys.collect(), problems })
    }

    pub(super) fn create(&self, secret: &Secret) -> Result<(), StoreError> {
        let name = secret.metadata.name.as_deref().unwrap_or_default();
        let path = self.path.join(format!("{name}.yaml"));
        let manifest = Format::of(&path).write(secret).map_err(|error| failed(&path, error))?;
        atomic_file::create(&path, &manifest).map_err(|error| failed(&path, error))
    }

    /// Changes by gateways exclude each other. People change a client key one at a time.
    pub(super) async fn change(&self, change: Change) -> Result<(), StoreError> {
        match change.kind {
            CLIENT_KEY => self.change_now(&change),
            _ => self.locked(move |folder| folder.change_now(&change)).await,
        }
    }

    pub(super) fn delete(&self, name: &str) -> Result<(), StoreError> {
        let path = self.file(name, CLIENT_KEY);
        self.read(&path, name)?.ok_or_else(|| StoreError::Missing(name.to_owned()))?;
        atomic_file::remove(&path).map_err(|error| failed(&path, error))
    }

    fn change_now(&self, change: &Change) -> Result<(), StoreError> {
        let path = self.file(&change.secret, change.kind);
        let mut secret = match self.read(&path, &change.secret)? {
            Some(secret) => secret,
            // Only the gateway's own Secrets come into being by a change.
            None if change.kind == CLIENT_KEY => {
                return Err(StoreError::Missing(change.secret.to_string()));
            }
            None => self.empty(&change.secret),
        };
        if !applies(change, &secret) {
            return Err(StoreError::Superseded);
        }
        apply(change, &mut secret);
        let manifest = Format::of(&path).write(&secret).map_err(|error| failed(&path, error))?;
        atomic_file::replace(&path, &manifest).map_err(|error| failed(&path, error))
    }

    /// Runs `work` under the lock, which is held only while small files are read and written.
    async fn locked(
        &self,
        work: impl FnOnce(Self) -> Result<(), StoreError> + Send + 'static,
    ) -> Result<(), StoreError> {
        let lock = self.lock().await?;
        let folder = self.clone();
        let run = move || {
            // Held here, because the caller may be dropped before the file is written.
            let _lock = lock;
            work(folder)
        };
        let panicked = |error: JoinError| failed(&self.path, io::Error::other(error));
        spawn_blocking(run).await.map_err(panicked)?
    }

    async fn lock(&self) -> Result<File, StoreError> {
        let path = self.path.join(LOCK);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(&path).map_err(|error| failed(&path, error))?;
        let deadline = Instant::now() + LOCK_TIMEOUT;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    sleep(LOCK_RETRY).await;
                }
                Err(error) => return Err(failed(&path, error.into())),
            }
        }
    }

    /// The file of a Secret: for a client key the one that contains it, anywhere in the folder; the
    /// gateway's own Secrets have their names.
    fn file(&self, name: &str, kind: &str) -> PathBuf {
        let own = self.path.join(format!("{name}.json"));
        if kind != CLIENT_KEY {
            return own;
        }
        let keys = self.client_keys().unwrap_or_default().keys.into_iter();
        let mut origins = keys.map(|(key, _)| key.origin).filter(|origin| *origin.name == *name);
        origins.next().and_then(|key| Some(key.place?.file.to_path_buf())).unwrap_or(own)
    }

    /// The Secret in a file; `None` if there is no file.
    ///
    /// # Errors
    /// The file cannot be read, or contains anything else, which would be lost.
    fn read(&self, path: &Path, name: &str) -> Result<Option<Secret>, StoreError> {
        let mut bytes = Vec::new();
        match File::open(path).and_then(|file| file.take(MAX_BYTES).read_to_end(&mut bytes)) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(path, error)),
        }
        let secret = match Format::of(path) {
            Format::Json => serde_json::from_slice(&bytes).ok().filter(|secret: &Secret| {
                let mut own = self.empty(name);
                own.metadata.labels = secret.metadata.labels.clone();
                let labels = own.metadata.labels.iter().flatten();
                (&secret.metadata, &secret.string_data) == (&own.metadata, &None)
                    && labels.map(|(label, _)| label).eq([CREDENTIAL])
            }),
            Format::ClientKey => {
                let file = Arc::new(path.to_path_buf());
                match &read_manifests(&file, &bytes, &self.secrets()).objects[..] {
                    [Object::Credential(Credential::ClientKey(key))]
                        if secret::manifest(key).as_bytes() == bytes =>
                    {
                        Some(secret::object(key))
                    }
                    _ => None,
                }
            }
        };
        secret.map(Some).ok_or_else(|| StoreError::Changed(path.to_owned()))
    }

    fn empty(&self, name: &str) -> Secret {
        Secret {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                namespace: Some(self.namespace.to_string()),
                ..ObjectMeta::default()
            },
            type_: Some("Opaque".to_owned()),
            ..Secret::default()
        }
    }

    fn secrets(&self) -> Secrets {
        Secrets { credentials: Some(Arc::clone(&self.namespace)), ..Secrets::default() }
    }
}

// === impl Format ===

impl Format {
    fn of(path: &Path) -> Self {
        if path.extension().is_some_and(|extension| extension == "json") {
            Self::Json
        } else {
            Self::ClientKey
        }
    }

    fn write(self, secret: &Secret) -> io::Result<Vec<u8>> {
        match (self, Credential::from_secret(secret, None)) {
            (Self::ClientKey, Ok(Credential::ClientKey(key))) => {
                Ok(secret::manifest(&key).into_bytes())
            }
            _ => Ok(serde_json::to_vec_pretty(secret)?),
        }
    }
}

fn failed(path: &Path, error: io::Error) -> StoreError {
    StoreError::File(path.to_owned(), error)
}
