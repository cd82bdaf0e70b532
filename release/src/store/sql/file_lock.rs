//! One builder per store: a lock on a file beside it, which ends with its process.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;

use crate::store::StoreError;

/// The lock; dropping it releases it.
#[derive(Debug)]
pub(super) struct FileLock {
    _file: File,
}

// === impl FileLock ===

impl FileLock {
    /// Takes the lock of the store at `database`.
    pub(super) fn take(database: &Path) -> Result<Self, StoreError> {
        let mut path = database.as_os_str().to_owned();
        path.push(".lock");
        let failed = |error| StoreError::File(path.to_string_lossy().into_owned(), error);
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(StoreError::InUse),
            Err(TryLockError::Error(error)) => Err(failed(error)),
        }
    }
}
