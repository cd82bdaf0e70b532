//! Active health checks: one worker asks the endpoints of Services that want it, and all workers
//! learn which of them fail.
//!
//! Only endpoints of the snapshot are asked, at most [`MAX_CHECKS`] at once, Namespaces in turn.

mod ask;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use portcullis_config::live::Live;
use portcullis_config::snapshot::Snapshot;
use portcullis_config::snapshot::backend::UpstreamProtocol;
use portcullis_config::snapshot::health_check::HealthCheck;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::Upstreams;
use super::connect::Connector;
use crate::balance::check::{Checked, Due, in_turn};

/// The checks at once.
const MAX_CHECKS: usize = 64;
/// The checks that are begun at a tick: they must not take much of the worker's time.
const MAX_BEGUN: usize = 16;
/// How often due checks are begun, and changed verdicts are published.
const TICK: Duration = Duration::from_millis(100);
/// How often the endpoints to check are read.
const REFRESH: Duration = Duration::from_secs(1);

/// The endpoints whose checks fail.
pub(crate) type Failing = HashSet<CheckKey>;

/// An endpoint that is checked.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct CheckKey {
    /// The endpoint set.
    set: u64,
    protocol: UpstreamProtocol,
    /// Its pod and address.
    endpoint: u64,
}

/// What is known of an endpoint that is checked.
struct Target {
    address: SocketAddr,
    check: HealthCheck,
    namespace: Arc<str>,
    checked: Checked,
    /// When the next check is due; `None` while one is under way.
    next: Option<Instant>,
}

/// All endpoints that are checked.
struct Checks {
    connector: Rc<Connector>,
    targets: HashMap<CheckKey, Target>,
    running: JoinSet<Ended>,
    /// How many checks of a Namespace are under way.
    running_of: HashMap<Arc<str>, usize>,
    /// The Namespace whose check was begun last.
    last: Arc<str>,
    /// Whether verdicts have changed since they were published.
    is_changed: bool,
}

/// A check that has ended.
struct Ended {
    key: CheckKey,
    namespace: Arc<str>,
    passed: bool,
}

// === impl CheckKey ===

impl CheckKey {
    pub(super) fn new(set: u64, protocol: &UpstreamProtocol, endpoint: u64) -> Self {
        Self { set, protocol: protocol.clone(), endpoint }
    }
}

/// Checks endpoints forever, and publishes which of them fail.
pub(crate) async fn run(
    upstreams: &Upstreams,
    live: &Live,
    verdicts: &watch::Sender<Arc<Failing>>,
) {
    let mut checks = Checks::new(Rc::clone(&upstreams.connector));
    let mut refreshed: Option<Instant> = None;
    loop {
        let now = Instant::now();
        if refreshed.is_none_or(|at| now.duration_since(at) >= REFRESH) {
            refreshed = Some(now);
            checks.refresh(&live.snapshot.load(), now);
        }
        checks.begin(now);
        checks.publish(verdicts);
        checks.collect(if checks.targets.is_empty() { REFRESH } else { TICK }).await;
    }
}

// === impl Checks ===

impl Checks {
    fn new(connector: Rc<Connector>) -> Self {
        Self {
            connector,
            targets: HashMap::new(),
            running: JoinSet::new(),
            running_of: HashMap::new(),
            last: Arc::default(),
            is_changed: false,
        }
    }

    /// Reads which endpoints are to be checked, and forgets all others.
    fn refresh(&mut self, snapshot: &Snapshot, now: Instant) {
        let mut previous = std::mem::take(&mut self.targets);
        for rule in snapshot.rules() {
            let Some(check) = &rule.policy.health_check else { continue };
            let suited = rule.backends.all().iter().filter(|one| check.probe.suits(&one.protocol));
            for backend in suited {
                let set = &backend.endpoints;
                for endpoint in set.load().eligible() {
                    let key = CheckKey::new(set.id(), &backend.protocol, endpoint.stable_hash());
                    if self.targets.contains_key(&key) {
                        continue;
                    }
                    let known = previous.remove(&key);
                    let target = known.unwrap_or_else(|| Target {
                        address: endpoint.address,
                        check: check.clone(),
                        namespace: Arc::clone(&set.key().namespace),
                        checked: Checked::default(),
                        // Not all at once.
                        next: Some(now + self.part_of(check.interval)),
                    });
                    self.targets.insert(key, target.changed(check, now));
                }
            }
        }
        self.is_changed |= previous.values().any(|target| target.checked.is_failing());
    }

