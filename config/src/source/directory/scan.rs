//! Scans a folder for changes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use crate::model::{Origin, SourceLocation};
use crate::problem::{Problem, Severity};
use crate::resources::{Change, Object, ObjectId};
use crate::source::Secrets;
use crate::source::file_identity::FileIdentity;
use crate::source::manifest::{Manifests, read_manifests};

/// The maximum size of a file, in bytes.
pub(super) const MAX_FILE_BYTES: u64 = 16 << 20;
/// The maximum number of files.
pub(super) const MAX_FILES: usize = 50_000;
/// The maximum nesting depth of folders.
pub(super) const MAX_DEPTH: usize = 16;

/// Folders, and the content read by the last scan.
#[derive(Debug)]
pub(super) struct Folder {
    /// Folders, or files.
    paths: Vec<PathBuf>,
    secrets: Secrets,
    files: BTreeMap<PathBuf, CachedFile>,
    /// The files that define an object, sorted, once for each definition: the first takes effect.
    definitions: BTreeMap<ObjectId, Vec<Arc<PathBuf>>>,
    /// The files that have problems.
    invalid: BTreeSet<PathBuf>,
    /// Objects with more than one definition.
    duplicates: BTreeSet<ObjectId>,
    /// Problems of the folder itself.
    problems: Vec<Problem>,
    /// Whether files are reached through symbolic links: a change can then be at another path.
    has_links: bool,
    scanned: bool,
    readable: bool,
}

/// The outcome of a scan.
#[derive(Debug, Default)]
pub(super) struct Diff {
    /// New, changed and deleted objects.
    pub(super) changes: Vec<Change>,
    /// All current problems.
    pub(super) problems: Vec<Problem>,
    /// Whether the folder could be read at all.
    pub(super) readable: bool,
}

/// A file as it was last read.
#[derive(Debug, Default)]
struct CachedFile {
    /// `None` if the file must be read again regardless.
    identity: Option<FileIdentity>,
    manifests: Manifests,
}

// === impl Folder ===

impl Folder {
    pub(super) fn new(paths: Vec<PathBuf>, secrets: Secrets) -> Self {
        Self {
            paths,
            secrets,
            files: BTreeMap::new(),
            definitions: BTreeMap::new(),
            invalid: BTreeSet::new(),
            duplicates: BTreeSet::new(),
            problems: Vec::new(),
            has_links: false,
            scanned: false,
            readable: false,
        }
    }

    /// Reads what has changed since the last scan; returns `None` if nothing has. `changed` are the
    /// paths of all changes, if known: then other files are not accessed.
    pub(super) fn scan(
        &mut self,
        changed: Option<&BTreeSet<PathBuf>>,
        now: SystemTime,
    ) -> Option<Diff> {
        let mut affected = BTreeSet::new();
        let has_changes = match changed.and_then(|paths| self.known_files(paths)) {
            Some(files) => self.scan_files(files, now, &mut affected),
            None => self.scan_all(now, &mut affected),
        };
        has_changes.then(|| self.diff(affected))
    }

    /// The files at `paths`, if each is a known file or is not read at all; `None` if the whole
    /// folder must be scanned.
    fn known_files(&self, paths: &BTreeSet<PathBuf>) -> Option<Vec<(PathBuf, Option<Metadata>)>> {
        if !self.scanned || self.has_links {
            return None;
        }
        let mut files = Vec::new();
        for path in paths {
            let metadata = match fs::symlink_metadata(path) {
                Ok(metadata) if metadata.is_file() => Some(metadata),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                _ => return None,
            };
            if self.files.contains_key(path) {
                files.push((path.clone(), metadata));
            } else if is_manifest(path) || self.is_folder(path) {
                return None;
            }
        }
        Some(files)
    }

    /// Whether known files are below `path`.
    fn is_folder(&self, path: &Path) -> bool {
        let mut from = self.files.range::<Path, _>((Bound::Excluded(path), Bound::Unbounded));
        from.next().is_some_and(|(file, _)| file.starts_with(path))
    }

    fn scan_files(
        &mut self,
        files: Vec<(PathBuf, Option<Metadata>)>,
        now: SystemTime,
        affected: &mut BTreeSet<ObjectId>,
    ) -> bool {
        let mut has_changes = false;
        for (path, metadata) in files {
            has_changes |= match metadata {
                Some(metadata) => {
                    // The file has changed, even if its identity has not.
                    self.files.entry(path.clone()).or_default().identity = None;
                    self.file(path, &metadata, now, affected)
                }
                None => self.forget(&path, affected),
            };
        }
        has_changes
    }

