//! Tells all other replicas which sessions were ended here, and this one, should it begin anew.
//!
//! What is ended is ended here at once; whoever signs out waits a moment for the others, so that
//! "signed out" is true everywhere where all is well. Where it is not, it is tried again for as
//! long as any such session could last.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use portcullis_config::live::Live;
use portcullis_config::session::revocations::{MAX_IN_SECRET, tell};
use portcullis_config::snapshot::revoked_sessions::{Ended, Whose};
use portcullis_config::store::session::{self, Store, StoreError};
use portcullis_config::unix_time::seconds;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

/// How long whoever signs out waits until others know.
const PATIENCE: Duration = Duration::from_secs(1);
/// The pause after a failure: twice as long each time, up to the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// Ends that wait to be taken up.
const WAITING: usize = 256;
/// The most ends that wait to be told. Were there more, everybody's sessions would be ended: closed
/// when in doubt.
const MAX_PENDING: usize = MAX_IN_SECRET / 2;

/// Where ends are left to be told.
pub struct Outbox {
    sender: mpsc::Sender<Left>,
    counts: Arc<Counts>,
}

/// How the telling went, for metrics.
#[derive(Debug, Default)]
pub struct Counts {
    told: AtomicU64,
    failed: AtomicU64,
    pending: AtomicU64,
}

/// An end, and who waits until it is told.
struct Left {
    ended: Ended,
    done: oneshot::Sender<()>,
}

/// Takes what is left to the store.
pub struct Courier {
    receiver: mpsc::Receiver<Left>,
    store: Arc<dyn Store>,
    live: Arc<Live>,
    lasting: Duration,
    counts: Arc<Counts>,
    pending: BTreeSet<Ended>,
    waiting: Vec<oneshot::Sender<()>>,
}

// === impl Outbox ===

impl Outbox {
    /// Sessions last for `lasting` at most; `live` holds what is told already.
    pub fn new(
        store: Arc<dyn Store>,
        live: Arc<Live>,
        lasting: Duration,
        counts: Arc<Counts>,
    ) -> (Self, Courier) {
        let (sender, receiver) = mpsc::channel(WAITING);
        let (pending, waiting) = (BTreeSet::new(), Vec::new());
        let courier = Courier {
            receiver,
            store,
            live,
            lasting,
            counts: Arc::clone(&counts),
            pending,
            waiting,
        };
        (Self { sender, counts }, courier)
    }

    /// Leaves an end to be told, and waits until it is, for a second at most.
    pub(super) async fn tell(&self, ended: Ended) {
        let deadline = Instant::now() + PATIENCE;
        let (done, told) = oneshot::channel();
        match timeout_at(deadline, self.sender.send(Left { ended, done })).await {
            Ok(Ok(())) => {
                if timeout_at(deadline, told).await.is_err() {
                    tracing::warn!("sessions were ended here, and others do not know yet");
                }
            }
            _ => {
                self.counts.failed.fetch_add(1, Ordering::Relaxed);
                tracing::error!(
                    "sessions were ended here, and others will not know: too many wait to be told"
                );
            }
        }
    }
}

// === impl Courier ===

impl Courier {
    /// Tells, forever: a task of the control plane.
    pub async fn run(mut self) {
        let mut pause = PAUSE.0;
        loop {
            if self.pending.is_empty() {
                let Some(left) = self.receiver.recv().await else { return };
                self.take(left);
            }
            while let Ok(left) = self.receiver.try_recv() {
                self.take(left);
            }
            pause = match self.deliver().await {
                Ok(()) => PAUSE.0,
                Err(error) => {
                    self.counts.failed.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(%error, waiting = self.pending.len(), "others cannot be told which sessions were ended here: trying again");
                    self.wait(pause).await;
                    (pause * 2).min(PAUSE.1)
                }
            };
            self.forget(SystemTime::now());
        }
    }

    fn take(&mut self, left: Left) {
        // Who has gone waits no longer.
        self.waiting.retain(|waiting| !waiting.is_closed());
        self.waiting.push(left.done);
        self.pending.insert(left.ended);
        if self.pending.len() > MAX_PENDING {
            tracing::warn!(
                max = MAX_PENDING,
                "more sessions were ended than can wait to be told: all are"
            );
            self.pending =
                BTreeSet::from([Ended { whose: Whose::Everybody, at: seconds(SystemTime::now()) }]);
        }
        self.counts.pending.store(self.pending.len() as u64, Ordering::Relaxed);
    }

    async fn deliver(&mut self) -> Result<(), StoreError> {
        let change = tell(
            &self.live.snapshot.load().credentials.ended_sessions,
            &self.pending,
            self.lasting,
            SystemTime::now(),
        );
        match session::change(&*self.store, change).await {
            Ok(()) => {
                self.counts.told.fetch_add(self.pending.len() as u64, Ordering::Relaxed);
                self.pending.clear();
                for waiting in self.waiting.drain(..) {
                    // It may have gone.
                    let _ = waiting.send(());
                }
                Ok(())
            }
            error => error,
        }
    }

