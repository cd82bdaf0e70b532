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

/// Finds a place for `namespace` among `limit`, given the Namespace of each place in use.
///
/// When all are in use, one is taken from the Namespace that has the most, if it has at least two
/// more: otherwise both would take it from each other in turn.
pub(super) fn place<N: Ord + Clone>(
    in_use: impl Iterator<Item = N>,
    namespace: &N,
    limit: usize,
) -> Place<N> {
    let mut held: BTreeMap<N, usize> = BTreeMap::new();
    in_use.for_each(|namespace| *held.entry(namespace).or_default() += 1);
    if held.values().sum::<usize>() < limit {
        return Place::Free;
    }
    let own = held.get(namespace).copied().unwrap_or_default();
    match held.into_iter().max_by_key(|(_, count)| *count) {
        Some((most, count)) if count >= own + 2 => Place::Of(most),
        _ => Place::None,
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
                match place(in_use.iter().copied(), &namespace, limit) {
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
}
