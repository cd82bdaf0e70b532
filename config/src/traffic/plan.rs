//! Plans a change of weights.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::sync::Arc;

use super::rebalance::rebalance;
use crate::model::NamespacedName;
use crate::model::vocabulary::{SPLIT, SPLIT_GENERATION, SPLIT_PREVIOUS};
use crate::resources::MAX_VALUE;
use crate::snapshot::split::{
    BUCKETS, Generation, InvalidRanges, Ranges, VariantIndex, Weight, percent,
};
use crate::translate::{STABLE, SplitView, UnusableVariant};

/// A wanted change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Variants by name get these weights; others keep theirs, and the stable one gets the rest. The
    /// name is that of the variant's Service, or what follows the service's name and a hyphen.
    Weights(Vec<(String, Weight)>),
    /// The ranges before the last change, which are restored as they were.
    Previous,
}

/// The effect of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The weights as they are.
    pub before: State,
    /// The weights as they will be.
    pub after: State,
    /// What is to be written; `None` if nothing changes.
    pub edit: Option<Edit>,
}

/// The weights of all variants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// The generation of the split.
    pub generation: Generation,
    /// Each variant with its weight, the stable one first.
    pub weights: Vec<(Arc<str>, Weight)>,
}

/// The annotations of the stable Service that are to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// Their names, and their new values.
    pub annotations: [(String, String); 3],
}

/// Why a change is not possible.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidChange {
    /// The Service has no variants.
    #[error("Service {0} has no variants: annotate one with `portcullis.dev/canary-of: {name}`", name = .0.name)]
    NoVariants(NamespacedName),
    /// There is no such variant.
    #[error("there is no variant `{name}`: the variants of Service {service} are {}", known.join(", "))]
    UnknownVariant {
        /// The name.
        name: String,
        /// The Service.
        service: NamespacedName,
        /// The names of its variants.
        known: Vec<String>,
    },
    /// The variant cannot get traffic.
    #[error("variant `{name}` cannot get traffic: {reason}")]
    Unusable {
        /// Its name.
        name: String,
        /// Why.
        reason: String,
    },
    /// The weight of the stable variant is given.
    #[error("the stable variant gets what the others leave: set their weights")]
    Stable,
    /// A variant is named twice.
    #[error("variant `{0}` is named twice")]
    Twice(String),
    /// The weights add up to more than 100 %.
    #[error("the weights add up to {} %: {}", percent(*sum), weights.join(", "))]
    TooMuch {
        /// The sum, in hundredths of a percent.
        sum: u64,
        /// Each variant with its weight.
        weights: Vec<String>,
    },
    /// There is nothing to restore.
    #[error("there is no previous split of Service {0}")]
    NoPrevious(NamespacedName),
    /// The previous split cannot be restored.
    #[error("the previous split of Service {service} cannot be restored: {reason}")]
    LostPrevious {
        /// The Service.
        service: NamespacedName,
        /// Why.
        reason: String,
    },
    /// The annotation would be too long.
    #[error("the split has too many ranges: set the weights of all variants to 0, then anew")]
    TooLong,
    /// The generation cannot grow.
    #[error("`portcullis.dev/split-generation` is the largest one: write a smaller one")]
    LastGeneration,
}

/// Plans a change of the variants of a Service.
///
/// # Errors
/// The change is not possible.
pub fn plan(
    service: &NamespacedName,
    view: &SplitView,
    change: &Change,
) -> Result<Plan, InvalidChange> {
    let Some(split) = &view.split else {
        return Err(match view.unusable.first() {
            Some(variant) => unusable(variant),
            None => InvalidChange::NoVariants(service.clone()),
        });
    };
    let current = split.ranges();
    let ranges = match change {
        Change::Weights(wanted) => {
            let weights = weights(service, view, current, wanted)?;
            rebalance(current, &weights).map_err(|error| too_much(view, &weights, error))?
        }
        Change::Previous => match &view.previous {
            None => return Err(InvalidChange::NoPrevious(service.clone())),
            Some(Ok(ranges)) => ranges.clone(),
            Some(Err(reason)) => {
                let (service, reason) = (service.clone(), reason.clone());
                return Err(InvalidChange::LostPrevious { service, reason });
            }
        },
    };
    let before = State::new(split.generation(), current, view);
    if ranges == *current {
        return Ok(Plan { after: before.clone(), before, edit: None });
    }
    let next = view.counter.map_or(0, Generation::number) + 1;
    let generation = Generation::new(next).ok_or(InvalidChange::LastGeneration)?;
    let values = [text(&ranges, view), generation.to_string(), text(current, view)];
    if values.iter().any(|value| value.len() > MAX_VALUE) {
        return Err(InvalidChange::TooLong);
    }
    let keys = [SPLIT, SPLIT_GENERATION, SPLIT_PREVIOUS].map(|key| key.to_string());
    let [split, counter, previous] = values;
    let [key, counter_key, previous_key] = keys;
    let annotations = [(key, split), (counter_key, counter), (previous_key, previous)];
    let after = State::new(generation, &ranges, view);
    Ok(Plan { before, after, edit: Some(Edit { annotations }) })
}

