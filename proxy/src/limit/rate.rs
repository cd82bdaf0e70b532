//! The rate limits of services: exact for all workers of a gateway together, and divided among its
//! replicas where a limit says so.
//!
//! A limit without traffic has no state. A service without a limit costs one comparison, and touches
//! nothing that workers share.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::RandomState;
use std::num::{NonZeroU32, NonZeroU64};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use portcullis_config::settings::Limits;
use portcullis_config::snapshot::rate_limit::{RateLimit, RateScope};
use smallvec::SmallVec;

use super::budget::{Memory, MemoryBudget};
use super::gcra::Gcra;
use super::requester::Requester;
use super::table::{Place, Table, update};

/// The number of limits with state beyond which those that no snapshot has are forgotten, even if
/// clients still owe them something.
const MAX_STATES: usize = 16_384;
/// The number of limits with state at which those that no snapshot has are first searched for.
const FIRST_SEARCH: usize = 64;

/// The state of all limits, which workers share.
#[derive(Debug)]
pub(crate) struct RateLimits {
    /// The zero of all times.
    epoch: Instant,
    hasher: RandomState,
    budget: Arc<MemoryBudget>,
    states: Mutex<States>,
}

#[derive(Debug)]
struct States {
    by_limit: HashMap<RateLimit, Arc<State>>,
    /// The number of states at which unused ones are searched for: so each costs a constant time.
    search_at: usize,
}

/// A worker's access to [`RateLimits`].
#[derive(Debug)]
pub(crate) struct RateLimiter {
    shared: Arc<RateLimits>,
    /// By the address of the limits, which they keep while they are here.
    cache: RefCell<HashMap<usize, Cached, foldhash::fast::RandomState>>,
}

/// A request that exceeds a limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RateExceeded {
    /// The limit.
    pub(crate) limit: RateLimit,
    /// The time until the request would be allowed.
    pub(crate) wait: Duration,
    /// How many clients took the place of others that still owed something.
    pub(crate) displaced: u32,
}

/// The limits of a service, and their state.
#[derive(Debug, Clone)]
struct Cached {
    limits: Arc<[RateLimit]>,
    states: Rc<[Arc<State>]>,
}

/// What the clients of a limit owe.
#[derive(Debug)]
enum State {
    /// All requests are counted together.
    Whole(AtomicU64),
    PerClient(Table),
}

// === impl RateLimits ===

impl RateLimits {
    /// Creates the state of no limit. The memory for clients of all limits is counted in `gauge`.
    pub(crate) fn new(limits: &Limits, gauge: Arc<AtomicU64>) -> Arc<Self> {
        Arc::new(Self {
            epoch: Instant::now(),
            hasher: RandomState::new(),
            budget: MemoryBudget::new(limits.rate_limit_memory.get(), gauge),
            states: Mutex::default(),
        })
    }

    fn nanoseconds(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.epoch).as_nanos();
        u64::try_from(since).unwrap_or(u64::MAX)
    }

    /// The states of `limits`, as other workers have them.
    fn states(&self, limits: &[RateLimit], now: u64) -> Rc<[Arc<State>]> {
        let mut unused = Vec::new();
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        let found = limits.iter().map(|limit| match states.by_limit.get(limit) {
            Some(state) => Arc::clone(state),
            None => {
                unused.extend(states.take_unused(now));
                let state = Arc::new(State::of(limit, &self.budget));
                states.by_limit.insert(limit.clone(), Arc::clone(&state));
                state
            }
        });
        let found = found.collect();
        drop(states);
        // Not while other workers wait for the lock.
        drop(unused);
        found
    }
}

// === impl States ===

impl States {
    /// Takes the states of limits that no worker has used since they left the snapshot, once nobody
    /// owes anything, or there are too many. Looks for them only if there are many more states than
    /// after the last time.
    fn take_unused(&mut self, now: u64) -> Vec<Arc<State>> {
        let count = self.by_limit.len();
        if count < self.search_at {
            return Vec::new();
        }
        let is_full = count >= MAX_STATES;
        let is_unused = |_: &RateLimit, state: &mut Arc<State>| {
            Arc::strong_count(state) == 1 && (is_full || state.is_idle(now))
        };
        let unused = self.by_limit.extract_if(is_unused).map(|(_, state)| state).collect();
        let left = self.by_limit.len();
        self.search_at = (2 * left).clamp(FIRST_SEARCH, MAX_STATES).max(left + left / 4);
        unused
    }
}

impl Default for States {
    fn default() -> Self {
        Self { by_limit: HashMap::new(), search_at: FIRST_SEARCH }
    }
}

// === impl RateLimiter ===

impl RateLimiter {
    pub(crate) fn new(shared: Arc<RateLimits>) -> Self {
        Self { shared, cache: RefCell::default() }
    }

