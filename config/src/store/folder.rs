//! A store in a folder of one machine: files of mode 0600, each replaced atomically.
//!
//! ```text
//! lock              locked by the leader, contains the number of its term
//! state             the state
//! rollover          the last request to replace the account keys
//! NAME.pem          a certificate: its private key, then its chain
//! NAME.renew        exists if a renewal of the certificate was requested
//! ```

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use super::{
    MAX_BYTES, MAX_CERTIFICATES, NewCertificate, Store, StoreError, StoreState, StoredCertificate,
    Term,
};
use crate::atomic_file;
use crate::model::{Origin, SourceLocation, check_label};
use crate::snapshot::certificate::{Certificate, SecretBytes};

/// The interval between polls for changes by other processes.
const INTERVAL: Duration = Duration::from_secs(1);
const LOCK: &str = "lock";
const STATE: &str = "state";
const ROLLOVER: &str = "rollover";
const CHAIN: &str = "-----BEGIN CERTIFICATE-----";

/// A store in a folder.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    lock: Mutex<Lock>,
    seen: Mutex<Vec<FileVersion>>,
    contents: watch::Sender<Option<Arc<StoreState>>>,
    term: watch::Sender<Option<Term>>,
}

/// The lock file, and the term while this process holds the lock.
#[derive(Debug)]
struct Lock {
    file: File,
    term: Option<Term>,
}

/// Identifies a version of a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct FileVersion {
    name: String,
    inode: u64,
    modified: (i64, i64),
    length: u64,
}

// === impl Folder ===

impl Folder {
    /// Opens the folder, and creates it if needed. Only its owner gets access.
    ///
    /// # Errors
    /// The folder cannot be created or is not writable.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let wrong = |error| failed(path, error);
        fs::create_dir_all(path).map_err(wrong)?;
        fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(wrong)?;
        let lock = path.join(LOCK);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock);
        let file = file.map_err(|error| failed(&lock, error))?;
        Ok(Self {
            path: path.to_owned(),
            lock: Mutex::new(Lock { file, term: None }),
            seen: Mutex::default(),
            contents: watch::Sender::new(None),
            term: watch::Sender::new(None),
        })
    }

    /// Tries to become the leader, and reads the folder.
    fn poll(&self) {
        self.campaign();
        if let Err(error) = self.read() {
            tracing::warn!(%error, "failed to read the folder of certificates; the last contents stay");
        }
    }

    /// Becomes the leader if no other process is. The system releases the lock when its holder
    /// exits for any reason.
    fn campaign(&self) {
        let mut lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        if lock.term.is_some() || lock.file.try_lock().is_err() {
            return;
        }
        match lock.next_term() {
            Ok(term) => {
                lock.term = Some(term);
                self.term.send_replace(Some(term));
            }
            Err(error) => {
                tracing::warn!(%error, "failed to write the lock file of the folder of certificates");
                let _ = lock.file.unlock();
            }
        }
    }

    fn read(&self) -> Result<(), StoreError> {
        let versions = self.versions().map_err(|error| failed(&self.path, error))?;
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if *seen == versions && self.contents.borrow().is_some() {
            return Ok(());
        }
        let mut contents = StoreState::default();
        for FileVersion { name, .. } in &versions {
            if name == STATE {
                contents.state = Some(SecretBytes::from(self.load(name)?));
            } else if name == ROLLOVER {
                contents.rollover = Some(String::from_utf8_lossy(&self.load(name)?).into_owned());
            } else if let Some(name) = name.strip_suffix(".pem") {
                let certificate = split(
                    &self.path.join(format!("{name}.pem")),
                    &self.load(&format!("{name}.pem"))?,
                );
                let requested =
                    versions.iter().any(|version| version.name == format!("{name}.renew"));
                contents.certificates.insert(
                    name.to_owned(),
                    StoredCertificate { certificate, renewal_requested: requested },
                );
            }
        }
        *seen = versions;
        self.contents.send_replace(Some(Arc::new(contents)));
        Ok(())
    }

    fn versions(&self) -> io::Result<Vec<FileVersion>> {
        let mut versions = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let stem = name.strip_suffix(".pem").or_else(|| name.strip_suffix(".renew"));
            if name != STATE
                && name != ROLLOVER
                && stem.is_none_or(|stem| check_label(stem).is_err())
            {
                continue;
            }
            // The file was removed in the meantime.
            let Ok(about) = entry.metadata() else { continue };
            let modified = (about.mtime(), about.mtime_nsec());
            versions.push(FileVersion { name, inode: about.ino(), modified, length: about.len() });
            if versions.len() > 2 * MAX_CERTIFICATES {
                return Err(io::Error::other(format!("more than {MAX_CERTIFICATES} certificates")));
            }
        }
        versions.sort_unstable();
        Ok(versions)
    }

    fn load(&self, name: &str) -> Result<Vec<u8>, StoreError> {
        let path = self.path.join(name);
        let mut bytes = Vec::new();
        let read = File::open(&path)
            .and_then(|file| file.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes));
        read.map_err(|error| failed(&path, error))?;
        if bytes.len() > MAX_BYTES { Err(StoreError::TooLarge) } else { Ok(bytes) }
    }

    /// Replaces a file atomically: after a crash it is the old or the new one.
    fn save(&self, term: Term, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.check(term)?;
        if bytes.len() > MAX_BYTES {
            return Err(StoreError::TooLarge);
        }
        let path = self.path.join(name);
        atomic_file::replace(&path, bytes).map_err(|error| failed(&path, error))
    }

    fn save_pair(&self, term: Term, certificate: &NewCertificate) -> Result<(), StoreError> {
        let mut bytes = certificate.key.expose().to_vec();
        bytes.push(b'\n');
        bytes.extend_from_slice(&certificate.chain);
        self.save(term, &format!("{}.pem", certificate.name), &bytes)?;
        self.remove_file(&format!("{}.renew", certificate.name))?;
        self.read()
    }

    fn remove(&self, term: Term, name: &str) -> Result<(), StoreError> {
        self.check(term)?;
        // The renewal request first: it is meaningless without the certificate.
        self.remove_file(&format!("{name}.renew"))?;
        self.remove_file(&format!("{name}.pem"))?;
        self.read()
    }

    /// Returns an error unless this process is the leader in `term`.
    fn check(&self, term: Term) -> Result<(), StoreError> {
        let is_leader = self.lock.lock().unwrap_or_else(PoisonError::into_inner).term == Some(term);
        if is_leader { Ok(()) } else { Err(StoreError::Superseded) }
    }

    /// Removes a file if it exists.
    fn remove_file(&self, name: &str) -> Result<(), StoreError> {
        let path = self.path.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(&path, error)),
            _ => Ok(()),
        }
    }

    fn request_renewal_of(&self, name: &str) -> Result<(), StoreError> {
        if !self
            .contents
            .borrow()
            .as_ref()
            .is_some_and(|contents| contents.certificates.contains_key(name))
        {
            return Err(StoreError::Unknown);
        }
        let path = self.path.join(format!("{name}.renew"));
        let created =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
        created.map_err(|error| failed(&path, error))?;
        self.read()
    }
}

