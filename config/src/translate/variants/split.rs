//! The split of a Service among its variants.

use std::sync::Arc;
use std::time::Duration;

use super::{STABLE, Variant, counted_errors};
use crate::model::vocabulary::{
    CANARY_COOKIE, CANARY_HEADER, CANARY_SALT, CANARY_WEIGHT, SPLIT, SPLIT_GENERATION,
    SPLIT_LATENCY_THRESHOLD, SPLIT_PREVIOUS,
};
use crate::problem::Problem;
use crate::resources::Service;
use crate::resources::values::{self, NamedRange};
use crate::snapshot::split::{
    CountedErrors, Forced, ForcedBy, Generation, InvalidRanges, MAX_VARIANTS, Range, Ranges, Split,
    VariantIndex, percent,
};
use crate::translate::annotations::{Reader, Reading, excerpt};
use crate::translate::policy::timeout;

/// What a Service says of the split among its variants.
pub(in crate::translate) struct SplitSettings {
    salt: Option<Arc<str>>,
    ranges: Reading<Vec<NamedRange>>,
    /// Whether the ranges are those that the Service has now; else the generation is not theirs.
    is_current: bool,
    pub(super) generation: Option<Generation>,
    latency_threshold: Option<Duration>,
    errors: Option<CountedErrors>,
}

/// What a Service says of the split before the last change.
pub(super) struct PreviousSplit(Reading<Vec<(Option<u64>, NamedRange)>>);

/// The split before the last change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Previous {
    /// Its ranges; those of missing variants are the stable one's.
    pub ranges: Ranges,
    /// Why restoring it may not be what is wanted.
    pub doubt: Option<String>,
}

// === impl SplitSettings ===

impl SplitSettings {
    pub(in crate::translate) fn read(reader: &mut Reader<'_>) -> Self {
        let fix = "write ranges of the buckets 0 to 9999 such as web-canary=0-499, separated by \
                   commas";
        let help = reader.lasting_help(SPLIT, fix, "the stable variant gets all the traffic");
        let before = reader.problems.len();
        let mut ranges = reader.read_list(SPLIT, &help, NamedRange::parse);
        let is_current = reader.problems.len() == before;
        if !is_current {
            // Not the valid ones of its ranges: the others would get what the invalid one was to get.
            let last = reader.annotations.last_valid(SPLIT).and_then(values::ranges);
            ranges = last.map_or(Reading::Bad, Reading::Good);
        }
        let help = "write a whole number that grows with each change; until then it is a hash of \
                    ranges and salt";
        let generation = reader.read(SPLIT_GENERATION, help, counter);
        let until_then = "until then the feed does not say who met slow responses";
        Self {
            salt: super::salt(reader),
            ranges,
            is_current,
            generation: generation.good(),
            latency_threshold: timeout(reader, SPLIT_LATENCY_THRESHOLD, until_then),
            errors: counted_errors::read(reader),
        }
    }

    fn is_present(&self) -> bool {
        !matches!(self.ranges, Reading::Absent)
    }

    /// The version of the ranges. Without ranges there is none, though the annotation may remain.
    fn applied_generation(&self) -> Option<Generation> {
        self.generation.filter(|_| self.is_present() && self.is_current)
    }

    /// The ranges of names that are none of the variants: what these would get if they were.
    pub(super) fn missing(&self, service: &Service, variants: &[&Variant<'_>]) -> Vec<NamedRange> {
        let Reading::Good(named) = &self.ranges else { return Vec::new() };
        let is_missing = |range: &&NamedRange| find(service, &range.name, variants).is_none();
        named.iter().filter(is_missing).cloned().collect()
    }

    fn reports_unused(&self, reader: &mut Reader<'_>) {
        if self.is_present() {
            let message = format!("`{SPLIT}` has no effect: the Service has no variants");
            reader.warn("NoEffect", message, "remove it, or add the variants");
        }
    }
}

// === impl PreviousSplit ===

impl PreviousSplit {
    /// Reads ranges, before which their generation may be, as in `12: web-canary=0-499`. Invalid
    /// ones have no effect on the gateway, and are not reported.
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        let mut ignored = Vec::new();
        let mut reader = Reader { problems: &mut ignored, ..*reader };
        let ranges = reader.read_list(SPLIT_PREVIOUS, "", |text| match text.split_once(':') {
            None => Ok((None, NamedRange::parse(text)?)),
            Some((generation, range)) => {
                Ok((Some(counter(generation)?.number()), NamedRange::parse(range.trim_start())?))
            }
        });
        Self(if ignored.is_empty() { ranges } else { Reading::Bad })
    }