    /// Counts a request at `now`, if all `limits` allow it, of which some are divided by the number
    /// of `replicas`. Returns how many clients took the place
    /// of others that still owed something, because a table was full.
    ///
    /// # Errors
    /// The request exceeds a limit. It counts for none.
    pub(crate) fn admit(
        &self,
        limits: &Arc<[RateLimit]>,
        client: Requester<'_>,
        replicas: impl FnOnce() -> NonZeroU32,
        now: Instant,
    ) -> Result<u32, Box<RateExceeded>> {
        if limits.is_empty() {
            return Ok(0);
        }
        let replicas = replicas();
        let now = self.shared.nanoseconds(now);
        let states = self.states(limits, now);
        let mut counted: SmallVec<[(&AtomicU64, u64); 4]> = SmallVec::new();
        let mut displaced = 0;
        for (limit, state) in limits.iter().zip(&*states) {
            let gcra = Gcra::of(limit, replicas);
            let decided = state.decide(gcra, now, || client.key(&self.shared.hasher, limit.per));
            let (decided, place) = match decided {
                Ok((due, place)) => (Ok(due), place),
                Err((wait, place)) => (Err(wait), place),
            };
            displaced += u32::from(place == Place::Displacing);
            match decided {
                Ok(due) => counted.push((due, gcra.interval())),
                Err(wait) => {
                    for (due, interval) in counted {
                        due.fetch_sub(interval, Ordering::Relaxed);
                    }
                    let wait = Duration::from_nanos(wait);
                    return Err(Box::new(RateExceeded { limit: limit.clone(), wait, displaced }));
                }
            }
        }
        Ok(displaced)
    }

    fn states(&self, limits: &Arc<[RateLimit]>, now: u64) -> Rc<[Arc<State>]> {
        let address = limits.as_ptr().addr();
        if let Some(cached) = self.cache.borrow().get(&address) {
            return Rc::clone(&cached.states);
        }
        let states = self.shared.states(limits, now);
        let cached = Cached { limits: Arc::clone(limits), states: Rc::clone(&states) };
        self.cache.borrow_mut().insert(address, cached);
        states
    }

    /// Drops limits that no snapshot has any more. Must be called every few seconds.
    pub(crate) fn sweep(&self) {
        self.cache.borrow_mut().retain(|_, cached| Arc::strong_count(&cached.limits) > 1);
    }
}

// === impl State ===

impl State {
    fn of(limit: &RateLimit, budget: &Arc<MemoryBudget>) -> Self {
        match limit.per {
            RateScope::Service | RateScope::Namespace => Self::Whole(AtomicU64::new(0)),
            RateScope::User | RateScope::Application | RateScope::Source => {
                Self::PerClient(Table::new(Memory::new(budget, limit.owner.owner())))
            }
        }
    }

    fn decide(
        &self,
        gcra: Gcra,
        now: u64,
        key: impl FnOnce() -> NonZeroU64,
    ) -> Result<(&AtomicU64, Place), (u64, Place)> {
        let decide = |due| gcra.decide(due, now);
        match self {
            Self::Whole(due) => match update(due, decide) {
                Ok(()) => Ok((due, Place::Own)),
                Err(wait) => Err((wait, Place::Own)),
            },
            Self::PerClient(table) => table.update(key(), now, decide),
        }
    }