    /// Waits, and takes up what is left in the meantime.
    async fn wait(&mut self, pause: Duration) {
        let end = Instant::now() + pause;
        while let Ok(Some(left)) = timeout_at(end, self.receiver.recv()).await {
            self.take(left);
        }
    }

    /// Forgets the ends of sessions that are over by themselves.
    fn forget(&mut self, now: SystemTime) {
        self.pending.retain(|ended| !ended.is_over(self.lasting, now));
        self.counts.pending.store(self.pending.len() as u64, Ordering::Relaxed);
    }
}

// === impl Counts ===

impl Counts {
    /// Ends that others were told of.
    pub fn told(&self) -> u64 {
        self.told.load(Ordering::Relaxed)
    }

    /// Times that telling failed.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// Ends that wait to be told.
    pub fn pending(&self) -> u64 {
        self.pending.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use futures::future::BoxFuture;
    use portcullis_config::session::Change;
    use portcullis_config::store::session::REQUEST;
    use tokio::task::JoinHandle;

    use super::*;

    const LASTING: Duration = Duration::from_secs(1000);

    /// What a store does with a change.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Mood {
        Well,
        Refusing,
        Silent,
    }

    #[derive(Debug)]
    struct Fake {
        mood: Mutex<Mood>,
        changes: Mutex<Vec<Change>>,
    }

    impl Fake {
        fn told(&self) -> Vec<usize> {
            self.changes.lock().unwrap().iter().map(|change| change.add.len()).collect()
        }
    }

    impl Store for Fake {
        fn change(&self, change: Change) -> BoxFuture<'_, Result<(), StoreError>> {
            let mood = *self.mood.lock().unwrap();
            Box::pin(async move {
                match mood {
                    Mood::Well => self.changes.lock().unwrap().push(change),
                    Mood::Refusing => return Err(StoreError::Superseded),
                    Mood::Silent => std::future::pending().await,
                }
                Ok(())
            })
        }
    }

    fn start(mood: Mood) -> (Outbox, Arc<Fake>, JoinHandle<()>) {
        let fake = Arc::new(Fake { mood: Mutex::new(mood), changes: Mutex::default() });
        let (outbox, courier) = Outbox::new(
            Arc::clone(&fake) as Arc<dyn Store>,
            Arc::default(),
            LASTING,
            Arc::default(),
        );
        (outbox, fake, tokio::spawn(courier.run()))
    }

    fn ended(number: usize) -> Ended {
        let mut hash = [0; 16];
        hash[..8].copy_from_slice(&number.to_be_bytes());
        Ended { whose: Whose::Hash(hash), at: seconds(SystemTime::now()) }
    }

    #[tokio::test(start_paused = true)]
    async fn who_signs_out_is_answered_when_others_know() {
        let (outbox, fake, _courier) = start(Mood::Well);
        outbox.tell(ended(1)).await;
        assert_eq!(fake.told(), [1]);
        tokio::join!(outbox.tell(ended(2)), outbox.tell(ended(3)));
        assert_eq!(fake.told(), [1, 2], "what comes at once is told at once");
        assert_eq!(
            (outbox.counts.told(), outbox.counts.failed(), outbox.counts.pending()),
            (3, 0, 0)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn who_signs_out_waits_no_longer_than_a_second_and_others_are_told_later() {
        for mood in [Mood::Refusing, Mood::Silent] {
            let (outbox, fake, _courier) = start(mood);
            let start = Instant::now();
            outbox.tell(ended(1)).await;
            outbox.tell(ended(2)).await;
            assert_eq!((start.elapsed(), fake.told()), (2 * PATIENCE, vec![]), "{mood:?}");
            tokio::time::sleep(REQUEST).await;
            assert!(
                outbox.counts.failed() >= 1 && outbox.counts.pending() == 2,
                "{mood:?}: {:?}",
                outbox.counts
            );
            *fake.mood.lock().unwrap() = Mood::Well;
            tokio::time::sleep(REQUEST + PAUSE.1).await;
            assert_eq!(
                (fake.told(), outbox.counts.told(), outbox.counts.pending()),
                (vec![2], 2, 0),
                "{mood:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_tried_again_is_bounded_in_number() {
        let (outbox, fake, _courier) = start(Mood::Refusing);
        for turn in 0..=MAX_PENDING / 100 {
            futures::future::join_all(
                (0..100).map(|number| outbox.tell(ended(turn * 100 + number))),
            )
            .await;
        }
        *fake.mood.lock().unwrap() = Mood::Well;
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
    async fn ends_that_nobody_needs_to_know_any_more_are_forgotten() {
        let fake = Arc::new(Fake { mood: Mutex::new(Mood::Refusing), changes: Mutex::default() });
        let (_outbox, mut courier) = Outbox::new(fake, Arc::default(), LASTING, Arc::default());
        courier.take(Left { ended: ended(1), done: oneshot::channel().0 });
        let now = SystemTime::now();
        courier.forget(now + LASTING - Duration::from_secs(1));
        assert_eq!(courier.pending.len(), 1);
        courier.forget(now + LASTING + Duration::from_secs(2));
        assert!(courier.pending.is_empty());
    }
}
