//! The files of a commit.

use super::path::RepositoryPath;

/// The most files of a commit.
pub const MAX_FILES: usize = 200_000;

/// All files of a commit, ordered by path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree(Vec<Entry>);

/// A file of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its path; git does not require UTF-8.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// The hash of its content.
    pub object: String,
    /// Its size in bytes; 0 for a submodule.
    pub size: u64,
}

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A regular file that can be executed.
    Executable,
    /// A symbolic link; its content is the path that it leads to.
    Symlink,
    /// A commit of another repository.
    Submodule,
}

/// Why a listing is not that of a commit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTree {
    /// It has too many files.
    #[error("the commit has more than {MAX_FILES} files")]
    TooManyFiles,
    /// A line is not one of `git ls-tree -r -l -z`.
    #[error("git listed a file in an unknown format: {0:?}")]
    Line(String),
}

// === impl Tree ===

impl Tree {
    /// Reads the output of `git ls-tree -r -l -z`.
    ///
    /// # Errors
    /// It has too many files, or is in another format.
    pub fn parse(listing: &[u8]) -> Result<Self, InvalidTree> {
        let mut entries = Vec::new();
        for line in listing.split(|octet| *octet == 0).filter(|line| !line.is_empty()) {
            if entries.len() == MAX_FILES {
                return Err(InvalidTree::TooManyFiles);
            }
            let invalid = || InvalidTree::Line(String::from_utf8_lossy(line).into_owned());
            entries.push(Entry::parse(line).ok_or_else(invalid)?);
        }
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(Self(entries))
    }

    /// A file.
    #[must_use]
    pub fn get(&self, path: &RepositoryPath) -> Option<&Entry> {
        let found =
            self.0.binary_search_by(|entry| entry.path.as_slice().cmp(path.as_str().as_bytes()));
        self.0.get(found.ok()?)
    }

    /// All files.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.0.iter()
    }

    /// The file of this path, or all files below this folder.
    pub fn below<'t>(&'t self, path: &'t RepositoryPath) -> impl Iterator<Item = &'t Entry> {
        // Files below a folder are one range, but `a.b` is between `a` and `a/b`.
        let start =
            self.0.partition_point(|entry| entry.path.as_slice() < path.as_str().as_bytes());
        let rest = self.0.get(start..).unwrap_or_default().iter();
        rest.take_while(move |entry| entry.path.starts_with(path.as_str().as_bytes()))
            .filter(move |entry| path.contains(&entry.path))
    }

    /// Whether there is a folder of this path.
    #[must_use]
    pub fn is_folder(&self, path: &RepositoryPath) -> bool {
        path.is_root() || self.below(path).any(|entry| entry.path.len() > path.as_str().len())
    }
}

// === impl Entry ===

impl Entry {
    /// `MODE TYPE OBJECT SIZE<tab>PATH`
    fn parse(line: &[u8]) -> Option<Self> {
        let tab = line.iter().position(|octet| *octet == b'\t')?;
        let (head, path) = (line.get(..tab)?, line.get(tab.checked_add(1)?..)?);
        let mut words = std::str::from_utf8(head).ok()?.split_ascii_whitespace();
        let (mode, kind, object, size) =
            (words.next()?, words.next()?, words.next()?, words.next()?);
        let kind = match (mode, kind) {
            ("120000", "blob") => Kind::Symlink,
            ("160000", "commit") => Kind::Submodule,
            ("100755", "blob") => Kind::Executable,
            (mode, "blob") if mode.starts_with("100") => Kind::File,
            _ => return None,
        };
        let size = if kind == Kind::Submodule { 0 } else { size.parse().ok()? };
        let is_hash = object.bytes().all(|byte| byte.is_ascii_hexdigit());
        (is_hash && !path.is_empty()).then(|| Self {
            path: path.to_vec(),
            kind,
            object: object.to_owned(),
            size,
        })
    }

    /// Its path as one that a configuration can name; `None` if no configuration can.
    #[must_use]
    pub fn repository_path(&self) -> Option<RepositoryPath> {
        let text = std::str::from_utf8(&self.path).ok()?;
        text.parse().ok().filter(|path: &RepositoryPath| path.as_str() == text)
    }

    /// Whether it is a regular file.
    #[must_use]
    pub fn is_file(&self) -> bool {
        matches!(self.kind, Kind::File | Kind::Executable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_ranges_of_paths() {
        let lines = ["a", "a.b", "a/b", "a/c/d", "ab/x", "b"];
        let listing: String = lines
            .iter()
            .map(|path| format!("100644 blob {} 3\t{path}\0", "0".repeat(40)))
            .collect();
        let tree = Tree::parse(listing.as_bytes()).unwrap();
        let below = |path: &str| -> Vec<String> {
            let path = path.parse().unwrap();
            tree.below(&path).map(|it| String::from_utf8(it.path.clone()).unwrap()).collect()
        };
        assert_eq!(below("a"), ["a", "a/b", "a/c/d"]);
        assert_eq!(below("a/c"), ["a/c/d"]);
        assert_eq!(below("."), lines);
        assert_eq!(below("c"), [""; 0]);
        let is_folder = |path: &str| tree.is_folder(&path.parse().unwrap());
        assert!(is_folder("a/c") && is_folder(".") && !is_folder("b") && !is_folder("c"));
        assert!(tree.get(&"a/b".parse().unwrap()).is_some());
        assert!(tree.get(&"a/c".parse().unwrap()).is_none());
    }

    #[test]
    fn links_and_submodules_are_told_from_files() {
        let hash = "0".repeat(40);
        let kind = |line: String| Tree::parse(line.as_bytes()).map(|tree| tree.0[0].kind);
        assert_eq!(kind(format!("120000 blob {hash}      9\tx")), Ok(Kind::Symlink));
        assert_eq!(kind(format!("160000 commit {hash}       -\tx")), Ok(Kind::Submodule));
        assert_eq!(kind(format!("100755 blob {hash} 9\tx")), Ok(Kind::Executable));
        assert_eq!(kind(format!("100644 blob {hash} 9\ta\tb\n")), Ok(Kind::File));
        for bad in
            ["x".to_owned(), format!("100644 blob {hash} 9\t"), "100644 blob ../x 9\ta".to_owned()]
        {
            assert!(kind(bad.clone()).is_err(), "{bad}");
        }
    }
}
