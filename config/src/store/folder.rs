//! A folder that one machine keeps certificates in: files of mode 0600, each replaced whole.
//!
//! ```text
//! lock              held by the process that leads, with the number of its term
//! state             the state
//! rollover          somebody asked to have the keys of accounts replaced
//! NAME.pem          a certificate: its private key, then its chain
//! NAME.renew        somebody asked to have it renewed
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

use super::{Held, Kept, MAX_BYTES, MAX_CERTIFICATES, NewCertificate, Store, StoreError, Term};
use crate::atomic_file;
use crate::model::{Origin, Place, check_label};
use crate::snapshot::certificate::{Certificate, SecretBytes};

/// How often the folder is looked at for what other processes have written.
const INTERVAL: Duration = Duration::from_secs(1);
const LOCK: &str = "lock";
const STATE: &str = "state";
const ROLLOVER: &str = "rollover";
const CHAIN: &str = "-----BEGIN CERTIFICATE-----";

/// A folder.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    lock: Mutex<Lock>,
    seen: Mutex<Vec<Mark>>,
    held: watch::Sender<Option<Arc<Held>>>,
    term: watch::Sender<Option<Term>>,
}

/// The lock's file, and the term for as long as the lock is held.
#[derive(Debug)]
struct Lock {
    file: File,
    term: Option<Term>,
}

/// What tells one version of a file from another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Mark {
    name: String,
    inode: u64,
    modified: (i64, i64),
    length: u64,
}

// === impl Folder ===

impl Folder {
    /// Makes the folder where it is not there; others than its owner get no right in it.
    ///
    /// # Errors
    /// It cannot be made, or is not ours to write to.
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
            held: watch::Sender::new(None),
            term: watch::Sender::new(None),
        })
    }

    /// Looks at everything once.
    fn look(&self) {
        self.campaign();
        if let Err(error) = self.read() {
            tracing::warn!(%error, "the folder of certificates cannot be read; what is known stays");
        }
    }

    /// Leads where no other process does. The system gives the lock back when its holder ends,
    /// however it ends.
    fn campaign(&self) {
        let mut lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        if lock.term.is_some() || lock.file.try_lock().is_err() {
            return;
        }
        match lock.begin() {
            Ok(term) => {
                lock.term = Some(term);
                self.term.send_replace(Some(term));
            }
            Err(error) => {
                tracing::warn!(%error, "the lock of the folder of certificates cannot be written");
                let _ = lock.file.unlock();
            }
        }
    }

    fn read(&self) -> Result<(), StoreError> {
        let marks = self.marks().map_err(|error| failed(&self.path, error))?;
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if *seen == marks && self.held.borrow().is_some() {
            return Ok(());
        }
        let mut held = Held::default();
        for Mark { name, .. } in &marks {
            if name == STATE {
                held.state = Some(SecretBytes::from(self.load(name)?));
            } else if name == ROLLOVER {
                held.rollover = Some(String::from_utf8_lossy(&self.load(name)?).into_owned());
            } else if let Some(name) = name.strip_suffix(".pem") {
                let certificate = split(
                    &self.path.join(format!("{name}.pem")),
                    &self.load(&format!("{name}.pem"))?,
                );
                let asked = marks.iter().any(|mark| mark.name == format!("{name}.renew"));
                held.certificates
                    .insert(name.to_owned(), Kept { certificate, renewal_asked: asked });
            }
        }
        *seen = marks;
        self.held.send_replace(Some(Arc::new(held)));
        Ok(())
    }

    fn marks(&self) -> io::Result<Vec<Mark>> {
        let mut marks = Vec::new();
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
            // What was removed in the meantime is not there.
            let Ok(about) = entry.metadata() else { continue };
            let modified = (about.mtime(), about.mtime_nsec());
            marks.push(Mark { name, inode: about.ino(), modified, length: about.len() });
            if marks.len() > 2 * MAX_CERTIFICATES {
                return Err(io::Error::other(format!(
                    "it has more than {MAX_CERTIFICATES} certificates"
                )));
            }
        }
        marks.sort_unstable();
        Ok(marks)
    }

    fn load(&self, name: &str) -> Result<Vec<u8>, StoreError> {
        let path = self.path.join(name);
        let mut bytes = Vec::new();
        let read = File::open(&path)
            .and_then(|file| file.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes));
        read.map_err(|error| failed(&path, error))?;
        if bytes.len() > MAX_BYTES { Err(StoreError::TooLarge) } else { Ok(bytes) }
    }

    /// Replaces a file: what is there after a crash is the old one or the new one.
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
        self.take_away(&format!("{}.renew", certificate.name))?;
        self.read()
    }

    fn remove(&self, term: Term, name: &str) -> Result<(), StoreError> {
        self.check(term)?;
        // What asked for its renewal first: it is of no use without it.
        self.take_away(&format!("{name}.renew"))?;
        self.take_away(&format!("{name}.pem"))?;
        self.read()
    }

    /// Refuses whoever does not lead any more.
    fn check(&self, term: Term) -> Result<(), StoreError> {
        let leads = self.lock.lock().unwrap_or_else(PoisonError::into_inner).term == Some(term);
        if leads { Ok(()) } else { Err(StoreError::Superseded) }
    }

    /// Removes a file, where it is there.
    fn take_away(&self, name: &str) -> Result<(), StoreError> {
        let path = self.path.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(&path, error)),
            _ => Ok(()),
        }
    }

    fn ask(&self, name: &str) -> Result<(), StoreError> {
        if !self.held.borrow().as_ref().is_some_and(|held| held.certificates.contains_key(name)) {
            return Err(StoreError::Unknown);
        }
        let path = self.path.join(format!("{name}.renew"));
        let made =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
        made.map_err(|error| failed(&path, error))?;
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
                self.look();
            }
        })
    }

    fn held(&self) -> watch::Receiver<Option<Arc<Held>>> {
        self.held.subscribe()
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

    fn ask_renewal(&self, name: String) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move { self.ask(&name) })
    }

    fn ask_rollover(&self, request: String) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            let path = self.path.join(ROLLOVER);
            atomic_file::replace(&path, request.as_bytes())
                .map_err(|error| failed(&path, error))?;
            self.read()
        })
    }

    /// Other processes do not answer challenges on the same addresses.
    fn spread(&self) -> Duration {
        Duration::ZERO
    }
}

// === impl Lock ===

impl Lock {
    /// The term after the one that is written in the file.
    fn begin(&mut self) -> io::Result<Term> {
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

/// Takes key and chain apart. What is no such pair is found out where it is checked.
fn split(path: &Path, bytes: &[u8]) -> Certificate {
    let place = Place { file: Arc::new(path.to_owned()), line: 1, column: 1 };
    let start = bytes
        .windows(CHAIN.len())
        .position(|window| window == CHAIN.as_bytes())
        .unwrap_or(bytes.len());
    let (key, chain) = bytes.split_at(start);
    Certificate {
        origin: Origin { place: Some(place), ..Origin::default() },
        chain: chain.into(),
        key: SecretBytes::from(key.to_vec()),
    }
}

fn failed(path: &Path, error: io::Error) -> StoreError {
    StoreError::Folder { path: path.display().to_string(), error }
}

#[cfg(test)]
mod tests;
