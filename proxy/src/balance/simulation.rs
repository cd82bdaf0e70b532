//! Endpoints under load, in simulated time: who gets how many requests, and how long they take.

use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::health::{Failure, Health};
use super::latency::{Latency, Typical};
use super::warm_up::WarmUp;
use super::{Candidate, Selection, mixed};

const SLOW_START: Duration = Duration::from_secs(30);

/// What an endpoint does.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Behaviour {
    /// It responds, after so many milliseconds on average.
    Responds(f64),
    /// It responds with an error at once.
    Fails,
    Hangs,
}

#[derive(Debug)]
struct Pod {
    behaviour: Behaviour,
    latency: Latency,
    health: Health,
    warm_up: WarmUp,
    in_flight: u32,
    requests: u32,
}

/// A response, the earliest first: when, of which endpoint, when its request was sent.
type Response = Reverse<(Duration, usize, Duration)>;

struct Cluster {
    pods: Vec<Pod>,
    /// The first of them are near.
    near: usize,
    typical: Typical,
    responses: BinaryHeap<Response>,
    /// The number of random numbers so far.
    drawn: Cell<u64>,
    begin: Instant,
    now: Duration,
    /// The share of requests that take 100 times as long.
    slow: f64,
    /// The time of each response.
    taken: Vec<Duration>,
}

// === impl Cluster ===

impl Cluster {
    fn new(behaviours: impl IntoIterator<Item = Behaviour>) -> Self {
        let pod = |behaviour| Pod {
            behaviour,
            latency: Latency::default(),
            health: Health::default(),
            warm_up: WarmUp::default(),
            in_flight: 0,
            requests: 0,
        };
        Self {
            pods: behaviours.into_iter().map(pod).collect(),
            near: 0,
            typical: Typical::default(),
            responses: BinaryHeap::new(),
            drawn: Cell::new(0),
            begin: Instant::now(),
            now: Duration::ZERO,
            slow: 0.0,
            taken: Vec::new(),
        }
    }

    /// Sends requests at random times, so many a second, for so many seconds.
    fn run(&mut self, rate: f64, seconds: u64) {
        let end = self.now + Duration::from_secs(seconds);
        loop {
            let next = self.now + Duration::from_secs_f64(self.exponential(1.0 / rate));
            self.respond_until(next.min(end));
            self.now = next.min(end);
            if next >= end {
                return;
            }
            self.request();
        }
    }

    fn random(&self) -> u64 {
        self.drawn.set(self.drawn.get() + 1);
        mixed(1, self.drawn.get())
    }

    /// A random number above 0, and 1 at most.
    fn uniform(&self) -> f64 {
        ((self.random() >> 11) as f64 + 1.0) / (1_u64 << 53) as f64
    }

    fn exponential(&self, mean: f64) -> f64 {
        -self.uniform().ln() * mean
    }

    fn request(&mut self) {
        let indices: Vec<usize> = (0..self.pods.len()).collect();
        let now = self.begin + self.now;
        let selection = Selection {
            endpoints: &indices,
            near: self.near,
            ejected: 0,
            is_first: true,
            now,
            typical: self.typical,
            slow_start: SLOW_START,
        };
        let candidate = |number: &usize| {
            let Pod { health, latency, warm_up, in_flight, .. } = self.pods[*number];
            Candidate { health, latency, warm_up, in_flight, is_tried: false }
        };
        let number = *selection.choose(candidate, self.random()).unwrap();
        let factor = if self.uniform() < self.slow { 100.0 } else { 1.0 };
        let taken = factor
            * match self.pods[number].behaviour {
                Behaviour::Responds(milliseconds) => self.exponential(milliseconds / 1e3),
                Behaviour::Fails => 1e-5,
                Behaviour::Hangs => 1e5,
            };
        let pod = &mut self.pods[number];
        pod.in_flight += 1;
        pod.requests += 1;
        let response = (self.now + Duration::from_secs_f64(taken), number, self.now);
        self.responses.push(Reverse(response));
    }

    fn respond_until(&mut self, time: Duration) {
        while let Some(Reverse((at, number, sent))) = self.responses.peek().copied()
            && at <= time
        {
            self.responses.pop();
            let pod = &mut self.pods[number];
            let era = pod.health.era();
            let (taken, now) = (at - sent, self.begin + at);
            pod.in_flight -= 1;
            if pod.behaviour == Behaviour::Fails {
                pod.latency = pod.latency.unanswered(taken, now, self.typical);
                pod.health = pod.health.failed(era, Failure::ServerError, false);
            } else {
                pod.latency = pod.latency.responded(taken, now, self.typical);
                self.typical = self.typical.responded(pod.latency, now);
                pod.health = pod.health.responded(era);
                self.taken.push(taken);
            }
        }
    }

    /// Forgets the requests until now.
    fn reset(&mut self) {
        self.pods.iter_mut().for_each(|pod| pod.requests = 0);
        self.taken.clear();
    }

    /// The share of the requests that an endpoint got.
    fn share(&self, number: usize) -> f64 {
        let sum: u32 = self.pods.iter().map(|pod| pod.requests).sum();
        f64::from(self.pods[number].requests) / f64::from(sum)
    }

    fn p99(&mut self) -> Duration {
        self.taken.sort_unstable();
        self.taken[self.taken.len() * 99 / 100]
    }
}

