//! What is known of the Secrets, heard in two ways: what this process wrote it knows at once, and
//! the watch tells it again, perhaps much later.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;

/// The Secrets as they were last seen, by whichever way; `None` before they were listed.
#[derive(Default)]
pub(super) struct Known(Option<BTreeMap<String, Secret>>);

// === impl Known ===

impl Known {
    /// All of them; `None` before they were listed.
    pub(super) fn secrets(&self) -> Option<impl Iterator<Item = &Secret>> {
        self.0.as_ref().map(BTreeMap::values)
    }

    /// All that there is was listed.
    pub(super) fn all(&mut self, listed: BTreeMap<String, Secret>) {
        let mut before = self.0.take().unwrap_or_default();
        before.retain(|name, _| listed.contains_key(name));
        self.0 = Some(listed);
        before.into_values().for_each(|secret| self.put(secret));
    }

    /// What is older than what is known says nothing new.
    pub(super) fn put(&mut self, secret: Secret) {
        let Some(secrets) = &mut self.0 else { return };
        let name = secret.name_any();
        if secrets.get(&name).is_none_or(|known| version(known) <= version(&secret)) {
            secrets.insert(name, secret);
        }
    }

    pub(super) fn take(&mut self, secret: &Secret) {
        let Some(secrets) = &mut self.0 else { return };
        let name = secret.name_any();
        if secrets.get(&name).is_some_and(|known| version(known) <= version(secret)) {
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

    fn told(known: &Known) -> Option<Vec<(String, u64)>> {
        known
            .secrets()
            .map(|secrets| secrets.map(|secret| (secret.name_any(), version(secret))).collect())
    }

    #[test]
    fn what_was_written_is_known_before_the_watch_tells_it_and_stays_so_when_that_is_behind() {
        let mut known = Known::default();
        known.put(secret("a", 1));
        assert_eq!(told(&known), None, "not before all were listed");
        known.all(listed(&[("a", 10), ("b", 11)]));
        known.put(secret("a", 20));
        known.put(secret("c", 21));
        known.put(secret("a", 15));
        known.take(&secret("c", 12));
        assert_eq!(
            told(&known),
            Some(vec![("a".to_owned(), 20), ("b".to_owned(), 11), ("c".to_owned(), 21)])
        );
        known.all(listed(&[("a", 19), ("b", 22)]));
        assert_eq!(
            told(&known),
            Some(vec![("a".to_owned(), 20), ("b".to_owned(), 22)]),
            "what is gone is gone"
        );
        known.take(&secret("a", 23));
        assert_eq!(told(&known), Some(vec![("b".to_owned(), 22)]));
    }
}
