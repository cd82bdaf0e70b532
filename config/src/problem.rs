//! Problems with resources or with the configuration, and how to fix them.

use std::fmt;

use crate::model::Origin;

use serde::Serialize;

/// A problem, reported to the owner of the resource.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Problem {
    /// How severe it is.
    pub severity: Severity,
    /// Why, as one CamelCase word: the `reason` of a Kubernetes event and the label of a metric.
    pub reason: &'static str,
    /// The resource, and where it was written.
    pub origin: Origin,
    /// What is wrong: one sentence, without the location.
    pub message: String,
    /// How to fix it: one sentence.
    pub help: String,
}

/// How severe a [`Problem`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Part of what was configured is not in effect.
    Error,
    /// Everything that was configured is in effect, but probably not what was intended.
    Warning,
}

/// The one of `names` that `word` is probably a misspelling of: the nearest by edit distance, if
/// that is at most a third of its length.
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

// === impl Problem ===

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({})", self.origin, self.message, self.help)
    }
}