/// `count` endpoints of 10 ms, and one more.
fn with(other: Behaviour, count: usize) -> Cluster {
    Cluster::new(std::iter::once(other).chain(vec![Behaviour::Responds(10.0); count]))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]

    #[test]
    fn endpoints_of_the_same_latency_get_the_same(count in 2..20_usize, load in 0.2..3.0) {
        let mut cluster = with(Behaviour::Responds(10.0), count - 1);
        cluster.run(100.0 * load * count as f64, 30);
        let shares: Vec<f64> = (0..count).map(|number| cluster.share(number) * count as f64).collect();
        prop_assert!(shares.iter().all(|share| (0.7..1.4).contains(share)), "{shares:?}");
    }

    #[test]
    fn a_slow_endpoint_gets_little(count in 2..20_usize, load in 0.2..3.0) {
        let mut cluster = with(Behaviour::Responds(500.0), count);
        cluster.run(100.0 * load * count as f64, 30);
        let share = cluster.share(0);
        prop_assert!(share < 0.01, "{share}");
    }

    #[test]
    fn an_endpoint_that_fails_at_once_does_not_attract(count in 1..20_usize, load in 0.2..3.0) {
        let mut cluster = with(Behaviour::Fails, count);
        cluster.run(100.0 * load * count as f64, 20);
        let share = cluster.share(0) * (count + 1) as f64;
        prop_assert!(share < 0.5, "{share}");
    }

    #[test]
    fn an_endpoint_that_hangs_gets_little(count in 2..20_usize, load in 0.2..3.0) {
        let mut cluster = with(Behaviour::Hangs, count);
        cluster.run(100.0 * load * count as f64, 30);
        let share = cluster.share(0);
        prop_assert!(share < 0.01, "{share}");
    }

    #[test]
    fn a_new_endpoint_gets_little_at_first_and_its_share_after_the_slow_start(
        count in 2..10_usize,
        load in 1.0..3.0,
    ) {
        let mut cluster = with(Behaviour::Responds(10.0), count);
        cluster.pods[0].warm_up = WarmUp::since(cluster.begin);
        let rate = 100.0 * load * count as f64;
        let mut share = |seconds| {
            cluster.reset();
            cluster.run(rate, seconds);
            cluster.share(0) * (count + 1) as f64
        };
        let (first, second, _, last) = (share(1), share(14), share(15), share(30));
        prop_assert!(first < 0.4 && first < second && second < last, "{first} {second} {last}");
        prop_assert!((0.7..1.4).contains(&last), "{last}");
    }

    #[test]
    fn a_new_endpoint_gets_some_requests_of_light_traffic_and_its_share_after_the_slow_start(
        count in 1..10_usize,
    ) {
        let mut cluster = with(Behaviour::Responds(10.0), count);
        cluster.pods[0].warm_up = WarmUp::since(cluster.begin);
        let mut share = |seconds| {
            cluster.reset();
            cluster.run(4.0, seconds);
            cluster.share(0) * (count + 1) as f64
        };
        let (first, _, last) = (share(15), share(15), share(600));
        prop_assert!(first > 0.0 && first < last, "{first} {last}");
        prop_assert!((0.7..1.4).contains(&last), "{last}");
    }

    #[test]
    fn an_endpoint_that_is_fast_again_gets_its_share_again(count in 2..20_usize, load in 0.5..3.0) {
        let mut cluster = with(Behaviour::Responds(500.0), count);
        cluster.run(100.0 * load * count as f64, 30);
        cluster.pods[0].behaviour = Behaviour::Responds(10.0);
        cluster.run(100.0 * load * count as f64, 60);
        cluster.reset();
        cluster.run(100.0 * load * count as f64, 30);
        let share = cluster.share(0) * (count + 1) as f64;
        prop_assert!((0.7..1.4).contains(&share), "{share}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]

    #[test]
    fn near_endpoints_get_all_until_they_are_loaded_much_more(near in 1..4_usize, far in 4..8_usize) {
        let mut cluster = Cluster::new(vec![Behaviour::Responds(10.0); near + far]);
        cluster.near = near;
        let share = |cluster: &Cluster| (0..near).map(|number| cluster.share(number)).sum::<f64>();
        cluster.run(20.0 * near as f64, 30);
        let idle = share(&cluster);
        prop_assert!(idle > 0.85, "{idle}");
        cluster.reset();
        // So much that each near endpoint would have 20 requests in flight.
        cluster.run(2_000.0 * near as f64, 10);
        let loaded = share(&cluster) * (near + far) as f64 / near as f64;
        prop_assert!(loaded < 6.0, "{loaded}");
    }
}

#[test]
fn one_slow_endpoint_of_ten_does_not_show_in_the_99th_percentile() {
    let p99 = |other| {
        let mut cluster = with(other, 9);
        cluster.run(1_000.0, 60);
        cluster.p99()
    };
    let (without, with) = (p99(Behaviour::Responds(10.0)), p99(Behaviour::Responds(500.0)));
    assert!(with < without * 3 / 2, "{with:?} {without:?}");
}

#[test]
fn requests_that_take_long_everywhere_do_not_idle_endpoints() {
    let mut cluster = Cluster::new(vec![Behaviour::Responds(10.0); 3]);
    cluster.slow = 0.003;
    cluster.run(300.0, 120);
    let shares = [0, 1, 2].map(|number| cluster.share(number) * 3.0);
    assert!(shares.iter().all(|share| (0.5..1.5).contains(share)), "{shares:?}");
}
