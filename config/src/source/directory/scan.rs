//! What is in a folder, as far as it is new.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::problem::{Origin, Place, Problem, Severity};
use crate::resources::{Object, ObjectId};
use crate::source::Secrets;
use crate::source::manifest::read_manifests;

/// The largest file, in bytes.
pub(super) const MAX_FILE_BYTES: u64 = 16 << 20;
/// The most files.
pub(super) const MAX_FILES: usize = 10_000;
/// The deepest nesting of folders.
pub(super) const MAX_DEPTH: usize = 16;

/// How coarse the clock of a file system may be: a file that was written so shortly before it was read may have been written
/// again without a trace.
const CLOCK: Duration = Duration::from_secs(2);

/// A folder, and what was last read of it.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    secrets: Secrets,
    files: BTreeMap<PathBuf, Manifests>,
    /// What is wrong with the folder itself.
    problems: Vec<Problem>,
    /// The Secrets that were told last.
    secrets_there: BTreeSet<ObjectId>,
    scanned: bool,
    readable: bool,
}

/// All that a folder defines.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) objects: Vec<Object>,
    /// Certificates that were there before and are no longer.
    pub(super) gone: Vec<ObjectId>,
    pub(super) problems: Vec<Problem>,
    /// Whether the folder could be read at all.
    pub(super) readable: bool,
}

/// One file, as last read.
#[derive(Debug, Default)]
struct Manifests {
    /// `None` where it must be read again in any case.
    stamp: Option<Stamp>,
    objects: Vec<Object>,
    problems: Vec<Problem>,
}

/// What tells that a file has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

// === impl Folder ===

impl Folder {
    pub(super) fn new(path: PathBuf, secrets: Secrets) -> Self {
        Self {
            path,
            secrets,
            files: BTreeMap::new(),
            problems: Vec::new(),
            secrets_there: BTreeSet::new(),
            scanned: false,
            readable: false,
        }
    }

    /// Reads what has changed since the last time; all that there is now, or `None` where nothing has changed.
    pub(super) fn scan(&mut self, now: SystemTime) -> Option<Contents> {
        let mut walk = Walk::default();
        walk.folder(&self.path, 0);
        let mut changed = !self.scanned || walk.problems != self.problems;
        // A folder that cannot be read says nothing of what is in it.
        if !walk.incomplete {
            let before = self.files.len();
            self.files.retain(|path, _| walk.files.contains_key(path));
            changed |= self.files.len() != before;
        }
        self.problems = walk.problems;
        for (path, metadata) in walk.files {
            changed |= self.file(path, &metadata, now);
        }
        self.scanned = true;
        self.readable |= walk.readable;
        changed.then(|| self.contents())
    }

    /// Reads a file, if it is not known as it is now; tells whether anything came of that.
    fn file(&mut self, path: PathBuf, metadata: &Metadata, now: SystemTime) -> bool {
        let stamp = Stamp::of(metadata);
        let known = self.files.entry(path.clone()).or_default();
        if known.stamp == Some(stamp) {
            return false;
        }
        let settled = metadata.modified().is_ok_and(|modified| now.duration_since(modified).is_ok_and(|age| age > CLOCK));
        known.stamp = settled.then_some(stamp);
        let file = Arc::new(path);
        let (objects, problems) = match read_bounded(&file) {
            Ok(bytes) => read_manifests(&file, &bytes, &self.secrets),
            Err(error) => (Vec::new(), vec![unreadable(&file, &error)]),
        };
        let objects = with_last_good(objects, &problems, &known.objects);
        let changed = known.objects != objects || known.problems != problems;
        (known.objects, known.problems) = (objects, problems);
        changed
    }

    fn contents(&mut self) -> Contents {
        let mut contents = Contents { problems: self.problems.clone(), readable: self.readable, ..Contents::default() };
        let mut seen: BTreeMap<ObjectId, Origin> = BTreeMap::new();
        for file in self.files.values() {
            contents.problems.extend_from_slice(&file.problems);
            for object in &file.objects {
                match seen.get(&object.id()) {
                    Some(first) => contents.problems.push(twice(object, first)),
                    None => {
                        seen.insert(object.id(), object.origin().clone());
                        contents.objects.push(object.clone());
                    }
                }
            }
        }
        let secrets = seen.into_keys().filter(|id| matches!(id, ObjectId::Certificate(_))).collect();
        let before = std::mem::replace(&mut self.secrets_there, secrets);
        contents.gone = before.difference(&self.secrets_there).cloned().collect();
        contents
    }
}

