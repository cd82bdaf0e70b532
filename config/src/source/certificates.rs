//! Certificates in files, read anew when they change.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::{MissedTickBehavior, interval};

use super::stamp::Stamp;
use super::{Source, SourceError, Stopped, Update, Updates};
use crate::problem::{Origin, Place, Problem, Severity};
use crate::resources::{Change, Object};
use crate::settings::CertificateSettings;
use crate::snapshot::certificate::{Certificate, SecretBytes};

/// How often the files are looked at.
pub const INTERVAL: Duration = Duration::from_secs(1);
/// The largest file, in bytes.
pub const MAX_FILE_BYTES: u64 = 1 << 20;

/// The files that the configuration names.
#[derive(Debug)]
pub struct CertificateFiles {
    pairs: Vec<Pair>,
}

/// A chain and its key.
#[derive(Debug)]
struct Pair {
    settings: CertificateSettings,
    /// What was read the last time, told or not.
    seen: Option<Certificate>,
    told: Option<Certificate>,
    /// The files as they were before they were read, where any change since shows.
    stamps: Option<[Stamp; 2]>,
    problem: Option<Problem>,
}

// === impl CertificateFiles ===

impl CertificateFiles {
    /// Those of `settings` that are files.
    #[must_use]
    pub fn new(settings: &[CertificateSettings]) -> Self {
        let files = settings.iter().filter(|settings| matches!(settings, CertificateSettings::Files { .. }));
        Self {
            pairs: files.map(|settings| Pair { settings: settings.clone(), seen: None, told: None, stamps: None, problem: None }).collect(),
        }
    }

    fn look(&mut self, now: SystemTime) -> Update {
        let before: Vec<Option<Problem>> = self.pairs.iter().map(|pair| pair.problem.clone()).collect();
        let changes = self.pairs.iter_mut().filter_map(|pair| pair.look(now)).collect();
        let changed = self.pairs.iter().map(|pair| &pair.problem).ne(&before);
        let problems = changed.then(|| self.pairs.iter().filter_map(|pair| pair.problem.clone()).collect());
        Update { changes, problems, synced: true, heard: None }
    }
}

impl Source for CertificateFiles {
    async fn run(mut self, updates: Updates) -> Result<(), SourceError> {
        let mut ticks = interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut synced = false;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = updates.stopped() => return Ok(()),
            }
            let update = self.look(SystemTime::now());
            let news = !update.changes.is_empty() || update.problems.is_some() || !synced;
            synced = true;
            if news && let Err(Stopped) = updates.tell(update).await {
                return Ok(());
            }
        }
    }
}

// === impl Pair ===

impl Pair {
    /// Chain and key are two files, and change one after the other: what has changed is told once it is the same two times.
    fn look(&mut self, now: SystemTime) -> Option<Change> {
        let stamps = stamps(&self.settings).filter(|stamps| stamps.iter().all(|stamp| stamp.is_settled(now)));
        if stamps.is_some() && stamps == self.stamps && self.seen == self.told {
            return None;
        }
        self.stamps = stamps;
        let (certificate, problem) = match read(&self.settings) {
            Ok(certificate) => (Some(certificate), None),
            Err(problem) => (None, Some(problem)),
        };
        self.problem = problem;
        let settled = self.told.is_none() || self.seen == certificate;
        self.seen = certificate;
        // Files that cannot be read leave the certificate that is known as it is.
        if self.seen == self.told {
            // One copy in memory is enough.
            self.seen.clone_from(&self.told);
            return None;
        }
        let new = self.seen.as_ref().filter(|_| settled)?;
        self.told = Some(new.clone());
        Some(Change::Upsert(Object::Certificate(self.settings.clone(), new.clone())))
    }
}

fn stamps(settings: &CertificateSettings) -> Option<[Stamp; 2]> {
    let CertificateSettings::Files { certificate, key } = settings else { return None };
    let of = |path: &Path| fs::metadata(path).ok().map(|metadata| Stamp::of(&metadata));
    Some([of(certificate)?, of(key)?])
}

fn read(settings: &CertificateSettings) -> Result<Certificate, Problem> {
    let CertificateSettings::Files { certificate, key } = settings else {
        return Err(problem(Path::new(""), &io::Error::other("it is not a file")));
    };
    let chain = read_bounded(certificate).map_err(|error| problem(certificate, &error))?;
    let secret = read_bounded(key).map_err(|error| problem(key, &error))?;
    Ok(Certificate { origin: origin(certificate), chain: chain.into(), key: SecretBytes::from(secret) })
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    if fs::metadata(path)?.len() > MAX_FILE_BYTES {
        return Err(io::Error::other(format!("it has more than {MAX_FILE_BYTES} bytes")));
    }
    fs::read(path)
}

fn origin(path: &Path) -> Origin {
    Origin { place: Some(Place { file: Arc::new(path.to_owned()), line: 1, column: 1 }), ..Origin::default() }
}

fn problem(path: &Path, error: &io::Error) -> Problem {
    Problem {
        severity: Severity::Error,
        reason: "CertificateUnreadable",
        origin: origin(path),
        message: format!("it cannot be read: {error}"),
        help: "put it back; until then the certificate that was last read is served".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is told of a chain at three looks, before and after it is written anew.
    fn told(ago: Duration) -> Vec<Vec<Vec<u8>>> {
        let folder = tempfile::tempdir().unwrap();
        let path = |name| folder.path().join(name);
        let mut files = CertificateFiles::new(&[CertificateSettings::Files { certificate: path("crt"), key: path("key") }]);
        fs::write(path("key"), "key").unwrap();
        let mut told = Vec::new();
        for text in ["chain 1", "chain 2"] {
            fs::write(path("crt"), text).unwrap();
            for _ in 0..3 {
                let update = files.look(SystemTime::now() + ago);
                let chains = update.changes.into_iter().filter_map(|change| match change {
                    Change::Upsert(Object::Certificate(_, certificate)) => Some(certificate.chain.to_vec()),
                    _ => None,
                });
                told.push(chains.collect());
            }
        }
        told
    }

    #[test]
    fn what_has_changed_is_told_once_it_is_the_same_two_times() {
        let (first, second) = (b"chain 1".to_vec(), b"chain 2".to_vec());
        let expected = [vec![first], vec![], vec![], vec![], vec![second], vec![]];
        assert_eq!(told(Duration::ZERO), expected, "written in the moment of the look");
        assert_eq!(told(Duration::from_secs(3600)), expected, "written an hour before");
    }

    #[test]
    fn files_that_went_away_are_told_and_what_they_held_is_not_taken_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name| folder.path().join(name);
        let mut files = CertificateFiles::new(&[CertificateSettings::Files { certificate: path("crt"), key: path("key") }]);
        fs::write(path("key"), "key").unwrap();
        fs::write(path("crt"), "chain").unwrap();
        let later = SystemTime::now() + Duration::from_secs(3600);
        assert_eq!(files.look(later).changes.len(), 1);
        fs::remove_file(path("crt")).unwrap();
        let update = files.look(later);
        assert_eq!((update.changes.len(), update.problems.map(|problems| problems.len())), (0, Some(1)));
        fs::write(path("crt"), "chain").unwrap();
        let update = files.look(later);
        assert_eq!((update.changes.len(), update.problems), (0, Some(vec![])));
    }
}