    /// A random part of a time.
    fn part_of(&self, time: Duration) -> Duration {
        let part = (time.as_micros() * u128::from(self.connector.random.next() >> 32)) >> 32;
        Duration::from_micros(u64::try_from(part).unwrap_or_default())
    }

    /// Begins checks that are due.
    fn begin(&mut self, now: Instant) {
        let free = MAX_CHECKS.saturating_sub(self.running.len());
        let chosen = in_turn(self.due(now), &self.last, free, MAX_BEGUN);
        let chosen: Vec<CheckKey> = chosen.into_iter().map(|(_, key)| key.clone()).collect();
        for key in chosen {
            let Some(target) = self.targets.get_mut(&key) else { continue };
            target.next = None;
            let (address, check) = (target.address, target.check.clone());
            let namespace = Arc::clone(&target.namespace);
            self.last = Arc::clone(&namespace);
            *self.running_of.entry(Arc::clone(&namespace)).or_default() += 1;
            let connector = Rc::clone(&self.connector);
            self.running.spawn_local(async move {
                let passed = ask::passes(&connector, address, &key.protocol, &check).await;
                Ended { key, namespace, passed }
            });
        }
    }

    /// The checks that are due, by Namespace, those that have waited longest first.
    fn due(&self, now: Instant) -> Vec<Due<'_, &CheckKey>> {
        let mut due: BTreeMap<&str, Vec<(Instant, &CheckKey)>> = BTreeMap::new();
        for (key, target) in &self.targets {
            if let Some(next) = target.next.filter(|next| *next <= now) {
                due.entry(&target.namespace).or_default().push((next, key));
            }
        }
        let of_namespace = |(namespace, mut checks): (_, Vec<(Instant, _)>)| {
            checks.sort_unstable_by_key(|(next, _)| *next);
            let running = self.running_of.get(namespace).copied().unwrap_or_default();
            Due { namespace, running, checks: checks.into_iter().map(|(_, key)| key).collect() }
        };
        due.into_iter().map(of_namespace).collect()
    }

    /// Records the checks that end within a time.
    async fn collect(&mut self, time: Duration) {
        let mut timer = pin!(tokio::time::sleep(time));
        loop {
            tokio::select! {
                () = &mut timer => return,
                Some(ended) = self.running.join_next() => {
                    if let Ok(ended) = ended {
                        self.ended(ended);
                    }
                }
            }
        }
    }

    /// Records the outcome of a check. The next one follows after the interval, by a tenth more or
    /// less.
    fn ended(&mut self, Ended { key, namespace, passed }: Ended) {
        self.connector.meter.health_checked(if passed { "passed" } else { "failed" });
        if let Some(running) = self.running_of.get_mut(&namespace) {
            *running = running.saturating_sub(1);
            if *running == 0 {
                self.running_of.remove(&namespace);
            }
        }
        let Some(interval) = self.targets.get(&key).map(|target| target.check.interval) else {
            return;
        };
        let next = Instant::now() + interval * 9 / 10 + self.part_of(interval / 5);
        let Some(target) = self.targets.get_mut(&key) else { return };
        let checked = target.checked.ended(passed, target.check.failures);
        self.is_changed |= checked.is_failing() != target.checked.is_failing();
        target.checked = checked;
        target.next = Some(next);
    }

    /// Publishes which endpoints fail, if that has changed.
    fn publish(&mut self, verdicts: &watch::Sender<Arc<Failing>>) {
        if std::mem::take(&mut self.is_changed) {
            let failing = self.targets.iter().filter(|(_, target)| target.checked.is_failing());
            verdicts.send_replace(Arc::new(failing.map(|(key, _)| key.clone()).collect()));
        }
    }
}

// === impl Target ===

impl Target {
    /// It is to be checked by `check`, which may be another one than before.
    fn changed(mut self, check: &HealthCheck, now: Instant) -> Self {
        if self.check != *check {
            self.next = self.next.map(|next| next.min(now + check.interval));
            self.check = check.clone();
        }
        self
    }
}
