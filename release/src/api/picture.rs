//! A rollout as a picture (SVG 1.1): its steps, both curves of evidence, and its sentence.

use std::fmt::Write;

use portcullis_config::snapshot::split::percent;

use super::{RolloutDetails, RolloutStatus};
use crate::analysis::{Band, Report};
use crate::rollout::Stage;

const WIDTH: usize = 760;
/// The left and right edges of everything.
const LEFT: usize = 40;
const RIGHT: usize = WIDTH - LEFT;
/// The top and the bottom of the curves: nothing is at the bottom, the limit at the top.
const TOP: usize = 130;
const BOTTOM: usize = 270;
/// The top of the first quantile, the distance between two, and the edges of their bars.
const QUANTILES: usize = 395;
const ROW: usize = 24;
const BARS: (usize, usize) = (80, 480);
/// The most steps that have a box of their own.
const MAX_STEPS: usize = 10;
/// The most characters of a line, and the most lines of the sentence.
const LINE: usize = 100;
const MAX_LINES: usize = 3;

const STYLE: &str = "text{font:13px sans-serif;fill:#222}.t{font-size:16px;font-weight:bold}\
                     .d{fill:#3a7d44}.n{fill:#1f6feb}.o{fill:#ccc}.w{fill:none;stroke:#c62828;stroke-width:2}\
                     .c{fill:none;stroke:#3a7d44;stroke-width:2}.l{stroke:#888;stroke-dasharray:4 4}";

/// Draws a rollout and its last looks. It refers to nothing outside of itself.
pub(super) fn svg(details: &RolloutDetails) -> String {
    let status = &details.status;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} 480\" width=\"{WIDTH}\" \
         height=\"480\" role=\"img\"><title>{id}</title><style>{STYLE}</style>\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>",
        id = escaped(&status.id.to_string()),
    );
    let stable = status.stable.as_ref().map_or_else(String::new, |id| format!(" beside {id}"));
    let title = format!("{}: {}{stable}", status.id, status.release);
    text(&mut svg, "t", LEFT, 30, &title);
    steps(&mut svg, status);
    if let Some(look) = details.looks.first() {
        curves(&mut svg, details, &look.report);
        text(&mut svg, "", LEFT, 310, &numbers(&look.report));
        quantiles(&mut svg, &look.report);
    }
    let sentence = status.question.as_ref().unwrap_or(&status.sentence);
    for (line, part) in lines(sentence).iter().enumerate() {
        text(&mut svg, "", LEFT, 340 + 18 * line, part);
    }
    svg.push_str("</svg>\n");
    svg
}

fn steps(svg: &mut String, status: &RolloutStatus) {
    let all = &status.settings.steps;
    let count = all.len().clamp(1, MAX_STEPS);
    let width = (RIGHT - LEFT) / count;
    let (at, is_over) = match &status.stage {
        Stage::Replacing { .. } | Stage::Returning { .. } | Stage::Cleaning | Stage::Promoted => {
            (0, true)
        }
        stage => (stage.step().unwrap_or_default(), false),
    };
    let is_forward = status.stage.step().is_some();
    // The one that is under way is among those that are drawn.
    let first = (at + 1).saturating_sub(count);
    for (place, (index, step)) in all.iter().enumerate().skip(first).take(count).enumerate() {
        let class = match (is_forward, index) {
            _ if is_over => "d",
            (true, index) if index < at => "d",
            (true, index) if index == at => "n",
            _ => "o",
        };
        let x = LEFT + place * width;
        let _ = write!(
            svg,
            "<rect class=\"{class}\" x=\"{x}\" y=\"50\" width=\"{}\" height=\"10\"/>",
            width.saturating_sub(4)
        );
        text(svg, "", x, 78, &format!("{} %", percent(step.weight.into())));
    }
    let now =
        format!("{}, {} % of the traffic", status.stage.name(), percent(status.weight.into()));
    text(svg, "", LEFT, 105, &now);
}

