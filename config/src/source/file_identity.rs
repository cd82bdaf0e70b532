//! Detects whether a file has changed since it was read.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::time::SystemTime;

use crate::unix_time::seconds;

/// The coarsest clock of a file system, in seconds: a file that was written this shortly before it
/// was read can be written again without a change of its times.
const CLOCK: i64 = 2;

/// The metadata of a file that changes with its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileIdentity {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

// === impl FileIdentity ===

impl FileIdentity {
    /// The identity by `metadata`, which must be taken before the file is read.
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether any change after `now` changes the identity.
    pub(super) fn is_settled(&self, now: SystemTime) -> bool {
        let now = i64::try_from(seconds(now));
        now.is_ok_and(|now| now.saturating_sub(self.modified.0) > CLOCK)
    }
}