    /// The split before the `current` one, or why it cannot be restored; `None` without any.
    pub(super) fn split(
        &self,
        service: &Service,
        variants: &[&Variant<'_>],
        current: &SplitSettings,
    ) -> Option<Result<Previous, String>> {
        let items = match &self.0 {
            Reading::Absent => return None,
            Reading::Bad => return Some(Err(format!("`{SPLIT_PREVIOUS}` is invalid"))),
            Reading::Good(items) => items,
        };
        let (ranges, unknown) = resolve(service, items.iter().map(|(_, range)| range), variants);
        let next = items.iter().find_map(|(generation, _)| Some((*generation)? + 1));
        let applied = current.applied_generation().map(Generation::number);
        let doubt = match (next, unknown) {
            (Some(next), _) if applied != Some(next) => {
                Some(format!("the split was changed by someone else after generation {next}"))
            }
            (_, Some(name)) => Some(format!("`{}` is no variant any more", excerpt(name))),
            (_, None) => None,
        };
        let ranges = Ranges::new(ranges);
        let overlap = |_| format!("the ranges of `{SPLIT_PREVIOUS}` overlap");
        Some(ranges.map(|ranges| Previous { ranges, doubt }).map_err(overlap))
    }
}

/// Parses the counter of whoever wrote a split.
fn counter(text: &str) -> Result<Generation, String> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    let counter = text.parse().ok().filter(|_| is_number).and_then(Generation::new);
    counter.ok_or_else(|| "is not a number below 2^53".to_owned())
}

/// The split of a Service among its variants, in the order of `variants`; `None` if it has none.
/// At most [`MAX_VARIANTS`] are used: further ones are removed from `variants`.
pub(in crate::translate) fn assemble(
    service: &Service,
    settings: &SplitSettings,
    variants: &mut Vec<&Variant<'_>>,
    problems: &mut Vec<Problem>,
) -> Option<Split> {
    if variants.is_empty() {
        settings.reports_unused(&mut Reader::of(service, problems));
        return None;
    }
    for extra in variants.drain((MAX_VARIANTS - 1).min(variants.len())..) {
        let message =
            format!("Service {} has {MAX_VARIANTS} older variants already", service.origin.name);
        Reader::of(extra.service, problems).error(
            "TooManyVariants",
            message,
            "remove some of them",
        );
    }
    let salt = salt(service, settings, variants, problems);
    let ranges = match &settings.ranges {
        Reading::Good(named) => named_ranges(service, named, variants, problems),
        Reading::Bad => Ranges::default(),
        Reading::Absent => ranges_by_weight(service, variants, problems),
    };
    let forced = forced(variants, problems);
    let split = Split::new(salt, ranges, forced, settings.applied_generation());
    let split = split.with_errors(settings.errors.clone());
    Some(split.with_latency_threshold(settings.latency_threshold))
}

