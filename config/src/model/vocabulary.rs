//! The labels and annotations that users write.
//!
//! `docs/annotations.md` describes each one; a test compares them.

use std::fmt;

/// A label or an annotation of ours: [`PREFIX`], which is written nowhere else, and its name.
macro_rules! prefixed {
    ($name:literal) => {
        concat!("portcullis.dev/", $name)
    };
}
pub(crate) use prefixed;

/// The prefix of every label and annotation of Portcullis.
pub const PREFIX: &str = prefixed!("");

/// A label or an annotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// The name, without [`PREFIX`].
    pub name: &'static str,
    /// Where it is read.
    pub place: KeyPlace,
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

/// The name of the environment that a Namespace is.
pub const ENVIRONMENT: Key = Key { name: "environment", place: KeyPlace::NamespaceLabel };
/// Whether Services are exposed.
pub const EXPOSE: Key = Key { name: "expose", place: KeyPlace::Both };
/// The credentials that are required.
pub const REQUIRE: Key = Key { name: "require", place: KeyPlace::Both };
/// Whether hostnames that require credentials may appear in public certificate logs.
pub const PUBLIC_NAMES: Key = Key { name: "public-names", place: KeyPlace::Namespace };
/// The applications that are allowed.
pub const ALLOW_APPS: Key = Key { name: "allow-apps", place: KeyPlace::Both };
/// The users that are allowed, by name.
pub const ALLOW_USERS: Key = Key { name: "allow-users", place: KeyPlace::Both };
/// The users that are allowed, by group.
pub const ALLOW_GROUPS: Key = Key { name: "allow-groups", place: KeyPlace::Both };
/// The path prefixes that need no credentials.
pub const PUBLIC_PATHS: Key = Key { name: "public-paths", place: KeyPlace::Service };
/// Whether presented credentials are forwarded to backends.
pub const PASS_CREDENTIALS: Key = Key { name: "pass-credentials", place: KeyPlace::Both };
/// The port of a Service that is exposed.
pub const PORT: Key = Key { name: "port", place: KeyPlace::Service };
/// Further hostnames.
pub const HOSTNAMES: Key = Key { name: "hostnames", place: KeyPlace::Service };
/// The only path prefixes that are served.
pub const PATHS: Key = Key { name: "paths", place: KeyPlace::Service };
/// The origins whose scripts may read responses.
pub const CORS_ORIGINS: Key = Key { name: "cors-origins", place: KeyPlace::Service };
/// The timeout of a request.
pub const TIMEOUT: Key = Key { name: "timeout", place: KeyPlace::Service };
/// The timeout of connecting to a pod.
pub const CONNECT_TIMEOUT: Key = Key { name: "connect-timeout", place: KeyPlace::Service };
/// The timeout from the request sent to the head of its response.
pub const FIRST_BYTE_TIMEOUT: Key = Key { name: "first-byte-timeout", place: KeyPlace::Service };
/// The timeout without progress of a body.
pub const IDLE_TIMEOUT: Key = Key { name: "idle-timeout", place: KeyPlace::Service };
/// How often a failed attempt is retried.
pub const RETRIES: Key = Key { name: "retries", place: KeyPlace::Service };
/// The responses that are retried.
pub const RETRY_ON: Key = Key { name: "retry-on", place: KeyPlace::Service };
/// Whether requests whose methods are not idempotent may be processed twice.
pub const RETRY_NON_IDEMPOTENT: Key =
    Key { name: "retry-non-idempotent", place: KeyPlace::Service };
/// The largest request body.
pub const MAX_BODY: Key = Key { name: "max-body", place: KeyPlace::Service };
/// Limits on the number of requests.
pub const RATE_LIMIT: Key = Key { name: "rate-limit", place: KeyPlace::Both };

/// How an endpoint is chosen.
pub const LOAD_BALANCING: Key = Key { name: "load-balancing", place: KeyPlace::Service };
/// What of pods is checked.
pub const HEALTH_CHECK: Key = Key { name: "health-check", place: KeyPlace::Service };
/// The time between two checks of a pod.
pub const HEALTH_CHECK_INTERVAL: Key =
    Key { name: "health-check-interval", place: KeyPlace::Service };
