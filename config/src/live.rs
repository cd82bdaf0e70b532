//! Live state of a gateway: the current snapshot, its problems, and their age.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::problem::Problem;
use crate::snapshot::Snapshot;
use crate::unix_time::seconds;

/// State that the control plane writes, and that workers and the admin listener read.
#[derive(Debug, Default)]
pub struct Live {
    /// The routing table.
    pub snapshot: ArcSwap<Snapshot>,
    /// The current problems.
    pub problems: ArcSwap<Vec<Problem>>,
    synced: AtomicBool,
    as_of: AtomicU64,
    publications: AtomicU64,
    replicas: AtomicU32,
    published: watch::Sender<()>,
}

// === impl Live ===

impl Live {
    /// Whether every kind of resource has been read completely once.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.synced.load(Ordering::Acquire)
    }

    /// Records that every kind of resource has been read completely once.
    pub fn set_synced(&self) {
        self.synced.store(true, Ordering::Release);
    }

    /// Records that the state is as of `now`, when the source last responded.
    pub fn set_as_of(&self, now: SystemTime) {
        self.as_of.fetch_max(seconds(now), Ordering::Relaxed);
    }

    /// How old the state may be; `None` before the source first responded.
    #[must_use]
    pub fn age(&self, now: SystemTime) -> Option<Duration> {
        let as_of = self.as_of.load(Ordering::Relaxed);
        (as_of > 0).then(|| Duration::from_secs(seconds(now).saturating_sub(as_of)))
    }

    /// Swaps in a new snapshot and its problems.
    pub fn publish(&self, snapshot: Arc<Snapshot>, problems: Vec<Problem>) {
        self.problems.store(Arc::new(problems));
        self.snapshot.store(snapshot);
        self.publications.fetch_add(1, Ordering::Relaxed);
        self.published.send_replace(());
    }

    /// Records how many replicas of this gateway there are. Where that is not known any more, the
    /// last number stays.
    pub fn set_replicas(&self, replicas: Option<NonZeroU32>) {
        if let Some(replicas) = replicas {
            self.replicas.store(replicas.get(), Ordering::Relaxed);
        }
    }

    /// How many replicas of this gateway there are, itself included; `None` if that is not known.
    #[must_use]
    pub fn replicas(&self) -> Option<NonZeroU32> {
        NonZeroU32::new(self.replicas.load(Ordering::Relaxed))
    }

    /// How many snapshots have been published.
    #[must_use]
    pub fn publications(&self) -> u64 {
        self.publications.load(Ordering::Relaxed)
    }

    /// Calls `load` with the current snapshot and then, forever, with each one that is published.
    ///
    /// Runs as a task of the control plane. Of snapshots that are published faster than `load`
    /// returns, only the last is passed.
    pub async fn watch(&self, mut load: impl FnMut(&Snapshot)) {
        let mut published = self.published();
        loop {
            load(&self.snapshot.load_full());
            // The sender lives as long as `self`.
            let _ = published.changed().await;
        }
    }

    /// Returns a receiver that changes each time a snapshot is published.
    #[must_use]
    pub fn published(&self) -> watch::Receiver<()> {
        self.published.subscribe()
    }
}
