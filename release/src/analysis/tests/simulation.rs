//! A service with a canary, made up: people who call and fail unequally, one of whom may cause 30 %
//! of all errors. Judged by the analysis, and by a rule with a fixed threshold beside it.

use crate::analysis::{
    Buckets, Counts, Look, Metric, MetricLook, Plan, Ratio, Share, Sides, Tally, Trial, Verdict,
};

use super::random::Random;

/// The seconds of a look.
const LOOK: u64 = 10;
/// When it is given up.
const LONGEST: u64 = 4 * 3600;
/// From which second on the canary has which buckets: 1 % for 10 minutes, 10 % for 30, then 50 %.
const STEPS: [(u64, u16); 3] = [(0, 100), (600, 1_000), (2_400, 5_000)];
/// When the rule promotes a canary that it has not taken back.
const RULE_PROMOTES: u64 = 3600;
/// The error ratio above which a minute fails by the rule, which is the objective, too.
pub(crate) const OBJECTIVE: f64 = 0.01;
/// The failed minutes after which the rule takes a canary back.
const FAILED_MINUTES: u32 = 3;
const BUCKETS: u16 = 10_000;

/// What is simulated.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cell {
    /// Requests a second, of both sides.
    pub(crate) rate: f64,
    /// The people who stick; `None` where requests are dealt one by one.
    pub(crate) people: Option<usize>,
    /// Whether one more of them causes 30 % of all errors.
    pub(crate) noisy: bool,
    /// The error ratio of the stable variant.
    pub(crate) base: f64,
    /// How many times as many errors the canary has.
    pub(crate) times: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    TakenBack,
    Promoted,
    Undecided,
}

/// How a rollout ended, and after how many seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) end: End,
    pub(crate) seconds: u64,
}

/// The outcomes by the analysis, and by the rule.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    pub(crate) analysis: Outcome,
    pub(crate) rule: Outcome,
}

/// All callers in one bucket.
struct Caller {
    bucket: u16,
    stable: Means,
    canary: Means,
}

/// Mean numbers of requests in a look, with the probability of none.
struct Means {
    good: (f64, f64),
    bad: (f64, f64),
}

/// The plan of a rollout by default: errors and latency, α = 1 %, β = 5 %, R = 3.
pub(crate) fn plan() -> Plan {
    let share = |value| Share::new(value).unwrap();
    let metric = |name: &str, objective| Metric {
        name: name.to_owned(),
        phrase: "met an error".to_owned(),
        weight: std::num::NonZeroU32::MIN,
        objective,
    };
    Plan {
        alpha: share(0.01),
        beta: share(0.05),
        ratio: Ratio::new(3.0).unwrap(),
        metrics: vec![metric("errors", Some(share(OBJECTIVE))), metric("slow", None)],
    }
}

/// Simulates one rollout.
pub(crate) fn run(cell: &Cell, seed: u64) -> Run {
    let mut random = Random::new(seed);
    let callers = cell.people.map(|people| callers(cell, people, &mut random));
    let (mut trial, mut rule) = (Trial::new(plan()), Rule::default());
    let (mut analysis, mut ruled) = (None, None);
    let mut now = 0;
    while now < LONGEST && (analysis.is_none() || ruled.is_none()) {
        let share = STEPS.iter().rev().find(|(from, _)| now >= *from).unwrap().1;
        let look = match &callers {
            Some(callers) if analysis.is_none() => sticky(callers, share, &mut random),
            Some(callers) => of_the_canary(callers, share, &mut random),
            None => dealt(cell, share, &mut random),
        };
        now += LOOK;
        if analysis.is_none() {
            let end = match trial.look(&look).verdict {
                Verdict::Alarm => Some(End::TakenBack),
                Verdict::Clear => Some(End::Promoted),
                Verdict::Hold(_) => None,
            };
            analysis = end.map(|end| Outcome { end, seconds: now });
        }
        if ruled.is_none() {
            ruled = rule.look(&look, now).map(|end| Outcome { end, seconds: now });
        }
    }
    let undecided = Outcome { end: End::Undecided, seconds: LONGEST };
    Run { analysis: analysis.unwrap_or(undecided), rule: ruled.unwrap_or(undecided) }
}

/// One look, with 10 % on the canary.
#[allow(dead_code, reason = "the benchmark measures what it costs")]
pub(crate) fn one_look(cell: &Cell, seed: u64) -> Look {
    let mut random = Random::new(seed);
    match cell.people {
        Some(people) => sticky(&callers(cell, people, &mut random), STEPS[1].1, &mut random),
        None => dealt(cell, STEPS[1].1, &mut random),
    }
}

