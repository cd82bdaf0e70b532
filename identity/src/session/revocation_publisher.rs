//! Publishes session revocations to the other replicas, and for this one after a restart.
//!
//! A revocation takes effect here at once. Sign-out waits up to a second for publication, so that
//! usually it is effective everywhere. Failed publications are retried until the sessions would
//! have expired.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use portcullis_config::live::Live;
use portcullis_config::session::revocations::{MAX_IN_SECRET, revoke};
use portcullis_config::snapshot::revoked_sessions::{Revocation, RevocationScope};
use portcullis_config::store::credentials::{self, Store, StoreError};
use portcullis_config::unix_time::seconds;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

/// How long a sign-out waits for publication.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(1);
/// First and longest pause after a failure; it doubles each time.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// Capacity of the channel to the publisher.
const WAITING: usize = 256;
/// Maximum number of unpublished revocations. Beyond it all sessions are revoked: fail closed.
const MAX_PENDING: usize = MAX_IN_SECRET / 2;

/// The sending half: queues revocations for publication.
pub struct RevocationQueue {
    sender: mpsc::Sender<QueuedRevocation>,
    counts: Arc<Counts>,
}

/// Counters of publication, for metrics.
#[derive(Debug, Default)]
pub struct Counts {
    published: AtomicU64,
    failed: AtomicU64,
    pending: AtomicU64,
}

/// A revocation, and the waiter for its publication.
struct QueuedRevocation {
    revocation: Revocation,
    done: oneshot::Sender<()>,
}

/// Publishes queued revocations to the store.
pub struct RevocationPublisher {
    receiver: mpsc::Receiver<QueuedRevocation>,
    store: Arc<dyn Store>,
    live: Arc<Live>,
    lifetime: Duration,
    counts: Arc<Counts>,
    pending: BTreeSet<Revocation>,
    waiting: Vec<oneshot::Sender<()>>,
}

// === impl RevocationQueue ===

impl RevocationQueue {
    /// Creates a queue and its publisher. `lifetime` is the maximum lifetime of a session; `live`
    /// has the published revocations.
    pub fn new(
        store: Arc<dyn Store>,
        live: Arc<Live>,
        lifetime: Duration,
        counts: Arc<Counts>,
    ) -> (Self, RevocationPublisher) {
        let (sender, receiver) = mpsc::channel(WAITING);
        let (pending, waiting) = (BTreeSet::new(), Vec::new());
        let publisher = RevocationPublisher {
            receiver,
            store,
            live,
            lifetime,
            counts: Arc::clone(&counts),
            pending,
            waiting,
        };
        (Self { sender, counts }, publisher)
    }

    /// Queues a revocation, and waits up to a second for its publication. Returns whether it is
    /// published; if not, publication is retried.
    pub(super) async fn publish(&self, revocation: Revocation) -> bool {
        let deadline = Instant::now() + PUBLISH_TIMEOUT;
        let (done, published) = oneshot::channel();
        match timeout_at(deadline, self.sender.send(QueuedRevocation { revocation, done })).await {
            Ok(Ok(())) => {
                let is_published = matches!(timeout_at(deadline, published).await, Ok(Ok(())));
                if !is_published {
                    tracing::warn!("revoked sessions here, but not yet on other replicas");
                }
                is_published
            }
            _ => {
                self.counts.failed.fetch_add(1, Ordering::Relaxed);
                tracing::error!(
                    "failed to publish revoked sessions: too many are pending; other replicas \
                     still accept them"
                );
                false
            }
        }
    }
}

// === impl RevocationPublisher ===

impl RevocationPublisher {
    /// Publishes forever: a task of the control plane.
    pub async fn run(mut self) {
        let mut pause = PAUSE.0;
        loop {
            if self.pending.is_empty() {
                let Some(queued) = self.receiver.recv().await else { return };
                self.enqueue(queued);
            }
            while let Ok(queued) = self.receiver.try_recv() {
                self.enqueue(queued);
            }
            pause = match self.publish().await {
                Ok(()) => PAUSE.0,
                Err(error) => {
                    self.counts.failed.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(%error, waiting = self.pending.len(), "failed to publish revoked sessions to other replicas: retrying");
                    self.wait(pause).await;
                    (pause * 2).min(PAUSE.1)
                }
            };
            self.drop_expired(SystemTime::now());
        }
    }

    fn enqueue(&mut self, queued: QueuedRevocation) {
        // Waiters that gave up are removed.
        self.waiting.retain(|waiting| !waiting.is_closed());
        self.waiting.push(queued.done);
        self.pending.insert(queued.revocation);
        if self.pending.len() > MAX_PENDING {
            tracing::warn!(
                max = MAX_PENDING,
                "revoked all sessions: too many revocations are pending"
            );
            let at = seconds(SystemTime::now());
            self.pending = BTreeSet::from([Revocation { scope: RevocationScope::All, at }]);
        }
        self.counts.pending.store(self.pending.len() as u64, Ordering::Relaxed);
    }

    async fn publish(&mut self) -> Result<(), StoreError> {
        let change = revoke(
            &self.live.snapshot.load().credentials.revoked_sessions,
            &self.pending,
            self.lifetime,
            SystemTime::now(),
        );
        match credentials::change(&*self.store, change).await {
            Ok(()) => {
                self.counts.published.fetch_add(self.pending.len() as u64, Ordering::Relaxed);
                self.pending.clear();
                for waiting in self.waiting.drain(..) {
                    // The waiter may have given up.
                    let _ = waiting.send(());
                }
                Ok(())
            }
            error => error,
        }
    }

