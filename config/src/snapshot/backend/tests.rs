//! Weights: shares are exact, and a backend of weight 0 gets no traffic.

use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::snapshot::endpoints::{EndpointKey, EndpointSet};

fn backends(weights: &[u32]) -> WeightedBackends {
    let key = EndpointKey { namespace: "a".into(), service: "b".into(), port: 80 };
    let endpoints = Arc::new(Endpoints::new(key, EndpointSet::default()));
    let backend = |(index, weight): (usize, &u32)| Backend {
        variant: index.to_string().into(),
        weight: *weight,
        protocol: UpstreamProtocol::Http1,
        filters: Vec::new(),
        endpoints: endpoints.clone(),
    };
    WeightedBackends::new(weights.iter().enumerate().map(backend).collect())
}

fn chosen(backends: &WeightedBackends, point: u64) -> Option<usize> {
    backends.choose(point).map(|backend| backend.variant.parse().unwrap())
}

proptest! {
    #[test]
    fn each_backend_gets_its_share_exactly(weights in vec(0..50_u32, 1..8)) {
        let backends = backends(&weights);
        let total: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
        let mut shares = vec![0; weights.len()];
        for step in 0..total {
            // The first point of each of `total` equal parts of all points.
            let point = (u128::from(step) << 64).div_ceil(u128::from(total));
            shares[chosen(&backends, u64::try_from(point).unwrap()).unwrap()] += 1;
        }
        prop_assert_eq!(shares, weights);
    }

    #[test]
    fn a_backend_of_weight_zero_is_never_chosen(weights in vec(prop_oneof![Just(0), any::<u32>()], 0..8), point in any::<u64>()) {
        for point in [0, point, u64::MAX] {
            match chosen(&backends(&weights), point) {
                Some(index) => prop_assert!(weights[index] > 0),
                None => prop_assert!(weights.iter().all(|weight| *weight == 0)),
            }
        }
    }
}

#[test]
fn no_backend_gives_no_choice() {
    assert_eq!(chosen(&backends(&[]), 7), None);
    assert_eq!(chosen(&backends(&[0]), 7), None);
    assert_eq!(chosen(&backends(&[0, 0]), u64::MAX), None);
}

#[test]
fn the_largest_weights_are_added_without_overflow() {
    let backends = backends(&[u32::MAX; 4]);
    assert_eq!(chosen(&backends, 0), Some(0));
    assert_eq!(chosen(&backends, u64::MAX), Some(3));
}
