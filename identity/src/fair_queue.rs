//! Work that requests leave for the control runtime: a bounded queue in which clients take turns,
//! and in which anonymous work cannot push out known callers.
//!
//! - Known callers come first; of every [`ANONYMOUS_SHARE`] items at least one is anonymous, where
//!   one waits.
//! - In each of the two classes clients take turns.
//! - A full queue makes room by dropping the last item of the client that has the most waiting:
//!   never a known one for an anonymous one.
//! - Of what may be under way at a time, and in a second, a part is kept free for known callers,
//!   and one client's anonymous items get a quarter at most.

mod pace;

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use self::pace::Pace;
use crate::client_network::ClientNetwork;
use crate::round_robin::RoundRobin;

/// Of so many items one is anonymous, where one waits and known ones do too.
const ANONYMOUS_SHARE: u32 = 8;

/// Where work is left, and taken from. Cheap to clone.
pub struct FairQueue<T>(Arc<Shared<T>>);

/// What can wait in a queue. An item that is dropped has not been worked on.
pub trait Queued {
    /// Whether nobody needs it any more: it is dropped instead of being begun.
    fn is_abandoned(&self) -> bool;
}

/// Whose work it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Of a caller who was found to be good before.
    Known,
    /// Of anybody.
    Anonymous,
}

/// How much there may be of it. Each is at least one.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Items that wait to be begun.
    pub waiting: usize,
    /// Items under way at a time.
    pub concurrent: usize,
    /// Items begun in a second; `None` where only the others limit it.
    pub rate: Option<NonZeroU32>,
}

/// The queue has no room for an item of this class and client.
#[derive(Debug, PartialEq, Eq)]
pub struct Full;

/// What metrics tell of one queue.
#[derive(Debug)]
pub struct Counts {
    name: Box<str>,
    waiting: AtomicU64,
    rejected: AtomicU64,
}

struct Shared<T> {
    limits: Limits,
    state: Mutex<State<T>>,
    /// Something may be begun that could not be before.
    changed: Notify,
    counts: Arc<Counts>,
}

/// What waits, and how much is under way: pure, with the time as an argument.
struct State<T> {
    known: RoundRobin<T>,
    anonymous: RoundRobin<T>,
    running: usize,
    running_anonymous: usize,
    /// Of each client with anonymous items under way.
    running_of: HashMap<ClientNetwork, usize>,
    /// Known items that were begun while an anonymous one could have been.
    known_in_a_row: u32,
    pace: Option<Pace>,
}

/// What is to be done next.
enum Next<T> {
    Begin(T, Class, ClientNetwork),
    /// Wait for a change, or until a time.
    Wait(Option<Instant>),
}

/// An item that is under way, until this is dropped.
struct Running<T> {
    queue: FairQueue<T>,
    class: Class,
    client: ClientNetwork,
}

// === impl FairQueue ===

impl<T: Queued> FairQueue<T> {
    /// An empty queue; metrics know it by `name`.
    pub fn new(name: &str, limits: Limits) -> Self {
        Self(Arc::new(Shared {
            limits,
            state: Mutex::new(State::new(limits.rate, Instant::now())),
            changed: Notify::new(),
            counts: Arc::new(Counts {
                name: name.into(),
                waiting: AtomicU64::new(0),
                rejected: AtomicU64::new(0),
            }),
        }))
    }

    /// Leaves an item of this client's. It may be dropped later to make room for those of others.
    ///
    /// # Errors
    /// There is no room: the item is dropped.
    pub fn push(&self, class: Class, client: ClientNetwork, item: T) -> Result<(), Full> {
        let (pushed, dropped, waiting) = {
            let mut state = self.0.lock();
            let (pushed, dropped) = state.push(class, client, item, self.0.limits.waiting);
            (pushed, dropped, state.waiting())
        };
        self.0.counts.waiting.store(waiting as u64, Ordering::Relaxed);
        let unwanted = dropped.iter().filter(|item| item.is_abandoned()).count();
        self.0.counts.rejected.fetch_add((dropped.len() - unwanted) as u64, Ordering::Relaxed);
        // Not before the lock is let go of: an item may do something when it is dropped.
        drop(dropped);
        if pushed {
            self.0.changed.notify_one();
            Ok(())
        } else {
            Err(Full)
        }
    }

    /// What metrics tell of it.
    pub fn counts(&self) -> &Arc<Counts> {
        &self.0.counts
    }
}

impl<T: Queued + Send + 'static> FairQueue<T> {
    /// Works on what is left, forever: a task of the control plane.
    pub async fn serve<F>(&self, work: impl Fn(T) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut tasks = JoinSet::new();
        loop {
            while tasks.try_join_next().is_some() {}
            let changed = self.0.changed.notified();
            match self.next() {
                Next::Begin(item, class, client) => {
                    let running = Running { queue: self.clone(), class, client };
                    let work = work(item);
                    tasks.spawn(async move {
                        let _running = running;
                        work.await;
                    });
                }
                Next::Wait(None) => changed.await,
                Next::Wait(Some(until)) => tokio::select! {
                    () = changed => {}
                    () = sleep_until(until) => {}
                },
            }
        }
    }

    fn next(&self) -> Next<T> {
        loop {
            let (next, waiting) = {
                let mut state = self.0.lock();
                (state.next(Instant::now(), self.0.limits.concurrent), state.waiting())
            };
            self.0.counts.waiting.store(waiting as u64, Ordering::Relaxed);
            match next {
                Next::Begin(item, class, client) if item.is_abandoned() => {
                    self.0.lock().skip(class, client);
                    // Not before the lock is let go of: it may do something when it is dropped.
                    drop(item);
                }
                next => return next,
            }
        }
    }
}

