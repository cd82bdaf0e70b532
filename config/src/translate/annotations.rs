//! The vocabulary that users write: every label and annotation that has a meaning, and how their
//! values are read.
//!
//! `docs/annotations.md` describes each; a test compares.

use std::fmt;

use crate::problem::{Origin, Problem, Severity, nearest};
use crate::resources::{Annotations, MAX_VALUE, PREFIX, Value};

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

/// The labels or annotations of one object, with where its problems go.
pub(super) struct Reader<'a> {
    pub(super) origin: &'a Origin,
    pub(super) annotations: &'a Annotations,
    pub(super) problems: &'a mut Vec<Problem>,
}

/// What was read of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reading<T> {
    /// It is not there.
    Absent,
    /// It is there and understood.
    Good(T),
    /// It is there, and was told as a problem: whatever it is about stays closed.
    Bad,
}

// === impl Key ===

impl fmt::Display for Key {
    /// With the prefix, as users write it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", self.name)
    }
}

// === impl Reading ===

impl<T> Reading<T> {
    /// The value, for keys where a bad one counts as none.
    pub(super) fn good(self) -> Option<T> {
        match self {
            Self::Good(value) => Some(value),
            Self::Absent | Self::Bad => None,
        }
    }
}

// === impl Reader ===

impl Reader<'_> {
    /// Reads one value. `parse` says what is wrong with it, as the end of a sentence that starts
    /// with the value; `help` is how to mend it.
    pub(super) fn read<T>(
        &mut self,
        key: Key,
        help: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Reading<T> {
        match self.annotations.get(key.name) {
            None => Reading::Absent,
            Some(Value::TooLong(length)) => {
                self.error(
                    "InvalidAnnotation",
                    format!(
                        "`{key}` has {length} bytes, which is more than the {MAX_VALUE} that are \
                         read"
                    ),
                    help,
                );
                Reading::Bad
            }
            Some(Value::Text(text)) => match parse(text) {
                Ok(value) => Reading::Good(value),
                Err(wrong) => {
                    self.error(
                        "InvalidAnnotation",
                        format!("`{key}: {}` {wrong}", excerpt(text)),
                        help,
                    );
                    Reading::Bad
                }
            },
        }
    }

    /// Reads a comma-separated list. Items that are wrong are told, and left out; an empty list is
    /// wrong as a whole.
    pub(super) fn read_list<T>(
        &mut self,
        key: Key,
        help: &str,
        mut parse: impl FnMut(&str) -> Result<T, String>,
    ) -> Reading<Vec<T>> {
        let text = match self.read(key, help, |text| {
            if text.is_empty() { Err("is empty".to_owned()) } else { Ok(text.to_owned()) }
        }) {
            Reading::Good(text) => text,
            Reading::Absent => return Reading::Absent,
            Reading::Bad => return Reading::Bad,
        };
        let mut items = Vec::new();
        for item in text.split(',').map(str::trim) {
            match parse(item) {
                Ok(item) => items.push(item),
                Err(wrong) => self.error(
                    "InvalidAnnotation",
                    format!("`{}` in `{key}` {wrong}", excerpt(item)),
                    help,
                ),
            }
        }
        if items.is_empty() { Reading::Bad } else { Reading::Good(items) }
    }

    pub(super) fn error(&mut self, reason: &'static str, message: String, help: &str) {
        self.tell(Severity::Error, reason, message, help);
    }

    pub(super) fn warn(&mut self, reason: &'static str, message: String, help: &str) {
        self.tell(Severity::Warning, reason, message, help);
    }

    fn tell(&mut self, severity: Severity, reason: &'static str, message: String, help: &str) {
        self.problems.push(Problem {
            severity,
            reason,
            origin: self.origin.clone(),
            message,
            help: help.to_owned(),
        });
    }
}

/// Tells of keys that are unknown, in the wrong place, or have no effect yet.
pub(super) fn check_keys(
    origin: &Origin,
    labels: &Annotations,
    annotations: &Annotations,
    problems: &mut Vec<Problem>,
) {
    let mut reader = Reader { origin, annotations, problems };
    for (name, _) in labels.iter() {
        check_key(&mut reader, name, true);
    }
    for (name, _) in annotations.iter() {
        check_key(&mut reader, name, false);
    }
}

fn check_key(reader: &mut Reader<'_>, name: &str, is_label: bool) {
    let Some(key) = VOCABULARY.iter().find(|key| key.name == name) else {
        let help = match nearest(name, VOCABULARY.iter().map(|key| key.name)) {
            Some(near) => format!("did you mean `{PREFIX}{near}`?"),
            None => "docs/annotations.md lists all that are understood".to_owned(),
        };
        return reader.warn("UnknownAnnotation", format!("`{PREFIX}{name}` is unknown"), &help);
    };
    let namespace = reader.origin.kind == "Namespace";
    let help = match (key.place, is_label, namespace) {
        (KeyPlace::NamespaceLabel, false, _) | (KeyPlace::NamespaceLabel, _, false) => {
            "write it as a label of the Namespace"
        }
        (KeyPlace::Service | KeyPlace::Both, true, _) => "write it as an annotation",
        (KeyPlace::Namespace, true, _) | (KeyPlace::Namespace, _, false) => {
            "write it as an annotation of the Namespace"
        }
        (KeyPlace::Service, _, true) => "write it as an annotation of the Service",
        _ if !key.served => {
            return reader.warn(
                "NotServedYet",
                format!("`{key}` has no effect yet"),
                "remove it, or leave it for later",
            );
        }
        _ => return,
    };
    reader.warn("MisplacedAnnotation", format!("`{key}` has no effect here"), help);
}

/// What of a value is repeated in a message: its beginning, without control characters.
pub(super) fn excerpt(text: &str) -> String {
    const LENGTH: usize = 80;
    let mut excerpt: String = text
        .chars()
        .take(LENGTH)
        .map(|char| if char.is_control() { '\u{fffd}' } else { char })
        .collect();
    if text.chars().nth(LENGTH).is_some() {
        excerpt.push('…');
    }
    excerpt
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

    #[test]
    fn the_documentation_has_the_longest_value() {
        assert!(DOCUMENTED.contains(&format!("{} KiB", MAX_VALUE / 1024)));
    }
}