impl Store for Folder {
    fn run(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            let mut ticks = interval(INTERVAL);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                self.poll();
            }
        })
    }

    fn contents(&self) -> watch::Receiver<Option<Arc<StoreState>>> {
        self.contents.subscribe()
    }

    fn term(&self) -> watch::Receiver<Option<Term>> {
        self.term.subscribe()
    }

    fn save_state(&self, term: Term, state: SecretBytes) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            self.save(term, STATE, state.expose())?;
            self.read()
        })
    }

    fn save_certificate(
        &self,
        term: Term,
        certificate: NewCertificate,
    ) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move { self.save_pair(term, &certificate) })
    }

    fn remove_certificate(
        &self,
        term: Term,
        name: String,
    ) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move { self.remove(term, &name) })
    }

    fn request_renewal(&self, name: String) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move { self.request_renewal_of(&name) })
    }

    fn request_rollover(&self, request: String) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            let path = self.path.join(ROLLOVER);
            atomic_file::replace(&path, request.as_bytes())
                .map_err(|error| failed(&path, error))?;
            self.read()
        })
    }

    /// No other process serves challenges on the same addresses.
    fn propagation_delay(&self) -> Duration {
        Duration::ZERO
    }
}

// === impl Lock ===

impl Lock {
    /// Increments the term in the file, and returns it.
    fn next_term(&mut self) -> io::Result<Term> {
        use std::io::{Seek, SeekFrom};
        let mut text = String::new();
        self.file.seek(SeekFrom::Start(0))?;
        (&self.file).take(32).read_to_string(&mut text)?;
        let term = Term(text.trim().parse::<u64>().unwrap_or(0).saturating_add(1));
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(format!("{}\n", term.0).as_bytes())?;
        self.file.sync_all()?;
        Ok(term)
    }
}

/// Splits a file into key and chain. Validation detects an invalid pair later.
fn split(path: &Path, bytes: &[u8]) -> Certificate {
    let location = SourceLocation { file: Arc::new(path.to_owned()), line: 1, column: 1 };
    let start = bytes
        .windows(CHAIN.len())
        .position(|window| window == CHAIN.as_bytes())
        .unwrap_or(bytes.len());
    let (key, chain) = bytes.split_at(start);
    Certificate {
        origin: Origin { place: Some(location), ..Origin::default() },
        chain: chain.into(),
        key: SecretBytes::from(key.to_vec()),
    }
}

fn failed(path: &Path, error: io::Error) -> StoreError {
    StoreError::Folder { path: path.display().to_string(), error }
}

#[cfg(test)]
mod tests;
