//! What a service says of its rollouts, parsed with all problems at once.

use std::num::NonZeroU32;
use std::time::Duration;

use portcullis_config::model::duration;
use portcullis_config::snapshot::split::{BUCKETS, Weight, percent};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::analysis::{MIN_BUCKETS, Metric, Plan, Ratio, Share, least_weight};
use crate::manifest::canary::{Refusal, canary};
use crate::manifest::{Template, TemplateProblem};
use crate::model::{EnvironmentName, ReleaseId};

use super::gate::{self, GateSettings};

/// The least time of a step that names none.
const HOLD: u64 = 5 * 60_000;
/// The longest time that can be written.
const LONGEST: u64 = 30 * 24 * 3_600_000;
/// The longest query, in octets.
const MAX_EXPR: usize = 4096;
/// The largest number of a user, as Kubernetes has it.
const MAX_USER: u64 = i32::MAX as u64;
/// The most steps.
const MAX_STEPS: usize = 50;

/// The rollouts of a service. Times are in milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Settings {
    /// The steps: their weights rise, and the last one is 100 %.
    pub steps: Vec<Step>,
    /// What a good release keeps to.
    pub objectives: Objectives,
    /// α: how often a canary that is no worse may be taken back.
    pub alpha: Share,
    /// β: how often a bad one may be let through.
    pub beta: Share,
    /// R: how many times as many errors a bad one has.
    pub ratio: Ratio,
    /// After how long in one stage a person is asked.
    pub max_hold: u64,
    /// For how long pods that have just become ready are left out.
    pub warm_up: u64,
    /// The weight below which a newer release takes the place of this one, instead of waiting.
    pub replace_below: u16,
    /// The service's own query of Prometheus; `None` for none.
    #[serde(default)]
    pub query: Option<QuerySettings>,
    /// The check before the first request; `None` for none.
    #[serde(default)]
    pub gate: Option<GateSettings>,
}

/// One step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The canary's weight, in hundredths of a percent.
    pub weight: u16,
    /// The least time that it has it, in milliseconds.
    pub hold: u64,
    /// Whether a person has to resume it.
    pub manual: bool,
}

/// The service's own query of Prometheus: one number, that is to be small.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QuerySettings {
    /// The query. `$canary`, `$stable`, `$namespace` and `$environment` in it stand for names.
    pub expr: String,
    /// The largest number that a good release has.
    pub max: f64,
}

/// What a good release keeps to, whatever the stable variant does.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Objectives {
    /// The ratio of requests with an error.
    pub error_ratio: Share,
    /// The latency that 50 % of requests are below, in microseconds; `None` for no objective.
    #[serde(default)]
    pub p50: Option<u64>,
    /// The same of 90 %.
    #[serde(default)]
    pub p90: Option<u64>,
    /// The same of 99 %.
    pub p99: Option<u64>,
}

// === impl Objectives ===

impl Objectives {
    /// Those of latency: their metrics' names, the latencies, and the requests that may be slower.
    fn latencies(&self) -> impl Iterator<Item = (&'static str, u64, Share)> {
        let all = [
            ("p50", self.p50, Share::HALF),
            ("p90", self.p90, Share::TEN_PERCENT),
            ("p99", self.p99, Share::ONE_PERCENT),
        ];
        all.into_iter().filter_map(|(name, latency, share)| Some((name, latency?, share)))
    }

    /// The latencies in microseconds, in the order of their metrics.
    pub fn thresholds(&self) -> impl Iterator<Item = u64> {
        self.latencies().map(|(_, latency, _)| latency)
    }
}

// === impl Step ===

impl Step {
    /// All of the traffic at once.
    pub const ALL: Self = Self { weight: BUCKETS, hold: HOLD, manual: false };

