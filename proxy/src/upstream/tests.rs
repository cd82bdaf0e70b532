use std::net::Ipv4Addr;
use std::time::Duration;

use portcullis_config::snapshot::endpoints::{Endpoint as Address, EndpointKey};
use portcullis_identity::caller::Caller;

use super::*;
use crate::memory::tests;

fn upstreams() -> Upstreams {
    upstreams_with(1_024)
}

/// Endpoints get so many requests at a time.
fn upstreams_with(places: usize) -> Upstreams {
    let settings = serde_json::json!({
        "zone": "example.com",
        "source": { "directory": "." },
        "limits": { "connectionsPerEndpoint": places },
    });
    let settings: Arc<Settings> = Arc::new(serde_json::from_value(settings).unwrap());
    Upstreams::new(&settings, None, Rc::new(tests::meter()))
}

/// Endpoints on this machine, each with its port and the identity of its pod.
fn set(pods: &[(u16, &str)]) -> EndpointSet {
    let ready = pods.iter().map(|(port, uid)| Address {
        address: SocketAddr::from((Ipv4Addr::LOCALHOST, *port)),
        zone: None,
        pod: Some((*uid).into()).filter(|uid: &Arc<str>| !uid.is_empty()),
        near: false,
    });
    EndpointSet { ready: ready.collect(), ..EndpointSet::default() }
}

fn endpoints(pods: &[(u16, &str)]) -> Endpoints {
    let key = EndpointKey { namespace: "shop".into(), service: "web".into(), port: 80 };
    Endpoints::new(key, set(pods))
}

fn endpoint(balancer: &Balancer, port: u16) -> Rc<Endpoint> {
    Rc::clone(balancer.endpoint(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).unwrap())
}

/// The share of its usual requests that an endpoint gets.
fn share(balancer: &Balancer, port: u16, now: Instant) -> f64 {
    endpoint(balancer, port).warm_up().share(now, Duration::from_secs(30))
}

#[test]
fn an_endpoint_of_both_sets_is_kept() {
    let (upstreams, now) = (upstreams(), Instant::now());
    let endpoints = endpoints(&[(1, "one"), (2, "")]);
    let balancer =
        |endpoints: &Endpoints| upstreams.balancer(endpoints, &UpstreamProtocol::Http1, now);
    let before = balancer(&endpoints);
    assert!(Rc::ptr_eq(&before, &balancer(&endpoints)));
    endpoints.store(set(&[(2, ""), (1, "one"), (3, "three")]));
    let after = balancer(&endpoints);
    for port in [1, 2] {
        assert!(Rc::ptr_eq(&endpoint(&before, port), &endpoint(&after, port)), "{port}");
    }
}

#[test]
fn another_pod_at_the_same_address_is_another_endpoint() {
    let (upstreams, now) = (upstreams(), Instant::now());
    let endpoints = endpoints(&[(1, "one"), (2, "two")]);
    let balancer = || upstreams.balancer(&endpoints, &UpstreamProtocol::Http1, now);
    let before = endpoint(&balancer(), 1);
    before.responded_in(Duration::from_secs(5), now);
    endpoints.store(set(&[(1, "three"), (2, "two")]));
    let after = endpoint(&balancer(), 1);
    assert!(!Rc::ptr_eq(&before, &after));
    assert!(before.latency().is_known() && !after.latency().is_known());
}

#[test]
fn protocols_of_one_set_have_connections_of_their_own() {
    let (upstreams, now) = (upstreams(), Instant::now());
    let endpoints = endpoints(&[(1, "")]);
    let balancer = |protocol: &UpstreamProtocol| upstreams.balancer(&endpoints, protocol, now);
    let (http1, h2c) = (balancer(&UpstreamProtocol::Http1), balancer(&UpstreamProtocol::H2c));
    assert!(!Rc::ptr_eq(&endpoint(&http1, 1), &endpoint(&h2c, 1)));
    assert!(Rc::ptr_eq(&http1, &balancer(&UpstreamProtocol::Http1)), "it is not replaced");
    assert!(Rc::ptr_eq(&h2c, &balancer(&UpstreamProtocol::H2c)));
}