/// The objects of a file, and those that it defined before and of which `problems` leave in doubt what has become. A credential that is in doubt
/// is none: it may have been about to be revoked.
fn with_last_good(mut objects: Vec<Object>, problems: &[Problem], before: &[Object]) -> Vec<Object> {
    let in_doubt = |object: &Object| {
        let origin = object.origin();
        let lasts = !matches!(object, Object::Credential(_));
        lasts
            && problems.iter().map(|problem| &problem.origin).any(|broken| {
                let unnamed = broken.kind.is_empty() || broken.name.is_empty();
                unnamed || (broken.kind, &broken.namespace, &broken.name) == (origin.kind, &origin.namespace, &origin.name)
            })
    };
    let read: BTreeSet<ObjectId> = objects.iter().map(Object::id).collect();
    objects.extend(before.iter().filter(|object| !read.contains(&object.id()) && in_doubt(object)).cloned());
    objects
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(io::Error::other(format!("it has more than {MAX_FILE_BYTES} bytes")));
    }
    Ok(bytes)
}

fn unreadable(path: &Path, error: &io::Error) -> Problem {
    problem(path, format!("it cannot be read: {error}"), "make it readable, or take it away")
}

fn problem(path: &Path, message: String, help: &str) -> Problem {
    let place = Place { file: Arc::new(path.to_owned()), line: 1, column: 1 };
    let origin = Origin { place: Some(place), ..Origin::default() };
    Problem { severity: Severity::Error, reason: "Unreadable", origin, message, help: help.to_owned() }
}

fn twice(object: &Object, first: &Origin) -> Problem {
    Problem {
        severity: Severity::Error,
        reason: "DefinedTwice",
        origin: object.origin().clone(),
        message: match &first.place {
            Some(place) => format!("it is defined at {place} already, which counts"),
            None => "it is defined already".to_owned(),
        },
        help: "take one of the two away".to_owned(),
    }
}

// === impl Stamp ===

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// Finds the manifests of a folder. Hidden files and folders are left aside: editors and Kubernetes' volumes keep their own
/// things there. Links are followed to files, not to folders.
#[derive(Default)]
struct Walk {
    files: BTreeMap<PathBuf, Metadata>,
    problems: Vec<Problem>,
    incomplete: bool,
    readable: bool,
}

// === impl Walk ===

impl Walk {
    fn folder(&mut self, path: &Path, depth: usize) {
        if depth > MAX_DEPTH {
            return self.fail(path, format!("folders are in one another more than {MAX_DEPTH} deep"), "keep manifests nearer to the top");
        }
        let entries = match fs::read_dir(path) {
            Ok(entries) => entries,
            // It went away between listing its parent and this: not there, not broken.
            Err(error) if error.kind() == io::ErrorKind::NotFound && depth > 0 => return,
            Err(error) => return self.fail(path, format!("the folder cannot be read: {error}"), "make the folder readable"),
        };
        self.readable = true;
        let mut entries: Vec<fs::DirEntry> = entries.filter_map(Result::ok).collect();
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            if !entry.file_name().as_encoded_bytes().starts_with(b".") {
                self.entry(&entry, depth);
            }
        }
    }

    fn entry(&mut self, entry: &fs::DirEntry, depth: usize) {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => self.folder(&path, depth + 1),
            _ if !is_manifest(&path) => {}
            _ if self.files.len() >= MAX_FILES => {
                if !self.incomplete {
                    let message = format!("there are more than {MAX_FILES} files; this one and those after it are left aside");
                    self.fail(&path, message, "put several manifests into one file");
                }
            }
            _ => match fs::metadata(&path) {
                Ok(metadata) if metadata.is_file() => {
                    self.files.insert(path, metadata);
                }
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    self.incomplete = true;
                    self.problems.push(unreadable(&path, &error));
                }
                _ => {}
            },
        }
    }

    fn fail(&mut self, path: &Path, message: String, help: &str) {
        self.incomplete = true;
        self.problems.push(problem(path, message, help));
    }
}

fn is_manifest(path: &Path) -> bool {
    path.extension().and_then(|extension| extension.to_str()).is_some_and(|extension| matches!(extension, "yaml" | "yml" | "json"))
}
