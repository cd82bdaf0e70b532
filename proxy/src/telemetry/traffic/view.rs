//! The feed of a snapshot and the counts.

use std::collections::{BTreeMap, HashSet};
use std::sync::PoisonError;

use portcullis_config::snapshot::Snapshot;
use portcullis_config::snapshot::backend::Backend;
use portcullis_config::snapshot::rule::Rule;
use portcullis_config::snapshot::split::Split;

use super::feed::{BucketRange, Feed, Service, VERSION, Variant};
use super::registry::{Entry, Registry, ServiceKey};
use super::window;

/// What a reader wants to know.
#[derive(Debug, Clone, Default)]
pub(crate) struct Filter {
    /// The Namespace; `None` is any.
    pub(crate) namespace: Option<String>,
    /// The name of the service; `None` is any.
    pub(crate) service: Option<String>,
    /// Whether windows are left out.
    pub(crate) omits_windows: bool,
    /// The earliest start of a window, in seconds since 1970.
    pub(crate) from: u64,
}

// === impl Filter ===

impl Filter {
    fn matches(&self, key: &ServiceKey) -> bool {
        let is_it = |wanted: &Option<String>, name: &str| {
            wanted.as_ref().is_none_or(|wanted| wanted == name)
        };
        is_it(&self.namespace, &key.namespace) && is_it(&self.service, &key.name)
    }
}

// === impl Registry ===

impl Registry {
    /// Returns the feed. Workers read the `snapshot` anew for each request, so that its splits are
    /// those that all of them apply. `now` is in seconds since 1970.
    pub(crate) fn feed(&self, snapshot: &Snapshot, filter: &Filter, now: u64) -> Feed {
        let rules = rules(snapshot);
        let counted = self.all(|key| rules.contains_key(key), now);
        let is_full = self.is_full();
        let services = rules.into_iter().filter(|(key, _)| filter.matches(key));
        let services = services.filter_map(|(key, rule)| {
            let entry = counted.get(&key);
            (rule.split.is_some() || entry.is_some()).then(|| {
                let mut service = view(&key, rule, entry, filter);
                if is_full && entry.is_none() {
                    service.incomplete.get_or_insert_default().counts = true;
                }
                service
            })
        });
        Feed {
            version: VERSION,
            start: self.start.id.clone(),
            started_at: self.start.at,
            now,
            services: services.collect(),
        }
    }
}

/// The splits of all services.
pub(in crate::telemetry) fn splits(
    snapshot: &Snapshot,
) -> impl Iterator<Item = (ServiceKey, &Split)> {
    rules(snapshot).into_iter().filter_map(|(key, rule)| Some((key, rule.split.as_deref()?)))
}

/// The rules of all services. Of several rules of a service, one with variants counts.
fn rules(snapshot: &Snapshot) -> BTreeMap<ServiceKey, &Rule> {
    let mut rules: BTreeMap<ServiceKey, &Rule> = BTreeMap::new();
    // Services share lists among their hosts, and listeners their hosts.
    let mut lists = HashSet::new();
    for host in snapshot.listeners.iter().flat_map(|listener| listener.hosts.iter()) {
        if !lists.insert((&*host.environment, host.routes.as_ptr())) {
            continue;
        }
        for rule in host.routes.iter().map(|route| &*route.rule) {
            let known = rules.entry(ServiceKey::of(&host.environment, rule)).or_insert(rule);
            if known.split.is_none() {
                *known = rule;
            }
        }
    }
    rules
}

fn view(key: &ServiceKey, rule: &Rule, entry: Option<&Entry>, filter: &Filter) -> Service {
    let split = rule.split.as_deref();
    let mut service = Service {
        environment: key.environment.to_string(),
        namespace: key.namespace.to_string(),
        service: key.name.to_string(),
        counted_since: entry.map(|entry| entry.since),
        generation: split.map(|split| split.generation().to_string()),
        ranges: split.map(|split| ranges(split, rule)).unwrap_or_default(),
        variants: variants(rule),
        ..Service::default()
    };
    if let Some(entry) = entry {
        entry.add_to(&mut service, filter);
        if entry.lacks_counts {
            service.incomplete.get_or_insert_default().counts = true;
        }
        if entry.lacks_windows && split.is_some_and(window::is_running) {
            service.incomplete.get_or_insert_default().windows = true;
        }
    }
    service
}

fn name(backend: &Backend) -> String {
    backend.endpoints.key().service.to_string()
}

fn ranges(split: &Split, rule: &Rule) -> Vec<BucketRange> {
    let range = |range: &portcullis_config::snapshot::split::Range| {
        let backend = rule.backends.all().get(range.variant().position())?;
        let (first, last) = (range.first().number(), range.last().number());
        Some(BucketRange { first, last, variant: name(backend) })
    };
    split.ranges().iter().filter_map(range).collect()
}

/// The variants of a rule, without counts.
fn variants(rule: &Rule) -> Vec<Variant> {
    let all = rule.backends.all();
    let total: u64 = all.iter().map(|backend| u64::from(backend.weight)).sum();
    let weight = |position, backend: &Backend| match &rule.split {
        Some(split) => f64::from(split.weight(position)) / 100.0,
        None if total > 0 => f64::from(backend.weight) * 100.0 / total as f64,
        None => 0.0,
    };
    let variant = |(position, backend): (usize, &Backend)| Variant {
        name: name(backend),
        label: backend.variant.to_string(),
        weight: weight(position, backend),
        ..Variant::default()
    };
    all.iter().enumerate().map(variant).collect()
}

// === impl Entry ===

impl Entry {
    fn add_to(&self, service: &mut Service, filter: &Filter) {
        for (name, _, counts) in &self.variants {
            let known = service.variants.iter_mut().find(|variant| *variant.name == **name);
            match known {
                Some(variant) => counts.add_to(variant),
                None => {
                    // It has been removed, and its requests still count.
                    let name = name.to_string();
                    let mut variant = Variant { label: name.clone(), name, ..Variant::default() };
                    counts.add_to(&mut variant);
                    service.variants.push(variant);
                }
            }
        }
        for (_, windows) in self.windows.iter().filter(|_| !filter.omits_windows) {
            // Copied first, so that the worker does not wait for the sums.
            let copy = windows.lock().unwrap_or_else(PoisonError::into_inner).since(filter.from);
            copy.add_to(service);
        }
    }
}
