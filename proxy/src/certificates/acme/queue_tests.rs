use proptest::prelude::*;

use super::*;

const NOW: Seconds = 1_800_000_000;
/// The hours of a simulation.
const HOURS: Seconds = 3;
const LIMITS: QueueLimits = QueueLimits { orders: 4, failed_orders: 10 };

fn due(namespace: &str, certificate: &str, end: Option<Seconds>) -> Due {
    Due {
        certificate: certificate.to_owned(),
        namespace: namespace.to_owned(),
        end,
        is_retry: false,
    }
}

fn started(queue: &mut OrderQueue, due: &[Due], failed: &FailedOrders) -> Vec<String> {
    std::iter::from_fn(|| queue.start(due, failed, LIMITS, NOW))
        .map(|due| due.certificate)
        .collect()
}

#[test]
fn renewals_are_ordered_by_their_end_and_before_new_certificates() {
    let all = [
        due("a", "a-new", None),
        due("b", "b-late", Some(NOW + 900)),
        due("c", "c-soon", Some(NOW + 100)),
        due("d", "d-mid", Some(NOW + 500)),
    ];
    let mut queue = OrderQueue::default();
    let order = started(&mut queue, &all, &FailedOrders::default());
    assert_eq!(order, ["c-soon", "d-mid", "b-late", "a-new"]);
    assert_eq!(started(&mut queue, &all, &FailedOrders::default()), [""; 0], "all are running");
}

#[test]
fn a_namespace_has_at_most_half_of_the_slots() {
    let mut all: Vec<Due> =
        (0..9).map(|number| due("a", &format!("a-{number}"), Some(NOW + number))).collect();
    all.push(due("b", "b-1", Some(NOW + 1000)));
    let mut queue = OrderQueue::default();
    assert_eq!(started(&mut queue, &all, &FailedOrders::default()), ["a-0", "a-1", "b-1"]);
    queue.finish("a-0");
    assert_eq!(started(&mut queue, &all[1..], &FailedOrders::default()), ["a-2"]);
}

#[test]
fn one_slot_is_left_for_renewals_and_new_certificates_take_turns() {
    let mut all: Vec<Due> = (0..5).map(|number| due("a", &format!("a-{number}"), None)).collect();
    all.extend(["b", "c"].map(|namespace| due(namespace, &format!("{namespace}-0"), None)));
    let mut queue = OrderQueue::default();
    assert_eq!(started(&mut queue, &all, &FailedOrders::default()), ["a-0", "b-0", "c-0"]);
    let renewal = due("d", "d-0", Some(NOW + 10));
    assert_eq!(started(&mut queue, &[renewal], &FailedOrders::default()), ["d-0"]);
}

#[test]
fn after_failed_orders_a_namespace_waits_and_others_do_not() {
    let mut failed = FailedOrders::default();
    (0..10).for_each(|second| failed.record("a", NOW - 10 + second));
    let all = [
        due("a", "a-1", Some(NOW + 10)),
        due("b", "b-1", Some(NOW + 20)),
        due("", "zone", Some(NOW + 30)),
    ];
    assert_eq!(started(&mut OrderQueue::default(), &all, &failed), ["b-1", "zone"]);
    assert_eq!(blocked_until(&all[0], &failed, LIMITS, NOW), NOW - 10 + 3600);
}

#[test]
fn if_the_orders_of_many_namespaces_fail_only_renewals_are_ordered() {
    let mut failed = FailedOrders::default();
    (0..MAX_FAILED).for_each(|number| failed.record(&format!("n{number}"), NOW - 1));
    let all = [due("a", "a-new", None), due("b", "b-1", Some(NOW + 20)), due("", "zone", None)];
    assert_eq!(started(&mut OrderQueue::default(), &all, &failed), ["b-1", "zone"]);
    assert_eq!(blocked_until(&all[0], &failed, LIMITS, NOW), NOW - 1 + 3600);
}

#[test]
fn with_one_slot_all_are_ordered_one_after_another() {
    let limits = QueueLimits { orders: 1, ..LIMITS };
    let all = [due("a", "a-new", None), due("b", "b-1", Some(NOW + 20))];
    let mut queue = OrderQueue::default();
    let mut next = || queue.start(&all, &FailedOrders::default(), limits, NOW);
    assert_eq!(next().map(|due| due.certificate).as_deref(), Some("b-1"));
    assert_eq!(next(), None);
}

#[test]
fn retries_and_namespaces_with_failures_share_half_of_the_slots() {
    let retry = |namespace: &str| Due { is_retry: true, ..due(namespace, namespace, Some(NOW)) };
    let mut failed = FailedOrders::default();
    failed.record("d", NOW - 1);
    let all = [
        retry("a"),
        retry("b"),
        retry("c"),
        due("d", "d", Some(NOW + 1)),
        due("e", "e", Some(NOW + 9)),
        Due { is_retry: true, ..due("", "zone", Some(NOW + 10)) },
    ];
    assert_eq!(started(&mut OrderQueue::default(), &all, &failed), ["a", "b", "e", "zone"]);
}

