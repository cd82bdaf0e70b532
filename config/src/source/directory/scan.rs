//! What is in a folder, as far as it is new.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use crate::model::{Origin, Place};
use crate::problem::{Problem, Severity};
use crate::resources::{Change, Object, ObjectId};
use crate::source::Secrets;
use crate::source::file_identity::Stamp;
use crate::source::manifest::{Manifests, read_manifests};

/// The largest file, in bytes.
pub(super) const MAX_FILE_BYTES: u64 = 16 << 20;
/// The most files.
pub(super) const MAX_FILES: usize = 50_000;
/// The deepest nesting of folders.
pub(super) const MAX_DEPTH: usize = 16;

/// A folder, and what was last read of it.
#[derive(Debug)]
pub(super) struct Folder {
    /// Folders, or files.
    paths: Vec<PathBuf>,
    secrets: Secrets,
    files: BTreeMap<PathBuf, Known>,
    /// The files that define an object, in order and each as often as it does: the first one
    /// counts.
    definitions: BTreeMap<ObjectId, Vec<Arc<PathBuf>>>,
    /// Those of the files in which something is wrong.
    faulty: BTreeSet<PathBuf>,
    /// What has more than one definition.
    doubled: BTreeSet<ObjectId>,
    /// What is wrong with the folder itself.
    problems: Vec<Problem>,
    /// Files are reached through symbolic links: then a change is not always where it shows.
    has_links: bool,
    scanned: bool,
    readable: bool,
}

/// What has come of a look at the folder.
#[derive(Debug, Default)]
pub(super) struct News {
    /// What is new, changed or gone.
    pub(super) changes: Vec<Change>,
    /// All that is wrong now.
    pub(super) problems: Vec<Problem>,
    /// Whether the folder could be read at all.
    pub(super) readable: bool,
}

