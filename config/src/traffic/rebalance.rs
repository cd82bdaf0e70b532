//! New ranges from those that are there, so that as few callers as possible change their variant.

use crate::snapshot::split::{BUCKETS, Bucket, InvalidRanges, Range, Ranges, VariantIndex};

/// Returns ranges in which the variants after the stable one have these weights, in buckets.
///
/// A variant whose weight falls gets no bucket, one whose weight rises loses none, and one whose
/// weight stays keeps each of its buckets. A variant takes buckets of the stable one, and those that
/// other variants lose only if the stable one has no more. So a change of one weight moves callers
/// between that variant and the stable one, and in one direction.
///
/// A variant without a range begins at bucket 0 if the stable one has it, else at the last bucket,
/// else in the middle of the widest range of the stable one. From there it grows, and by the way it
/// came it shrinks, so that its first callers are its last ones.
///
/// # Errors
/// The weights add up to more than [`BUCKETS`].
pub(super) fn rebalance(current: &Ranges, weights: &[u16]) -> Result<Ranges, InvalidRanges> {
    let sum = weights.iter().map(|weight| u64::from(*weight)).sum();
    if sum > u64::from(BUCKETS) {
        return Err(InvalidRanges::TooMany(sum));
    }
    let mut line = Line::new(current);
    let changes: Vec<(VariantIndex, u16, u16)> = weights
        .iter()
        .enumerate()
        .filter_map(|(position, weight)| {
            let variant = VariantIndex::new(position + 1)?;
            Some((variant, current.share(variant), *weight))
        })
        .collect();
    for (variant, before, after) in &changes {
        line.shrink(*variant, before.saturating_sub(*after));
    }
    for (variant, before, after) in &changes {
        line.grow(*variant, after.saturating_sub(*before));
    }
    line.ranges()
}

/// Who has a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    /// The stable variant.
    Stable,
    /// The stable variant, from now on.
    Released,
    /// Another variant.
    Variant(VariantIndex),
}

/// The owner of each bucket.
struct Line(Vec<Owner>);

/// Neighbouring buckets of one owner, the last one excluded.
#[derive(Debug, Clone, Copy)]
struct Run {
    owner: Owner,
    first: usize,
    end: usize,
}

// === impl Line ===

impl Line {
    fn new(ranges: &Ranges) -> Self {
        let owner = |bucket| match ranges.variant(bucket) {
            VariantIndex::STABLE => Owner::Stable,
            variant => Owner::Variant(variant),
        };
        Self((0..BUCKETS).filter_map(Bucket::new).map(owner).collect())
    }

    fn ranges(&self) -> Result<Ranges, InvalidRanges> {
        let bucket = |number: usize| Bucket::new(u16::try_from(number).ok()?);
        let range = |run: &Run| match run.owner {
            Owner::Variant(variant) => {
                Range::new(bucket(run.first)?, bucket(run.end.checked_sub(1)?)?, variant)
            }
            Owner::Stable | Owner::Released => None,
        };
        Ranges::new(self.runs().iter().filter_map(range).collect())
    }

    /// All runs, in order.
    fn runs(&self) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        for (number, owner) in self.0.iter().copied().enumerate() {
            match runs.last_mut().filter(|run| run.owner == owner) {
                Some(run) => run.end = number + 1,
                None => runs.push(Run { owner, first: number, end: number + 1 }),
            }
        }
        runs
    }

    fn runs_of(&self, owner: Owner) -> impl DoubleEndedIterator<Item = Run> {
        self.runs().into_iter().filter(move |run| run.owner == owner)
    }

    fn owner(&self, number: Option<usize>) -> Option<Owner> {
        self.0.get(number?).copied()
    }

    fn set(&mut self, first: usize, count: usize, owner: Owner) {
        self.0.iter_mut().skip(first).take(count).for_each(|bucket| *bucket = owner);
    }

    /// Whether a variant grows from the last bucket down, not up.
    fn is_downward(&self, variant: Owner) -> bool {
        self.0.last() == Some(&variant) && self.0.first() != Some(&variant)
    }

    /// Takes buckets from a variant, its narrowest ranges first.
    fn shrink(&mut self, variant: VariantIndex, count: u16) {
        let (owner, mut left) = (Owner::Variant(variant), usize::from(count));
        while let Some(run) = self.runs_of(owner).rev().min_by_key(Run::len).filter(|_| left > 0) {
            let taken = run.len().min(left);
            let first = if self.is_downward(owner) { run.first } else { run.end - taken };
            self.set(first, taken, Owner::Released);
            left -= taken;
        }
    }

    /// Gives buckets to a variant: those of the stable one, and others if these are not enough.
    fn grow(&mut self, variant: VariantIndex, count: u16) {
        let (owner, mut left) = (Owner::Variant(variant), usize::from(count));
        for pool in [Owner::Stable, Owner::Released] {
            while left > 0
                && let Some(free) = self.next_free(owner, pool, left)
            {
                self.set(free.first, free.len(), owner);
                left -= free.len();
            }
        }
    }

    /// The next buckets of a pool for a variant: beside one of its ranges, else where it can begin.
    /// At least one, and at most `count`.
    fn next_free(&self, variant: Owner, pool: Owner, count: usize) -> Option<Run> {
        let low = |run: Run| Run { end: run.first + run.len().min(count), ..run };
        let high = |run: Run| Run { first: run.end - run.len().min(count), ..run };
        let is_above = |run: &Run| self.owner(run.first.checked_sub(1)) == Some(variant);
        let is_below = |run: &Run| self.owner(Some(run.end)) == Some(variant);
        let above = || self.runs_of(pool).find(is_above).map(low);
        let below = || self.runs_of(pool).rfind(is_below).map(high);
        let beside =
            if self.is_downward(variant) { below().or_else(above) } else { above().or_else(below) };
        beside
            .or_else(|| self.runs_of(pool).find(|run| run.first == 0).map(low))
            .or_else(|| self.runs_of(pool).find(|run| run.end == self.0.len()).map(high))
            .or_else(|| {
                let widest = self.runs_of(pool).max_by_key(Run::len)?;
                let taken = widest.len().min(count);
                let first = widest.first + (widest.len() - taken) / 2;
                Some(Run { first, end: first + taken, ..widest })
            })
    }
}