    fn scan_all(&mut self, now: SystemTime, affected: &mut BTreeSet<ObjectId>) -> bool {
        let mut walk = Walk::default();
        for path in &self.paths {
            walk.root(path);
        }
        let mut has_changes = !self.scanned || walk.problems != self.problems;
        // If a folder cannot be read, its files count as unchanged.
        if !walk.incomplete {
            let deleted: Vec<PathBuf> =
                self.files.keys().filter(|path| !walk.files.contains_key(*path)).cloned().collect();
            for path in deleted {
                has_changes |= self.forget(&path, affected);
            }
        }
        self.problems = walk.problems;
        self.has_links = walk.has_links;
        for (path, metadata) in walk.files {
            has_changes |= self.file(path, &metadata, now, affected);
        }
        self.scanned = true;
        self.readable |= walk.readable;
        has_changes
    }

    /// Reads a file if its identity has changed, and returns whether its content has.
    fn file(
        &mut self,
        path: PathBuf,
        metadata: &Metadata,
        now: SystemTime,
        affected: &mut BTreeSet<ObjectId>,
    ) -> bool {
        let identity = FileIdentity::of(metadata);
        let cached = self.files.entry(path.clone()).or_default();
        if cached.identity == Some(identity) {
            return false;
        }
        cached.identity = identity.is_settled(now).then_some(identity);
        let file = Arc::new(path);
        let mut manifests = match read_bounded(&file) {
            Ok(bytes) => read_manifests(&file, &bytes, &self.secrets),
            Err(error) => {
                Manifests { problems: vec![unreadable(&file, &error)], ..Manifests::default() }
            }
        };
        manifests.objects =
            with_last_good(manifests.objects, &manifests.problems, &cached.manifests.objects);
        let has_changes = cached.manifests.objects != manifests.objects
            || cached.manifests.problems != manifests.problems;
        if manifests.problems.is_empty() {
            self.invalid.remove(&*file);
        } else {
            self.invalid.insert(file.to_path_buf());
        }
        let before = std::mem::replace(&mut cached.manifests, manifests);
        undefine(&mut self.definitions, &file, &before.objects, affected);
        for object in &cached.manifests.objects {
            let files = self.definitions.entry(object.id()).or_default();
            files.insert(files.partition_point(|other| *other <= file), Arc::clone(&file));
            affected.insert(object.id());
        }
        has_changes
    }

    /// Removes a deleted file from the cache, and returns whether it was there.
    fn forget(&mut self, path: &Path, affected: &mut BTreeSet<ObjectId>) -> bool {
        let Some(cached) = self.files.remove(path) else { return false };
        self.invalid.remove(path);
        undefine(&mut self.definitions, path, &cached.manifests.objects, affected);
        true
    }

    /// The valid parts of partly invalid objects.
    pub(super) fn partial(&self) -> impl Iterator<Item = &Object> {
        self.files.values().flat_map(|cached| &cached.manifests.partial)
    }

    /// The diff after the definitions of `affected` may have changed.
    fn diff(&mut self, mut affected: BTreeSet<ObjectId>) -> Diff {
        for id in &affected {
            if self.definitions.get(id).is_some_and(|files| files.len() > 1) {
                self.duplicates.insert(id.clone());
            } else {
                self.duplicates.remove(id);
            }
        }
        // File by file, since one file may define all objects.
        let files: BTreeSet<&PathBuf> =
            affected.iter().filter_map(|id| Some(&**self.definitions.get(id)?.first()?)).collect();
        let mut changes = Vec::with_capacity(affected.len());
        for (file, object) in self.objects(files.into_iter()) {
            let id = object.id();
            if self
                .definitions
                .get(&id)
                .and_then(|files| files.first())
                .is_some_and(|first| **first == *file)
                && affected.remove(&id)
            {
                changes.push(Change::Upsert(object.clone()));
            }
        }
        changes.extend(
            affected
                .into_iter()
                .filter(|id| !self.definitions.contains_key(id))
                .map(Change::Delete),
        );
        Diff { changes, problems: self.all_problems(), readable: self.readable }
    }

    fn all_problems(&self) -> Vec<Problem> {
        let mut problems = self.problems.clone();
        problems.extend(
            self.invalid
                .iter()
                .filter_map(|file| self.files.get(file))
                .flat_map(|file| &file.manifests.problems)
                .cloned(),
        );
        let files: BTreeSet<&PathBuf> = self
            .duplicates
            .iter()
            .filter_map(|id| self.definitions.get(id))
            .flatten()
            .map(|file| &**file)
            .collect();
        let mut first: BTreeMap<ObjectId, &Origin> = BTreeMap::new();
        for (_, object) in self.objects(files.into_iter()) {
            let id = object.id();
            if !self.duplicates.contains(&id) {
                continue;
            }
            match first.get(&id) {
                Some(first) => problems.push(duplicate(object, first)),
                None => drop(first.insert(id, object.origin())),
            }
        }
        problems
    }

