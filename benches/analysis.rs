//! `make bench-analysis`: how often the analysis of a canary is wrong, and how long it takes.
//!
//! The simulation of the unit tests, with more runs of each cell: `RUNS=1000 make bench-analysis`.
//! Prints the tables of docs/analysis.md, and fails if a claimed error rate does not hold.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a benchmark fails by a panic"
)]
#![allow(clippy::print_stdout, reason = "a bench reports on standard output what it measured")]
#![allow(clippy::disallowed_methods, reason = "it measures time, and has threads of its own")]

use portcullis_release::analysis;

#[path = "../release/src/analysis/tests/random.rs"]
mod random;
#[path = "../release/src/analysis/tests/simulation.rs"]
mod simulation;

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};

use self::analysis::Trial;
use self::simulation::{Cell, End, OBJECTIVE, Outcome, one_look, plan, run};

/// The runs of each cell, without `RUNS` in the environment.
const RUNS: u64 = 10_000;
/// Half of the objective, so that a canary with three times the errors is beyond it.
const BASE: f64 = OBJECTIVE / 2.0;
/// Requests a second, and the people who send them; `None` where requests are dealt one by one.
const TRAFFIC: [(f64, Option<usize>); 7] = [
    (1.0, Some(500)),
    (10.0, Some(500)),
    (100.0, Some(5_000)),
    (1_000.0, Some(5_000)),
    (1.0, None),
    (10.0, None),
    (1_000.0, None),
];
/// The rollouts of which looks are timed, and how many: the clock of CPU time is coarse.
const ROLLOUTS: usize = 1_000;
const LOOKS: usize = 50;

/// How the runs of a cell ended, by one judge.
#[derive(Default)]
struct Ends {
    taken_back: u64,
    promoted: u64,
    /// The seconds of those that ended as they should.
    right: Vec<u64>,
}

// === impl Ends ===

impl Ends {
    fn add(&mut self, outcome: Outcome, is_good: bool) {
        self.taken_back += u64::from(outcome.end == End::TakenBack);
        self.promoted += u64::from(outcome.end == End::Promoted);
        let should = if is_good { End::Promoted } else { End::TakenBack };
        if outcome.end == should {
            self.right.push(outcome.seconds);
        }
    }

    fn minutes(&mut self) -> String {
        self.right.sort_unstable();
        let median = self.right.get(self.right.len() / 2);
        median.map_or_else(|| "–".to_owned(), |seconds| seconds.div_ceil(60).to_string())
    }
}

fn main() -> ExitCode {
    let runs = std::env::var("RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(RUNS);
    println!("{runs} runs a cell\n");
    println!(
        "| traffic | canary | analysis: taken back / promoted / undecided | median minutes | fixed threshold: taken back / promoted | median minutes |"
    );
    println!("| --- | --- | --- | --- | --- | --- |");
    let mut failures = Vec::new();
    for (rate, people) in TRAFFIC {
        for noisy in [false, true].into_iter().filter(|noisy| !noisy || people.is_some()) {
            for times in [1.0, 3.0] {
                let cell = Cell { rate, people, noisy, base: BASE, times };
                failures.extend(report(&cell, runs));
            }
        }
    }
    looks();
    for failure in &failures {
        println!("not met: {failure}");
    }
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Simulates a cell on all processors, and prints its row; returns the claim that does not hold.
fn report(cell: &Cell, runs: u64) -> Option<String> {
    let (next, is_good) = (AtomicU64::new(0), cell.times <= 1.0);
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    let simulate = || {
        let mut outcomes = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= runs {
                return outcomes;
            }
            outcomes.push(run(cell, seed));
        }
    };
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(simulate)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("no run panics")).collect()
    });
    let (mut analysis, mut rule) = (Ends::default(), Ends::default());
    for outcome in outcomes {
        analysis.add(outcome.analysis, is_good);
        rule.add(outcome.rule, is_good);
    }
    let percent = |count: u64| 100.0 * count as f64 / runs as f64;
    let people = cell.people.map_or("dealt".to_owned(), |people| format!("{people} people"));
    let noisy = if cell.noisy { ", one causes 30 % of errors" } else { "" };
    let canary = if is_good { "no worse" } else { "3 × the errors" };
    let traffic = format!("{}/s, {people}{noisy}", cell.rate);
    println!(
        "| {traffic} | {canary} | {:.2} / {:.2} / {:.2} % | {} | {:.2} / {:.2} % | {} |",
        percent(analysis.taken_back),
        percent(analysis.promoted),
        percent(runs - analysis.taken_back - analysis.promoted),
        analysis.minutes(),
        percent(rule.taken_back),
        percent(rule.promoted),
        rule.minutes()
    );
    let plan = plan();
    let (wrong, allowed) =
        if is_good { (analysis.taken_back, plan.alpha) } else { (analysis.promoted, plan.beta) };
    // Few runs may exceed it by chance: three standard deviations are allowed.
    let allowed = allowed.value() * runs as f64;
    let is_met = wrong as f64 <= allowed + 3.0 * allowed.sqrt();
    (!is_met).then(|| format!("{traffic}, {canary}: {wrong} of {runs} runs are wrong"))
}

/// How long the arithmetic of one look of many rollouts takes.
fn looks() {
    let cell = Cell { rate: 100.0, people: Some(5_000), noisy: false, base: BASE, times: 1.0 };
    let look = one_look(&cell, 1);
    let mut trials: Vec<Trial> = (0..ROLLOUTS).map(|_| Trial::new(plan())).collect();
    let start = processor_time();
    for _ in 0..LOOKS {
        for trial in &mut trials {
            std::hint::black_box(trial.look(&look));
        }
    }
    let milliseconds = processor_time().saturating_sub(start) as f64 / 1e6 / LOOKS as f64;
    println!("\na look of {ROLLOUTS} rollouts: {milliseconds:.1} ms of CPU (goal: less than 100)");
}

/// The CPU time of this thread in nanoseconds (`proc(5)`).
fn processor_time() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    text.split_whitespace().next().and_then(|first| first.parse().ok()).expect("a number")
}