    /// Whether the canary's part of the people who are active is large enough to compare them.
    ///
    /// # Errors
    /// The smallest weight that is, in hundredths of a percent; `None` if there are too few people
    /// whatever the weight, so that only absolute objectives or requests can decide.
    pub fn check_people(self, active: u64) -> Result<(), Option<u16>> {
        let all = u64::from(BUCKETS);
        // The smaller side counts.
        let smaller = u64::from(self.weight).min(all - u64::from(self.weight));
        if self.weight == BUCKETS || active * smaller >= MIN_BUCKETS * all {
            return Ok(());
        }
        Err(least_weight(active))
    }

    /// The weight nearest to its own that leaves each side at least this part.
    #[must_use]
    pub fn nearest(self, least: u16) -> u16 {
        self.weight.clamp(least, BUCKETS.saturating_sub(least).max(least))
    }
}

// === impl Settings ===

impl Default for Settings {
    /// 1 % for 10 minutes, 10 % for 30 minutes, 50 %, and all.
    fn default() -> Self {
        let step = |percent: u16, minutes: u64| Step {
            weight: percent * 100,
            hold: minutes * 60_000,
            manual: false,
        };
        Self {
            steps: vec![step(1, 10), step(10, 30), step(50, 5), Step { hold: 0, ..Step::ALL }],
            objectives: Objectives {
                error_ratio: Share::ONE_PERCENT,
                p50: None,
                p90: None,
                p99: None,
            },
            alpha: Share::ONE_PERCENT,
            beta: Share::FIVE_PERCENT,
            ratio: Ratio::THREE,
            max_hold: 4 * 3_600_000,
            warm_up: 60_000,
            replace_below: 1_000,
            query: None,
            gate: None,
        }
    }
}

impl Settings {
    /// Parses `rollout` of a service: a list of steps, or a map with `steps` and the rest.
    ///
    /// # Errors
    /// All problems, each with a JSON pointer below `/rollout`.
    pub fn parse(value: &Value) -> Result<Self, Vec<TemplateProblem>> {
        let mut reader = Reader::default();
        let settings = match value {
            Value::Array(_) => {
                let steps = reader.steps("/rollout", value);
                Self { steps, ..Self::default() }
            }
            Value::Object(map) => reader.settings(map),
            _ => {
                reader.report("/rollout", "is neither a list of steps nor a map", STEPS_HELP);
                Self::default()
            }
        };
        if reader.problems.is_empty() { Ok(settings) } else { Err(reader.problems) }
    }

    /// The rollouts that a template declares for an environment; `None` if a release of it is
    /// deployed there at once.
    ///
    /// # Errors
    /// All problems, each with a JSON pointer into the template.
    pub fn of(
        template: &Template,
        environment: &EnvironmentName,
    ) -> Result<Option<Self>, Vec<TemplateProblem>> {
        let declared = template.rollout().filter(|declared| declared.is_for(environment));
        declared.map(|declared| Self::read(declared.index, &declared.settings)).transpose()
    }

    fn read(index: usize, settings: &Value) -> Result<Self, Vec<TemplateProblem>> {
        Self::parse(settings).map_err(|mut problems| {
            for pointer in problems.iter_mut().filter_map(|problem| problem.pointer.as_mut()) {
                pointer.insert_str(0, &format!("/{index}"));
            }
            problems
        })
    }

