//! Certificates in files, read anew when they change.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::{MissedTickBehavior, interval};

use super::file_identity::Stamp;
use super::{Source, SourceError, Stopped, Update, Updates};
use crate::model::{Origin, Place};
use crate::problem::{Problem, Severity};
use crate::resources::{Change, Object};
use crate::settings::CertificateSettings;
use crate::snapshot::certificate::{Certificate, SecretBytes};

/// How often files are looked at.
const INTERVAL: Duration = Duration::from_secs(1);
/// How many pairs that seem settled are looked at each time. They take turns, so that many more
/// cost no more, and are only looked at less often.
const AT_ONCE: usize = 2000;
/// The largest file, in bytes.
pub const MAX_FILE_BYTES: u64 = 1 << 20;

/// The files that the configuration names.
#[derive(Debug)]
pub struct CertificateFiles {
    pairs: Vec<Pair>,
    /// Whose turn is next.
    next: usize,
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
    /// Whether nothing more can be learnt of the files before they change again.
    is_settled: bool,
    problem: Option<Problem>,
}

// === impl CertificateFiles ===

impl CertificateFiles {
    /// Those of `settings` that are files.
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
                    told: None,
                    stamps: None,
                    is_settled: false,
                    problem: None,
                })
                .collect(),
            next: 0,
        }
    }

    /// Reads all of them once.
    pub(crate) fn read(settings: &[CertificateSettings], now: SystemTime) -> Update {
        Self::new(settings).look(now)
    }

    /// Looks at those that have changed lately or were never read, and at some of the others.
    fn look(&mut self, now: SystemTime) -> Update {
        let count = self.pairs.len();
        let (mut changes, mut is_other) = (Vec::new(), false);
        for (index, pair) in self.pairs.iter_mut().enumerate() {
            let has_turn = (index + count - self.next) % count < AT_ONCE;
            if has_turn || !pair.is_settled {
                let before = pair.problem.clone();
                changes.extend(pair.look(now));
                is_other |= pair.problem != before;
            }
        }
        self.next = (self.next + AT_ONCE) % count.max(1);
        let problems =
            is_other.then(|| self.pairs.iter().filter_map(|pair| pair.problem.clone()).collect());
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
    /// Chain and key are two files, and change one after the other: what has changed is told once
    /// it is the same two times.
    fn look(&mut self, now: SystemTime) -> Option<Change> {
        let stamps = stamps(&self.settings)
            .filter(|stamps| stamps.iter().all(|stamp| stamp.is_settled(now)));
        if stamps == self.stamps && self.is_settled {
            return None;
        }
        self.stamps = stamps;
        let (certificate, problem) = match read(&self.settings) {
            Ok(certificate) => (Some(certificate), None),
            Err(problem) => (None, Some(problem)),
        };
        self.problem = problem;
        let is_same = self.told.is_none() || self.seen == certificate;
        self.seen = certificate;
        // Files that cannot be read leave the certificate that is known as it is.
        let new = self.seen.as_ref().filter(|_| is_same && self.seen != self.told).cloned();
        if new.is_some() {
            self.told.clone_from(&new);
        }
        self.is_settled = self.stamps.is_some() && self.seen == self.told;
        if self.is_settled {
            // One copy in memory is enough.
            self.seen.clone_from(&self.told);
        }
        new.map(|new| Change::Upsert(Object::Certificate(self.settings.clone(), new)))
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
    Ok(Certificate {
        origin: origin(certificate),
        chain: chain.into(),
        key: SecretBytes::from(secret),
    })
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    if fs::metadata(path)?.len() > MAX_FILE_BYTES {
        return Err(io::Error::other(format!("it has more than {MAX_FILE_BYTES} bytes")));
    }
    fs::read(path)
}

fn origin(path: &Path) -> Origin {
    Origin {
        place: Some(Place { file: Arc::new(path.to_owned()), line: 1, column: 1 }),
        ..Origin::default()
    }
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
        let mut files = CertificateFiles::new(&[CertificateSettings::Files {
            certificate: path("crt"),
            key: path("key"),
        }]);
        fs::write(path("key"), "key").unwrap();
        let mut told = Vec::new();
        for text in ["chain 1", "chain 2"] {
            fs::write(path("crt"), text).unwrap();
            for _ in 0..3 {
                let update = files.look(SystemTime::now() + ago);
                let chains = update.changes.into_iter().filter_map(|change| match change {
                    Change::Upsert(Object::Certificate(_, certificate)) => {
                        Some(certificate.chain.to_vec())
                    }
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
    fn many_are_looked_at_in_turns_and_none_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("key"), "key").unwrap();
        let count = 2 * AT_ONCE + 1;
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
        let mut look = || {
            later += INTERVAL;
            files.look(later).changes.len()
        };
        assert_eq!(look(), count, "all at the start");
        for number in [0, AT_ONCE, 2 * AT_ONCE] {
            fs::write(path(&number.to_string()), "chain 2 is longer").unwrap();
            // Whoever's turn it is: seen once in three looks, and told at the next.
            assert_eq!((0..4).map(|_| look()).sum::<usize>(), 1, "number {number}");
        }
    }

    #[test]
    fn files_that_went_away_are_told_and_what_they_held_is_not_taken_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name| folder.path().join(name);
        let mut files = CertificateFiles::new(&[CertificateSettings::Files {
            certificate: path("crt"),
            key: path("key"),
        }]);
        fs::write(path("key"), "key").unwrap();
        fs::write(path("crt"), "chain").unwrap();
        let later = SystemTime::now() + Duration::from_secs(3600);
        assert_eq!(files.look(later).changes.len(), 1);
        fs::remove_file(path("crt")).unwrap();
        let update = files.look(later);
        assert_eq!(
            (update.changes.len(), update.problems.map(|problems| problems.len())),
            (0, Some(1))
        );
        fs::write(path("crt"), "chain").unwrap();
        let update = files.look(later);
        assert_eq!((update.changes.len(), update.problems), (0, Some(vec![])));
    }
}