#[test]
fn an_endpoint_that_joins_others_starts_slowly() {
    let (upstreams, now) = (upstreams(), Instant::now());
    let endpoints = endpoints(&[(1, "one")]);
    let balancer = || upstreams.balancer(&endpoints, &UpstreamProtocol::Http1, now);
    assert!(share(&balancer(), 1, now) > 0.9, "the first ones");
    endpoints.store(set(&[(1, "one"), (2, "two")]));
    assert!(share(&balancer(), 1, now) > 0.9 && share(&balancer(), 2, now) < 0.2);
    assert!(share(&balancer(), 2, now + Duration::from_secs(30)) > 0.9);
    endpoints.store(set(&[(1, "three"), (3, "four")]));
    assert!(share(&balancer(), 1, now) > 0.9 && share(&balancer(), 3, now) > 0.9, "all are new");
}

#[test]
fn a_set_that_gets_no_requests_takes_over_its_changes() {
    let (upstreams, begin) = (upstreams(), Instant::now());
    let endpoints = Arc::new(endpoints(&[(1, "one")]));
    let backend = Backend {
        variant: "stable".into(),
        weight: 1,
        protocol: UpstreamProtocol::Http1,
        filters: Vec::new(),
        endpoints: Arc::clone(&endpoints),
    };
    let gone = Rc::downgrade(&endpoint(
        &upstreams.balancer(&endpoints, &UpstreamProtocol::Http1, begin),
        1,
    ));
    endpoints.store(set(&[(1, "one"), (2, "two")]));
    upstreams.sweep(begin, std::iter::once(&backend));
    let later = begin + Duration::from_secs(60);
    let balancer = upstreams.balancer(&endpoints, &UpstreamProtocol::Http1, later);
    assert!(share(&balancer, 2, later) > 0.9, "it has been there for a minute");
    drop(balancer);
    upstreams.sweep(later, std::iter::empty());
    assert!(gone.upgrade().is_none(), "the snapshot has no such backend");
}

#[test]
fn requests_in_flight_are_counted_for_the_current_set() {
    let (upstreams, now) = (upstreams(), Instant::now());
    let endpoints = endpoints(&[(1, "one"), (2, "two")]);
    let balancer = || upstreams.balancer(&endpoints, &UpstreamProtocol::Http1, now);
    let caller = Caller::default();
    let requester = Requester { caller: &caller, address: Ipv4Addr::LOCALHOST.into() };
    let admit = |port| endpoint(&balancer(), port).admit(requester).unwrap();
    let loads = [admit(1), admit(1), admit(2)];
    assert_eq!(balancer().group.in_flight(), 3);
    endpoints.store(set(&[(1, "one"), (3, "three")]));
    assert_eq!(balancer().group.in_flight(), 2);
    drop(loads);
    assert_eq!(balancer().group.in_flight(), 0);
}

#[test]
fn a_caller_keeps_its_endpoint_when_another_one_joins_elsewhere() {
    let (upstreams, now) = (upstreams(), Instant::now());
    let endpoints = endpoints(&[(1, "one"), (2, "two"), (3, "three")]);
    let port = |caller| {
        let algorithm = LoadBalancing::LeastLatency;
        let choice = Choice { algorithm, caller: Some(caller), random: 0, now, is_first: true };
        let balancer = upstreams.balancer(&endpoints, &UpstreamProtocol::Http1, now);
        balancer.choose(choice, |_| false).unwrap().address().port()
    };
    let callers = || (0..100).map(|number: u64| number << 57);
    let before: Vec<u16> = callers().map(port).collect();
    endpoints.store(set(&[(4, "four"), (3, "three"), (2, "two"), (1, "one")]));
    let after: Vec<u16> = callers().map(port).collect();
    assert!(before.iter().zip(&after).all(|(before, after)| before == after || *after == 4));
    assert!(after.contains(&4), "{after:?}");
}