    fn is_idle(&self, now: u64) -> bool {
        match self {
            Self::Whole(due) => due.load(Ordering::Relaxed) <= now,
            Self::PerClient(table) => table.is_idle(now),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
    use std::num::NonZeroUsize;

    use portcullis_identity::caller::{Caller, ann};

    use super::*;
    use crate::limit::gcra::tests::limit;

    fn rate_limits() -> Arc<RateLimits> {
        RateLimits::new(&Limits::default(), Arc::default())
    }

    fn address(last: u8) -> IpAddr {
        Ipv4Addr::new(192, 0, 2, last).into()
    }

    /// How many of ten requests are allowed.
    fn allowed(
        limiter: &RateLimiter,
        limits: &Arc<[RateLimit]>,
        caller: &Caller,
        last: u8,
    ) -> usize {
        let now = limiter.shared.epoch;
        let requester = Requester { caller, address: address(last) };
        let admit = || limiter.admit(limits, requester, || NonZeroU32::MIN, now);
        (0..10).filter(|_| admit().is_ok()).count()
    }

    #[test]
    fn a_request_is_counted_for_the_best_identity_of_its_scope() {
        let (both, nobody) = (ann(), Caller::default());
        let application = Caller { user: None, ..ann() };
        for (scope, expected) in [
            // Twice each, from another address: both, the application alone, and nobody.
            (RateScope::User, [(3, 0), (3, 0), (3, 3)]),
            (RateScope::Application, [(3, 0), (0, 0), (3, 3)]),
            (RateScope::Source, [(3, 3), (0, 0), (0, 0)]),
            (RateScope::Service, [(3, 0), (0, 0), (0, 0)]),
        ] {
            let limiter = RateLimiter::new(rate_limits());
            let limits: Arc<[RateLimit]> = [limit(1, 3, scope)].into();
            for (caller, expected) in [&both, &application, &nobody].into_iter().zip(expected) {
                let counts = [1, 2].map(|last| allowed(&limiter, &limits, caller, last));
                assert_eq!(counts, <[usize; 2]>::from(expected), "{scope} {caller:?}");
            }
        }
    }

    #[test]
    fn a_request_that_one_limit_rejects_counts_for_no_other() {
        let limiter = RateLimiter::new(rate_limits());
        let wide = limit(1, 10, RateScope::Service);
        let both: Arc<[RateLimit]> = [wide.clone(), limit(1, 2, RateScope::Source)].into();
        assert_eq!(allowed(&limiter, &both, &Caller::default(), 1), 2);
        assert_eq!(allowed(&limiter, &[wide].into(), &Caller::default(), 1), 8);
    }

    #[test]
    fn workers_and_snapshots_share_the_state_of_a_limit() {
        let shared = rate_limits();
        let limits = || -> Arc<[RateLimit]> { [limit(1, 3, RateScope::User)].into() };
        let (first, second) =
            (RateLimiter::new(Arc::clone(&shared)), RateLimiter::new(Arc::clone(&shared)));
        assert_eq!(allowed(&first, &limits(), &ann(), 1), 3);
        first.sweep();
        assert_eq!(allowed(&first, &limits(), &ann(), 1), 0, "of a later snapshot");
        assert_eq!(allowed(&second, &limits(), &ann(), 1), 0);
        assert!(first.cache.borrow().len() <= 1, "what left the snapshot was swept");
    }

    #[test]
    fn the_limits_of_deleted_services_are_forgotten() {
        let limiter = RateLimiter::new(rate_limits());
        for number in 0..5_000 {
            let limits: Arc<[RateLimit]> = [limit(1 + number, 1, RateScope::Service)].into();
            let later = limiter.shared.epoch + Duration::from_secs(10 * u64::from(number));
            let nobody = Requester { caller: &Caller::default(), address: address(1) };
            assert!(limiter.admit(&limits, nobody, || NonZeroU32::MIN, later).is_ok());
            drop(limits);
            limiter.sweep();
        }
        assert!(limiter.shared.states.lock().unwrap().by_limit.len() <= FIRST_SEARCH);
    }

    #[test]
    fn many_limits_are_rarely_searched_for_unused_ones() {
        let mut states = States::default();
        let budget = MemoryBudget::new(0, Arc::default());
        let mut in_use = Vec::new();
        let searches = (1..=100_000).filter(|number| {
            let (limit, search_at) = (limit(*number, 1, RateScope::Service), states.search_at);
            assert!(states.take_unused(0).is_empty());
            let state = Arc::new(State::of(&limit, &budget));
            in_use.push(Arc::clone(&state));
            states.by_limit.insert(limit, state);
            states.search_at != search_at
        });
        assert!(searches.count() <= 8 + 9, "at 64 × 2^n, then at each 5/4");
        in_use.clear();
        states.search_at = 0;
        assert_eq!(states.take_unused(0).len(), 100_000);
        assert_eq!(states.search_at, FIRST_SEARCH);
    }

    /// A Namespace with many limits and an IPv6 /48 of clients uses its share of the memory, and
    /// other Namespaces' limits still count each client by itself.
    #[test]
    fn limits_of_one_namespace_leave_memory_to_those_of_others() {
        let settings =
            Limits { rate_limit_memory: NonZeroUsize::new(1 << 20).unwrap(), ..Limits::default() };
        let gauge = Arc::default();
        let shared = RateLimits::new(&settings, Arc::clone(&gauge));
        let limiter = RateLimiter::new(Arc::clone(&shared));
        let nobody = Caller::default();
        let admit = |limits: &Arc<[RateLimit]>, client: u32| {
            let network = (0x2001_0db8_u128 << 96) | u128::from(client) << 64;
            let address = IpAddr::from(Ipv6Addr::from_bits(network));
            let requester = Requester { caller: &nobody, address };
            limiter.admit(limits, requester, || NonZeroU32::MIN, shared.epoch).is_ok()
        };
        for number in 0..20 {
            let limits: Arc<[RateLimit]> = [limit(1 + number, 3, RateScope::Source)].into();
            for client in 0..20_000 {
                admit(&limits, client);
            }
        }
        assert!(gauge.load(Ordering::Relaxed) <= 512 << 10);
        let mut of_another = limit(1, 3, RateScope::Source);
        of_another.owner.namespace = "another".into();
        let limits: Arc<[RateLimit]> = [of_another].into();
        for client in 0..500 {
            assert_eq!((0..5).filter(|_| admit(&limits, client)).count(), 3, "{client}");
        }
    }

    #[test]
    fn a_rejected_request_learns_when_to_come_again() {
        let limiter = RateLimiter::new(rate_limits());
        let limits: Arc<[RateLimit]> = [limit(4, 1, RateScope::User)].into();
        let (now, caller) = (limiter.shared.epoch, ann());
        let requester = Requester { caller: &caller, address: address(1) };
        let admit = |now| limiter.admit(&limits, requester, || NonZeroU32::MIN, now);
        assert_eq!(admit(now), Ok(0));
        let exceeded = admit(now).unwrap_err();
        assert_eq!(exceeded.wait, Duration::from_millis(250));
        assert_eq!(admit(now + exceeded.wait), Ok(0));
    }
}
