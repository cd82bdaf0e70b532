//! Which Namespace gets one of a limited number of places: a pure policy.

use std::collections::BTreeMap;

/// Where a place comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place<N> {
    /// There is a free one.
    Free,
    /// This Namespace has the most, and gives one up.
    Of(N),
    /// There is none: the Namespace would have more than any other one.
    None,
}

/// Finds a place for `namespace` among `limit`, given the groups of places in use, each with its
/// Namespace and its size.
///
/// When all are in use, the last group is taken from the Namespace that has the most places, if it
/// still has more than the other one afterwards: otherwise both would take it from each other in
/// turn.
pub(super) fn place<N: Ord + Clone>(
    in_use: impl Iterator<Item = (N, usize)>,
    namespace: &N,
    limit: usize,
) -> Place<N> {
    // The number of places, and those without the last group.
    let mut held: BTreeMap<N, (usize, usize)> = BTreeMap::new();
    for (namespace, size) in in_use {
        let (count, _) = held.get(&namespace).copied().unwrap_or_default();
        held.insert(namespace, (count + size, count));
    }
    if held.values().map(|(count, _)| count).sum::<usize>() < limit {
        return Place::Free;
    }
    let (own, _) = held.get(namespace).copied().unwrap_or_default();
    let can_give = held.into_iter().filter(|(_, (_, left))| *left > own);
    match can_give.max_by_key(|(_, (count, _))| *count) {
        Some((most, _)) => Place::Of(most),
        None => Place::None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_namespace_keeps_another_one_from_its_share(
            requests in prop::collection::vec(0..5_u8, 0..200),
            limit in 1..20_usize,
        ) {
            let mut in_use: Vec<u8> = Vec::new();
            for namespace in requests.iter().copied().chain((0..5).cycle().take(5 * limit)) {
                match place(in_use.iter().map(|namespace| (*namespace, 1)), &namespace, limit) {
                    Place::Free => in_use.push(namespace),
                    Place::Of(other) => {
                        let at = in_use.iter().position(|one| *one == other).unwrap();
                        in_use[at] = namespace;
                    }
                    Place::None => {}
                }
                prop_assert!(in_use.len() <= limit);
            }
            // Each has asked for as many as there are.
            let held = |namespace| in_use.iter().filter(|one| **one == namespace).count();
            let counts: Vec<usize> = (0..5).map(held).collect();
            let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
            prop_assert!(most - least <= 1, "{counts:?}");
            prop_assert_eq!(in_use.len(), limit);
        }
    }

    #[test]
    fn a_group_is_taken_only_from_a_namespace_that_has_more_even_then() {
        let of = |groups: &[(u8, usize)]| place(groups.iter().copied(), &1, 14);
        assert_eq!(of(&[(0, 8), (1, 5)]), Place::Free);
        assert_eq!(of(&[(0, 8), (1, 6)]), Place::None);
        assert_eq!(of(&[(0, 4), (0, 4), (1, 3), (1, 3)]), Place::None);
        assert_eq!(of(&[(0, 6), (0, 3), (1, 5)]), Place::Of(0));
        assert_eq!(of(&[(0, 9), (2, 3), (2, 2)]), Place::Of(2));
    }
}
