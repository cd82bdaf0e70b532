//! Buckets and ranges: exact shares, one bucket an identity, and moves in one direction.

use proptest::prelude::*;

use super::*;

const CANARY: VariantIndex = VariantIndex(1);
const SECOND: VariantIndex = VariantIndex(2);

fn split(salt: &str, ranges: Ranges) -> Split {
    Split::new(salt.into(), ranges, Vec::new(), None)
}

fn by_weight(weights: &[u16]) -> Ranges {
    Ranges::by_weight(weights).unwrap()
}

fn range(first: u16, last: u16, variant: VariantIndex) -> Range {
    Range::new(Bucket(first), Bucket(last), variant).unwrap()
}

proptest! {
    #[test]
    fn a_variant_has_as_many_buckets_as_its_weight(one in 0..=BUCKETS, rest in 0..=BUCKETS) {
        let other = rest.min(BUCKETS - one);
        let ranges = by_weight(&[one, other]);
        let count = |variant| {
            (0..BUCKETS).filter(|number| ranges.variant(Bucket(*number)) == variant).count()
        };
        for (variant, weight) in
            [(CANARY, one), (SECOND, other), (VariantIndex::STABLE, BUCKETS - one - other)]
        {
            prop_assert_eq!(count(variant), usize::from(weight));
            prop_assert_eq!(ranges.share(variant), weight);
        }
    }

    #[test]
    fn raising_a_weight_moves_identities_to_that_variant_only(
        one in 0..5_000_u16, other in 0..5_000_u16, more in 0..=5_000_u16,
    ) {
        let before = by_weight(&[one, other]);
        let more = more.min(BUCKETS - one - other);
        for (after, grown) in
            [(by_weight(&[one + more, other]), CANARY), (by_weight(&[one, other + more]), SECOND)]
        {
            let moved = (0..BUCKETS).map(Bucket).filter(|bucket| before.variant(*bucket) != after.variant(*bucket));
            let moved: Vec<_> = moved.map(|bucket| (before.variant(bucket), after.variant(bucket))).collect();
            prop_assert_eq!(moved.len(), usize::from(more));
            prop_assert!(moved.iter().all(|moved| *moved == (VariantIndex::STABLE, grown)));
        }
    }

    #[test]
    fn an_identity_has_one_bucket_for_each_salt(name in "[a-zA-Z@.]{1,200}", salt in "[a-z]{1,20}") {
        let [split, other] = [Ranges::default(), by_weight(&[7])].map(|ranges| split(&salt, ranges));
        let bucket = split.bucket(Identity::User(&name));
        prop_assert!(bucket.number() < BUCKETS);
        prop_assert_eq!(bucket, other.bucket(Identity::User(&name)));
        prop_assert_eq!(bucket, split.bucket(Identity::User(&name.to_ascii_uppercase())));
    }

    #[test]
    fn disjoint_ranges_are_accepted_in_any_order(
        bounds in proptest::collection::btree_set(0..BUCKETS, 2..20), backwards: bool,
    ) {
        let bounds: Vec<u16> = bounds.into_iter().collect();
        let mut ranges: Vec<Range> =
            bounds.windows(2).map(|pair| range(pair[0], pair[1] - 1, CANARY)).collect();
        if backwards {
            ranges.reverse();
        }
        let share = bounds[bounds.len() - 1] - bounds[0];
        prop_assert_eq!(Ranges::new(ranges).unwrap().share(CANARY), share);
    }
}

#[test]
fn a_bucket_never_changes_with_a_version_of_the_gateway() {
    let split = split("rollout-7", Ranges::default());
    let bucket = |identity| split.bucket(identity).number();
    // A change here moves people between variants in the middle of their rollouts.
    assert_eq!(bucket(Identity::User("Ann@example.com")), 2_332);
    assert_eq!(bucket(Identity::Browser(7)), 9_027);
    assert_eq!(bucket(Identity::Network([192, 0, 2, 1].into())), 5_621);
    assert_eq!(bucket(Identity::Header(b"tenant-4")), 5_763);
}

#[test]
fn the_hash_is_siphash_2_4() {
    // The first vectors of the reference implementation: key 00 to 0f.
    let key = Key(0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908);
    let hash = |octets: &[u8]| {
        let mut hasher = key.hasher();
        hasher.write(octets);
        hasher.finish()
    };
    assert_eq!(hash(&[]), 0x726f_db47_dd0e_0e31);
    let message: Vec<u8> = (0..15).collect();
    assert_eq!(hash(&message), 0xa129_ca61_49be_45e5);
}

#[test]
fn identities_are_spread_evenly_and_anew_for_each_salt() {
    let (one, other) = (split("a", by_weight(&[1_000])), split("b", by_weight(&[1_000])));
    let is_canary = |split: &Split, number: u32| {
        let name = format!("user-{number}@example.com");
        split.variant(split.bucket(Identity::User(&name))) == CANARY
    };
    let first = (0..100_000).filter(|number| is_canary(&one, *number)).count();
    let both = (0..100_000).filter(|number| is_canary(&one, *number) && is_canary(&other, *number));
    // 10,000, standard deviation 95; and 1,000, standard deviation 31.
    assert!((9_500..10_500).contains(&first), "{first}");
    let both = both.count();
    assert!((820..1_180).contains(&both), "{both}");
}

#[test]
fn kinds_of_identities_are_told_apart() {
    let split = split("a", Ranges::default());
    let id = u128::from_be_bytes(*b"aaaaaaaaaaaaaaaa");
    let same = "aaaaaaaaaaaaaaaa";
    let buckets = [
        Identity::User(same),
        Identity::Browser(id),
        Identity::Header(same.as_bytes()),
        Identity::Network(std::net::Ipv6Addr::from(id).into()),
    ]
    .map(|identity| split.bucket(identity));
    let different: std::collections::BTreeSet<_> = buckets.iter().collect();
    assert_eq!(different.len(), 4, "{buckets:?}");
}

#[test]
fn overlapping_ranges_and_too_large_weights_are_rejected() {
    let (one, other) = (range(0, 499, CANARY), range(499, 600, SECOND));
    assert_eq!(Ranges::new(vec![other, one]), Err(InvalidRanges::Overlap(one, other)));
    let stable = range(0, 10, VariantIndex::STABLE);
    assert!(Ranges::new(vec![stable, one]).is_err());
    assert_eq!(Ranges::by_weight(&[6_000, 4_001]), Err(InvalidRanges::TooMany(10_001)));
    assert_eq!(by_weight(&[BUCKETS]).share(VariantIndex::STABLE), 0);
}

#[test]
fn a_generation_changes_with_ranges_and_salt_unless_a_writer_counts() {
    let of = |salt: &str, weight: u16| split(salt, by_weight(&[weight])).generation();
    assert_eq!(of("a", 1), of("a", 1));
    assert_ne!(of("a", 1), of("a", 2));
    assert_ne!(of("a", 1), of("b", 1));
    assert!(of("a", 1).number() <= Generation::MAX);
    let counted = Split::new("a".into(), by_weight(&[1]), Vec::new(), Generation::new(12));
    assert_eq!(counted.generation().number(), 12);
    assert_eq!(Generation::new(Generation::MAX + 1), None);
}

#[test]
fn headers_are_asked_before_cookies() {
    let by = [ForcedBy::Cookie("a".into()), ForcedBy::Header(HeaderName::from_static("x-a"))];
    let forced = by.map(|by| Forced { by, value: "always".into(), variant: CANARY });
    let split = Split::new("a".into(), Ranges::default(), forced.into(), None);
    assert!(matches!(split.forced()[0].by, ForcedBy::Header(_)));
}