/// People call unequally (lognormal, σ = 1) and fail unequally (σ = 1.5).
fn callers(cell: &Cell, people: usize, random: &mut Random) -> Vec<Caller> {
    let a_look = cell.rate * LOOK as f64;
    let mut drawn: Vec<(u16, f64, f64)> = (0..people)
        .map(|_| {
            let (calls, fails) = (random.normal().exp(), (1.5 * random.normal()).exp());
            (random.below(BUCKETS), calls, fails)
        })
        .collect();
    let calls: f64 = drawn.iter().map(|(_, calls, _)| calls).sum();
    let fails: f64 = drawn.iter().map(|(_, calls, fails)| calls * fails).sum();
    for (_, of_calls, of_fails) in &mut drawn {
        *of_fails *= cell.base * calls / fails;
        *of_calls *= a_look / calls;
    }
    let mut buckets = std::collections::BTreeMap::<u16, [f64; 4]>::new();
    let mut add = |bucket, calls: f64, stable: f64, canary: f64| {
        let [good, bad, canary_good, canary_bad] = buckets.entry(bucket).or_default();
        *good += calls * (1.0 - stable);
        *bad += calls * stable;
        *canary_good += calls * (1.0 - canary);
        *canary_bad += calls * canary;
    };
    for (bucket, calls, fails) in drawn {
        add(bucket, calls, fails.min(1.0), (fails * cell.times).min(1.0));
    }
    if cell.noisy {
        // All calls of this one fail, by its own fault.
        let errors = a_look * cell.base * 0.3 / 0.7;
        add(random.below(BUCKETS), errors, 1.0, 1.0);
    }
    let means =
        |good: f64, bad: f64| Means { good: (good, (-good).exp()), bad: (bad, (-bad).exp()) };
    let caller = |(bucket, [good, bad, canary_good, canary_bad]): (u16, [f64; 4])| Caller {
        bucket,
        stable: means(good, bad),
        canary: means(canary_good, canary_bad),
    };
    buckets.into_iter().map(caller).collect()
}

fn sticky(callers: &[Caller], share: u16, random: &mut Random) -> Look {
    let mut look = MetricLook::default();
    let (mut seen, mut erred) = (Sides::<Buckets>::default(), Sides::<Buckets>::default());
    for caller in callers {
        let is_canary = caller.bucket < share;
        let means = if is_canary { &caller.canary } else { &caller.stable };
        let good = random.poisson_of(means.good.0, means.good.1);
        let bad = random.poisson_of(means.bad.0, means.bad.1);
        if good + bad == 0 {
            continue;
        }
        let (tally, seen, erred) = if is_canary {
            (&mut look.sticky.canary, &mut seen.canary, &mut erred.canary)
        } else {
            (&mut look.sticky.stable, &mut seen.stable, &mut erred.stable)
        };
        tally.add(Tally { at_risk: good + bad, events: bad });
        seen.insert(caller.bucket);
        if bad > 0 {
            erred.insert(caller.bucket);
        }
    }
    look.buckets = Some(erred);
    let metrics = vec![look, MetricLook::default()];
    Look { seconds: LOOK, seen, metrics, ..Look::default() }
}

/// What the rule reads, once it is alone: the sum of Poisson numbers is one.
fn of_the_canary(callers: &[Caller], share: u16, random: &mut Random) -> Look {
    let canary = callers.iter().take_while(|caller| caller.bucket < share);
    let (good, bad) = canary.fold((0.0, 0.0), |(good, bad), Caller { canary, .. }| {
        (good + canary.good.0, bad + canary.bad.0)
    });
    let events = random.poisson(bad);
    let mut look = MetricLook::default();
    look.sticky.canary = Tally { at_risk: random.poisson(good) + events, events };
    Look { seconds: LOOK, metrics: vec![look, MetricLook::default()], ..Look::default() }
}

fn dealt(cell: &Cell, share: u16, random: &mut Random) -> Look {
    let mut tally = |part: f64, errors: f64| {
        let requests = cell.rate * LOOK as f64 * part;
        let events = random.poisson(requests * errors);
        Tally { at_risk: random.poisson(requests * (1.0 - errors)) + events, events }
    };
    let part = f64::from(share) / f64::from(BUCKETS);
    let canary = tally(part, cell.base * cell.times);
    let stable = tally(1.0 - part, cell.base);
    let look = MetricLook { dealt: Counts { canary, stable }, ..MetricLook::default() };
    let metrics = vec![look, MetricLook::default()];
    Look { seconds: LOOK, metrics, ..Look::default() }
}

/// As rollouts are judged elsewhere: a minute fails if the canary's error ratio in it is above a
/// threshold, three failed minutes take it back, and it is promoted after an hour.
#[derive(Default)]
struct Rule {
    minute: Tally,
    failed: u32,
}

// === impl Rule ===

impl Rule {
    fn look(&mut self, look: &Look, now: u64) -> Option<End> {
        let errors = &look.metrics[0];
        self.minute.add(errors.sticky.canary);
        self.minute.add(errors.dealt.canary);
        if now.is_multiple_of(60) {
            let minute = std::mem::take(&mut self.minute);
            self.failed += u32::from(minute.ratio() > OBJECTIVE);
        }
        if self.failed >= FAILED_MINUTES {
            return Some(End::TakenBack);
        }
        (now >= RULE_PROMOTES).then_some(End::Promoted)
    }
}
