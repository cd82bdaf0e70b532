//! The variants of one Service, for whoever sets their weights.

use std::sync::Arc;

use super::split::{PreviousSplit, SplitSettings, assemble};
use super::{Variant, is_variant, read};
use crate::problem::Problem;
use crate::resources::{Resources, Service};
use crate::snapshot::split::{Generation, Ranges, Split};
use crate::translate::annotations::Reader;
use crate::translate::port;

/// The variants of a Service and its split, as the gateway reads them.
#[derive(Debug, Clone)]
pub struct SplitView {
    /// The Services that are its variants and can get traffic, in the order of their indexes from 1.
    pub variants: Vec<Arc<str>>,
    /// Its variants that cannot get traffic, by their problems.
    pub unusable: Vec<Arc<str>>,
    /// Its split; `None` if it has no variants that can get traffic.
    pub split: Option<Split>,
    /// The counter of whoever wrote the split.
    pub counter: Option<Generation>,
    /// The ranges before the last change, if they were kept.
    pub previous: Option<Result<Ranges, String>>,
    /// What is wrong with the split and the variants.
    pub problems: Vec<Problem>,
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
    let mut variants: Vec<_> = all.iter().filter(|variant| variant.backend.is_some()).collect();
    let mut reader = Reader::of(service, &mut problems);
    let (settings, previous) = (SplitSettings::read(&mut reader), PreviousSplit::read(&mut reader));
    let split = assemble(service, &settings, &mut variants, &mut problems);
    let name = |variant: &Variant<'_>| variant.service.origin.name.clone();
    let names: Vec<Arc<str>> = variants.iter().map(|variant| name(variant)).collect();
    let unusable = all.iter().map(name).filter(|name| !names.contains(name));
    SplitView {
        unusable: unusable.collect(),
        split,
        counter: settings.generation,
        previous: previous.ranges(service, &variants),
        variants: names,
        problems,
    }
}
