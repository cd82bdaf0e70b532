//! The ranges of buckets that variants have.

use serde::{Serialize, Serializer};

use super::{BUCKETS, Bucket, VariantIndex};

/// The ranges of all variants but the stable one: in order, and disjoint. The stable variant has
/// the rest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Ranges(Vec<Range>);

/// Neighbouring buckets of one variant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Range {
    first: Bucket,
    last: Bucket,
    variant: VariantIndex,
}

/// Why ranges are no [`Ranges`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InvalidRanges {
    /// Two of them share a bucket.
    Overlap(Range, Range),
    /// The weights add up to more than [`BUCKETS`]: to this number of buckets.
    TooMany(u64),
}

// === impl Ranges ===

impl Ranges {
    /// Creates it from ranges in any order. Those of the stable variant must not overlap others
    /// either.
    ///
    /// # Errors
    /// Two ranges overlap.
    pub fn new(mut ranges: Vec<Range>) -> Result<Self, InvalidRanges> {
        ranges.sort_unstable();
        for pair in ranges.windows(2) {
            if let [one, next] = *pair
                && next.first <= one.last
            {
                return Err(InvalidRanges::Overlap(one, next));
            }
        }
        ranges.retain(|range| range.variant != VariantIndex::STABLE);
        Ok(Self(ranges))
    }

    /// The ranges of variants with these weights, in buckets; the first weight is that of the
    /// variant after the stable one.
    ///
    /// The first variant grows from bucket 0 up, the second from the last bucket down, and the
    /// stable one lies between: whatever the weights of two variants, a change moves no identity
    /// from one of them to the other. Further variants lie beside the first.
    ///
    /// # Errors
    /// The weights add up to more than [`BUCKETS`].
    pub fn by_weight(weights: &[u16]) -> Result<Self, InvalidRanges> {
        let sum = weights.iter().map(|weight| u64::from(*weight)).sum();
        if sum > u64::from(BUCKETS) {
            return Err(InvalidRanges::TooMany(sum));
        }
        let mut ranges = Vec::new();
        let (mut low, mut high) = (0, BUCKETS);
        for (position, weight) in weights.iter().enumerate() {
            let first = if position == 1 {
                high -= weight;
                high
            } else {
                low += weight;
                low - weight
            };
            let variant = VariantIndex::new(position + 1);
            let last = (first + weight).checked_sub(1).filter(|_| *weight > 0);
            ranges.extend(variant.zip(last).and_then(|(variant, last)| {
                Range::new(Bucket::new(first)?, Bucket::new(last)?, variant)
            }));
        }
        Self::new(ranges)
    }

    /// The variant that has a bucket.
    #[must_use]
    pub fn variant(&self, bucket: Bucket) -> VariantIndex {
        let next = self.0.get(self.0.partition_point(|range| range.last < bucket));
        let has = next.filter(|range| range.first <= bucket);
        has.map_or(VariantIndex::STABLE, |range| range.variant)
    }

    /// The number of buckets of a variant.
    #[must_use]
    pub fn share(&self, variant: VariantIndex) -> u16 {
        let is_counted =
            |range: &&Range| range.variant == variant || variant == VariantIndex::STABLE;
        let count: u16 = self.0.iter().filter(is_counted).map(Range::len).sum();
        if variant == VariantIndex::STABLE { BUCKETS - count } else { count }
    }

    /// The ranges, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Range> {
        self.0.iter()
    }
}

// === impl Range ===

impl Range {
    /// Creates the range from `first` to `last`, both included; `None` where they are in the wrong
    /// order.
    #[must_use]
    pub fn new(first: Bucket, last: Bucket, variant: VariantIndex) -> Option<Self> {
        (first <= last).then_some(Self { first, last, variant })
    }

    /// Its first bucket.
    #[must_use]
    pub fn first(&self) -> Bucket {
        self.first
    }

    /// Its last bucket.
    #[must_use]
    pub fn last(&self) -> Bucket {
        self.last
    }

    /// Whose range it is.
    #[must_use]
    pub fn variant(&self) -> VariantIndex {
        self.variant
    }

    fn len(&self) -> u16 {
        self.last.number() - self.first.number() + 1
    }
}

impl Serialize for Range {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct View {
            buckets: String,
            variant: VariantIndex,
        }
        let (first, last) = (self.first.number(), self.last.number());
        View { buckets: format!("{first}-{last}"), variant: self.variant }.serialize(serializer)
    }
}
