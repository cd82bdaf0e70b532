//! Certificates in files, reloaded when they change.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::{MissedTickBehavior, interval};

use super::file_identity::FileIdentity;
use super::{Closed, Source, SourceError, Update, Updates};
use crate::model::{Origin, SourceLocation};
use crate::problem::{Problem, Severity};
use crate::resources::{Change, Object};
use crate::settings::CertificateSettings;
use crate::snapshot::certificate::{Certificate, SecretBytes};

/// The interval between polls.
const INTERVAL: Duration = Duration::from_secs(1);
/// How many settled pairs a poll checks, round-robin: more pairs do not make a poll slower, only
/// rarer for each pair.
const BATCH: usize = 2000;
/// The largest file, in bytes.
pub const MAX_FILE_BYTES: u64 = 1 << 20;

/// The certificate files that the configuration names.
#[derive(Debug)]
pub struct CertificateFiles {
    pairs: Vec<Pair>,
    /// The index of the pair that the next poll starts at.
    next: usize,
}

/// A certificate chain and its key.
#[derive(Debug)]
struct Pair {
    settings: CertificateSettings,
    /// The last certificate that was read, reported or not.
    seen: Option<Certificate>,
    reported: Option<Certificate>,
    /// The identities of the files before they were read, if they reveal every later change.
    identities: Option<[FileIdentity; 2]>,
    /// Whether the files need not be read again until their identities change.
    is_settled: bool,
    problem: Option<Problem>,
}

// === impl CertificateFiles ===

impl CertificateFiles {
    /// Creates a source of those of `settings` that are files.
    #[must_use]
    pub fn new(settings: &[CertificateSettings]) -> Self {
        let files = settings
            .iter()
            .filter(|settings| matches!(settings, CertificateSettings::Files { .. }));
        Self {
            pairs: files
                .map(|settings| Pair {
                    settings: settings.clone(),
                    seen: None,
                    reported: None,
                    identities: None,
                    is_settled: false,
                    problem: None,
                })
                .collect(),
            next: 0,
        }
    }

    /// Reads all files once.
    pub(crate) fn read(settings: &[CertificateSettings], now: SystemTime) -> Update {
        Self::new(settings).poll(now)
    }

    /// Checks the pairs that are not settled, and the next batch of the others.
    fn poll(&mut self, now: SystemTime) -> Update {
        let count = self.pairs.len();
        let (mut changes, mut problems_changed) = (Vec::new(), false);
        for (index, pair) in self.pairs.iter_mut().enumerate() {
            let in_batch = (index + count - self.next) % count < BATCH;
            if in_batch || !pair.is_settled {
                let before = pair.problem.clone();
                changes.extend(pair.poll(now));
                problems_changed |= pair.problem != before;
            }
        }
        self.next = (self.next + BATCH) % count.max(1);
        let problems = problems_changed
            .then(|| self.pairs.iter().filter_map(|pair| pair.problem.clone()).collect());
        Update { changes, problems, synced: true, as_of: None }
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
                () = updates.closed() => return Ok(()),
            }
            let update = self.poll(SystemTime::now());
            let has_changes = !update.changes.is_empty() || update.problems.is_some() || !synced;
            synced = true;
            if has_changes && let Err(Closed) = updates.send(update).await {
                return Ok(());
            }
        }
    }
}

// === impl Pair ===

impl Pair {
    /// Reads the files if they changed. Chain and key are separate files that change one after the
    /// other, so a change is reported once two polls read the same.
    fn poll(&mut self, now: SystemTime) -> Option<Change> {
        let identities = identities(&self.settings)
            .filter(|identities| identities.iter().all(|identity| identity.is_settled(now)));
        if identities == self.identities && self.is_settled {
            return None;
        }
        self.identities = identities;
        let (certificate, problem) = match read(&self.settings) {
            Ok(certificate) => (Some(certificate), None),
            Err(problem) => (None, Some(problem)),
        };
        self.problem = problem;
        let is_same = self.reported.is_none() || self.seen == certificate;
        self.seen = certificate;
        // If the files cannot be read, the last certificate stays in use.
        let new = self.seen.as_ref().filter(|_| is_same && self.seen != self.reported).cloned();
        if new.is_some() {
            self.reported.clone_from(&new);
        }
        self.is_settled = self.identities.is_some() && self.seen == self.reported;
        if self.is_settled {
            // Share one copy in memory.
            self.seen.clone_from(&self.reported);
        }
        new.map(|new| Change::Upsert(Object::Certificate(self.settings.clone(), new)))
    }
}

