//! Choosing a variant: who gets which one, in which order, and that nobody moves without a reason.

use portcullis_config::snapshot::split::{BUCKETS, Ranges};
use proptest::prelude::*;

use super::*;

const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

fn split(weights: &[u16], forced: Vec<Forced>) -> Split {
    Split::new("rollout-1".into(), Ranges::by_weight(weights).unwrap(), forced, None)
}

fn variant(position: usize) -> VariantIndex {
    VariantIndex::new(position).unwrap()
}

fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
    fields
        .iter()
        .map(|(name, value)| {
            (header::HeaderName::from_static(name), HeaderValue::from_static(value))
        })
        .collect()
}

fn traits<'a>(headers: &'a HeaderMap, user: Option<&'a str>, browser: Option<u128>) -> Traits<'a> {
    Traits { headers, user, browser, client: CLIENT }
}

fn always(by: ForcedBy, value: &str, position: usize) -> Forced {
    Forced { by, value: value.into(), variant: variant(position) }
}

fn by_header(name: &'static str) -> ForcedBy {
    ForcedBy::Header(header::HeaderName::from_static(name))
}

fn chosen(split: &Split, fields: &HeaderMap, user: Option<&str>) -> (usize, Reason) {
    let assignment = assign(split, &Affinity::User, traits(fields, user, None), || 0);
    (assignment.variant.position(), assignment.reason)
}

proptest! {
    #[test]
    fn callers_stay_whatever_the_request_and_the_random_number(
        user in "[a-z]{1,10}", browser: u128, weight in 0..=BUCKETS, one: u64, other: u64,
    ) {
        let (split, empty) = (split(&[weight], Vec::new()), HeaderMap::new());
        for affinity in [Affinity::User, Affinity::Cookie] {
            let of = |point| assign(&split, &affinity, traits(&empty, Some(&user), Some(browser)), || point);
            prop_assert_eq!(of(one), of(other));
        }
    }

    #[test]
    fn raising_a_weight_moves_callers_one_way_only(
        user in "[a-z]{1,10}", weight in 0..BUCKETS, more in 1..=BUCKETS, second in 0..1_000_u16,
    ) {
        let second = second.min(BUCKETS - weight);
        let raised = weight + more.min(BUCKETS - weight - second);
        let empty = HeaderMap::new();
        let of = |weight| chosen(&split(&[weight, second], Vec::new()), &empty, Some(&user)).0;
        let (before, after) = (of(weight), of(raised));
        prop_assert!(before == after || (before, after) == (0, 1), "from {before} to {after}");
    }
}

#[test]
fn weights_are_exact_within_the_binomial_bound() {
    let mut state = 1_u64;
    // splitmix64
    let mut random = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    };
    let empty = HeaderMap::new();
    for weights in [[1, 0], [25, 0], [500, 500], [5_000, 2_500], [9_999, 1], [10_000, 0]] {
        let split = split(&weights, Vec::new());
        let mut counts = [0_u32; 3];
        const CHOICES: u32 = 1_000_000;
        for _ in 0..CHOICES {
            let of = assign(&split, &Affinity::User, traits(&empty, None, None), &mut random);
            assert_eq!(of.reason, Reason::Weight);
            counts[of.variant.position()] += 1;
        }
        for (position, count) in counts.into_iter().enumerate() {
            let share = f64::from(split.weight(position)) / f64::from(BUCKETS);
            let expected = share * f64::from(CHOICES);
            let deviation = (expected * (1.0 - share)).sqrt();
            let difference = (f64::from(count) - expected).abs();
            assert!(difference <= 5.0 * deviation, "{weights:?}: {counts:?}");
        }
    }
}

#[test]
fn a_header_is_asked_before_a_cookie_and_both_before_the_bucket() {
    let forced = vec![
        always(ForcedBy::Cookie("canary".into()), "always", 1),
        always(ForcedBy::Cookie("canary".into()), "never", 0),
        always(by_header("x-canary"), "blue", 2),
    ];
    let split = split(&[BUCKETS], forced);
    for (fields, expected) in [
        (&[][..], (1, Reason::User)),
        (&[("cookie", "a=b; canary=never")], (0, Reason::ForcedCookie)),
        (&[("cookie", "canary=always")], (1, Reason::ForcedCookie)),
        (&[("cookie", "canary=maybe")], (1, Reason::User)),
        (&[("cookie", "canary=never; canary=always")], (1, Reason::User)),
        (&[("x-canary", "blue"), ("cookie", "canary=never")], (2, Reason::ForcedHeader)),
        (&[("x-canary", "red"), ("cookie", "canary=never")], (0, Reason::ForcedCookie)),
        (&[("x-canary", "blue"), ("x-canary", "blue")], (1, Reason::User)),
    ] {
        let mut all = HeaderMap::new();
        for (name, value) in fields {
            all.append(*name, HeaderValue::from_static(value));
        }
        assert_eq!(chosen(&split, &all, Some("ann")), expected, "{fields:?}");
    }
}

#[test]
fn affinity_says_what_a_caller_is_known_by() {
    let split = split(&[5_000], Vec::new());
    let fields = headers(&[("x-tenant", "4")]);
    let reason = |affinity, user, browser| {
        assign(&split, &affinity, traits(&fields, user, browser), || 0).reason
    };
    let header = |name| Affinity::Header(header::HeaderName::from_static(name));
    for (affinity, user, browser, expected) in [
        (Affinity::User, Some("ann"), Some(1), Reason::User),
        (Affinity::User, None, Some(1), Reason::Browser),
        (Affinity::User, None, None, Reason::Weight),
        (Affinity::Cookie, Some("ann"), Some(1), Reason::Browser),
        (Affinity::Cookie, Some("ann"), None, Reason::Weight),
        (Affinity::SourceIp, Some("ann"), Some(1), Reason::SourceIp),
        (header("x-tenant"), Some("ann"), Some(1), Reason::Header),
        (header("x-other"), Some("ann"), Some(1), Reason::Weight),
        (Affinity::None, Some("ann"), Some(1), Reason::Weight),
    ] {
        assert_eq!(reason(affinity.clone(), user, browser), expected, "{affinity:?}");
    }
}

#[test]
fn a_client_keeps_its_variant_on_all_addresses_of_one_network() {
    let split = split(&[5_000], Vec::new());
    let empty = HeaderMap::new();
    let bucket = |client: &str| {
        let client = client.parse().unwrap();
        let traits = Traits { headers: &empty, user: None, browser: None, client };
        assign(&split, &Affinity::SourceIp, traits, || 0).bucket
    };
    assert_eq!(bucket("2001:db8::1"), bucket("2001:db8::2"));
    assert_ne!(bucket("2001:db8::1"), bucket("2001:db8:0:1::1"));
}
