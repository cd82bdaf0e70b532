//! Atomic writes: readers, also after a crash, see the old content of a file or the new, complete.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use tempfile::NamedTempFile;

/// Creates or replaces a file that only its owner may read (mode 0600).
///
/// On return the file is synced to disk.
///
/// # Errors
/// The I/O error; the old file is then unchanged.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_temporary(path, bytes)?.persist(path).map_err(|error| error.error)?;
    sync_folder(path)
}

/// Replaces a file as [`replace`] does, and keeps who may read and write it.
///
/// # Errors
/// There is no such file, or another I/O error; the old file is then unchanged.
pub fn rewrite(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let permissions = std::fs::metadata(path)?.permissions();
    let file = write_temporary(path, bytes)?;
    file.as_file().set_permissions(permissions)?;
    file.persist(path).map_err(|error| error.error)?;
    sync_folder(path)
}

/// Creates a file as [`replace`] does, and fails where one exists.
///
/// # Errors
/// [`io::ErrorKind::AlreadyExists`], or another I/O error.
pub fn create(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_temporary(path, bytes)?.persist_noclobber(path).map_err(|error| error.error)?;
    sync_folder(path)
}

/// Removes a file. On return the removal is synced to disk.
///
/// # Errors
/// The I/O error.
pub fn remove(path: &Path) -> io::Result<()> {
    std::fs::remove_file(path)?;
    sync_folder(path)
}

/// Writes a temporary file in the same folder. Its name begins with a dot, so readers of the folder
/// skip it.
fn write_temporary(path: &Path, bytes: &[u8]) -> io::Result<NamedTempFile> {
    let mut file = tempfile::Builder::new().prefix(".").tempfile_in(folder(path))?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    Ok(file)
}

/// Syncs the folder: a new name is durable only with it.
fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(folder(path))?.sync_all()
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_is_replaced_atomically_and_no_temporary_file_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        create(&path, b"one").unwrap();
        assert_eq!(create(&path, b"two").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&path).unwrap(), b"one");
        replace(&path, b"three").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"three");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(replace(&folder.path().join("missing/file"), b"").is_err());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        rewrite(&path, b"four").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"four");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert!(rewrite(&folder.path().join("missing"), b"").is_err());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        remove(&path).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