#[test]
fn callers_of_a_service_with_very_many_endpoints_keep_none() {
    let (upstreams, now) = (upstreams(), Instant::now());
    let pods = |count| (0..count).map(|number| (1 + number, "")).collect::<Vec<_>>();
    let most = u16::try_from(ring::MAX_ENDPOINTS).unwrap();
    let endpoints = endpoints(&pods(most));
    let ports = || {
        let port = |number: u64| {
            let algorithm = LoadBalancing::LeastLatency;
            let random = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let choice = Choice { algorithm, caller: Some(7), random, now, is_first: true };
            let balancer = upstreams.balancer(&endpoints, &UpstreamProtocol::Http1, now);
            balancer.choose(choice, |_| false).unwrap().address().port()
        };
        (1..100).map(port).collect::<std::collections::BTreeSet<_>>().len()
    };
    assert_eq!(ports(), 1);
    endpoints.store(set(&pods(most + 1)));
    assert!(ports() > 10);
    endpoints.store(set(&pods(most)));
    assert_eq!(ports(), 1);
}

#[test]
fn a_request_that_waits_gets_a_place_at_a_new_endpoint_and_none_at_a_removed_one() {
    let (upstreams, now, nobody) = (upstreams_with(1), Instant::now(), Caller::default());
    let endpoints = endpoints(&[(1, "one")]);
    let balancer = || upstreams.balancer(&endpoints, &UpstreamProtocol::Http1, now);
    let requester = |last| Requester { caller: &nobody, address: [192, 0, 2, last].into() };
    let port = |load: &Load| load.endpoint().address().port();
    let held = endpoint(&balancer(), 1).admit(requester(1)).unwrap();
    assert!(endpoint(&balancer(), 1).admit(requester(2)).is_none());
    let wait = |last| balancer().queue(requester(last), |_| true).err().unwrap();
    let (mut second, mut third, mut fourth) = (wait(2), wait(3), wait(4));
    endpoints.store(set(&[(2, "two")]));
    balancer();
    let load = second.try_recv().unwrap();
    assert_eq!(port(&load), 2);
    drop(held);
    assert!(third.try_recv().is_err(), "the place of an endpoint that is gone");
    third.close();
    drop(load);
    assert_eq!(port(&fourth.try_recv().unwrap()), 2, "the third one waits no more");
    assert!(endpoint(&balancer(), 2).admit(requester(5)).is_some(), "and it is free again");
}

#[tokio::test]
async fn endpoints_whose_checks_fail_are_ejected_until_they_pass_or_are_checked_no_more() {
    let checked = async {
        let (upstreams, now) = (upstreams(), Instant::now());
        let endpoints = endpoints(&[(1, "one"), (2, "two")]);
        let balancer = || upstreams.balancer(&endpoints, &UpstreamProtocol::Http1, now);
        let key = |port, protocol: &UpstreamProtocol| {
            CheckKey::new(endpoints.id(), protocol, endpoint(&balancer(), port).stable_hash())
        };
        let is_ejected = |port| endpoint(&balancer(), port).is_ejected();
        let failing = Arc::new(Failing::from([key(1, &UpstreamProtocol::Http1)]));
        upstreams.apply_checks(Arc::clone(&failing));
        assert_eq!((is_ejected(1), is_ejected(2)), (true, false));
        upstreams.apply_checks(Arc::new(Failing::from([key(1, &UpstreamProtocol::H2c)])));
        assert!(!is_ejected(1), "checks by another protocol say nothing of this one");
        upstreams.apply_checks(Arc::clone(&failing));
        let other = upstreams.balancer(&endpoints, &UpstreamProtocol::H2c, now);
        assert!(!endpoint(&other, 1).is_ejected());
        upstreams.apply_checks(Arc::default());
        assert!(!is_ejected(1));
        // It is known before the endpoint gets its first request.
        upstreams.balancers.borrow_mut().clear();
        upstreams.apply_checks(failing);
        assert_eq!((is_ejected(1), is_ejected(2)), (true, false));
        endpoints.store(set(&[(1, "another"), (2, "two")]));
        assert!(!is_ejected(1), "the pod that replaced it is another one");
    };
    tokio::task::LocalSet::new().run_until(checked).await;
}