impl<T> Clone for FairQueue<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

// === impl Shared ===

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl State ===

impl<T> State<T> {
    fn new(rate: Option<NonZeroU32>, now: Instant) -> Self {
        Self {
            known: RoundRobin::default(),
            anonymous: RoundRobin::default(),
            running: 0,
            running_anonymous: 0,
            running_of: HashMap::new(),
            known_in_a_row: 0,
            pace: rate.map(|rate| Pace::new(rate, now)),
        }
    }

    fn waiting(&self) -> usize {
        self.known.len() + self.anonymous.len()
    }

    /// What was begun, but will not be worked on.
    fn skip(&mut self, class: Class, client: ClientNetwork) {
        self.finish(class, client);
        if let Some(pace) = &mut self.pace {
            pace.put_back();
        }
    }

    /// What is under way no longer.
    fn finish(&mut self, class: Class, client: ClientNetwork) {
        self.running -= 1;
        if class == Class::Anonymous {
            self.running_anonymous -= 1;
            if let Some(count) = self.running_of.get_mut(&client) {
                *count -= 1;
                if *count == 0 {
                    self.running_of.remove(&client);
                }
            }
        }
    }
}

impl<T: Queued> State<T> {
    /// Whether the item was taken, and what was dropped: it, or another in its place, or what was
    /// abandoned.
    fn push(
        &mut self,
        class: Class,
        client: ClientNetwork,
        item: T,
        limit: usize,
    ) -> (bool, Vec<T>) {
        let mut dropped = Vec::new();
        if self.waiting() >= limit {
            let is_wanted = |item: &T| !item.is_abandoned();
            dropped.extend(self.known.retain(is_wanted));
            dropped.extend(self.anonymous.retain(is_wanted));
        }
        if self.waiting() >= limit {
            let makes_room = class == Class::Known && !self.anonymous.is_empty();
            let own = match class {
                Class::Known if !makes_room => &mut self.known,
                Class::Known | Class::Anonymous => &mut self.anonymous,
            };
            // Only where it makes the lines more alike: else two clients would push out each
            // other in turn.
            let is_fairer = own.longest() > own.len_of(client) + 1;
            let displaced = (makes_room || is_fairer).then(|| own.pop_longest()).flatten();
            let Some(displaced) = displaced else {
                dropped.push(item);
                return (false, dropped);
            };
            dropped.push(displaced);
        }
        match class {
            Class::Known => self.known.push(client, item),
            Class::Anonymous => self.anonymous.push(client, item),
        }
        (true, dropped)
    }

    /// What is to be done next, where `concurrent` items may be under way; what is to be begun
    /// counts as such from here on.
    fn next(&mut self, now: Instant, concurrent: usize) -> Next<T> {
        if self.running >= concurrent {
            return Next::Wait(None);
        }
        let of_all = (concurrent - concurrent / 4).max(1);
        let of_one = (concurrent / 4).max(1);
        let running_of = &self.running_of;
        let may =
            |client: ClientNetwork| running_of.get(&client).is_none_or(|count| *count < of_one);
        let anonymous = self.running_anonymous < of_all && self.anonymous.has(may);
        let is_due = anonymous && self.known_in_a_row + 1 >= ANONYMOUS_SHARE;
        let (class, reserve) = match (self.known.is_empty(), anonymous) {
            (false, _) if !is_due => (Class::Known, false),
            (_, true) => (Class::Anonymous, !is_due),
            (_, false) => return Next::Wait(None),
        };
        if let Some(Err(until)) = self.pace.as_mut().map(|pace| pace.take(now, reserve)) {
            return Next::Wait(Some(until));
        }
        let item = match class {
            Class::Known => self.known.pop(|_| true),
            Class::Anonymous => self.anonymous.pop(may),
        };
        let Some((client, item)) = item else { return Next::Wait(None) };
        self.running += 1;
        match class {
            Class::Known => self.known_in_a_row += u32::from(anonymous),
            Class::Anonymous => {
                self.known_in_a_row = 0;
                self.running_anonymous += 1;
                *self.running_of.entry(client).or_default() += 1;
            }
        }
        Next::Begin(item, class, client)
    }
}

// === impl Running ===

impl<T> Drop for Running<T> {
    fn drop(&mut self) {
        self.queue.0.lock().finish(self.class, self.client);
        self.queue.0.changed.notify_one();
    }
}

// === impl Counts ===

impl Counts {
    /// The queue's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Items that wait.
    pub fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Items that found no room, or had to make room for others.
    pub fn rejected(&self) -> u64 {
        self.rejected.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests;
