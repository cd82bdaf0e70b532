mod laws;
mod random;
mod simulated;
mod simulation;

use super::buckets::Buckets;
use super::*;

fn share(value: f64) -> Share {
    Share::new(value).unwrap()
}

/// A plan with one metric, whose objective is 1 %.
fn plan() -> Plan {
    Plan { metrics: vec![simulation::plan().metrics.remove(0)], ..simulation::plan() }
}

fn counts(canary: (u64, u64), stable: (u64, u64)) -> Counts {
    let tally = |(at_risk, events)| Tally { at_risk, events };
    Counts { canary: tally(canary), stable: tally(stable) }
}

/// A look with requests that were dealt one by one.
fn dealt(canary: (u64, u64), stable: (u64, u64)) -> Look {
    let metric = MetricLook { dealt: counts(canary, stable), ..MetricLook::default() };
    Look { seconds: 10, metrics: vec![metric], ..Look::default() }
}

/// A look with one request of each of these buckets, of which some met an error.
#[expect(clippy::needless_pass_by_value, reason = "tests build the sets where they call it")]
fn people(seen: Sides<Vec<u16>>, erred: Sides<Vec<u16>>) -> Look {
    let set = |buckets: &Vec<u16>| buckets.iter().copied().collect::<Buckets>();
    let tally = |seen: &Vec<u16>, erred: &Vec<u16>| Tally {
        at_risk: seen.len() as u64,
        events: erred.len() as u64,
    };
    let sticky = Counts {
        canary: tally(&seen.canary, &erred.canary),
        stable: tally(&seen.stable, &erred.stable),
    };
    let metric = MetricLook { sticky, buckets: Some(erred.map(set)), ..MetricLook::default() };
    Look { seconds: 10, seen: seen.map(set), metrics: vec![metric], ..Look::default() }
}

fn sides<T>(canary: T, stable: T) -> Sides<T> {
    Sides { canary, stable }
}

fn assert_close(found: f64, expected: f64) {
    assert!((found - expected).abs() < 1e-6, "{found} is not {expected}");
}

#[test]
fn e_values_are_those_computed_by_hand() {
    // s = 0.1, k = m = 2: (ω / (1 + 0.1 (ω − 1)))² for each ω, and their mean.
    let report = Trial::new(plan()).look(&dealt((10, 2), (90, 0)));
    let [_, requests] = &report.metrics[0].populations;
    assert_close(requests.alarm.unwrap().exp(), 16.101_620_306);
    // ((0.7/2) · 1.1/0.97)² and (1.1/2)²; r² ((1 − r/200) / 0.995)⁸ for r of 0.1, 0.3 and 0.6.
    assert_close(requests.clear.unwrap().exp(), 0.193_135_749);
    // The metric has all of α, of which requests that are dealt have one half.
    assert_close(report.alarm.unwrap().exp(), 16.101_620_306 / 2.0);
    assert_close(report.alarm_limit.exp(), 100.0);
    assert_close(report.clear_limit.exp(), 20.0);
}

#[test]
fn a_bucket_votes_once_and_stays_at_risk_where_it_moves() {
    let mut trial = Trial::new(plan());
    let mut look = |seen, erred| {
        let report = trial.look(&people(seen, erred));
        report.metrics[0].populations[0].buckets.unwrap()
    };
    let erred = sides(vec![1], vec![6]);
    assert_eq!(look(sides(vec![1, 2], vec![5, 6, 7]), erred), counts((2, 1), (3, 1)));
    // 1 and 6 have voted; 5 moves.
    let erred = sides(vec![1, 5], vec![6]);
    assert_eq!(look(sides(vec![1, 2, 5], vec![6, 7]), erred), counts((2, 1), (1, 0)));
    // 7 is on both sides in one look: it says nothing, and keeps its vote.
    let erred = sides(vec![7], vec![7]);
    assert_eq!(look(sides(vec![2, 7], vec![7]), erred), counts((1, 0), (0, 0)));
    assert_eq!(look(sides(vec![], vec![7]), sides(vec![], vec![7])), counts((0, 0), (1, 1)));
}

#[test]
fn one_client_that_fails_is_one_vote() {
    let mut trial = Trial::new(plan());
    let all = sides((0..100).collect(), (1_000..2_000).collect());
    for _ in 0..500 {
        let report = trial.look(&people(all.clone(), sides(vec![7], vec![])));
        assert_ne!(report.verdict, Verdict::Alarm, "{}", report.sentence);
    }
}

#[test]
fn no_data_is_never_a_verdict() {
    let mut trial = Trial::new(plan());
    for look in [Look::default(), dealt((0, 0), (0, 0)), dealt((0, 0), (1_000_000, 7))] {
        let report = trial.look(&look);
        assert_eq!(report.verdict, Verdict::Hold(Hold::NoRequests));
        assert_eq!(report.sentence, "holding: the canary had no request yet");
    }
    let nothing = Trial::new(Plan { metrics: Vec::new(), ..plan() }).look(&Look::default());
    assert_eq!(nothing.verdict, Verdict::Hold(Hold::NoRequests), "without metrics");
}

