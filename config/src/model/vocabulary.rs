//! The vocabulary that users write: every label and annotation that has a meaning.
//!
//! `docs/annotations.md` describes each; a test compares.

use std::fmt;

/// A label or an annotation of ours, by what follows [`PREFIX`]: no other text has the prefix.
macro_rules! prefixed {
    ($name:literal) => {
        concat!("portcullis.dev/", $name)
    };
}
pub(crate) use prefixed;

/// The prefix of every label and annotation that is Portcullis' own.
pub const PREFIX: &str = prefixed!("");

/// A label or an annotation, by what follows [`PREFIX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// What follows the prefix.
    pub name: &'static str,
    /// Where it is read.
    pub place: KeyPlace,
    /// Whether it has an effect already. One that has none yet is told as a warning, and never
    /// opens anything.
    pub served: bool,
}

/// Where a key is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyPlace {
    /// As a label of Namespaces.
    NamespaceLabel,
    /// As an annotation of Namespaces.
    Namespace,
    /// As an annotation of Services.
    Service,
    /// As an annotation of Namespaces and Services.
    Both,
}

/// Names the environment that a Namespace is.
pub const ENVIRONMENT: Key =
    Key { name: "environment", place: KeyPlace::NamespaceLabel, served: true };
/// Whether Services are exposed.
pub const EXPOSE: Key = Key { name: "expose", place: KeyPlace::Both, served: true };
/// The credentials that are demanded.
pub const REQUIRE: Key = Key { name: "require", place: KeyPlace::Both, served: true };
/// Whether hostnames may stand in public certificate logs although they demand credentials.
pub const PUBLIC_NAMES: Key =
    Key { name: "public-names", place: KeyPlace::Namespace, served: true };
/// The applications that are let in.
pub const ALLOW_APPS: Key = Key { name: "allow-apps", place: KeyPlace::Both, served: true };
/// The users that are let in, by their names.
pub const ALLOW_USERS: Key = Key { name: "allow-users", place: KeyPlace::Both, served: true };
/// The users that are let in, by their groups.
pub const ALLOW_GROUPS: Key = Key { name: "allow-groups", place: KeyPlace::Both, served: true };
/// The path prefixes that need no credentials.
pub const PUBLIC_PATHS: Key = Key { name: "public-paths", place: KeyPlace::Service, served: true };
/// Whether backends get the credentials that were shown.
pub const PASS_CREDENTIALS: Key =
    Key { name: "pass-credentials", place: KeyPlace::Service, served: true };
/// Which port of a Service is meant.
pub const PORT: Key = Key { name: "port", place: KeyPlace::Service, served: true };
/// Further hostnames.
pub const HOSTNAMES: Key = Key { name: "hostnames", place: KeyPlace::Service, served: true };
/// The only path prefixes that exist.
pub const PATHS: Key = Key { name: "paths", place: KeyPlace::Service, served: true };
/// The time that one request may take.
pub const TIMEOUT: Key = Key { name: "timeout", place: KeyPlace::Service, served: true };
/// How often a failed try is tried again.
pub const RETRIES: Key = Key { name: "retries", place: KeyPlace::Service, served: true };
/// The largest request body.
pub const MAX_BODY: Key = Key { name: "max-body", place: KeyPlace::Service, served: true };

/// Every key that has a meaning.
pub const VOCABULARY: [Key; 23] = [
    ENVIRONMENT,
    EXPOSE,
    REQUIRE,
    PUBLIC_NAMES,
    ALLOW_APPS,
    ALLOW_USERS,
    ALLOW_GROUPS,
    PUBLIC_PATHS,
    PASS_CREDENTIALS,
    PORT,
    HOSTNAMES,
    PATHS,
    TIMEOUT,
    RETRIES,
    MAX_BODY,
    Key { name: "affinity", place: KeyPlace::Service, served: false },
    Key { name: "rate-limit", place: KeyPlace::Service, served: false },
    Key { name: "canary-of", place: KeyPlace::Service, served: false },
    Key { name: "canary-weight", place: KeyPlace::Service, served: false },
    Key { name: "canary-header", place: KeyPlace::Service, served: false },
    Key { name: "canary-header-value", place: KeyPlace::Service, served: false },
    Key { name: "canary-cookie", place: KeyPlace::Service, served: false },
    Key { name: "mirror-percent", place: KeyPlace::Service, served: false },
];

/// Whether `name`, without prefix, has a meaning.
pub(crate) fn is_known(name: &str) -> bool {
    VOCABULARY.iter().any(|key| key.name == name)
}

// === impl Key ===

impl fmt::Display for Key {
    /// With the prefix, as users write it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENTED: &str = include_str!("../../../docs/annotations.md");

    #[test]
    fn the_documentation_has_every_key_and_no_other() {
        for key in VOCABULARY {
            assert!(DOCUMENTED.contains(&format!("`{key}`")), "{key}");
        }
        let documented =
            DOCUMENTED.split('`').skip(1).step_by(2).filter_map(|code| code.strip_prefix(PREFIX));
        assert_eq!(documented.filter(|name| !is_known(name)).collect::<Vec<_>>(), [""; 0]);
    }

    #[test]
    fn the_documentation_says_where_each_key_is_read() {
        let rows = |heading: &str| {
            let section = DOCUMENTED
                .split("## ")
                .find(|section| section.starts_with(heading))
                .unwrap_or_default();
            section.split("Understood, but").next().unwrap_or_default().to_owned()
        };
        let (namespace, service) = (rows("On a Namespace"), rows("On a Service"));
        for key in VOCABULARY.into_iter().filter(|key| key.served) {
            let row = format!("\n| `{key}`");
            assert_eq!(namespace.contains(&row), key.place != KeyPlace::Service, "{key}");
            assert_eq!(
                service.contains(&row),
                matches!(key.place, KeyPlace::Service | KeyPlace::Both),
                "{key}"
            );
        }
    }
}
