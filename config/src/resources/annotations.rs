//! Labels and annotations with the prefix of Portcullis.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::values::LASTING;
use crate::model::Origin;
use crate::model::vocabulary::{Key, PREFIX, is_known};

/// The longest value that is stored, in bytes. Kubernetes allows 256 KiB for all annotations of an
/// object; a folder has no limit.
pub const MAX_VALUE: usize = 8 * 1024;
/// The most unknown keys of an object that are stored.
pub const MAX_UNKNOWN: usize = 8;
/// The longest key that is stored; every known key is shorter.
const MAX_KEY: usize = 128;

/// The labels, or the annotations, of an object that start with [`PREFIX`], without the prefix.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Annotations {
    values: BTreeMap<Box<str>, Value>,
    /// The last valid texts of those [`LASTING`] keys whose values are invalid now.
    last_valid: BTreeMap<&'static str, Arc<str>>,
}

/// A value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// The trimmed text.
    Text(Arc<str>),
    /// Longer than [`MAX_VALUE`], so not stored; its length in bytes.
    TooLong(usize),
}

// === impl Annotations ===

impl Annotations {
    /// Filters entries by [`PREFIX`].
    #[must_use]
    pub fn filter(entries: Option<&BTreeMap<String, String>>) -> Self {
        let mut unknown = 0;
        let own = entries
            .into_iter()
            .flatten()
            .filter_map(|(key, value)| Some((key.strip_prefix(PREFIX)?, value)));
        let kept = own.filter(|(key, _)| {
            unknown += usize::from(!is_known(key));
            is_known(key) || (unknown <= MAX_UNKNOWN && key.len() <= MAX_KEY)
        });
        let values = kept.map(|(key, value)| (key.into(), Value::new(value))).collect();
        Self { values, last_valid: BTreeMap::new() }
    }

    /// The value of `key`, given without prefix.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.values.get(key)
    }

    /// The last valid text of `key`, if its value is invalid now, and was valid in an earlier
    /// version of the object.
    #[must_use]
    pub fn last_valid(&self, key: Key) -> Option<&str> {
        self.last_valid.get(key.name).map(|text| &**text)
    }

    /// Takes over what was valid `before`, in the last version of the object `origin`, and is
    /// invalid now.
    pub(super) fn keep_last_valid(&mut self, origin: &Origin, before: &Self) {
        for (key, is_valid) in LASTING {
            let valid = |annotations: &Self| match annotations.get(key.name) {
                Some(Value::Text(text)) if is_valid(origin, text) => Some(text.clone()),
                _ => None,
            };
            if self.get(key.name).is_some() && valid(self).is_none() {
                let last = valid(before).or_else(|| before.last_valid.get(key.name).cloned());
                self.last_valid.extend(last.map(|text| (key.name, text)));
            }
        }
    }

    /// All keys, without prefix, with their values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.values.iter().map(|(key, value)| (&**key, value))
    }
}

// === impl Value ===

impl Value {
    fn new(text: &str) -> Self {
        if text.len() > MAX_VALUE {
            Self::TooLong(text.len())
        } else {
            Self::Text(text.trim().into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_states_the_longest_value() {
        let documented = include_str!("../../../docs/annotations.md");
        assert!(documented.contains(&format!("{} KiB", MAX_VALUE / 1024)));
    }
}
