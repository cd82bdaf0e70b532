//! What is wrong with a resource or with the configuration, and how to mend it.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

/// One thing that is wrong, told to the person who can mend it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// Why, as one CamelCase word: the `reason` of a Kubernetes event and the label of a metric.
    pub reason: &'static str,
    /// Where the thing that is wrong was written.
    pub origin: Origin,
    /// What is wrong: one sentence, without the place.
    pub message: String,
    /// How to mend it: one sentence.
    pub help: String,
}

/// How bad a [`Problem`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Part of what was asked for is not in effect.
    Error,
    /// All that was asked for is in effect, but it is probably not what was meant.
    Warning,
}

/// Where a resource came from: its name, and its place in a file where it has one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Default)]
pub struct Origin {
    /// The resource's kind, such as `Service`; empty for the configuration file itself.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub kind: &'static str,
    /// The resource's namespace; empty for what has none.
    #[serde(skip_serializing_if = "is_empty")]
    pub namespace: Arc<str>,
    /// The resource's name.
    #[serde(skip_serializing_if = "is_empty")]
    pub name: Arc<str>,
    /// File, line and column, where the resource was read from a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,
}

/// A place in a file. Lines and columns count from 1.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Place {
    /// The file.
    pub file: Arc<PathBuf>,
    /// The line, from 1.
    pub line: u32,
    /// The column, from 1.
    pub column: u32,
}

/// The one of `names` that was probably meant by `word`: that of the least edit distance, if this
/// is at most a third of its length.
pub(crate) fn nearest<'a>(word: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    const LONGEST: usize = 64;
    if word.len() > LONGEST {
        return None;
    }
    let word = word.to_lowercase();
    let distance = |name: &'a str| (strsim::damerau_levenshtein(&word, &name.to_lowercase()), name);
    let (distance, name) = names.into_iter().map(distance).min()?;
    (distance <= name.len().div_ceil(3)).then_some(name)
}

fn is_empty(text: &str) -> bool {
    text.is_empty()
}

// === impl Origin ===

impl Origin {
    /// Whether both name the same resource, wherever it was read.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        (self.kind, &self.namespace, &self.name) == (other.kind, &other.namespace, &other.name)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}")?;
            if !self.kind.is_empty() {
                f.write_str(": ")?;
            }
        }
        match (self.kind, &*self.namespace) {
            ("", _) => Ok(()),
            (kind, "") => write!(f, "{kind} {}", self.name),
            (kind, namespace) => write!(f, "{kind} {namespace}/{}", self.name),
        }
    }
}

// === impl Place ===

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file.display(), self.line, self.column)
    }
}

// === impl Problem ===

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({})", self.origin, self.message, self.help)
    }
}