    /// Waits, and queues what arrives in the meantime.
    async fn wait(&mut self, pause: Duration) {
        let end = Instant::now() + pause;
        while let Ok(Some(queued)) = timeout_at(end, self.receiver.recv()).await {
            self.enqueue(queued);
        }
    }

    /// Drops revocations of sessions that have expired.
    fn drop_expired(&mut self, now: SystemTime) {
        self.pending.retain(|revocation| !revocation.is_expired(self.lifetime, now));
        self.counts.pending.store(self.pending.len() as u64, Ordering::Relaxed);
    }
}

// === impl Counts ===

impl Counts {
    /// Published revocations.
    pub fn published(&self) -> u64 {
        self.published.load(Ordering::Relaxed)
    }

    /// Failed publications.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// Revocations that are not published yet.
    pub fn pending(&self) -> u64 {
        self.pending.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use futures::future::BoxFuture;
    use portcullis_config::session::Change;
    use portcullis_config::store::credentials::REQUEST;
    use tokio::task::JoinHandle;

    use super::*;

    const LIFETIME: Duration = Duration::from_secs(1000);

    /// How the store answers a change.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum StoreBehavior {
        Available,
        Rejecting,
        Hanging,
    }

    #[derive(Debug)]
    struct Fake {
        behavior: Mutex<StoreBehavior>,
        changes: Mutex<Vec<Change>>,
    }

    impl Fake {
        fn published(&self) -> Vec<usize> {
            self.changes.lock().unwrap().iter().map(|change| change.add.len()).collect()
        }
    }

    impl Store for Fake {
        fn change(&self, change: Change) -> BoxFuture<'_, Result<(), StoreError>> {
            let behavior = *self.behavior.lock().unwrap();
            Box::pin(async move {
                match behavior {
                    StoreBehavior::Available => self.changes.lock().unwrap().push(change),
                    StoreBehavior::Rejecting => return Err(StoreError::Superseded),
                    StoreBehavior::Hanging => std::future::pending().await,
                }
                Ok(())
            })
        }
    }

    fn start(behavior: StoreBehavior) -> (RevocationQueue, Arc<Fake>, JoinHandle<()>) {
        let fake = Arc::new(Fake { behavior: Mutex::new(behavior), changes: Mutex::default() });
        let (queue, publisher) = RevocationQueue::new(
            Arc::clone(&fake) as Arc<dyn Store>,
            Arc::default(),
            LIFETIME,
            Arc::default(),
        );
        (queue, fake, tokio::spawn(publisher.run()))
    }

    fn revocation(number: usize) -> Revocation {
        let mut hash = [0; 16];
        hash[..8].copy_from_slice(&number.to_be_bytes());
        Revocation { scope: RevocationScope::Hash(hash), at: seconds(SystemTime::now()) }
    }

    #[tokio::test(start_paused = true)]
    async fn publish_returns_when_the_store_has_the_revocation() {
        let (queue, fake, _publisher) = start(StoreBehavior::Available);
        queue.publish(revocation(1)).await;
        assert_eq!(fake.published(), [1]);
        tokio::join!(queue.publish(revocation(2)), queue.publish(revocation(3)));
        assert_eq!(fake.published(), [1, 2], "concurrent revocations are published together");
        assert_eq!(
            (queue.counts.published(), queue.counts.failed(), queue.counts.pending()),
            (3, 0, 0)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn publish_returns_after_a_second_and_publication_is_retried() {
        for behavior in [StoreBehavior::Rejecting, StoreBehavior::Hanging] {
            let (queue, fake, _publisher) = start(behavior);
            let start = Instant::now();
            queue.publish(revocation(1)).await;
            queue.publish(revocation(2)).await;
            assert_eq!(
                (start.elapsed(), fake.published()),
                (2 * PUBLISH_TIMEOUT, vec![]),
                "{behavior:?}"
            );
            tokio::time::sleep(REQUEST).await;
            assert!(
                queue.counts.failed() >= 1 && queue.counts.pending() == 2,
                "{behavior:?}: {:?}",
                queue.counts
            );
            *fake.behavior.lock().unwrap() = StoreBehavior::Available;
            tokio::time::sleep(REQUEST + PAUSE.1).await;
            assert_eq!(
                (fake.published(), queue.counts.published(), queue.counts.pending()),
                (vec![2], 2, 0),
                "{behavior:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_number_of_pending_revocations_is_bounded() {
        let (queue, fake, _publisher) = start(StoreBehavior::Rejecting);
        for turn in 0..=MAX_PENDING / 100 {
            futures::future::join_all(
                (0..100).map(|number| queue.publish(revocation(turn * 100 + number))),
            )
            .await;
        }
        *fake.behavior.lock().unwrap() = StoreBehavior::Available;
        tokio::time::sleep(PAUSE.1).await;
        let changes = fake.changes.lock().unwrap();
        assert!(
            changes[0].add.keys().any(|name| name.starts_with("everybody-")),
            "{:?}",
            changes[0].add.keys().next()
        );
        assert!(changes[0].add.len() <= 100);
    }

    #[tokio::test]
    async fn expired_revocations_are_dropped() {
        let fake = Arc::new(Fake {
            behavior: Mutex::new(StoreBehavior::Rejecting),
            changes: Mutex::default(),
        });
        let (_queue, mut publisher) =
            RevocationQueue::new(fake, Arc::default(), LIFETIME, Arc::default());
        publisher
            .enqueue(QueuedRevocation { revocation: revocation(1), done: oneshot::channel().0 });
        let now = SystemTime::now();
        publisher.drop_expired(now + LIFETIME - Duration::from_secs(1));
        assert_eq!(publisher.pending.len(), 1);
        publisher.drop_expired(now + LIFETIME + Duration::from_secs(2));
        assert!(publisher.pending.is_empty());
    }
}