    /// Checks what a template of a service declares: its steps, and that the release can run twice.
    ///
    /// # Errors
    /// All problems, each with a JSON pointer into the template.
    pub fn check(template: &Template, release: &ReleaseId) -> Result<(), Vec<TemplateProblem>> {
        let Some(declared) = template.rollout() else { return Ok(()) };
        let mut problems = Self::read(declared.index, &declared.settings).err().unwrap_or_default();
        // Placeholders stay: what is refused does not depend on their values.
        let manifests = template.render(release, "image", &[], "namespace");
        let refused = canary(&manifests, release.service.as_str(), 1).err().unwrap_or_default();
        problems.extend(refused.iter().map(|refusal: &Refusal| {
            let help = "correct it, or remove the document of the kind Rollout";
            let message = format!("there can be no canary: {refusal}");
            TemplateProblem::at(format!("/{}", declared.index), message, help)
        }));
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    /// What the analysis judges, and with which error rates. `slow` is false where the threshold of
    /// latency is not known.
    #[must_use]
    pub fn plan(&self, slow: bool) -> Plan {
        let metric = |name: &str, phrase: &str, objective| Metric {
            name: name.to_owned(),
            phrase: phrase.to_owned(),
            weight: NonZeroU32::MIN,
            objective,
        };
        let mut metrics = vec![metric("errors", "met an error", Some(self.objectives.error_ratio))];
        if slow {
            // Without an objective, a comparison would never end where nobody is slow. 1 % of the
            // stable requests were.
            let objective = Some(Share::ONE_PERCENT);
            metrics.push(metric("slow", "waited longer than the stable p99", objective));
        }
        for (name, _, share) in self.objectives.latencies() {
            let phrase = format!("waited longer than the objective of {name}");
            metrics.push(metric(name, &phrase, Some(share)));
        }
        Plan { alpha: self.alpha, beta: self.beta, ratio: self.ratio, metrics }
    }
}

const STEPS_HELP: &str = "write steps such as `[{weight: 1, hold: 10m}, {weight: 100}]`";
const SHARE_HELP: &str = "write a number between 0 and 1, such as 0.01";
const TIME_HELP: &str = "write a time such as `10m`, 30 days at most";

/// Reads values, and collects problems. What is invalid has its default.
#[derive(Default)]
struct Reader {
    problems: Vec<TemplateProblem>,
}

// === impl Reader ===

impl Reader {
    fn report(&mut self, pointer: &str, message: &str, help: &str) {
        self.problems.push(TemplateProblem::at(pointer.to_owned(), message, help));
    }

    fn settings(&mut self, map: &Map<String, Value>) -> Settings {
        const KEYS: [&str; 10] = [
            "steps",
            "objectives",
            "alpha",
            "beta",
            "ratio",
            "maxHold",
            "warmUp",
            "replaceBelow",
            "gate",
            "query",
        ];
        let mut settings = Settings::default();
        self.check_keys("/rollout", map, &KEYS);
        match map.get("steps") {
            Some(steps) => settings.steps = self.steps("/rollout/steps", steps),
            None => self.report("/rollout", "has no `steps`", STEPS_HELP),
        }
        if let Some(objectives) = map.get("objectives") {
            settings.objectives = self.objectives(objectives, settings.objectives);
        }
        let at = |key: &str| format!("/rollout/{key}");
        self.read(map, "alpha", &at, share, &mut settings.alpha, SHARE_HELP);
        self.read(map, "beta", &at, share, &mut settings.beta, SHARE_HELP);
        let help = "write a number from 1.5 to 30, such as 3";
        self.read(map, "ratio", &at, ratio, &mut settings.ratio, help);
        self.read(map, "maxHold", &at, time, &mut settings.max_hold, TIME_HELP);
        self.read(map, "warmUp", &at, time_or_none, &mut settings.warm_up, TIME_HELP);
        let help = "write a percentage such as 10, or 0 to let newer releases wait";
        self.read(map, "replaceBelow", &at, weight, &mut settings.replace_below, help);
        if let Some(query) = map.get("query") {
            settings.query = self.query(query);
        }
        if let Some(gate) = map.get("gate") {
            settings.gate = self.gate(gate);
        }
        let longest = settings.steps.iter().map(|step| step.hold).max().unwrap_or_default();
        if settings.max_hold <= longest {
            let message = "is not longer than the longest `hold`";
            self.report(&at("maxHold"), message, "write a longer time, such as `4h`");
        }
        settings
    }

