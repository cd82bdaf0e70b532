//! A bounded queue of work for the control runtime: fair between clients, and with priority for
//! known callers.
//!
//! - Known callers come first; at least one of every [`ANONYMOUS_SHARE`] items is anonymous, if one
//!   waits.
//! - Within each class, clients are served round robin.
//! - A full queue drops the last item of the client with the most waiting items, but never a known
//!   one for an anonymous one.
//! - A part of the concurrency and of the rate is reserved for known callers, and one client's
//!   anonymous items get at most a quarter.

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

/// At least one of this many items is anonymous while both classes wait.
const ANONYMOUS_SHARE: u32 = 8;

/// A bounded, fair queue. Cheap to clone.
pub struct FairQueue<T>(Arc<Shared<T>>);

/// An item of a queue. An item that is dropped was not processed.
pub trait Queued {
    /// Whether the result is no longer needed: the item is dropped instead of started.
    fn is_abandoned(&self) -> bool;
}

/// The class of an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Of a caller whose credential was valid before.
    Known,
    /// Of any other client.
    Anonymous,
}

/// Limits of a queue. Each is at least one.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Maximum number of queued items.
    pub waiting: usize,
    /// Maximum number of items in progress.
    pub concurrent: usize,
    /// Maximum number of items started per second; `None` for no limit.
    pub rate: Option<NonZeroU32>,
}

/// The queue is full for this class and client.
#[derive(Debug, PartialEq, Eq)]
pub struct Full;

/// Counters of one queue, for metrics.
#[derive(Debug)]
pub struct Counts {
    name: Box<str>,
    waiting: AtomicU64,
    rejected: AtomicU64,
}

struct Shared<T> {
    limits: Limits,
    state: Mutex<State<T>>,
    /// Notified when another item may be able to start.
    changed: Notify,
    counts: Arc<Counts>,
}

/// The queued items and the number in progress. Pure: time is an argument.
struct State<T> {
    known: RoundRobin<T>,
    anonymous: RoundRobin<T>,
    running: usize,
    running_anonymous: usize,
    /// Anonymous items in progress, per client.
    running_of: HashMap<ClientNetwork, usize>,
    /// Known items started in a row while an anonymous one was eligible.
    known_in_a_row: u32,
    pace: Option<Pace>,
}

/// What to do next.
enum Next<T> {
    Begin(T, Class, ClientNetwork),
    /// Wait for a change, or until this time.
    Wait(Option<Instant>),
}

/// An item in progress, until this is dropped.
struct Running<T> {
    queue: FairQueue<T>,
    class: Class,
    client: ClientNetwork,
}

// === impl FairQueue ===

impl<T: Queued> FairQueue<T> {
    /// Creates an empty queue; `name` is its label in metrics.
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

    /// Queues an item of this client. It may be dropped later to make room for other clients.
    ///
    /// # Errors
    /// The queue is full: the item is dropped.
    pub fn push(&self, class: Class, client: ClientNetwork, item: T) -> Result<(), Full> {
        let (pushed, dropped, waiting) = {
            let mut state = self.0.lock();
            let (pushed, dropped) = state.push(class, client, item, self.0.limits.waiting);
            (pushed, dropped, state.waiting())
        };
        self.0.counts.waiting.store(waiting as u64, Ordering::Relaxed);
        let abandoned = dropped.iter().filter(|item| item.is_abandoned()).count();
        self.0.counts.rejected.fetch_add((dropped.len() - abandoned) as u64, Ordering::Relaxed);
        // Dropped after the lock is released: dropping an item may run code.
        drop(dropped);
        if pushed {
            self.0.changed.notify_one();
            Ok(())
        } else {
            Err(Full)
        }
    }

    /// Returns the counters, for metrics.
    pub fn counts(&self) -> &Arc<Counts> {
        &self.0.counts
    }
}

impl<T: Queued + Send + 'static> FairQueue<T> {
    /// Processes the items forever: a task of the control plane.
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
                    // Dropped after the lock is released: dropping an item may run code.
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

    /// Undoes the start of an item that is not processed.
    fn skip(&mut self, class: Class, client: ClientNetwork) {
        self.finish(class, client);
        if let Some(pace) = &mut self.pace {
            pace.put_back();
        }
    }

    /// Removes an item from those in progress.
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
    /// Returns whether the item was queued, and the items that were dropped: this one, a displaced
    /// one, or abandoned ones.
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
            let displaces_anonymous = class == Class::Known && !self.anonymous.is_empty();
            let own = match class {
                Class::Known if !displaces_anonymous => &mut self.known,
                Class::Known | Class::Anonymous => &mut self.anonymous,
            };
            // Only if it makes the lengths more equal: otherwise two clients would displace each
            // other in turn.
            let is_fairer = own.longest() > own.len_of(client) + 1;
            let displaced = (displaces_anonymous || is_fairer).then(|| own.pop_longest()).flatten();
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

    /// Returns the next step with at most `concurrent` items in progress; an item to start counts
    /// as in progress from here on.
    fn next(&mut self, now: Instant, concurrent: usize) -> Next<T> {
        if self.running >= concurrent {
            return Next::Wait(None);
        }
        let of_all = (concurrent - concurrent / 4).max(1);
        let of_one = (concurrent / 4).max(1);
        let running_of = &self.running_of;
        let is_eligible =
            |client: ClientNetwork| running_of.get(&client).is_none_or(|count| *count < of_one);
        let anonymous = self.running_anonymous < of_all && self.anonymous.has(is_eligible);
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
            Class::Anonymous => self.anonymous.pop(is_eligible),
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

    /// Queued items.
    pub fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Items that were dropped because the queue was full.
    pub fn rejected(&self) -> u64 {
        self.rejected.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests;
