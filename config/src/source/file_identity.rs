//! Whether a file is as it was when it was read.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::time::SystemTime;

use crate::unix_time::seconds;

/// How coarse the clock of a file system may be, in seconds: a file that was written so shortly
/// before it was read may have been written again without a trace.
const CLOCK: i64 = 2;

/// What tells that a file has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

// === impl Stamp ===

impl Stamp {
    /// To be taken before the file is read.
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether any change after `now` makes another stamp of it.
    pub(super) fn is_settled(&self, now: SystemTime) -> bool {
        let now = i64::try_from(seconds(now));
        now.is_ok_and(|now| now.saturating_sub(self.modified.0) > CLOCK)
    }
}
