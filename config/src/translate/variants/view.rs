//! The variants of one Service, for whoever sets their weights.

use std::sync::Arc;

use super::NamedRange;
use super::split::{Previous, PreviousSplit, SplitSettings, assemble};
use super::{Variant, answering, is_variant, read};
use crate::model::vocabulary::CANARY_WEIGHT;
use crate::problem::Problem;
use crate::resources::{Resources, Service};
use crate::snapshot::split::{Generation, Split};
use crate::translate::annotations::Reader;
use crate::translate::port;

/// The variants of a Service and its split, as the gateway reads them.
#[derive(Debug, Clone)]
pub struct SplitView {
    /// The Services that are its variants and can get traffic, in the order of their indexes from 1.
    pub variants: Vec<Arc<str>>,
    /// Its variants that cannot get traffic.
    pub unusable: Vec<UnusableVariant>,
    /// Its split; `None` if it has no variants that can get traffic.
    pub split: Option<Split>,
    /// The ranges of `split` of names that are none of `variants`, such as those of a Service that
    /// is being replaced.
    pub missing: Vec<NamedRange>,
    /// The counter of whoever wrote the split, or a split that was removed.
    pub counter: Option<Generation>,
    /// The split before the last change, if it was kept, or what is wrong with it.
    pub previous: Option<Result<Previous, String>>,
}

/// A variant that cannot get traffic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnusableVariant {
    /// The name of its Service.
    pub name: Arc<str>,
    /// Why.
    pub reason: String,
}

/// Reads the variants of a Service among all Services.
#[must_use]
pub fn split_view(service: &Service, resources: &Resources) -> SplitView {
    let mut problems = Vec::new();
    let mut all: Vec<Variant<'_>> = Vec::new();
    for other in resources.services().filter(|other| is_variant(other)) {
        let mut found = Vec::new();
        let mut reader = Reader::of(other, &mut found);
        let backend = port::select(other, &mut reader)
            .filter(|_| !other.external)
            .and_then(|port| Some((port, port::protocol(other, port, &mut reader)?)));
        let read = read(other, backend, resources, &mut reader);
        if let Some((_, variant)) = read.filter(|(target, _)| *target == service.key()) {
            all.push(variant);
            problems.append(&mut found);
        }
    }
    // As the gateway does: the oldest first, then by name.
    all.sort_by_key(|variant| variant.service.created);
    let mut variants = answering(&all);
    let mut reader = Reader::of(service, &mut problems);
    let (settings, previous) = (SplitSettings::read(&mut reader), PreviousSplit::read(&mut reader));
    let split = assemble(service, &settings, &mut variants, &mut problems);
    let names: Vec<Arc<str>> = variants.iter().map(|variant| variant.name()).collect();
    let unusable = all.iter().filter(|variant| !names.contains(&variant.name()));
    SplitView {
        unusable: unusable.map(|variant| UnusableVariant::new(variant, &problems)).collect(),
        split,
        missing: settings.missing(service, &variants),
        counter: settings.generation,
        previous: previous.split(service, &variants, &settings),
        variants: names,
    }
}

// === impl UnusableVariant ===

impl UnusableVariant {
    /// Finds the reason among the problems of all variants.
    fn new(variant: &Variant<'_>, problems: &[Problem]) -> Self {
        let name = variant.name();
        let problem = problems.iter().find(|problem| problem.origin.name == name);
        let reason = match problem {
            _ if variant.is_shadow() => {
                format!("it only gets copies; annotate it with `{CANARY_WEIGHT}: \"0\"`, too")
            }
            Some(found) => found.message.clone(),
            None => "it has no TCP port".to_owned(),
        };
        Self { name, reason }
    }
}
