//! The error rates in few runs of the simulation; docs/analysis.md has those of more.

use super::simulation::{Cell, End, run};

/// Numbers of runs that were taken back and promoted, by the analysis and by the rule.
fn ends(cell: Cell, runs: u64) -> [(u64, u64); 2] {
    let mut ends = [(0, 0); 2];
    for seed in 0..runs {
        let outcome = run(&cell, seed);
        for ((taken_back, promoted), end) in
            ends.iter_mut().zip([outcome.analysis.end, outcome.rule.end])
        {
            *taken_back += u64::from(end == End::TakenBack);
            *promoted += u64::from(end == End::Promoted);
        }
    }
    ends
}

fn cell(rate: f64, people: Option<usize>) -> Cell {
    Cell { rate, people, noisy: false, base: 0.005, times: 1.0 }
}

#[test]
fn a_canary_that_is_no_worse_is_not_taken_back() {
    for noisy in [false, true] {
        let [(taken_back, _), (by_rule, _)] = ends(Cell { noisy, ..cell(10.0, Some(500)) }, 40);
        assert!(taken_back <= 1, "{taken_back} of 40");
        assert!(by_rule > 20, "a fixed threshold takes {by_rule} of 40 back");
    }
    for rate in [1.0, 10.0, 100.0, 1_000.0] {
        let [(taken_back, promoted), _] = ends(cell(rate, None), 100);
        assert!(taken_back <= 2, "{taken_back} of 100 at {rate}/s");
        // Low traffic costs time, never correctness.
        assert!(promoted >= 90 || rate < 10.0, "{promoted} of 100 at {rate}/s");
    }
    let [(taken_back, _), (by_rule, _)] = ends(cell(1.0, None), 100);
    assert!(by_rule > 10 * taken_back.max(1), "the rule takes {by_rule} back, at 1/s");
}

#[test]
fn a_canary_with_three_times_the_errors_is_caught() {
    for (rate, people, runs) in
        [(10.0, Some(500), 40), (100.0, Some(5_000), 40), (10.0, None, 100), (1_000.0, None, 100)]
    {
        let [(taken_back, promoted), _] = ends(Cell { times: 3.0, ..cell(rate, people) }, runs);
        assert!(promoted * 20 <= runs, "{promoted} of {runs} promoted");
        assert!(taken_back * 10 >= runs * 9, "{taken_back} of {runs} taken back");
    }
}

#[test]
fn the_same_seed_has_the_same_outcome() {
    let cell = cell(10.0, Some(500));
    assert_eq!(run(&cell, 7).analysis, run(&cell, 7).analysis);
}
