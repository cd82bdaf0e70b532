//! Plans a change of weights.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::rebalance::rebalance;
use crate::model::NamespacedName;
use crate::model::vocabulary::{SPLIT, SPLIT_GENERATION, SPLIT_PREVIOUS};
use crate::resources::MAX_VALUE;
use crate::snapshot::split::{
    BUCKETS, Generation, InvalidRanges, Range, Ranges, VariantIndex, Weight, percent,
};
use crate::translate::{NamedRange, Previous, STABLE, SplitView, UnusableVariant};

/// A wanted change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Variants by name get these weights; others keep theirs, and the stable one gets the rest. The
    /// name is that of the variant's Service, else what follows the service's name and a hyphen.
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
    /// Variants that have weights cannot get traffic now.
    #[error(
        "the split of Service {service} has weights that would be lost, of variants that are \
         missing: {}", weights.join(", ")
    )]
    Missing {
        /// The Service.
        service: NamespacedName,
        /// Each of these variants with its weight.
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
    /// The previous split is restored only by force.
    #[error("the previous split of Service {service} is not restored: {reason}")]
    DoubtfulPrevious {
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

/// Plans a change of the variants of a Service. With `force`, variants that are missing lose their
/// weights, and a previous split is restored even if it is not the last one.
///
/// # Errors
/// The change is not possible.
pub fn plan(
    service: &NamespacedName,
    view: &SplitView,
    change: &Change,
    force: bool,
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
        Change::Previous => previous(service, view, force)?,
    };
    let before = State::new(split.generation(), current, view);
    if ranges == *current && (view.missing.is_empty() || !force) {
        return Ok(Plan { after: before.clone(), before, edit: None });
    }
    if matches!(change, Change::Weights(_)) && !view.missing.is_empty() && !force {
        let (service, weights) = (service.clone(), missing(view));
        return Err(InvalidChange::Missing { service, weights });
    }
    let last = view.counter.map_or(0, Generation::number);
    let generation = Generation::new(last + 1).ok_or(InvalidChange::LastGeneration)?;
    let now = [named(current, view), view.missing.clone()].concat();
    let values =
        [text(named(&ranges, view)), generation.to_string(), format!("{last}: {}", text(now))];
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

/// The ranges before the last change.
fn previous(
    service: &NamespacedName,
    view: &SplitView,
    force: bool,
) -> Result<Ranges, InvalidChange> {
    let service = service.clone();
    match &view.previous {
        None => Err(InvalidChange::NoPrevious(service)),
        Some(Err(reason)) => Err(InvalidChange::LostPrevious { service, reason: reason.clone() }),
        Some(Ok(Previous { doubt: Some(reason), .. })) if !force => {
            Err(InvalidChange::DoubtfulPrevious { service, reason: reason.clone() })
        }
        Some(Ok(previous)) => Ok(previous.ranges.clone()),
    }
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
    for wanted in [name, &long] {
        if let Some(position) = view.variants.iter().position(|known| **known == *wanted) {
            return Ok(position);
        }
        if let Some(variant) = view.unusable.iter().find(|known| *known.name == *wanted) {
            return Err(unusable(variant));
        }
        if *wanted == *STABLE || *wanted == *service.name {
            return Err(InvalidChange::Stable);
        }
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

/// Each missing variant with its weight.
fn missing(view: &SplitView) -> Vec<String> {
    let mut weights: BTreeMap<&str, u64> = BTreeMap::new();
    for NamedRange { name, first, last } in &view.missing {
        let count = last.number().saturating_sub(first.number()) + 1;
        *weights.entry(name).or_default() += u64::from(count);
    }
    let weight = |(name, sum): (&str, u64)| format!("{} {} %", name.escape_debug(), percent(sum));
    weights.into_iter().map(weight).collect()
}

/// The ranges with the names of their variants.
fn named(ranges: &Ranges, view: &SplitView) -> Vec<NamedRange> {
    let named = |range: &Range| {
        let name = view.variants.get(range.variant().position().checked_sub(1)?)?;
        Some(NamedRange { name: Box::from(&**name), first: range.first(), last: range.last() })
    };
    ranges.iter().filter_map(named).collect()
}

/// The ranges as `split` has them. Without any, all buckets are named as those of the stable one.
fn text(mut ranges: Vec<NamedRange>) -> String {
    if ranges.is_empty() {
        return format!("{STABLE}=0-{}", BUCKETS - 1);
    }
    ranges.sort_by_key(|range| range.first);
    let text = |NamedRange { name, first, last }: &NamedRange| {
        format!("{name}={}-{}", first.number(), last.number())
    };
    ranges.iter().map(text).collect::<Vec<_>>().join(",")
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