/// One file, as last read.
#[derive(Debug, Default)]
struct Known {
    /// `None` where it must be read again in any case.
    stamp: Option<Stamp>,
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
            faulty: BTreeSet::new(),
            doubled: BTreeSet::new(),
            problems: Vec::new(),
            has_links: false,
            scanned: false,
            readable: false,
        }
    }

    /// Reads what has changed since the last time, or `None` where nothing has. `told` are the
    /// places of all changes, where they are known: then files that have not changed are not
    /// even looked at.
    pub(super) fn scan(
        &mut self,
        told: Option<&BTreeSet<PathBuf>>,
        now: SystemTime,
    ) -> Option<News> {
        let mut affected = BTreeSet::new();
        let is_news = match told.and_then(|places| self.known_files(places)) {
            Some(files) => self.scan_files(files, now, &mut affected),
            None => self.scan_all(now, &mut affected),
        };
        is_news.then(|| self.news(affected))
    }

    /// The files that are meant by `places`, if all of these are known files or nothing that is
    /// read; `None` where a look at the whole folder must tell.
    fn known_files(&self, places: &BTreeSet<PathBuf>) -> Option<Vec<(PathBuf, Option<Metadata>)>> {
        if !self.scanned || self.has_links {
            return None;
        }
        let mut files = Vec::new();
        for place in places {
            let metadata = match fs::symlink_metadata(place) {
                Ok(metadata) if metadata.is_file() => Some(metadata),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                _ => return None,
            };
            if self.files.contains_key(place) {
                files.push((place.clone(), metadata));
            } else if is_manifest(place) || self.is_folder(place) {
                return None;
            }
        }
        Some(files)
    }

    /// Whether known files are below `place`.
    fn is_folder(&self, place: &Path) -> bool {
        let mut from = self.files.range::<Path, _>((Bound::Excluded(place), Bound::Unbounded));
        from.next().is_some_and(|(file, _)| file.starts_with(place))
    }

    fn scan_files(
        &mut self,
        files: Vec<(PathBuf, Option<Metadata>)>,
        now: SystemTime,
        affected: &mut BTreeSet<ObjectId>,
    ) -> bool {
        let mut is_news = false;
        for (path, metadata) in files {
            is_news |= match metadata {
                Some(metadata) => {
                    // It was told to have changed, whatever its stamp says.
                    self.files.entry(path.clone()).or_default().stamp = None;
                    self.file(path, &metadata, now, affected)
                }
                None => self.forget(&path, affected),
            };
        }
        is_news
    }

    fn scan_all(&mut self, now: SystemTime, affected: &mut BTreeSet<ObjectId>) -> bool {
        let mut walk = Walk::default();
        for path in &self.paths {
            walk.root(path);
        }
        let mut is_news = !self.scanned || walk.problems != self.problems;
        // A folder that cannot be read says nothing of what is in it.
        if !walk.incomplete {
            let gone: Vec<PathBuf> =
                self.files.keys().filter(|path| !walk.files.contains_key(*path)).cloned().collect();
            for path in gone {
                is_news |= self.forget(&path, affected);
            }
        }
        self.problems = walk.problems;
        self.has_links = walk.has_links;
        for (path, metadata) in walk.files {
            is_news |= self.file(path, &metadata, now, affected);
        }
        self.scanned = true;
        self.readable |= walk.readable;
        is_news
    }

    /// Reads a file, if it is not known as it is now; tells whether anything came of that.
    fn file(
        &mut self,
        path: PathBuf,
        metadata: &Metadata,
        now: SystemTime,
        affected: &mut BTreeSet<ObjectId>,
    ) -> bool {
        let stamp = Stamp::of(metadata);
        let known = self.files.entry(path.clone()).or_default();
        if known.stamp == Some(stamp) {
            return false;
        }
        known.stamp = stamp.is_settled(now).then_some(stamp);
        let file = Arc::new(path);
        let mut manifests = match read_bounded(&file) {
            Ok(bytes) => read_manifests(&file, &bytes, &self.secrets),
            Err(error) => {
                Manifests { problems: vec![unreadable(&file, &error)], ..Manifests::default() }
            }
        };
        manifests.objects =
            with_last_good(manifests.objects, &manifests.problems, &known.manifests.objects);
        let is_news = known.manifests.objects != manifests.objects
            || known.manifests.problems != manifests.problems;
        if manifests.problems.is_empty() {
            self.faulty.remove(&*file);
        } else {
            self.faulty.insert(file.to_path_buf());
        }
        let before = std::mem::replace(&mut known.manifests, manifests);
        undefine(&mut self.definitions, &file, &before.objects, affected);
        for object in &known.manifests.objects {
            let files = self.definitions.entry(object.id()).or_default();
            files.insert(files.partition_point(|other| *other <= file), Arc::clone(&file));
            affected.insert(object.id());
        }
        is_news
    }

    /// Forgets a file that is gone; tells whether there was any.
    fn forget(&mut self, path: &Path, affected: &mut BTreeSet<ObjectId>) -> bool {
        let Some(known) = self.files.remove(path) else { return false };
        self.faulty.remove(path);
        undefine(&mut self.definitions, path, &known.manifests.objects, affected);
        true
    }

    /// What can be read of objects that are wrong in part.
    pub(super) fn partial(&self) -> impl Iterator<Item = &Object> {
        self.files.values().flat_map(|known| &known.manifests.partial)
    }

    /// What is to be told once the definitions of `affected` may have changed.
    fn news(&mut self, mut affected: BTreeSet<ObjectId>) -> News {
        for id in &affected {
            if self.definitions.get(id).is_some_and(|files| files.len() > 1) {
                self.doubled.insert(id.clone());
            } else {
                self.doubled.remove(id);
            }
        }
        // File by file, since one file may define all.
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
        News { changes, problems: self.all_problems(), readable: self.readable }
    }

    fn all_problems(&self) -> Vec<Problem> {
        let mut problems = self.problems.clone();
        problems.extend(
            self.faulty
                .iter()
                .filter_map(|file| self.files.get(file))
                .flat_map(|file| &file.manifests.problems)
                .cloned(),
        );
        let files: BTreeSet<&PathBuf> = self
            .doubled
            .iter()
            .filter_map(|id| self.definitions.get(id))
            .flatten()
            .map(|file| &**file)
            .collect();
        let mut first: BTreeMap<ObjectId, &Origin> = BTreeMap::new();
        for (_, object) in self.objects(files.into_iter()) {
            let id = object.id();
            if !self.doubled.contains(&id) {
                continue;
            }
            match first.get(&id) {
                Some(first) => problems.push(twice(object, first)),
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
        let known = files.filter_map(|file| Some((file, self.files.get(file)?)));
        known.flat_map(|(file, known)| {
            known.manifests.objects.iter().map(move |object| (file, object))
        })
    }
}

/// Takes away the definitions of `objects` by a file.
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

/// The objects of a file, and those that it defined before and of which `problems` leave in doubt
/// what has become. A credential that is in doubt is none: it may have been about to be revoked.
fn with_last_good(
    mut objects: Vec<Object>,
    problems: &[Problem],
    before: &[Object],
) -> Vec<Object> {
    let in_doubt = |object: &Object| {
        let origin = object.origin();
        let lasts = !matches!(object, Object::Credential(_));
        lasts
            && problems.iter().map(|problem| &problem.origin).any(|broken| {
                let unnamed = broken.kind.is_empty() || broken.name.is_empty();
                unnamed
                    || (broken.kind, &broken.namespace, &broken.name)
                        == (origin.kind, &origin.namespace, &origin.name)
            })
    };
    let read: BTreeSet<ObjectId> = objects.iter().map(Object::id).collect();
    objects.extend(
        before.iter().filter(|object| !read.contains(&object.id()) && in_doubt(object)).cloned(),
    );
    objects
}

/// The files of a folder that may hold manifests.
pub(super) fn files(folder: &Path) -> Vec<PathBuf> {
    let mut walk = Walk::default();
    walk.root(folder);
    walk.files.into_keys().collect()
}

pub(super) fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
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
    Problem {
        severity: Severity::Error,
        reason: "Unreadable",
        origin,
        message,
        help: help.to_owned(),
    }
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

/// Finds the manifests of a folder. Hidden files and folders are left aside: editors and
/// Kubernetes' volumes keep their own things there. Links are followed to files, not to folders.
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
    /// A folder with all that is in it, or a file, whatever its name.
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
                format!("folders are in one another more than {MAX_DEPTH} deep"),
                "keep manifests nearer to the top",
            );
        }
        let entries = match fs::read_dir(path) {
            Ok(entries) => entries,
            // It went away between listing its parent and this: not there, not broken.
            Err(error) if error.kind() == io::ErrorKind::NotFound && depth > 0 => return,
            Err(error) => {
                return self.fail(
                    path,
                    format!("the folder cannot be read: {error}"),
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
                         left aside"
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