// === impl Run ===

impl Run {
    fn len(&self) -> usize {
        self.end - self.first
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn index(position: usize) -> VariantIndex {
        VariantIndex::new(position).unwrap()
    }

    fn owners(ranges: &Ranges) -> Vec<usize> {
        let buckets = (0..BUCKETS).map(|number| Bucket::new(number).unwrap());
        buckets.map(|bucket| ranges.variant(bucket).position()).collect()
    }

    fn text(ranges: &Ranges) -> String {
        let range = |range: &Range| {
            let (first, last) = (range.first().number(), range.last().number());
            format!("{}={first}-{last}", range.variant().position())
        };
        ranges.iter().map(range).collect::<Vec<_>>().join(",")
    }

    /// Weights that add up to 100 % at most.
    fn weights(count: usize) -> impl Strategy<Value = Vec<u16>> {
        let weight = prop_oneof![Just(0), 1..=20_u16, 0..=BUCKETS];
        proptest::collection::vec(weight, count).prop_map(|weights| {
            let mut left = BUCKETS;
            let mut fitted = Vec::new();
            for weight in weights {
                fitted.push(weight.min(left));
                left -= weight.min(left);
            }
            fitted
        })
    }

    fn after(steps: &[Vec<u16>]) -> Ranges {
        let start = Ranges::default();
        steps.iter().fold(start, |ranges, weights| rebalance(&ranges, weights).unwrap())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn weights_are_exact_and_each_variant_changes_in_one_direction(
            steps in proptest::collection::vec(weights(5), 1..8), last in weights(5),
        ) {
            let before = after(&steps);
            let changed = rebalance(&before, &last).unwrap();
            let (old, new) = (owners(&before), owners(&changed));
            for (position, weight) in (1..).zip(&last) {
                prop_assert_eq!(changed.share(index(position)), *weight);
                let gained = old.iter().zip(&new).filter(|(old, new)| **old != position && **new == position).count();
                let lost = old.iter().zip(&new).filter(|(old, new)| **old == position && **new != position).count();
                prop_assert!(gained == 0 || lost == 0, "{} of {}: {} and {}", position, text(&before), gained, lost);
            }
            let crossed = old.iter().zip(&new).filter(|(old, new)| old != new && **old > 0 && **new > 0).count();
            let stayed = old.iter().zip(&new).filter(|(old, new)| **old == 0 && **new == 0).count();
            prop_assert!(crossed == 0 || stayed == 0, "callers cross over while the stable variant has some left");
            prop_assert_eq!(rebalance(&changed, &last).unwrap(), changed);
        }

        #[test]
        fn one_weight_moves_callers_between_its_variant_and_the_stable_one_alone(
            steps in proptest::collection::vec(weights(4), 1..6), position in 1..=4_usize, weight in 0..=BUCKETS,
        ) {
            let before = after(&steps);
            let mut weights: Vec<u16> = (1..=4).map(|position| before.share(index(position))).collect();
            let others: u16 = weights.iter().sum::<u16>() - weights[position - 1];
            weights[position - 1] = weight.min(BUCKETS - others);
            let changed = rebalance(&before, &weights).unwrap();
            let moved = owners(&before).into_iter().zip(owners(&changed)).filter(|(old, new)| old != new);
            let is_expected = |(old, new)| (old == 0 && new == position) || (old == position && new == 0);
            prop_assert!(moved.into_iter().all(is_expected));
        }

        #[test]
        fn the_annotation_stays_short(steps in proptest::collection::vec(weights(15), 1..20)) {
            let ranges = after(&steps);
            prop_assert!(ranges.iter().count() <= 60, "{}", text(&ranges));
        }
    }

    #[test]
    fn one_or_two_variants_have_the_buckets_that_their_weights_alone_would_give_them() {
        for (one, other) in [(500, 0), (500, 2_000), (5_000, 5_000), (1, 9_999), (0, 0)] {
            let expected = Ranges::by_weight(&[one, other]).unwrap();
            assert_eq!(after(&[vec![one, 0], vec![one, other]]), expected, "{one} {other}");
            let back = [vec![9_000, 0], vec![one, 0], vec![one, 10_000 - one], vec![one, other]];
            if one > 0 {
                assert_eq!(after(&back), expected, "{one} {other}");
            }
        }
    }

    #[test]
    fn a_third_variant_leaves_room_on_both_sides() {
        let three = [vec![1_000, 0, 0], vec![1_000, 1_000, 0], vec![1_000, 1_000, 1_000]];
        assert_eq!(text(&after(&three)), "1=0-999,3=4500-5499,2=9000-9999");
        let more = rebalance(&after(&three), &[3_000, 2_000, 2_000]).unwrap();
        assert_eq!(text(&more), "1=0-2999,3=4500-6499,2=8000-9999");
    }

    #[test]
    fn more_than_everything_is_rejected() {
        let too_many = rebalance(&Ranges::default(), &[10_000, 1]);
        assert_eq!(too_many, Err(InvalidRanges::TooMany(10_001)));
    }
}
