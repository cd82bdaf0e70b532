//! What is wrong with a resource or with the configuration, and how to mend it.

use std::fmt;

use crate::model::Origin;

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

// === impl Problem ===

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({})", self.origin, self.message, self.help)
    }
}
