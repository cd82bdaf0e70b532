//! Chooses the endpoint for one try: the less loaded of two that chance points at.

/// One of `items` for the next try, or `None` where there is none at all.
///
/// `load` is how much is under way to an item, `random` uniform over `u64`. Items that are to be avoided (tried already, or failed
/// lately) are taken only where nothing else is left: a whole service that fails now and then is still better than none.
pub(crate) fn endpoint<T>(items: &[T], load: impl Fn(&T) -> u32, is_avoided: impl Fn(&T) -> bool, random: u64) -> Option<&T> {
    let good = items.iter().filter(|item| !is_avoided(item)).count();
    let takes_all = good == 0 || good == items.len();
    let (first, second) = match if takes_all { items.len() } else { good } {
        0 => return None,
        1 => (0, 0),
        count => two_of(count, random),
    };
    let at = |index: usize| if takes_all { items.get(index) } else { items.iter().filter(|item| !is_avoided(item)).nth(index) };
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
    let scaled = u128::from(random) * count as u128 >> 32;
    usize::try_from(scaled).unwrap_or_default()
}
