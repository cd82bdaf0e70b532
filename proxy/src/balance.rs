//! Selects the endpoint for a try: the less loaded of two random ones.

/// Selects one of `items` for the next try; `None` if there are none.
///
/// `load` returns the number of active requests of an item; `random` is uniform over `u64`. Items
/// to avoid (already tried, or recently failed) are selected only if there are no others: a service
/// that sometimes fails is better than none.
pub(crate) fn endpoint<T>(
    items: &[T],
    load: impl Fn(&T) -> u32,
    is_avoided: impl Fn(&T) -> bool,
    random: u64,
) -> Option<&T> {
    let preferred = items.iter().filter(|item| !is_avoided(item)).count();
    let use_all = preferred == 0 || preferred == items.len();
    let (first, second) = match if use_all { items.len() } else { preferred } {
        0 => return None,
        1 => (0, 0),
        count => random_pair(count, random),
    };
    let at = |index: usize| {
        if use_all {
            items.get(index)
        } else {
            items.iter().filter(|item| !is_avoided(item)).nth(index)
        }
    };
    let (first, second) = (at(first)?, at(second)?);
    Some(if load(second) < load(first) { second } else { first })
}

/// Returns two different indices below `count`, which is at least 2; all pairs are equally likely.
fn random_pair(count: usize, random: u64) -> (usize, usize) {
    let first = below(count, random & 0xffff_ffff);
    let second = below(count - 1, random >> 32);
    (first, if second >= first { second + 1 } else { second })
}

/// Maps 32 random bits to `0..count` without modulo bias.
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
        fn an_endpoint_is_selected_if_there_are_any(count in 0..20_u32, random: u64, avoided: u32) {
            let items: Vec<u32> = (0..count).collect();
            let is_avoided = |item: &u32| (avoided >> item) & 1 == 1;
            let chosen = endpoint(&items, |_| 0, is_avoided, random);
            prop_assert_eq!(chosen.is_some(), count > 0);
            if let Some(chosen) = chosen {
                prop_assert!(!is_avoided(chosen) || items.iter().all(is_avoided));
            }
        }

        #[test]
        fn the_most_loaded_endpoint_is_not_selected(loads in proptest::collection::vec(0..100_u32, 2..20), random: u64) {
            let chosen = endpoint(&loads, |load| *load, |_| false, random).unwrap();
            let most = loads.iter().max().unwrap();
            let alone = loads.iter().filter(|load| *load == most).count() == 1;
            prop_assert!(!alone || chosen < most);
        }

        #[test]
        fn two_different_endpoints_are_compared(count in 2..1000_usize, random: u64) {
            let (first, second) = random_pair(count, random);
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
