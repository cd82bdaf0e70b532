//! A rollout for people: steps, numbers of both sides, evidence, and one sentence.

use std::fmt::Write;
use std::time::Duration;

use portcullis_config::model::duration;
use portcullis_config::snapshot::split::percent;
use portcullis_release::analysis::{Band, Report, Tally};
use portcullis_release::api::{RolloutDetails, RolloutStatus};
use portcullis_release::rollout::Stage;
use portcullis_release::store::{GateResult, RolloutStep};

use crate::cli::builder_api::age;
use crate::cli::output::{printable, printable_lines};
use crate::cli::table;

/// The most columns of a curve.
const CURVE: usize = 60;
/// The last entries of the history that are shown.
const HISTORY: usize = 8;
/// The last lines of a log that are shown.
const LOG: usize = 10;
/// The heights of a curve, from nothing to its limit.
const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Everything about a rollout.
pub(super) fn text(details: &RolloutDetails) -> String {
    let status = &details.status;
    let mut text = heading(status);
    text.push_str(&steps(status));
    if let Some(look) = details.looks.first() {
        text.push('\n');
        text.push_str(&numbers(&look.report));
        text.push('\n');
        text.push_str(&evidence(details, &look.report));
    }
    text.push('\n');
    text.push_str(&sentences(status));
    if let Some(gate) = &details.gate {
        text.push_str(&check(gate));
    }
    text.push_str(&history(&details.history));
    text
}

fn heading(status: &RolloutStatus) -> String {
    let stable = status.stable.as_ref().map_or_else(String::new, |id| format!(" beside {id}"));
    format!(
        "{}: {}{stable}, {}, {} % of the traffic, since {}\n\n",
        status.id,
        status.release,
        status.stage.name(),
        percent(status.weight.into()),
        age(status.created_at)
    )
}

/// The steps, with a mark at each that is over, and at the one that is under way.
fn steps(status: &RolloutStatus) -> String {
    let all = &status.settings.steps;
    let at = match &status.stage {
        stage if stage.step().is_some() => stage.step().unwrap_or_default(),
        Stage::Replacing { .. } | Stage::Returning { .. } | Stage::Cleaning | Stage::Promoted => {
            all.len()
        }
        // It goes back: what it had reached is in the history.
        _ => 0,
    };
    let is_forward = status.stage.step().is_some();
    let mut rows = vec![["", "STEP", "WEIGHT", "AT LEAST", ""].map(str::to_owned).to_vec()];
    rows.extend(all.iter().enumerate().map(|(index, step)| {
        let is_at = is_forward && index == at;
        let mark = if index < at {
            "✓"
        } else if is_at {
            "▶"
        } else {
            "·"
        };
        let since = status.stage.since().filter(|_| is_at);
        let mut note = since.map_or_else(String::new, |since| format!("for {}", age(since)));
        if step.manual {
            note.push_str(if note.is_empty() { "manual" } else { ", manual" });
        }
        vec![
            mark.to_owned(),
            (index + 1).to_string(),
            format!("{} %", percent(step.weight.into())),
            duration::format(Duration::from_millis(step.hold)),
            note,
        ]
    }));
    table::format(&rows)
}

/// What was counted on both sides.
fn numbers(report: &Report) -> String {
    let mut rows = vec![["", "CANARY", "STABLE"].map(str::to_owned).to_vec()];
    let people = report.people;
    rows.push(vec!["people".to_owned(), people.canary.to_string(), people.stable.to_string()]);
    let requests = report.metrics.first().map(|metric| {
        let [sticky, dealt] = &metric.populations;
        let mut sum = sticky.total;
        sum.add(dealt.total);
        sum
    });
    if let Some(requests) = requests {
        let count = |tally: Tally| tally.at_risk.to_string();
        rows.push(vec!["requests".to_owned(), count(requests.canary), count(requests.stable)]);
    }
    for metric in &report.metrics {
        let [sticky, dealt] = &metric.populations;
        let mut sum = sticky.total;
        sum.add(dealt.total);
        let share = |tally: Tally| format!("{} ({:.2} %)", tally.events, tally.ratio() * 100.0);
        rows.push(vec![metric.name.clone(), share(sum.canary), share(sum.stable)]);
    }
    for quantile in &report.quantiles {
        let band = |band: Option<Band>| band.map_or_else(String::new, |band| band.to_string());
        let (canary, stable) = (band(quantile.canary), band(quantile.stable));
        rows.push(vec![format!("{} latency", quantile.name), canary, stable]);
    }
    table::format(&rows)
}