/// How long a check may take.
pub const HEALTH_CHECK_TIMEOUT: Key =
    Key { name: "health-check-timeout", place: KeyPlace::Service };
/// The failures in a row after which a pod gets no requests.
pub const HEALTH_CHECK_FAILURES: Key =
    Key { name: "health-check-failures", place: KeyPlace::Service };
/// The Service that this one is a variant of.
pub const CANARY_OF: Key = Key { name: "canary-of", place: KeyPlace::Service };
/// The share of a variant, in percent.
pub const CANARY_WEIGHT: Key = Key { name: "canary-weight", place: KeyPlace::Service };
/// The header in which requests ask for a variant.
pub const CANARY_HEADER: Key = Key { name: "canary-header", place: KeyPlace::Service };
/// The value of that header.
pub const CANARY_HEADER_VALUE: Key = Key { name: "canary-header-value", place: KeyPlace::Service };
/// The cookie in which browsers ask for a variant.
pub const CANARY_COOKIE: Key = Key { name: "canary-cookie", place: KeyPlace::Service };
/// The salt of a rollout.
pub const CANARY_SALT: Key = Key { name: "canary-salt", place: KeyPlace::Service };
/// The ranges of buckets of all variants.
pub const SPLIT: Key = Key { name: "split", place: KeyPlace::Service };
/// The version of a split.
pub const SPLIT_GENERATION: Key = Key { name: "split-generation", place: KeyPlace::Service };
/// The ranges before the last change of the split, for whoever sets weights.
pub const SPLIT_PREVIOUS: Key = Key { name: "split-previous", place: KeyPlace::Service };
/// From which latency on a request counts as slow.
pub const SPLIT_LATENCY_THRESHOLD: Key =
    Key { name: "split-latency-threshold", place: KeyPlace::Service };
/// Which responses count as errors of their variant.
pub const SPLIT_ERRORS: Key = Key { name: "split-errors", place: KeyPlace::Service };
/// What callers are assigned to variants by.
pub const AFFINITY: Key = Key { name: "affinity", place: KeyPlace::Service };

/// The share of a service's requests that a shadow gets copies of, in percent.
pub const MIRROR_PERCENT: Key = Key { name: "mirror-percent", place: KeyPlace::Service };
/// Whether a shadow gets copies of requests that may change something.
pub const MIRROR_UNSAFE_METHODS: Key =
    Key { name: "mirror-unsafe-methods", place: KeyPlace::Service };

/// Every known key.
pub const VOCABULARY: [Key; 41] = [
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
    CORS_ORIGINS,
    TIMEOUT,
    CONNECT_TIMEOUT,
    FIRST_BYTE_TIMEOUT,
    IDLE_TIMEOUT,
    RETRIES,
    RETRY_ON,
    RETRY_NON_IDEMPOTENT,
    MAX_BODY,
    LOAD_BALANCING,
    HEALTH_CHECK,
    HEALTH_CHECK_INTERVAL,
    HEALTH_CHECK_TIMEOUT,
    HEALTH_CHECK_FAILURES,
    RATE_LIMIT,
    CANARY_OF,
    CANARY_WEIGHT,
    CANARY_HEADER,
    CANARY_HEADER_VALUE,
    CANARY_COOKIE,
    CANARY_SALT,
    SPLIT,
    SPLIT_GENERATION,
    SPLIT_PREVIOUS,
    SPLIT_LATENCY_THRESHOLD,
    SPLIT_ERRORS,
    AFFINITY,
    MIRROR_PERCENT,
    MIRROR_UNSAFE_METHODS,
];

/// Whether `name`, without prefix, is a known key.
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
    fn the_documentation_lists_each_key_where_it_is_read() {
        let rows = |heading: &str| {
            let section = DOCUMENTED
                .split("## ")
                .find(|section| section.starts_with(heading))
                .unwrap_or_default();
            section.split("Understood, but").next().unwrap_or_default().to_owned()
        };
        let (namespace, service) = (rows("On a Namespace"), rows("On a Service"));
        for key in VOCABULARY {
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
