//! The laws that make the error rates hold, checked exactly: the mean of an e-value is at most 1
//! while its hypothesis holds.

use proptest::prelude::*;

use super::super::evidence::Sums;
use super::super::numeric::{ln_gamma, ln_sum};
use super::random::Random;
use super::{Band, Latencies, Ratio, assert_close, band, counts, share};

fn ln_choose(n: u64, k: u64) -> f64 {
    let (n, k) = (n as f64, k as f64);
    ln_gamma(n + 1.0) - ln_gamma(k + 1.0) - ln_gamma(n - k + 1.0)
}

/// The sums after one look with these counts on the canary, and on stable.
fn sums(canary: (u64, u64), stable: (u64, u64)) -> Sums {
    let mut sums = Sums::default();
    sums.add(counts(canary, stable), Ratio::new(2.0).unwrap(), Some(share(0.01)));
    sums
}

proptest! {
    /// Each unit meets its event on whichever side it is: then the number on the canary is
    /// hypergeometric.
    #[test]
    fn evidence_of_harm_does_not_grow_where_there_is_none(
        n in 1_u64..60,
        others in 1_u64..200,
        part in 0.0..=1.0_f64,
    ) {
        let m = ((n + others) as f64 * part) as u64;
        let terms = (m.saturating_sub(others)..=m.min(n)).map(|k| {
            let probability = ln_choose(n, k) + ln_choose(others, m - k) - ln_choose(n + others, m);
            probability + sums((n, k), (others, m - k)).alarm()
        });
        let terms: Vec<f64> = terms.collect();
        prop_assert!(ln_sum(&terms) < 1e-7, "{}", ln_sum(&terms));
    }

    /// The canary's events are Poisson with twice the rate or more: given their sum, the number on
    /// the canary is binomial.
    #[test]
    fn evidence_of_no_harm_does_not_grow_where_there_is_harm(
        n in 1_u64..1_000,
        others in 1_u64..1_000,
        m in 0_u64..60,
        times in 2.0..10.0_f64,
    ) {
        let share = n as f64 / (n + others) as f64;
        let part = share * times / (1.0 + share * (times - 1.0));
        let terms = (0..=m.min(n)).filter(|k| m - k <= others).map(|k| {
            let (of_k, of_rest) = (k as f64 * part.ln(), (m - k) as f64 * (-part).ln_1p());
            ln_choose(m, k) + of_k + of_rest + sums((n, k), (others, m - k)).clear(true, None)
        });
        let terms: Vec<f64> = terms.collect();
        prop_assert!(ln_sum(&terms) < 1e-7, "{}", ln_sum(&terms));
    }

    #[test]
    fn evidence_for_the_objective_does_not_grow_beyond_it(n in 1_u64..400, ratio in 0.01..0.5_f64) {
        let terms = (0..=n).map(|k| {
            let probability =
                ln_choose(n, k) + k as f64 * ratio.ln() + (n - k) as f64 * (-ratio).ln_1p();
            // Half of the evidence is that of the objective.
            let by_objective = sums((n, k), (0, 0)).clear(false, Some(share(0.01)));
            probability + by_objective + std::f64::consts::LN_2
        });
        let terms: Vec<f64> = terms.collect();
        prop_assert!(ln_sum(&terms) < 1e-7, "{}", ln_sum(&terms));
    }

    #[test]
    fn evidence_is_finite_whatever_was_counted(
        looks in prop::collection::vec(any::<[u64; 4]>(), 1..50),
    ) {
        let (guard, objective) = (Ratio::new(2.0).unwrap(), Some(share(0.5)));
        let mut sums = Sums::default();
        for [n, k, others, of_others] in looks {
            sums.add(counts((n, k), (others, of_others)), guard, objective);
            prop_assert!(sums.alarm().is_finite());
            prop_assert!(sums.clear(true, objective).is_finite());
        }
    }
}

#[test]
fn a_side_without_requests_is_no_evidence() {
    for (canary, stable) in [((0, 0), (900, 9)), ((900, 9), (0, 0)), ((0, 0), (0, 0))] {
        assert_close(sums(canary, stable).alarm(), 0.0);
        assert_close(sums(canary, stable).clear(true, None), 0.0);
    }
}

#[test]
fn the_logarithm_of_gamma_is_that_of_tables() {
    for (x, expected) in [
        (0.5, 0.572_364_942_924_700_1),
        (5.0, 24_f64.ln()),
        (8.5, 9.549_267_257_300_998),
        (100.0, 359.134_205_369_575_4),
    ] {
        assert_close(ln_gamma(x), expected);
    }
    assert!((ln_gamma(1e6) / 12_815_504.569_147_61 - 1.0).abs() < 1e-12);
}

#[test]
fn a_band_has_the_quantile_at_every_look_in_nearly_all_runs() {
    const RUNS: u64 = 100;
    let (quantile, alpha) = (share(0.9), share(0.05));
    let missed = (0..RUNS).filter(|seed| {
        let mut random = Random::new(*seed);
        let mut latencies = Latencies::new();
        (0..400).any(|_| {
            // Uniform in 20 steps, so that the quantile is in the step below the edge 900.
            let edge = (random.uniform() * 20.0).ceil() as u64 * 50;
            *latencies.entry(edge).or_default() += 1;
            let band = band(&latencies, quantile, alpha).unwrap();
            band.low > 900 || band.high.is_some_and(|high| high < 900)
        })
    });
    let missed = missed.count();
    assert!(missed <= 5, "{missed} of {RUNS}");
}

#[test]
fn a_band_narrows_with_requests_and_has_an_upper_bound_once_there_are_enough() {
    let latencies = |count| (1..=1_000).map(|edge| (edge, count)).collect::<Latencies>();
    let of = |latencies: &Latencies| band(latencies, share(0.99), share(0.01)).unwrap();
    assert_eq!(of(&Latencies::from([(7, 3)])).high, None);
    let (few, many) = (of(&latencies(1)), of(&latencies(100)));
    assert!(few.low < many.low && many.low <= 990, "{few:?} {many:?}");
    assert!(many.high.is_some_and(|high| (990..=1_000).contains(&high)), "{many:?}");
    assert!(few.high.is_none_or(|high| high >= many.high.unwrap()), "{few:?} {many:?}");
    assert_eq!(band(&Latencies::new(), share(0.5), share(0.01)), None);
    let shown = |low, high| Band { low, high }.to_string();
    assert_eq!(shown(1_280, Some(14_336)), "1.3–14 ms");
    assert_eq!([shown(5_120, Some(5_120)), shown(0, None)], ["5.1 ms", "0.0 ms or more"]);
    assert_eq!(band(&Latencies::from([(1, 0)]), share(0.5), share(0.01)), None);
    // All below one edge: the quantile is in its step.
    let step = of(&Latencies::from([(10, 10_000), (20, 10_000)]));
    assert_eq!((step.low, step.high), (20, Some(20)));
}