    /// The objects of some files, with their files.
    fn objects<'a>(
        &'a self,
        files: impl Iterator<Item = &'a PathBuf>,
    ) -> impl Iterator<Item = (&'a PathBuf, &'a Object)> {
        let cached = files.filter_map(|file| Some((file, self.files.get(file)?)));
        cached.flat_map(|(file, cached)| {
            cached.manifests.objects.iter().map(move |object| (file, object))
        })
    }
}

/// Removes the definitions of `objects` by a file.
fn undefine(
    definitions: &mut BTreeMap<ObjectId, Vec<Arc<PathBuf>>>,
    file: &Path,
    objects: &[Object],
    affected: &mut BTreeSet<ObjectId>,
) {
    for id in objects.iter().map(Object::id) {
        if let Some(files) = definitions.get_mut(&id) {
            files.retain(|other| ***other != *file);
            if files.is_empty() {
                definitions.remove(&id);
            }
        }
        affected.insert(id);
    }
}

/// Adds those objects that the file defined before and that `problems` may affect. Credentials are
/// not kept: the change may have been meant to revoke them.
fn with_last_good(
    mut objects: Vec<Object>,
    problems: &[Problem],
    before: &[Object],
) -> Vec<Object> {
    let in_doubt = |object: &Object| {
        let origin = object.origin();
        let is_kept = !matches!(object, Object::Credential(_));
        is_kept
            && problems.iter().map(|problem| &problem.origin).any(|invalid| {
                let unnamed = invalid.kind.is_empty() || invalid.name.is_empty();
                unnamed
                    || (invalid.kind, &invalid.namespace, &invalid.name)
                        == (origin.kind, &origin.namespace, &origin.name)
            })
    };
    let read: BTreeSet<ObjectId> = objects.iter().map(Object::id).collect();
    objects.extend(
        before.iter().filter(|object| !read.contains(&object.id()) && in_doubt(object)).cloned(),
    );
    objects
}

/// The files of a folder that may be manifests.
pub(super) fn files(folder: &Path) -> Vec<PathBuf> {
    let mut walk = Walk::default();
    walk.root(folder);
    walk.files.into_keys().collect()
}

pub(super) fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(io::Error::other(format!("larger than {MAX_FILE_BYTES} bytes")));
    }
    Ok(bytes)
}

fn unreadable(path: &Path, error: &io::Error) -> Problem {
    problem(path, format!("failed to read the file: {error}"), "make it readable, or remove it")
}

fn problem(path: &Path, message: String, help: &str) -> Problem {
    let location = SourceLocation { file: Arc::new(path.to_owned()), line: 1, column: 1 };
    let origin = Origin { place: Some(location), ..Origin::default() };
    Problem {
        severity: Severity::Error,
        reason: "Unreadable",
        origin,
        message,
        help: help.to_owned(),
    }
}

fn duplicate(object: &Object, first: &Origin) -> Problem {
    Problem {
        severity: Severity::Error,
        reason: "DefinedTwice",
        origin: object.origin().clone(),
        message: match &first.place {
            Some(location) => format!("it is already defined at {location}, which takes effect"),
            None => "it is already defined".to_owned(),
        },
        help: "remove one of the two".to_owned(),
    }
}

/// Finds the manifests of a folder. Hidden files and folders are skipped: editors and Kubernetes
/// volumes use them internally. Symbolic links are followed to files, not to folders.
#[derive(Default)]
struct Walk {
    files: BTreeMap<PathBuf, Metadata>,
    problems: Vec<Problem>,
    incomplete: bool,
    readable: bool,
    has_links: bool,
}

// === impl Walk ===

impl Walk {
    /// Adds a folder recursively, or a file regardless of its name.
    fn root(&mut self, path: &Path) {
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_file() => {
                self.readable = true;
                self.files.insert(path.to_owned(), metadata);
            }
            _ => self.folder(path, 0),
        }
    }

    fn folder(&mut self, path: &Path, depth: usize) {
        if depth > MAX_DEPTH {
            return self.fail(
                path,
                format!("folders are nested more than {MAX_DEPTH} deep"),
                "move the manifests to a higher folder",
            );
        }
        let entries = match fs::read_dir(path) {
            Ok(entries) => entries,
            // It was removed after its parent was listed, which is no error.
            Err(error) if error.kind() == io::ErrorKind::NotFound && depth > 0 => return,
            Err(error) => {
                return self.fail(
                    path,
                    format!("failed to read the folder: {error}"),
                    "make the folder readable",
                );
            }
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
        self.has_links |= entry.file_type().is_ok_and(|kind| kind.is_symlink());
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => self.folder(&path, depth + 1),
            _ if !is_manifest(&path) => {}
            _ if self.files.len() >= MAX_FILES => {
                if !self.incomplete {
                    let message = format!(
                        "there are more than {MAX_FILES} files; this one and those after it are \
                         ignored"
                    );
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
    path.extension()
        .and_then(|extension| extension.to_str())
        .is_some_and(|extension| matches!(extension, "yaml" | "yml" | "json"))
}