/// The logarithm of both evidences, as parts of what they must reach.
fn curves(svg: &mut String, details: &RolloutDetails, last: &Report) {
    for y in [TOP, BOTTOM] {
        let _ =
            write!(svg, "<line class=\"l\" x1=\"{LEFT}\" y1=\"{y}\" x2=\"{RIGHT}\" y2=\"{y}\"/>");
    }
    let reports: Vec<&Report> = details.looks.iter().rev().map(|look| &look.report).collect();
    let mut curve = |class: &str, value: fn(&Report) -> Option<f64>, limit: f64| {
        let gap = (RIGHT - LEFT) as f64 / reports.len().saturating_sub(1).max(1) as f64;
        let points = reports.iter().enumerate().filter_map(|(index, report)| {
            let part = (value(report)? / limit).clamp(0.0, 1.0);
            let y = BOTTOM as f64 - part * (BOTTOM - TOP) as f64;
            Some(format!("{:.1},{y:.1}", LEFT as f64 + gap * index as f64))
        });
        let points: Vec<String> = points.collect();
        let _ = write!(svg, "<polyline class=\"{class}\" points=\"{}\"/>", points.join(" "));
    };
    curve("w", |report| report.alarm, last.alarm_limit);
    curve("c", |report| report.clear, last.clear_limit);
    text(
        svg,
        "",
        LEFT,
        TOP - 6,
        "red: it is worse; green: it is not bad; the upper line is the limit of each",
    );
}

/// The bands of the quantiles: the canary's above the stable one, on one logarithmic scale.
fn quantiles(svg: &mut String, report: &Report) {
    let sides = report.quantiles.iter().flat_map(|one| [one.canary, one.stable]).flatten();
    let edges = sides.flat_map(|band| [Some(band.low), band.high]).flatten().filter(|one| *one > 0);
    let edges: Vec<f64> = edges.map(|edge| (edge as f64).ln()).collect();
    let least = edges.iter().copied().fold(f64::INFINITY, f64::min);
    let span = edges.iter().copied().fold(f64::NEG_INFINITY, f64::max) - least;
    let place = |edge: u64| {
        let part = if span > 0.0 { ((edge.max(1) as f64).ln() - least) / span } else { 0.0 };
        BARS.0 as f64 + part.clamp(0.0, 1.0) * (BARS.1 - BARS.0) as f64
    };
    for (index, quantile) in report.quantiles.iter().enumerate() {
        let y = QUANTILES + index * ROW;
        let mut bar = |class: &str, y: usize, band: Option<Band>| {
            let Some(band) = band else { return "none".to_owned() };
            let (from, to) = (place(band.low), band.high.map_or(BARS.1 as f64, place));
            let width = (to - from).max(2.0);
            let _ = write!(
                svg,
                "<rect class=\"{class}\" x=\"{from:.1}\" y=\"{y}\" width=\"{width:.1}\" height=\"7\"/>"
            );
            band.to_string()
        };
        let (canary, stable) = (bar("n", y, quantile.canary), bar("o", y + 8, quantile.stable));
        text(svg, "", LEFT, y + 12, &quantile.name);
        text(svg, "", BARS.1 + 12, y + 12, &format!("{canary}; stable: {stable}"));
    }
}

fn numbers(report: &Report) -> String {
    let people = report.people;
    let mut text = format!("people: {} on the canary, {} on stable", people.canary, people.stable);
    for metric in &report.metrics {
        let [sticky, dealt] = &metric.populations;
        let mut sum = sticky.total;
        sum.add(dealt.total);
        let _ = write!(
            text,
            "; {}: {:.2} % and {:.2} %",
            metric.name,
            sum.canary.ratio() * 100.0,
            sum.stable.ratio() * 100.0
        );
    }
    text
}

fn text(svg: &mut String, class: &str, x: usize, y: usize, text: &str) {
    let text = escaped(text);
    let _ = write!(svg, "<text class=\"{class}\" x=\"{x}\" y=\"{y}\">{text}</text>");
}