fn identities(settings: &CertificateSettings) -> Option<[FileIdentity; 2]> {
    let CertificateSettings::Files { certificate, key } = settings else { return None };
    let of = |path: &Path| fs::metadata(path).ok().map(|metadata| FileIdentity::of(&metadata));
    Some([of(certificate)?, of(key)?])
}

fn read(settings: &CertificateSettings) -> Result<Certificate, Problem> {
    let CertificateSettings::Files { certificate, key } = settings else {
        return Err(problem(Path::new(""), &io::Error::other("not a file")));
    };
    let chain = read_bounded(certificate).map_err(|error| problem(certificate, &error))?;
    let secret = read_bounded(key).map_err(|error| problem(key, &error))?;
    Ok(Certificate {
        origin: origin(certificate),
        chain: chain.into(),
        key: SecretBytes::from(secret),
    })
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    if fs::metadata(path)?.len() > MAX_FILE_BYTES {
        return Err(io::Error::other(format!("larger than {MAX_FILE_BYTES} bytes")));
    }
    fs::read(path)
}

fn origin(path: &Path) -> Origin {
    Origin {
        place: Some(SourceLocation { file: Arc::new(path.to_owned()), line: 1, column: 1 }),
        ..Origin::default()
    }
}

fn problem(path: &Path, error: &io::Error) -> Problem {
    Problem {
        severity: Severity::Error,
        reason: "CertificateUnreadable",
        origin: origin(path),
        message: format!("failed to read the file: {error}"),
        help: "restore the file; until then the last certificate read from it is served".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The chains that three polls report, before and after the file is rewritten.
    fn reported(ago: Duration) -> Vec<Vec<Vec<u8>>> {
        let folder = tempfile::tempdir().unwrap();
        let path = |name| folder.path().join(name);
        let mut files = CertificateFiles::new(&[CertificateSettings::Files {
            certificate: path("crt"),
            key: path("key"),
        }]);
        fs::write(path("key"), "key").unwrap();
        let mut reported = Vec::new();
        for text in ["chain 1", "chain 2"] {
            fs::write(path("crt"), text).unwrap();
            for _ in 0..3 {
                let update = files.poll(SystemTime::now() + ago);
                let chains = update.changes.into_iter().filter_map(|change| match change {
                    Change::Upsert(Object::Certificate(_, certificate)) => {
                        Some(certificate.chain.to_vec())
                    }
                    _ => None,
                });
                reported.push(chains.collect());
            }
        }
        reported
    }

    #[test]
    fn a_change_is_reported_after_two_identical_reads() {
        let (first, second) = (b"chain 1".to_vec(), b"chain 2".to_vec());
        let expected = [vec![first], vec![], vec![], vec![], vec![second], vec![]];
        assert_eq!(reported(Duration::ZERO), expected, "written at the time of the poll");
        assert_eq!(reported(Duration::from_secs(3600)), expected, "written an hour before");
    }

    #[test]
    fn many_files_are_polled_in_batches() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("key"), "key").unwrap();
        let count = 2 * BATCH + 1;
        let settings: Vec<CertificateSettings> = (0..count)
            .map(|number| {
                fs::write(path(&number.to_string()), "chain 1").unwrap();
                CertificateSettings::Files {
                    certificate: path(&number.to_string()),
                    key: path("key"),
                }
            })
            .collect();
        let mut files = CertificateFiles::new(&settings);
        let mut later = SystemTime::now() + Duration::from_secs(3600);
        let mut poll = || {
            later += INTERVAL;
            files.poll(later).changes.len()
        };
        assert_eq!(poll(), count, "all at the start");
        for number in [0, BATCH, 2 * BATCH] {
            fs::write(path(&number.to_string()), "chain 2 is longer").unwrap();
            // Each is in one of three polls, and reported by the one after it.
            assert_eq!((0..4).map(|_| poll()).sum::<usize>(), 1, "number {number}");
        }
    }

    #[test]
    fn a_removed_file_is_reported_and_its_certificate_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name| folder.path().join(name);
        let mut files = CertificateFiles::new(&[CertificateSettings::Files {
            certificate: path("crt"),
            key: path("key"),
        }]);
        fs::write(path("key"), "key").unwrap();
        fs::write(path("crt"), "chain").unwrap();
        let later = SystemTime::now() + Duration::from_secs(3600);
        assert_eq!(files.poll(later).changes.len(), 1);
        fs::remove_file(path("crt")).unwrap();
        let update = files.poll(later);
        assert_eq!(
            (update.changes.len(), update.problems.map(|problems| problems.len())),
            (0, Some(1))
        );
        fs::write(path("crt"), "chain").unwrap();
        let update = files.poll(later);
        assert_eq!((update.changes.len(), update.problems), (0, Some(vec![])));
    }
}
