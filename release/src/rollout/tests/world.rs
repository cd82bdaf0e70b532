//! A cluster, a gateway with two replicas and a release, made up: writes fail, reads fail, builders
//! are killed, replicas lag and fall silent, people interfere. Whatever happens, the laws hold.

use proptest::prelude::*;

use super::*;

/// How a release is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Release {
    Good,
    Bad,
    NeverReady,
    /// Fails the check before the first request.
    FailsCheck,
    /// Is bad by the service's own query alone.
    BadByQuery,
}

/// What happens by itself in one tick.
#[derive(Debug, Clone, Copy)]
struct Weather {
    /// Milliseconds since the tick before.
    elapsed: u64,
    /// Bits of what fails.
    faults: u16,
}

struct World {
    release: Release,
    now: u64,
    split: Split,
    /// The generation that each replica has applied.
    applied: [u64; 2],
    pods: Pods,
    stable_is_new: bool,
    stable_ready: Option<Time>,
    is_pinned: bool,
    /// Since when the check runs, if it was started.
    gate_since: Option<u64>,
    /// Since when the canary has had traffic, if the world has judged it.
    traffic_since: Option<u64>,
    /// Whether an alarm was shown: from then on, the weight must not rise.
    has_alarmed: bool,
    seen: Observation,
}

const READ_FAILS: u16 = 1;
const WRITE_FAILS: u16 = 1 << 1;
const KILLED: u16 = 1 << 2;
const LAGS: u16 = 1 << 3;
const SILENT: u16 = 1 << 4;
const OUTAGE: u16 = 1 << 5;
const FROZEN: u16 = 1 << 6;
const REPEATED: u16 = 1 << 7;
const QUERY_BLIND: u16 = 1 << 8;

// === impl World ===

impl World {
    fn new(release: Release) -> Self {
        Self {
            release,
            now: 1_000_000,
            split: Split { weight: 0, generation: 7 },
            applied: [7, 7],
            pods: Pods::default(),
            stable_is_new: false,
            stable_ready: Some(Time(0)),
            is_pinned: false,
            gate_since: None,
            traffic_since: None,
            has_alarmed: false,
            seen: Observation::unknown(),
        }
    }

    /// One turn of the control loop. Returns the state that was recorded.
    fn tick(&mut self, state: &Rollout, weather: Weather) -> Rollout {
        self.now += weather.elapsed;
        let is = |fault| weather.faults & fault != 0;
        if !is(LAGS) {
            self.applied[1] = self.split.generation;
        }
        self.applied[0] = self.split.generation;
        self.seen = self.observe(weather);
        let (next, actions) = step(state.clone(), &self.seen, Time(self.now));
        if is(KILLED) {
            // Before the state was recorded, or after that and before it was acted on.
            return if is(REPEATED) { next } else { state.clone() };
        }
        for action in actions {
            if !is(WRITE_FAILS) {
                self.perform(action, &next);
            }
            if is(REPEATED) {
                self.perform(action, &next);
            }
        }
        next
    }

    fn observe(&mut self, weather: Weather) -> Observation {
        let is = |fault| weather.faults & fault != 0;
        if self.split.weight == 0 {
            self.traffic_since = None;
        }
        let outage = is(OUTAGE).then(|| "stable fails".to_owned());
        let judged = self.traffic_since.map(|since| {
            let verdict = match self.release {
                _ if self.now < since + 3 * MINUTE => {
                    Verdict::Hold(crate::analysis::Hold::Undecided)
                }
                Release::Good | Release::BadByQuery => Verdict::Clear,
                _ => Verdict::Alarm,
            };
            self.has_alarmed |= verdict == Verdict::Alarm && !is(OUTAGE);
            Judged { at: Time(self.now), verdict, sentence: format!("{verdict:?}") }
        });
        let query = self.query(weather);
        let gateway = match self.applied {
            _ if is(SILENT) => Gateway::Blind("b is silent".to_owned()),
            [a, b] if a == b => Gateway::Agrees(a),
            [a, b] => Gateway::Differs(format!("{a} and {b}")),
        };
        let stable = Stable::Present { is_new: self.stable_is_new, ready_since: self.stable_ready };
        let readable = Observation {
            query,
            split_by: None,
            split: Some(self.split),
            canary: Some(self.pods),
            stable,
            gateway,
            judged,
            outage,
            gate: self.gate(),
            newer: None,
            is_frozen: is(FROZEN),
            is_pinned: self.is_pinned,
        };
        if !is(READ_FAILS) {
            return readable;
        }
        Observation { split: None, canary: None, stable: Stable::Unknown, ..readable }
    }

    /// The check takes two minutes.
    fn gate(&self) -> Gate {
        match self.gate_since {
            None => Gate::Absent,
            Some(since) if self.now < since + 2 * MINUTE => Gate::Running,
            Some(_) if self.release == Release::FailsCheck => Gate::Failed("500".to_owned()),
            Some(_) => Gate::Passed,
        }
    }