    fn query(&mut self, value: &Value) -> Option<QuerySettings> {
        const HELP: &str = "write `{expr: 'sum(…)', max: 0.01}`";
        let Value::Object(map) = value else {
            self.report("/rollout/query", "is no map", HELP);
            return None;
        };
        self.check_keys("/rollout/query", map, &["expr", "max"]);
        for key in ["expr", "max"].into_iter().filter(|key| !map.contains_key(*key)) {
            self.report("/rollout/query", &format!("has no `{key}`"), HELP);
        }
        let at = |key: &str| format!("/rollout/query/{key}");
        let mut query = QuerySettings { expr: String::new(), max: 0.0 };
        let expr = |value: &Value| {
            let is_good = |text: &&str| (1..=MAX_EXPR).contains(&text.trim().len());
            value.as_str().filter(is_good).map(str::to_owned)
        };
        self.read(map, "expr", &at, expr, &mut query.expr, "write a query of 4,096 octets at most");
        self.read(map, "max", &at, Value::as_f64, &mut query.max, "write a number");
        Some(query)
    }

    fn gate(&mut self, value: &Value) -> Option<GateSettings> {
        const HELP: &str =
            "write an image, a command or both: `{command: [/app, check], timeout: 2m}`";
        let Value::Object(map) = value else {
            self.report("/rollout/gate", "is no map", HELP);
            return None;
        };
        const KEYS: [&str; 7] =
            ["image", "command", "args", "timeout", "cpu", "memory", "runAsUser"];
        self.check_keys("/rollout/gate", map, &KEYS);
        if !map.contains_key("image") && !map.contains_key("command") {
            self.report("/rollout/gate", "has neither `image` nor `command`", HELP);
        }
        let at = |key: &str| format!("/rollout/gate/{key}");
        let mut gate = GateSettings::default();
        let help = "write the name of an image, 512 characters at most";
        self.read(map, "image", &at, |value| gate::image(value).map(Some), &mut gate.image, help);
        let help = "write a list of 100 texts at most";
        self.read(map, "command", &at, gate::words, &mut gate.command, help);
        self.read(map, "args", &at, gate::words, &mut gate.args, help);
        let help = "write a time such as `2m`, an hour at most";
        let hour = |value: &Value| time(value).filter(|time| (1_000..=3_600_000).contains(time));
        self.read(map, "timeout", &at, hour, &mut gate.timeout, help);
        let help = "write a quantity such as `500m` or `256Mi`";
        self.read(map, "cpu", &at, gate::quantity, &mut gate.cpu, help);
        self.read(map, "memory", &at, gate::quantity, &mut gate.memory, help);
        let user =
            |value: &Value| value.as_u64().filter(|user| (1..=MAX_USER).contains(user)).map(Some);
        let help = "write a number of a user from 1 on: it may not be root";
        self.read(map, "runAsUser", &at, user, &mut gate.run_as_user, help);
        Some(gate)
    }

    fn objectives(&mut self, value: &Value, default: Objectives) -> Objectives {
        let Value::Object(map) = value else {
            self.report(
                "/rollout/objectives",
                "is no map",
                "write `{errorRatio: 0.01, p50: 50ms, p99: 500ms}`",
            );
            return default;
        };
        self.check_keys("/rollout/objectives", map, &["errorRatio", "p50", "p90", "p99"]);
        let mut error_ratio = default.error_ratio;
        let at = |key: &str| format!("/rollout/objectives/{key}");
        self.read(map, "errorRatio", &at, share, &mut error_ratio, SHARE_HELP);
        let [p50, p90, p99] = ["p50", "p90", "p99"].map(|key| {
            let mut latency = 0;
            self.read(map, key, &at, time, &mut latency, TIME_HELP);
            (latency > 0).then(|| latency.saturating_mul(1000))
        });
        Objectives { error_ratio, p50, p90, p99 }
    }

