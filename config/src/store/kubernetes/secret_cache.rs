//! A cache of Secrets with two inputs: writes of this process, which are visible immediately, and
//! the watch, which may deliver the same change much later.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;

/// The newest version of each Secret from either input; `None` before they were listed.
#[derive(Default)]
pub(super) struct SecretCache(Option<BTreeMap<String, Secret>>);

// === impl SecretCache ===

impl SecretCache {
    /// All Secrets; `None` before they were listed.
    pub(super) fn secrets(&self) -> Option<impl Iterator<Item = &Secret>> {
        self.0.as_ref().map(BTreeMap::values)
    }

    /// Replaces the cache by a complete list, except for Secrets that are newer in the cache.
    pub(super) fn replace(&mut self, listed: BTreeMap<String, Secret>) {
        let mut before = self.0.take().unwrap_or_default();
        before.retain(|name, _| listed.contains_key(name));
        self.0 = Some(listed);
        before.into_values().for_each(|secret| self.put(secret));
    }

    /// Adds or replaces a Secret, unless the cached one is newer.
    pub(super) fn put(&mut self, secret: Secret) {
        let Some(secrets) = &mut self.0 else { return };
        let name = secret.name_any();
        if secrets.get(&name).is_none_or(|cached| version(cached) <= version(&secret)) {
            secrets.insert(name, secret);
        }
    }

    /// Removes a Secret, unless the cached one is newer.
    pub(super) fn remove(&mut self, secret: &Secret) {
        let Some(secrets) = &mut self.0 else { return };
        let name = secret.name_any();
        if secrets.get(&name).is_some_and(|cached| version(cached) <= version(secret)) {
            secrets.remove(&name);
        }
    }
}

/// Versions of one kind of resource grow (Kubernetes API concepts, "Resource versions").
fn version(secret: &Secret) -> u64 {
    secret
        .metadata
        .resource_version
        .as_deref()
        .and_then(|version| version.parse().ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(name: &str, version: u64) -> Secret {
        let mut secret = Secret::default();
        secret.metadata.name = Some(name.to_owned());
        secret.metadata.resource_version = Some(version.to_string());
        secret
    }

    fn listed(secrets: &[(&str, u64)]) -> BTreeMap<String, Secret> {
        secrets.iter().map(|(name, version)| ((*name).to_owned(), secret(name, *version))).collect()
    }

    fn cached_versions(cache: &SecretCache) -> Option<Vec<(String, u64)>> {
        cache
            .secrets()
            .map(|secrets| secrets.map(|secret| (secret.name_any(), version(secret))).collect())
    }

    #[test]
    fn a_write_is_visible_immediately_and_is_not_undone_by_older_watch_events() {
        let mut cache = SecretCache::default();
        cache.put(secret("a", 1));
        assert_eq!(cached_versions(&cache), None, "empty before the first list");
        cache.replace(listed(&[("a", 10), ("b", 11)]));
        cache.put(secret("a", 20));
        cache.put(secret("c", 21));
        cache.put(secret("a", 15));
        cache.remove(&secret("c", 12));
        assert_eq!(
            cached_versions(&cache),
            Some(vec![("a".to_owned(), 20), ("b".to_owned(), 11), ("c".to_owned(), 21)])
        );
        cache.replace(listed(&[("a", 19), ("b", 22)]));
        assert_eq!(
            cached_versions(&cache),
            Some(vec![("a".to_owned(), 20), ("b".to_owned(), 22)]),
            "a deleted Secret is not restored"
        );
        cache.remove(&secret("a", 23));
        assert_eq!(cached_versions(&cache), Some(vec![("b".to_owned(), 22)]));
    }
}
