//! Chooses the endpoint for one try: the less loaded of two that chance points at.

use std::net::SocketAddr;

use portcullis_config::snapshot::endpoints::Endpoint;

/// An endpoint for the next try, or `None` where there is none at all.
///
/// `load` is how much is under way to an endpoint, `random` uniform over `u64`. Endpoints in `avoid` (tried already, or failed
/// lately) are taken only where nothing else is left: a whole service that fails now and then is still better than none.
pub(crate) fn endpoint<'e>(
    endpoints: &'e [Endpoint],
    load: impl Fn(&Endpoint) -> u32,
    random: u64,
    avoid: &[SocketAddr],
) -> Option<&'e Endpoint> {
    let avoided = |endpoint: &&Endpoint| avoid.contains(&endpoint.address);
    let good = if avoid.is_empty() { endpoints.len() } else { endpoints.iter().filter(|endpoint| !avoided(endpoint)).count() };
    let (first, second) = match if good == 0 { endpoints.len() } else { good } {
        0 => return None,
        1 => (0, 0),
        count => two_of(count, random),
    };
    let at = |index: usize| {
        if good == endpoints.len() || good == 0 {
            endpoints.get(index)
        } else {
            endpoints.iter().filter(|endpoint| !avoided(endpoint)).nth(index)
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
    let scaled = u128::from(random) * count as u128 >> 32;
    usize::try_from(scaled).unwrap_or_default()
}