/// The salt of the Service, else of its oldest variant that has one, else its name.
fn salt(
    service: &Service,
    settings: &SplitSettings,
    variants: &[&Variant<'_>],
    problems: &mut Vec<Problem>,
) -> Arc<str> {
    let mut salts = variants.iter().filter_map(|variant| Some((variant, variant.salt.as_ref()?)));
    let salt = settings.salt.clone().or_else(|| Some(salts.next()?.1.clone()));
    let Some(salt) = salt else { return service.key().to_string().into() };
    for (variant, other) in salts.filter(|(_, other)| **other != salt) {
        let message = format!(
            "`{CANARY_SALT}: {}` has no effect: `{}` is used",
            excerpt(other),
            excerpt(&salt)
        );
        let help = "all variants of a Service share one salt: write the same one, or none";
        Reader::of(variant.service, problems).warn("NoEffect", message, help);
    }
    salt
}

fn ranges_by_weight(
    service: &Service,
    variants: &[&Variant<'_>],
    problems: &mut Vec<Problem>,
) -> Ranges {
    let weights: Vec<u16> = variants.iter().map(|variant| variant.weight).collect();
    match Ranges::by_weight(&weights) {
        Ok(ranges) => {
            if weights.iter().filter(|weight| **weight > 0).count() > 2 {
                let message = "a change of weights moves callers between variants: there are more \
                               than two beside the stable one";
                let help = format!(
                    "set them by `portcullis traffic set`, which gives them ranges by `{SPLIT}`"
                );
                Reader::of(service, problems).warn("UnstableSplit", message.to_owned(), &help);
            }
            ranges
        }
        Err(_) => {
            let sum: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
            for variant in variants.iter().filter(|variant| variant.weight > 0) {
                let message = format!(
                    "the weights of the variants of Service {} add up to {} %",
                    service.origin.name,
                    percent(sum)
                );
                let help = format!(
                    "lower `{CANARY_WEIGHT}` until the sum is 100 or less; until then the stable \
                     variant gets all the traffic"
                );
                Reader::of(variant.service, problems).error("InvalidSplit", message, &help);
            }
            Ranges::default()
        }
    }
}

/// The ranges of the variants of these names, and the first name that is none.
fn resolve<'n>(
    service: &Service,
    named: impl IntoIterator<Item = &'n NamedRange>,
    variants: &[&Variant<'_>],
) -> (Vec<Range>, Option<&'n str>) {
    let (mut ranges, mut unknown) = (Vec::new(), None);
    for NamedRange { name, first, last } in named {
        let found = find(service, name, variants);
        if found.is_none() {
            unknown = unknown.or(Some(&**name));
        }
        ranges.extend(Range::new(*first, *last, found.unwrap_or(VariantIndex::STABLE)));
    }
    (ranges, unknown)
}

/// The index of the variant of that name.
fn find(service: &Service, name: &str, variants: &[&Variant<'_>]) -> Option<VariantIndex> {
    match variants.iter().position(|variant| *variant.service.origin.name == *name) {
        Some(position) => Some(index(position)),
        None if name == STABLE || *name == *service.origin.name => Some(VariantIndex::STABLE),
        None => None,
    }
}

fn named_ranges(
    service: &Service,
    named: &[NamedRange],
    variants: &[&Variant<'_>],
    problems: &mut Vec<Problem>,
) -> Ranges {
    let (ranges, unknown) = resolve(service, named, variants);
    if let Some(name) = unknown {
        let message = format!("`{}` in `{SPLIT}` is no variant that gets traffic", excerpt(name));
        let help =
            "remove its range, or mend the variant; until then the stable one gets its share";
        Reader::of(service, problems).warn("NoSuchVariant", message, help);
    }
    let ranges = Ranges::new(ranges).unwrap_or_else(|invalid| {
        if let InvalidRanges::Overlap(one, other) = invalid {
            let message = format!(
                "the ranges {}-{} and {}-{} in `{SPLIT}` overlap",
                one.first().number(),
                one.last().number(),
                other.first().number(),
                other.last().number()
            );
            let help = "give each bucket to one variant; until then the stable one gets all the \
                        traffic";
            Reader::of(service, problems).error("InvalidSplit", message, help);
        }
        Ranges::default()
    });
    for (position, variant) in variants.iter().enumerate() {
        if variant.weight != 0 && ranges.share(index(position)) != variant.weight {
            let message = format!(
                "`{CANARY_WEIGHT}` has no effect: `{SPLIT}` of Service {} gives this one {} %",
                service.origin.name,
                percent(ranges.share(index(position)).into())
            );
            Reader::of(variant.service, problems).warn(
                "NoEffect",
                message,
                "remove one of the two",
            );
        }
    }
    ranges
}

/// The index of the variant at a position among those that are not stable.
fn index(position: usize) -> VariantIndex {
    VariantIndex::new(position + 1).unwrap_or(VariantIndex::STABLE)
}

/// The requests that ask for variants. What two of them claim belongs to the older one.
fn forced(variants: &[&Variant<'_>], problems: &mut Vec<Problem>) -> Vec<Forced> {
    let mut forced: Vec<Forced> = Vec::new();
    for (position, variant) in variants.iter().enumerate() {
        for asked in &variant.forced {
            let index = if asked.is_own { index(position) } else { VariantIndex::STABLE };
            let other = forced.iter().find(|one| one.by == asked.by && one.value == asked.value);
            match other.map(|other| other.variant) {
                None => forced.push(Forced {
                    by: asked.by.clone(),
                    value: asked.value.clone(),
                    variant: index,
                }),
                Some(other) if other == index => {}
                Some(other) => {
                    let older = other.position().checked_sub(1).and_then(|at| variants.get(at));
                    let older = older.map_or(STABLE, |older| &older.service.origin.name);
                    let key = match asked.by {
                        ForcedBy::Header(_) => CANARY_HEADER,
                        ForcedBy::Cookie(_) => CANARY_COOKIE,
                    };
                    let message = format!(
                        "`{key}` has no effect: requests with the value `{}` ask for `{older}`, \
                         which is older",
                        excerpt(&asked.value)
                    );
                    let help = "choose another name or value";
                    Reader::of(variant.service, problems).error("InvalidSplit", message, help);
                }
            }
        }
    }
    forced
}
