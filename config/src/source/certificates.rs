//! Certificates in files, read anew when they change.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

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
    problem: Option<Problem>,
}

// === impl CertificateFiles ===

impl CertificateFiles {
    /// Those of `settings` that are files.
    #[must_use]
    pub fn new(settings: &[CertificateSettings]) -> Self {
        let files = settings.iter().filter(|settings| matches!(settings, CertificateSettings::Files { .. }));
        Self { pairs: files.map(|settings| Pair { settings: settings.clone(), seen: None, told: None, problem: None }).collect() }
    }

    fn look(&mut self) -> Update {
        let before: Vec<Option<Problem>> = self.pairs.iter().map(|pair| pair.problem.clone()).collect();
        let changes = self.pairs.iter_mut().filter_map(Pair::look).collect();
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
            let update = self.look();
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
    fn look(&mut self) -> Option<Change> {
        let (certificate, problem) = match read(&self.settings) {
            Ok(certificate) => (Some(certificate), None),
            Err(problem) => (None, Some(problem)),
        };
        self.problem = problem;
        let settled = self.told.is_none() || self.seen == certificate;
        self.seen = certificate;
        // Files that cannot be read leave the certificate that is known as it is.
        let new = self.seen.as_ref().filter(|seen| settled && self.told.as_ref() != Some(seen))?;
        self.told = Some(new.clone());
        Some(Change::Upsert(Object::Certificate(self.settings.clone(), new.clone())))
    }
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