/// Both evidences against their limits, and their curves over the looks.
fn evidence(details: &RolloutDetails, report: &Report) -> String {
    let looks = details.looks.iter().take(CURVE).rev();
    let reports: Vec<&Report> = looks.map(|look| &look.report).collect();
    let curve = |value: fn(&Report) -> Option<f64>, limit: f64| -> String {
        reports.iter().map(|report| block(value(report), limit)).collect()
    };
    let row = |name: &str, value: fn(&Report) -> Option<f64>, limit: f64| {
        let now = value(report).map_or_else(|| "none".to_owned(), number);
        vec![name.to_owned(), format!("{now} of {}", number(limit)), curve(value, limit)]
    };
    table::format(&[
        vec!["EVIDENCE".to_owned(), "NOW OF LIMIT".to_owned(), "LAST LOOKS".to_owned()],
        row("it is worse", |report| report.alarm, report.alarm_limit),
        row("it is not bad", |report| report.clear, report.clear_limit),
    ])
}

/// An e-value of this natural logarithm.
fn number(logarithm: f64) -> String {
    match logarithm.exp() {
        value if value < 10.0 => format!("{value:.1}"),
        value if value < 1e6 => format!("{value:.0}"),
        value => format!("{value:.0e}"),
    }
}

/// How far the logarithm of evidence is from nothing to its limit.
fn block(value: Option<f64>, limit: f64) -> char {
    let Some(value) = value else { return ' ' };
    let last = BLOCKS.len() - 1;
    let height = (value.max(0.0) / limit * last as f64).min(last as f64) as usize;
    BLOCKS.get(height).copied().unwrap_or(' ')
}

fn sentences(status: &RolloutStatus) -> String {
    let mut text = format!("{}\n", printable(&status.sentence));
    let mut add = |name: &str, value: &str| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name}: {}", printable(value));
    };
    if let Some(question) = &status.question {
        add("a person has to decide", question);
    }
    if let Some(problem) = &status.problem {
        add("problem", problem);
    }
    for warning in &status.warnings {
        add("warning", warning);
    }
    if status.is_open {
        add("an abort would do this", &status.if_aborted);
    }
    text
}

/// The verdict of the check before the first request, and the last lines of its log.
fn check(gate: &GateResult) -> String {
    let verdict = gate
        .failure
        .as_ref()
        .map_or_else(|| "passed".to_owned(), |why| format!("failed: {}", printable_lines(why)));
    let mut text = format!("\nthe check before the first request {verdict}\n");
    let lines: Vec<&str> = gate.log.lines().collect();
    for line in lines.iter().skip(lines.len().saturating_sub(LOG)) {
        let _ = writeln!(text, "  {}", printable(line));
    }
    text
}

fn history(steps: &[RolloutStep]) -> String {
    let mut rows = vec![["AGE", "STAGE", "WEIGHT", "WHAT"].map(str::to_owned).to_vec()];
    let last = steps.iter().skip(steps.len().saturating_sub(HISTORY));
    rows.extend(last.map(|step| {
        let what = match (&step.order, &step.actor, &step.reason) {
            (Some(order), Some(actor), Some(reason)) => {
                format!("{} by {actor}: {reason}", order.name())
            }
            _ => step.sentence.clone(),
        };
        vec![
            age(step.at),
            step.stage.name().to_owned(),
            format!("{} %", percent(step.weight.into())),
            what,
        ]
    }));
    format!("\n{}", table::format(&rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_is_full_at_its_limit_and_empty_without_evidence() {
        let limit = 100_f64.ln();
        let curve: String =
            [None, Some(-3.0), Some(0.0), Some(limit / 2.0), Some(limit), Some(2.0 * limit)]
                .map(|value| block(value, limit))
                .iter()
                .collect();
        assert_eq!(curve, " ▁▁▄██");
        assert_eq!([0.0, limit, 40.0].map(number), ["1.0", "100", "2e17"]);
    }
}
