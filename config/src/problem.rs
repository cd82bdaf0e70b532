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
    let most = |name: &str| name.len().div_ceil(3);
    // The distance of most names is too expensive to find only that they are far.
    let candidates = names.into_iter().filter(|name| least_distance(&word, name) <= most(name));
    let distance = |name: &'a str| (strsim::damerau_levenshtein(&word, &name.to_lowercase()), name);
    let (distance, name) = candidates.map(distance).min()?;
    (distance <= most(name)).then_some(name)
}

/// A lower bound of the edit distance: the letters that one has more often than the other.
fn least_distance(word: &str, name: &str) -> usize {
    let mut counts = [0_i32; 32];
    let mut count = |byte: u8, one| {
        // Letters differ in their last five bits, in both cases.
        if let Some(count) = counts.get_mut(usize::from(byte % 32)) {
            *count += one;
        }
    };
    word.bytes().filter(u8::is_ascii).for_each(|byte| count(byte, 1));
    name.bytes().for_each(|byte| count(byte, -1));
    let sum = |sign: i32| counts.iter().map(|count| (count * sign).max(0)).sum::<i32>();
    usize::try_from(sum(1).max(sum(-1))).unwrap_or(usize::MAX)
}

// === impl Problem ===

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({})", self.origin, self.message, self.help)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_lower_bound_of_a_distance_is_one(word in "[a-f-]{0,12}", name in "[a-f-]{1,12}") {
            prop_assert!(least_distance(&word, &name) <= strsim::damerau_levenshtein(&word, &name));
        }
    }
}