/// A simulation of three hours in steps of five seconds: the orders of `bad` Namespaces hang for three minutes and fail, all
/// others succeed after five seconds. Returns, for each order of a good Namespace, how long it
/// waited, and the number of failed orders.
fn simulate(bad: usize, bad_names: usize, good: &[(Seconds, bool)]) -> (Vec<Seconds>, usize) {
    const HANGS: Seconds = 180;
    let (mut queue, mut failed) = (OrderQueue::default(), FailedOrders::default());
    let mut retries: BTreeMap<String, (Seconds, u32)> = BTreeMap::new();
    let mut running: Vec<(Seconds, Due)> = Vec::new();
    let mut waited: BTreeMap<usize, Seconds> = BTreeMap::new();
    let mut failures = 0;
    for now in (NOW..NOW + HOURS * 3600).step_by(5) {
        running.retain(|(end, order)| {
            if *end > now {
                return true;
            }
            queue.finish(&order.certificate);
            if order.namespace.starts_with("bad") {
                failures += 1;
                failed.record(&order.namespace, now);
                let (next, count) = retries.entry(order.certificate.clone()).or_default();
                *count += 1;
                *next = now + (60_u64 << (*count - 1).min(11)).min(24 * 3600);
            }
            false
        });
        let retries_now = &retries;
        let bad = (0..bad).flat_map(|tenant| {
            (0..bad_names).map(move |name| {
                let end = name.is_multiple_of(2).then_some(NOW + 3600);
                let due = due(&format!("bad{tenant}"), &format!("bad{tenant}-{name}"), end);
                let retry = retries_now.get(&due.certificate);
                let is_due = retry.is_none_or(|(next, _)| *next <= now);
                is_due.then_some(Due { is_retry: retry.is_some(), ..due })
            })
        });
        let mut all: Vec<Due> = bad.flatten().collect();
        let waiting = good
            .iter()
            .enumerate()
            .filter(|(number, (from, _))| NOW + from <= now && !waited.contains_key(number));
        all.extend(waiting.map(|(number, (_, renewal))| {
            let end = renewal.then_some(NOW + 20 * 24 * 3600);
            due(&format!("good{}", number % 5), &format!("good-{number}"), end)
        }));
        while let Some(order) = queue.start(&all, &failed, LIMITS, now) {
            let is_bad = order.namespace.starts_with("bad");
            if let Some(number) = order.certificate.strip_prefix("good-") {
                let number: usize = number.parse().expect("a number");
                waited.insert(number, now - NOW - good[number].0);
            }
            running.push((now + if is_bad { HANGS } else { 5 }, order));
        }
    }
    assert_eq!(waited.len(), good.len(), "every good order was started");
    (waited.into_values().collect(), failures)
}

#[test]
fn a_tenant_with_many_names_that_hang_delays_nobody_and_spends_a_bounded_number_of_orders() {
    let good: Vec<(Seconds, bool)> =
        (0..30).map(|number| (number * 300, number % 2 == 0)).collect();
    let (waits, failures) = simulate(1, 200, &good);
    assert!(waits.iter().all(|wait| *wait == 0), "{waits:?}");
    assert!(failures <= 3 * (LIMITS.failed_orders + 2), "{failures}");
}

#[test]
fn many_tenants_with_names_that_hang_delay_others_for_minutes_at_most() {
    let good: Vec<(Seconds, bool)> = (0..20).map(|number| (number * 300, true)).collect();
    let (waits, failures) = simulate(20, 20, &good);
    let longest = waits.iter().max().copied().unwrap_or_default();
    assert!(longest <= 3_600, "a renewal has weeks: {longest} s of {waits:?}");
    assert!(failures <= 3 * 20 * (LIMITS.failed_orders + 2), "{failures}");
}

proptest! {
    #[test]
    fn limits_hold_whatever_is_due(
        all in proptest::collection::vec((0_usize..4, proptest::option::of(0..100_u64)), 0..40),
        failures in proptest::collection::vec((0_usize..4, 0..7_200_u64), 0..60),
        orders in 1_usize..6,
    ) {
        let limits = QueueLimits { orders, failed_orders: 5 };
        let mut failed = FailedOrders::default();
        for (namespace, ago) in failures {
            failed.record(&format!("n{namespace}"), NOW - ago);
        }
        let all: Vec<Due> = all.into_iter().enumerate()
            .map(|(number, (namespace, end))| due(&format!("n{namespace}"), &number.to_string(), end.map(|end| NOW + end)))
            .collect();
        let mut queue = OrderQueue::default();
        let running: Vec<Due> = std::iter::from_fn(|| queue.start(&all, &failed, limits, NOW)).collect();
        prop_assert!(running.len() <= orders);
        prop_assert!(running.iter().filter(|due| due.end.is_none()).count() <= orders.saturating_sub(1).max(1));
        for namespace in 0..4 {
            let namespace = format!("n{namespace}");
            let of: Vec<&Due> = running.iter().filter(|due| due.namespace == namespace).collect();
            prop_assert!(of.len() <= (orders / 2).max(1));
            prop_assert!(of.is_empty() || failed.of(&namespace, NOW) < 5);
        }
        let ends: Vec<_> = running.iter().filter_map(|due| due.end).collect();
        prop_assert!(ends.len() < 2 || ends.is_sorted() , "{:?}", ends);
    }
}