    fn steps(&mut self, at: &str, value: &Value) -> Vec<Step> {
        let Some(list) = value.as_array().filter(|list| !list.is_empty()) else {
            self.report(at, "is no list of steps", STEPS_HELP);
            return Settings::default().steps;
        };
        if list.len() > MAX_STEPS {
            self.report(at, "has too many steps", "write 50 at most");
            return Settings::default().steps;
        }
        let mut steps = Vec::new();
        let mut before = 0;
        for (index, value) in list.iter().enumerate() {
            let at = format!("{at}/{index}");
            let Some(step) = self.step(&at, value, list.len()) else { continue };
            if step.weight <= before {
                let message =
                    format!("does not rise: the step before has {} %", percent(before.into()));
                self.report(&format!("{at}/weight"), &message, "write weights in ascending order");
            }
            before = step.weight;
            steps.push(step);
        }
        let is_last_known = steps.len() == list.len();
        if is_last_known && before != BUCKETS {
            self.report(at, "do not end at 100 %", "add `{weight: 100}` as the last step");
        }
        steps
    }

    /// One of `count` steps; `None` if its weight is invalid.
    fn step(&mut self, at: &str, value: &Value, count: usize) -> Option<Step> {
        let Value::Object(map) = value else {
            self.report(at, "is no step", STEPS_HELP);
            return None;
        };
        self.check_keys(at, map, &["weight", "hold", "manual"]);
        let below = |key: &str| format!("{at}/{key}");
        let mut step = Step { weight: 0, hold: HOLD, manual: false };
        let help = "write a percentage with two decimals at most, such as 5 or 0.25";
        if !map.contains_key("weight") {
            self.report(at, "has no `weight`", help);
        }
        let positive = |value: &Value| weight(value).filter(|weight| *weight > 0);
        self.read(map, "weight", &below, positive, &mut step.weight, help);
        self.read(
            map,
            "manual",
            &below,
            Value::as_bool,
            &mut step.manual,
            "write `true` or `false`",
        );
        if step.weight == BUCKETS && count > 1 {
            // The steps before have cleared it, and there is nothing left to compare with.
            step.hold = 0;
        }
        let help = "write a time such as `10m`, 30 days at most, or leave it out";
        self.read(map, "hold", &below, time, &mut step.hold, help);
        (step.weight > 0).then_some(step)
    }

    fn check_keys(&mut self, at: &str, map: &Map<String, Value>, keys: &[&str]) {
        for key in map.keys().filter(|key| !keys.contains(&key.as_str())) {
            let help = format!("write one of {}", keys.join(", "));
            self.report(&format!("{at}/{}", escaped(key)), "is not known", &help);
        }
    }

    /// Reads a value into `into`, if it is there.
    fn read<T>(
        &mut self,
        map: &Map<String, Value>,
        key: &str,
        at: &impl Fn(&str) -> String,
        parse: impl Fn(&Value) -> Option<T>,
        into: &mut T,
        help: &str,
    ) {
        let Some(value) = map.get(key) else { return };
        match parse(value) {
            Some(parsed) => *into = parsed,
            None => {
                let value = value.to_string();
                let shown: String = value.chars().take(40).collect();
                self.report(&at(key), &format!("{shown} is not valid"), help);
            }
        }
    }
}

/// A key in a JSON pointer (RFC 6901 §3).
fn escaped(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

fn share(value: &Value) -> Option<Share> {
    Share::new(value.as_f64()?)
}

fn ratio(value: &Value) -> Option<Ratio> {
    Ratio::new(value.as_f64().filter(|ratio| *ratio >= 1.5)?)
}

/// A weight in hundredths of a percent, from a number or a text.
fn weight(value: &Value) -> Option<u16> {
    let text = match value {
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.clone(),
        _ => return None,
    };
    // YAML's 1.0 is a number, too.
    text.parse::<Weight>().ok().map(Weight::buckets)
}

/// A time in milliseconds, longer than nothing.
fn time(value: &Value) -> Option<u64> {
    time_or_none(value).filter(|milliseconds| *milliseconds > 0)
}

fn time_or_none(value: &Value) -> Option<u64> {
    let parsed: Duration = duration::parse(value.as_str()?)?;
    u64::try_from(parsed.as_millis()).ok().filter(|milliseconds| *milliseconds <= LONGEST)
}
