use proptest::prelude::*;

use super::*;

fn location(zone: &str, node: &str) -> Location {
    let given = |text: &str| Some(text.into()).filter(|text: &Arc<str>| !text.is_empty());
    Location { zone: given(zone), node: given(node) }
}

/// The numbers of the endpoints that are near. Each one is its zone, the zones of its hint, and the
/// nodes of its hint.
fn near(
    location: &Location,
    distribution: Option<TrafficDistribution>,
    endpoints: &[(&str, &str, &str)],
) -> Vec<usize> {
    let mut ready: Vec<Endpoint> = endpoints
        .iter()
        .map(|(zone, ..)| Endpoint {
            address: ([10, 0, 0, 1], 80).into(),
            zone: Some((*zone).into()),
            pod: None,
            near: false,
        })
        .collect();
    let words = |text: &str| text.split_whitespace().map(Into::into).collect();
    let hints: Vec<Hints> = endpoints
        .iter()
        .map(|(_, zones, nodes)| Hints { zones: words(zones), nodes: words(nodes) })
        .collect();
    let hints: Vec<&Hints> = hints.iter().collect();
    Locality { location, distribution }.mark(&mut ready, &hints);
    (0..ready.len()).filter(|number| ready[*number].near).collect()
}

#[test]
fn hints_decide_which_zone_an_endpoint_is_for() {
    let endpoints = [("a", "a", ""), ("b", "a b", ""), ("c", "c", "")];
    assert_eq!(near(&location("a", ""), None, &endpoints), [0, 1]);
    assert_eq!(near(&location("b", ""), None, &endpoints), [1]);
    assert_eq!(near(&location("d", ""), None, &endpoints), [0; 0], "no endpoint is for it");
    assert_eq!(near(&location("", ""), None, &endpoints), [0; 0], "the zone is not known");
}

#[test]
fn hints_count_only_if_every_endpoint_has_one() {
    let endpoints = [("a", "a", ""), ("b", "", "")];
    assert_eq!(near(&location("a", ""), None, &endpoints), [0; 0]);
}

#[test]
fn without_hints_the_traffic_distribution_decides() {
    let endpoints = [("a", "", ""), ("b", "", "")];
    assert_eq!(near(&location("a", ""), None, &endpoints), [0; 0]);
    for distribution in [TrafficDistribution::SameZone, TrafficDistribution::SameNode] {
        assert_eq!(near(&location("a", ""), Some(distribution), &endpoints), [0]);
    }
}

#[test]
fn the_node_is_preferred_to_the_zone() {
    let endpoints = [("a", "a", "one"), ("a", "a", "two"), ("b", "b", "three")];
    assert_eq!(near(&location("a", "one"), None, &endpoints), [0]);
    assert_eq!(near(&location("a", "four"), None, &endpoints), [0, 1], "none is on the node");
}

#[test]
fn a_zone_with_less_than_half_of_its_share_is_not_preferred() {
    let with = |own: usize, others: usize| {
        let mut endpoints = vec![("a", "a", ""); own];
        endpoints.extend(vec![("b", "b", ""); others]);
        near(&location("a", ""), None, &endpoints).len()
    };
    assert_eq!((with(1, 3), with(1, 4), with(2, 6), with(2, 7)), (1, 0, 2, 0));
}

proptest! {
    #[test]
    fn what_is_near_is_never_loaded_more_than_twice_as_much(
        zones in proptest::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 0..20),
    ) {
        let endpoints: Vec<_> = zones.iter().map(|zone| (*zone, *zone, "")).collect();
        // If each zone sends the same, an endpoint gets 1 / (zones × endpoints of the zone).
        let count = near(&location("a", ""), None, &endpoints).len();
        let places = zones.iter().chain([&"a"]).collect::<BTreeSet<_>>().len();
        prop_assert!(count == 0 || count * places * 2 >= zones.len());
    }
}