    /// The query is above its limit for three minutes before it takes a release back.
    fn query(&mut self, weather: Weather) -> Query {
        let above = || "it is 3".to_owned();
        match self.traffic_since {
            None => Query::Awaited,
            _ if weather.faults & QUERY_BLIND != 0 => Query::Blind("it returned NaN".to_owned()),
            Some(_) if self.release != Release::BadByQuery => Query::Within,
            Some(since) if self.now < since + 3 * MINUTE => Query::Above(above()),
            Some(_) => {
                self.has_alarmed |= weather.faults & OUTAGE == 0;
                Query::Alarm(above())
            }
        }
    }

    fn perform(&mut self, action: Action, state: &Rollout) {
        match action {
            Action::Scale(weight) => {
                let ready_since = (self.release != Release::NeverReady).then_some(Time(self.now));
                self.pods = Pods { exists: true, scaled_for: weight, ready_since };
            }
            Action::StartGate => {
                assert!(self.pods.ready_since.is_some(), "there is something to check");
                self.gate_since.get_or_insert(self.now);
            }
            Action::SetWeight { if_generation, .. } if if_generation != self.split.generation => {}
            Action::SetWeight { weight, .. } => self.set_weight(weight, state),
            Action::ApplyStable => {
                assert_eq!(self.split.weight, 10_000, "all traffic is on the canary");
                if !self.stable_is_new {
                    (self.stable_is_new, self.stable_ready) = (true, Some(Time(self.now)));
                }
            }
            Action::RestoreStable => {
                assert_eq!(self.split.weight, 10_000, "all traffic is on the canary");
                if self.stable_is_new {
                    (self.stable_is_new, self.stable_ready) = (false, Some(Time(self.now)));
                }
            }
            Action::RemoveCanary => {
                assert_eq!(self.split.weight, 0, "no traffic is on the canary: {}", state.sentence);
                self.pods = Pods::default();
            }
            Action::Pin => self.is_pinned = true,
        }
    }

    /// The laws of a weight that the rollout writes.
    fn set_weight(&mut self, weight: u16, state: &Rollout) {
        let warm_up = state.settings.warm_up;
        let is_warm =
            |since: Option<Time>| since.is_some_and(|since| since.0 + warm_up <= self.now);
        if weight > self.split.weight {
            // Promoting overrides the evidence.
            let may_rise = !self.has_alarmed || state.promoted.is_some();
            assert!(may_rise, "the weight rises after an alarm");
            assert!(
                self.pods.exists
                    && self.pods.scaled_for >= weight
                    && is_warm(self.pods.ready_since)
            );
            let is_checked = self.gate() == Gate::Passed || state.promoted.is_some();
            assert!(is_checked, "the first request comes before the check");
            assert!(state.paused.is_none(), "the weight rises in a pause");
            assert!(state.by_hand.is_none(), "it takes a weight away from someone");
            self.traffic_since.get_or_insert(self.now);
        } else if state.is_back() {
            assert_eq!((weight, self.stable_is_new), (0, false), "back is to the earlier release");
        } else if matches!(state.stage, Stage::Returning { .. }) {
            assert!(self.stable_is_new && is_warm(self.stable_ready));
        }
        self.split = Split { weight, generation: self.split.generation + 1 };
    }

    /// Lets everything work, until the rollout is over.
    fn calm(&mut self, mut state: Rollout) -> Rollout {
        for _ in 0..2_000 {
            if !state.is_open() {
                return state;
            }
            state = self.tick(&state, Weather { elapsed: 10_000, faults: 0 });
        }
        panic!("it does not end: {:?}", state.sentence);
    }
}

fn weather() -> impl Strategy<Value = Weather> {
    let faults = prop_oneof![3 => Just(0), 2 => any::<u16>()];
    (1_000..120_000_u64, faults).prop_map(|(elapsed, faults)| Weather { elapsed, faults })
}

fn orders() -> impl Strategy<Value = Option<Order>> {
    prop_oneof![
        20 => Just(None),
        1 => Just(Some(Order::Pause)),
        2 => Just(Some(Order::Resume)),
        1 => Just(Some(Order::Skip)),
        1 => Just(Some(Order::Abort)),
        1 => Just(Some(Order::Promote)),
    ]
}

const RELEASES: [Release; 5] =
    [Release::Good, Release::Bad, Release::NeverReady, Release::FailsCheck, Release::BadByQuery];

fn releases() -> impl Strategy<Value = Release> {
    prop::sample::select(&RELEASES[..])
}

fn steps() -> Settings {
    let mut settings = settings();
    let first = Step { weight: 100, ..settings.steps[0] };
    settings.steps.insert(0, first);
    settings
}