#[test]
fn few_people_are_not_compared() {
    let stable: Vec<u16> = (1_000..2_000).collect();
    let few = sides((0..29).collect::<Vec<u16>>(), stable.clone());
    let report = Trial::new(plan()).look(&people(few.clone(), sides((0..29).collect(), vec![])));
    assert_eq!(report.verdict, Verdict::Hold(Hold::FewPeople));
    assert_eq!(report.alarm, Some(-std::f64::consts::LN_2), "requests that are dealt alone");
    assert_eq!(
        report.sentence,
        "holding: 29 people were seen on the canary, and 30 are needed to compare: a weight of 2.92 % \
         has as many"
    );
    let many = sides((0..30).collect::<Vec<u16>>(), stable);
    let report = Trial::new(plan()).look(&people(many, sides((0..30).collect(), vec![])));
    assert_eq!(report.verdict, Verdict::Alarm, "{}", report.sentence);
    // The objective is absolute: without a comparison, 29 people clear by it.
    let mut trial = Trial::new(plan());
    let looks = (0..60).map(|_| trial.look(&people(few.clone(), Sides::default())));
    assert_eq!(looks.last().unwrap().verdict, Verdict::Clear);
}

#[test]
fn people_and_requests_are_judged_by_themselves() {
    // All is well with a million requests of programs, and half of the people see errors.
    let mut look = people(
        sides((0..100).collect(), (1_000..1_900).collect()),
        sides((0..50).collect(), vec![1_000]),
    );
    look.metrics[0].dealt = counts((1_000, 0), (9_000, 10));
    let report = Trial::new(plan()).look(&look);
    assert_eq!(report.verdict, Verdict::Alarm);
    assert_eq!(
        report.sentence,
        "alarm: 50 of 100 people met an error, and 1 of 900 on stable; a canary that is no worse \
         shows this in at most 1 % of rollouts"
    );
}

#[test]
fn a_small_population_is_not_waited_for() {
    let mut trial = Trial::new(plan());
    let mut look = people(sides((0..100).collect(), (1_000..1_900).collect()), Sides::default());
    look.metrics[0].dealt = counts((1, 0), (9, 0));
    let last = (0..100).map(|_| trial.look(&look)).last().unwrap();
    assert_eq!(last.verdict, Verdict::Clear, "{}", last.sentence);
    assert_eq!(last.metrics[0].populations[1].standing, Standing::Small);
}

#[test]
fn people_without_buckets_raise_no_alarm() {
    let mut trial = Trial::new(plan());
    let mut look = people(
        sides((0..100).collect(), (1_000..1_900).collect()),
        sides((0..50).collect(), vec![]),
    );
    look.metrics[0].buckets = None;
    assert!(matches!(trial.look(&look).verdict, Verdict::Hold(_)));
}

#[test]
fn every_metric_must_clear() {
    let mut plan = simulation::plan();
    plan.metrics[1].objective = None;
    let mut trial = Trial::new(plan);
    let mut look = dealt((1_000, 0), (9_000, 9));
    look.metrics.push(MetricLook { dealt: counts((10, 0), (90, 1)), ..MetricLook::default() });
    let report = trial.look(&look);
    assert!(report.metrics[0].populations[1].clear.unwrap() > report.clear_limit);
    assert_eq!(report.verdict, Verdict::Hold(Hold::Undecided));
}

#[test]
fn a_hold_says_what_was_seen_and_how_long_it_will_take() {
    let report = Trial::new(plan()).look(&dealt((100, 0), (900, 0)));
    assert_eq!(
        report.sentence,
        "holding: 100 requests seen, 0 met an error; at this traffic about 3 minutes more"
    );
}

#[test]
fn a_trial_goes_on_from_its_record() {
    let looks: Vec<Look> = (0..20_u16)
        .map(|at| {
            people(
                sides((0..40).collect(), (1_000..1_400).collect()),
                sides(vec![at], vec![1_000 + at]),
            )
        })
        .collect();
    let mut trial = Trial::new(plan());
    let mut resumed = trial.clone();
    for look in &looks {
        let recorded = serde_json::to_string(&resumed).unwrap();
        resumed = serde_json::from_str(&recorded).unwrap();
        let (report, expected) = (resumed.look(look), trial.look(look));
        assert_close(report.alarm.unwrap(), expected.alarm.unwrap());
        assert_close(report.clear.unwrap(), expected.clear.unwrap());
        let units = |report: &Report| report.metrics[0].populations.clone().map(|one| one.buckets);
        assert_eq!(units(&report), units(&expected));
        let recorded = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&recorded).unwrap().sentence, report.sentence);
    }
}

#[test]
fn a_client_that_left_after_the_threshold_was_slower() {
    let latencies = Latencies::from([(100, 900), (200, 89), (300, 11)]);
    assert_eq!(threshold(&latencies, 0.99), Some(300), "11 of 1,000 are above 200");
    assert_eq!(threshold(&latencies, 0.98), Some(200));
    assert_eq!(threshold(&Latencies::from([(100, 999)]), 0.99), None, "too few requests");
    let left = Latencies::from([(100, 5), (200, 6), (300, 7)]);
    assert_eq!(slower(&latencies, &left, 200), Tally { at_risk: 1_007, events: 18 });
    let hostile = Latencies::from([(100, u64::MAX), (300, u64::MAX)]);
    assert_eq!(slower(&hostile, &hostile, 200).at_risk, u64::MAX);
}

#[test]
fn an_edge_is_the_next_one_of_the_histogram() {
    // Those of docs/traffic-feed.md: exact to 16, then 16 equal steps from each power of two.
    for (latency, expected) in [
        (0, 1),
        (15, 15),
        (16, 16),
        (17, 17),
        (33, 34),
        (4_864, 4_864),
        (4_865, 5_120),
        (5_121, 5_376),
        (40_000, 40_960),
        (u64::MAX, 1 << 30),
    ] {
        assert_eq!(edge(latency), expected, "{latency}");
    }
}