/// The weights of all variants after the change, in the order of their indexes.
fn weights(
    service: &NamespacedName,
    view: &SplitView,
    current: &Ranges,
    wanted: &[(String, Weight)],
) -> Result<Vec<u16>, InvalidChange> {
    let shares = (1..=view.variants.len()).filter_map(VariantIndex::new);
    let mut weights: Vec<u16> = shares.map(|variant| current.share(variant)).collect();
    let mut seen = BTreeSet::new();
    for (name, weight) in wanted {
        let position = position(service, view, name)?;
        if !seen.insert(position) {
            return Err(InvalidChange::Twice(name.clone()));
        }
        if let Some(slot) = weights.get_mut(position) {
            *slot = weight.buckets();
        }
    }
    Ok(weights)
}

/// The position of a variant among those that are not the stable one.
fn position(
    service: &NamespacedName,
    view: &SplitView,
    name: &str,
) -> Result<usize, InvalidChange> {
    let long = format!("{}-{name}", service.name);
    let is_it = |known: &Arc<str>| **known == *name || **known == *long;
    if let Some(position) = view.variants.iter().position(is_it) {
        return Ok(position);
    }
    if let Some(variant) = view.unusable.iter().find(|known| is_it(&known.name)) {
        return Err(unusable(variant));
    }
    if name == STABLE || *name == *service.name {
        return Err(InvalidChange::Stable);
    }
    Err(InvalidChange::UnknownVariant {
        name: name.to_owned(),
        service: service.clone(),
        known: view.variants.iter().map(ToString::to_string).collect(),
    })
}

fn unusable(UnusableVariant { name, reason }: &UnusableVariant) -> InvalidChange {
    InvalidChange::Unusable { name: name.to_string(), reason: reason.clone() }
}

fn too_much(view: &SplitView, weights: &[u16], error: InvalidRanges) -> InvalidChange {
    let sum = match error {
        InvalidRanges::TooMany(sum) => sum,
        InvalidRanges::Overlap(..) => u64::from(BUCKETS),
    };
    let named = view.variants.iter().zip(weights).filter(|(_, weight)| **weight > 0);
    let weights = named.map(|(name, weight)| format!("{name} {} %", percent((*weight).into())));
    InvalidChange::TooMuch { sum, weights: weights.collect() }
}

/// The ranges as `split` has them. Without any, all buckets are named as those of the stable one.
fn text(ranges: &Ranges, view: &SplitView) -> String {
    let mut text = String::new();
    for range in ranges.iter() {
        let name = range.variant().position().checked_sub(1);
        let Some(name) = name.and_then(|position| view.variants.get(position)) else { continue };
        let separator = if text.is_empty() { "" } else { "," };
        // Writing to a String cannot fail.
        let _ =
            write!(text, "{separator}{name}={}-{}", range.first().number(), range.last().number());
    }
    if text.is_empty() { format!("{STABLE}=0-{}", BUCKETS - 1) } else { text }
}

// === impl State ===

impl State {
    fn new(generation: Generation, ranges: &Ranges, view: &SplitView) -> Self {
        let names = std::iter::once(STABLE.into()).chain(view.variants.iter().cloned());
        let weights = names.enumerate().filter_map(|(position, name)| {
            Some((name, Weight::new(ranges.share(VariantIndex::new(position)?))?))
        });
        Self { generation, weights: weights.collect() }
    }
}

#[cfg(test)]
mod tests;