/// A text in lines, cut where it is too long.
fn lines(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut count = 1;
    for word in text.split_whitespace() {
        let word: String = word.chars().take(LINE).collect();
        let last = lines.last_mut().filter(|last| {
            last.is_empty() || last.chars().count() + 1 + word.chars().count() <= LINE
        });
        match last {
            Some(last) if last.is_empty() => last.push_str(&word),
            Some(last) => {
                last.push(' ');
                last.push_str(&word);
            }
            None if count == MAX_LINES => break,
            None => {
                lines.push(word);
                count += 1;
            }
        }
    }
    lines
}

/// Text in XML 1.0. Sentences quote people and programs.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            // XML has no other control characters, even as references, and not these two.
            '\u{fffe}' | '\u{ffff}' => escaped.push(char::REPLACEMENT_CHARACTER),
            control if control.is_control() => escaped.push(' '),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::{Counts, Look, MetricLook, Sides, Tally, Trial};
    use crate::model::Time;
    use crate::rollout::{self, Settings, Split};
    use crate::store::{self, Rollout};

    fn details(sentence: &str) -> RolloutDetails {
        let mut state = rollout::Rollout::new(Settings::default(), Time(0));
        state.stage = Stage::Watching { step: 1, since: Time(0) };
        state.split = Some(Split { weight: 1_000, generation: 3 });
        state.sentence = sentence.to_owned();
        let mut trial = Trial::new(state.settings.plan(false));
        let tally = |at_risk| Tally { at_risk, events: 0 };
        let dealt = Counts { canary: tally(20), stable: tally(200) };
        let look = |at| store::Look {
            at: Time(at),
            weight: 1_000,
            report: trial.look(&Look {
                seconds: 10,
                metrics: vec![MetricLook { dealt, ..MetricLook::default() }],
                latencies: Sides { canary: [(5_120, 20)].into(), stable: [(2_560, 200)].into() },
                ..Look::default()
            }),
        };
        let mut looks: Vec<store::Look> = (0..4).map(look).collect();
        looks.reverse();
        let rollout = Rollout {
            id: "web.production.7".parse().unwrap(),
            release: "web.17".parse().unwrap(),
            stable: Some("web.16".parse().unwrap()),
            state,
            evidence: serde_json::Value::Null,
            problem: None,
            gate: None,
            version: 1,
            created_at: Time(0),
            updated_at: Time(0),
        };
        RolloutDetails { status: rollout.into(), history: Vec::new(), looks, gate: None }
    }

    #[test]
    fn a_picture_has_steps_curves_and_the_sentence() {
        let svg = svg(&details("holding: 212 people seen, 3 met an error"));
        for part in [
            "web.production.7: web.17 beside web.16",
            "watching, 10 % of the traffic",
            ">p50</text>",
            ">5.1 ms; stable: 2.6 ms</text>",
            "<rect class=\"d\" x=\"40\"",
            "<rect class=\"n\" x=\"210\"",
            "<polyline class=\"w\" points=\"40.0,270.0 ",
            "errors: 0.00 % and 0.00 %",
            "holding: 212 people seen, 3 met an error</text>",
        ] {
            assert!(svg.contains(part), "{part}: {svg}");
        }
        let clear: Vec<&str> = svg.split("class=\"c\" points=\"").collect();
        let heights: Vec<f64> = clear[1]
            .split('"')
            .next()
            .unwrap()
            .split(' ')
            .map(|point| point.split(',').nth(1).unwrap().parse().unwrap())
            .collect();
        assert_eq!(heights.len(), 4);
        assert!(heights[3] < heights[1], "evidence that it is not bad grows: {heights:?}");
    }

    #[test]
    fn what_people_write_is_text_and_bounded() {
        let evil = "</text><script>alert(1)</script>&\u{1b}[2J\"' \u{ffff} ";
        let svg = svg(&details(&evil.repeat(1_000)));
        assert!(!svg.contains("<script") && !svg.contains('\u{1b}') && !svg.contains('\u{ffff}'));
        assert!(svg.contains("&lt;script&gt;alert(1)&lt;/script&gt;&amp;"), "{svg}");
        assert!(svg.len() < 10_000, "{}", svg.len());
        let tags = svg.matches("<text").count();
        assert_eq!(tags, svg.matches("</text>").count());
    }
}
