//! Names of Kubernetes objects.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use serde::Serialize;

/// The name of an object in a namespace, ordered by its text `namespace/name` (Gateway API breaks
/// ties by that).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct NamespacedName {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

// === impl NamespacedName ===

impl NamespacedName {
    /// Creates a name.
    #[must_use]
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// Whether it is the Service of the Kubernetes API server.
    #[must_use]
    pub fn is_api_server(&self) -> bool {
        *self.namespace == *"default" && *self.name == *"kubernetes"
    }

    fn displayed(&self) -> impl Iterator<Item = u8> + '_ {
        self.namespace.bytes().chain(*b"/").chain(self.name.bytes())
    }
}

impl Ord for NamespacedName {
    fn cmp(&self, other: &Self) -> Ordering {
        if self.namespace == other.namespace {
            return self.name.cmp(&other.name);
        }
        // Most differ where both have a namespace, which is faster to compare.
        let shorter = self.namespace.len().min(other.namespace.len());
        let own = self.namespace.as_bytes().get(..shorter);
        own.cmp(&other.namespace.as_bytes().get(..shorter))
            .then_with(|| self.displayed().cmp(other.displayed()))
            // A `/` inside a name, possible only in a folder, would make two different names equal.
            .then_with(|| self.namespace.cmp(&other.namespace))
    }
}

impl PartialOrd for NamespacedName {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for NamespacedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_ordered_by_their_text() {
        let parts = ["", "a", "a-b", "a0", "ab", "b", "shop", "shop-2"];
        let names =
            || parts.iter().flat_map(|space| parts.map(|name| NamespacedName::new(*space, name)));
        for one in names() {
            for other in names() {
                let texts = one.to_string().cmp(&other.to_string());
                assert_eq!(one.cmp(&other), texts, "{one} and {other}");
            }
        }
    }

    #[test]
    fn different_names_of_the_same_text_are_not_equal() {
        let (one, other) = (NamespacedName::new("a", "b/c"), NamespacedName::new("a/b", "c"));
        assert_eq!(one.to_string(), other.to_string());
        assert_ne!(one.cmp(&other), Ordering::Equal);
    }
}
