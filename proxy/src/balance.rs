//! Chooses the endpoint for one try: the less loaded of two that chance points at.

/// One of `items` for the next try, or `None` where there is none at all.
///
/// `load` is how much is under way to an item, `random` uniform over `u64`. Items that are to be
/// avoided (tried already, or failed lately) are taken only where nothing else is left: a whole
/// service that fails now and then is still better than none.
pub(crate) fn endpoint<T>(
    items: &[T],
    load: impl Fn(&T) -> u32,
    is_avoided: impl Fn(&T) -> bool,
    random: u64,
) -> Option<&T> {
    let good = items.iter().filter(|item| !is_avoided(item)).count();
    let takes_all = good == 0 || good == items.len();
    let (first, second) = match if takes_all { items.len() } else { good } {
        0 => return None,
        1 => (0, 0),
        count => two_of(count, random),
    };
    let at = |index: usize| {
        if takes_all {
            items.get(index)
        } else {
            items.iter().filter(|item| !is_avoided(item)).nth(index)
        }
    };
    let (first, second) = (at(first)?, at(second)?);
    Some(if load(second) < load(first) { second } else { first })
}

/// Two different indices below `count`, which is at least 2, each pair as likely as any other.
fn two_of(count: usize, random: u64) -> (usize, usize) {
    let first = below(count, random & 0xffff_ffff);
    let second = below(count - 1, random >> 32);
    (first, if second >= first { second + 1 } else { second })
}

/// Maps 32 random bits onto `0..count` without the bias of a remainder.
fn below(count: usize, random: u64) -> usize {
    let scaled = (u128::from(random) * count as u128) >> 32;
    usize::try_from(scaled).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn there_is_an_endpoint_unless_there_is_none(count in 0..20_u32, random: u64, avoided: u32) {
            let items: Vec<u32> = (0..count).collect();
            let is_avoided = |item: &u32| (avoided >> item) & 1 == 1;
            let chosen = endpoint(&items, |_| 0, is_avoided, random);
            prop_assert_eq!(chosen.is_some(), count > 0);
            if let Some(chosen) = chosen {
                prop_assert!(!is_avoided(chosen) || items.iter().all(is_avoided));
            }
        }

        #[test]
        fn the_most_loaded_of_several_is_never_chosen(loads in proptest::collection::vec(0..100_u32, 2..20), random: u64) {
            let chosen = endpoint(&loads, |load| *load, |_| false, random).unwrap();
            let most = loads.iter().max().unwrap();
            let alone = loads.iter().filter(|load| *load == most).count() == 1;
            prop_assert!(!alone || chosen < most);
        }

        #[test]
        fn two_different_ones_are_compared(count in 2..1000_usize, random: u64) {
            let (first, second) = two_of(count, random);
            prop_assert!(first != second && first < count && second < count);
        }
    }

    #[test]
    fn equal_load_is_spread_evenly() {
        let items: Vec<usize> = (0..8).collect();
        let mut counts = [0_u32; 8];
        let mut random = 1_u64;
        for _ in 0..80_000 {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let mixed = (random ^ (random >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
            counts[*endpoint(&items, |_| 0, |_| false, mixed).unwrap()] += 1;
        }
        // 10,000 each, standard deviation 94.
        assert!(counts.iter().all(|count| (9_500..10_500).contains(count)), "{counts:?}");
    }
}