proptest! {
    #[test]
    fn whatever_fails_a_good_release_arrives_and_a_bad_one_goes_back(
        release in releases(),
        ticks in prop::collection::vec(weather(), 0..120),
    ) {
        let mut world = World::new(release);
        let mut state = Rollout::new(steps(), Time(world.now));
        for weather in ticks {
            state = world.tick(&state, weather);
        }
        let end = world.calm(state);
        if end.stage == Stage::Promoted {
            prop_assert!(release == Release::Good && world.stable_is_new);
        } else {
            // Faults that last for long make a good one go back, too.
            prop_assert!(!world.stable_is_new && world.is_pinned, "{}", end.sentence);
            prop_assert!(release != Release::Good, "{}", end.sentence);
        }
        prop_assert_eq!((world.split.weight, world.pods.exists), (0, false));
    }

    #[test]
    fn orders_keep_the_laws_too(
        release in releases(),
        ticks in prop::collection::vec((weather(), orders()), 0..120),
        by_hand in prop::collection::vec((0..120_usize, 0..=10_000_u16), 0..3),
    ) {
        let mut world = World::new(release);
        let mut state = Rollout::new(steps(), Time(world.now));
        for (at, (weather, what)) in ticks.into_iter().enumerate() {
            if let Some((_, weight)) = by_hand.iter().find(|(when, _)| *when == at) {
                // Laws are about what the rollout does by itself: then a person is responsible.
                let generation = world.split.generation + 1;
                world.split = Split { weight: *weight, generation };
                let (next, actions) = step(state.clone(), &world.observe(weather), Time(world.now));
                // What was decided without reading the split names an earlier generation, and is not written.
                let raises = actions.iter().any(|action| {
                    matches!(action, Action::SetWeight { weight: set, if_generation }
                        if set > weight && *if_generation == generation)
                });
                prop_assert!(!raises, "it takes a weight away: {}", next.sentence);
                return Ok(());
            }
            let ordered = what.map(|what| order(state.clone(), what, "why not", Time(world.now)));
            if let Some(Ok(next)) = ordered {
                state = next;
            }
            state = world.tick(&state, weather);
        }
    }

    #[test]
    fn the_same_observation_again_asks_for_the_same(
        release in releases(),
        ticks in prop::collection::vec(weather(), 0..60),
    ) {
        let mut world = World::new(release);
        let mut state = Rollout::new(steps(), Time(world.now));
        for weather in ticks {
            state = world.tick(&state, weather);
            let mut once = state.clone();
            // A stage at a time, until it waits for the world.
            for _ in 0..10 {
                once = step(once, &world.seen, Time(world.now)).0;
            }
            let (again, actions) = step(once.clone(), &world.seen, Time(world.now));
            prop_assert_eq!(&again, &once);
            prop_assert_eq!(step(again, &world.seen, Time(world.now)).1, actions);
        }
    }
}

#[test]
fn a_weight_that_a_killed_builder_did_not_write_waits_for_the_end_of_a_pause() {
    let mut world = World::new(Release::Good);
    let calm = Weather { elapsed: 10_000, faults: 0 };
    let state = Rollout::new(steps(), Time(world.now));
    let state = order(state, Order::Promote, "why not", Time(world.now)).unwrap();
    let state = world.tick(&state, calm);
    let state = world.tick(&state, Weather { faults: KILLED | REPEATED, ..calm });
    assert!(matches!(state.stage, Stage::Shifting { .. }), "{:?}", state.stage);
    let state = order(state, Order::Pause, "wait", Time(world.now)).unwrap();
    let state = world.tick(&state, calm);
    assert_eq!(world.split.weight, 0);
    let state = order(state, Order::Resume, "go on", Time(world.now)).unwrap();
    world.tick(&state, calm);
    assert!(world.split.weight > 0);
}

/// Two years, in ticks of ten minutes on average, through everything that can fail.
#[test]
fn two_years_of_rollouts_end_as_they_should() {
    const TWO_YEARS: u64 = 2 * 365 * 24 * 60 * MINUTE;
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let (mut passed, mut ends) = (0, [0; RELEASES.len()]);
    while passed < TWO_YEARS {
        let release = RELEASES[(next() % RELEASES.len() as u64) as usize];
        let mut world = World::new(release);
        let begin = world.now;
        let mut state = Rollout::new(steps(), Time(begin));
        while state.is_open() {
            let faults = if next() % 4 == 0 { next() as u16 } else { 0 };
            state = world.tick(&state, Weather { elapsed: next() % (20 * MINUTE), faults });
            assert!(world.now - begin < 7 * 24 * 60 * MINUTE, "{release:?}: {}", state.sentence);
        }
        assert_eq!(state.stage == Stage::Promoted, release == Release::Good, "{}", state.sentence);
        ends[release as usize] += 1;
        passed += world.now - begin;
    }
    assert!(ends.iter().all(|count| *count > 1_000), "{ends:?}");
}
