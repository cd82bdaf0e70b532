//! Detects whether a file is a gateway's configuration or a manifest, by its content.

use crate::yaml::{self, Node, Value};

/// Keys that every Kubernetes object has and no configuration has.
const OF_OBJECTS: [&str; 3] = ["apiVersion", "kind", "metadata"];
/// Keys that every configuration has and no Kubernetes object has.
const OF_CONFIGURATIONS: [&str; 2] = ["zone", "source"];

/// The kind of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// The configuration of a gateway.
    Configuration,
    /// Kubernetes objects.
    Manifests,
}

// === impl FileKind ===

impl FileKind {
    /// Returns the kind of a file with this YAML or JSON content; `None` if it is neither. A file
    /// that cannot be parsed is classified by the keys at the start of its lines.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Option<Self> {
        let documents = yaml::read(bytes);
        let mut nodes = documents.iter().filter_map(|document| document.as_ref().ok());
        if nodes.clone().any(|node| has_any(node, &OF_OBJECTS)) {
            Some(Self::Manifests)
        } else if nodes.any(is_configuration) {
            Some(Self::Configuration)
        } else if documents.iter().any(Result::is_err) {
            Self::by_lines(&String::from_utf8_lossy(bytes))
        } else {
            None
        }
    }

    fn by_lines(text: &str) -> Option<Self> {
        let begins = |keys: &[&str]| {
            text.lines().any(|line| {
                let line = line.trim_start_matches([' ', '\t', '{', '"']);
                keys.iter().any(|key| {
                    let rest = line.strip_prefix(key).map(|rest| rest.trim_start_matches('"'));
                    rest.is_some_and(|rest| rest.trim_start().starts_with(':'))
                })
            })
        };
        if begins(&OF_OBJECTS) {
            Some(Self::Manifests)
        } else if begins(&OF_CONFIGURATIONS) {
            Some(Self::Configuration)
        } else {
            None
        }
    }
}

/// Whether a document is a gateway's configuration.
pub(super) fn is_configuration(document: &Node) -> bool {
    !has_any(document, &OF_OBJECTS) && has_any(document, &OF_CONFIGURATIONS)
}

fn has_any(document: &Node, keys: &[&str]) -> bool {
    matches!(&document.value, Value::Map(_)) && keys.iter().any(|key| document.get(key).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_classified_by_its_keys() {
        use FileKind::{Configuration, Manifests};
        for (text, kind) in [
            ("apiVersion: v1\nkind: Service\n", Some(Manifests)),
            ("# nothing yet\n---\nkind: Service\n", Some(Manifests)),
            ("{\"kind\": \"List\", \"items\": []}", Some(Manifests)),
            ("metadata: {name: shop}\nspec: {}\n", Some(Manifests)),
            ("apiVersion: v1\nzone: apps.example.com\n", Some(Manifests)),
            ("zone: apps.example.com\nsource: {directory: .}\n", Some(Configuration)),
            ("source: {kubernetes: {}}\nzones: a\n", Some(Configuration)),
            ("{\"zone\": \"apps.example.com\"}", Some(Configuration)),
            ("", None),
            ("replicas: 3\nimage: shop\n", None),
            ("- zone\n- kind\n", None),
            // What cannot be parsed.
            ("apiVersion: v1\nkind: Secret\n\tdata: {\n", Some(Manifests)),
            ("{\n  \"kind\" : \"Secret\",\n", Some(Manifests)),
            ("zone: [apps\n", Some(Configuration)),
            ("kindly: [\n", None),
        ] {
            assert_eq!(FileKind::of(text.as_bytes()), kind, "{text}");
        }
    }
}
