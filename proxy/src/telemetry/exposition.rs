//! Prometheus' text format, version 0.0.4.

use std::fmt::Write;

use super::counter::{BOUNDS, Distribution};

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// A metric: its name, its labels, and what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Metric {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) labels: &'static [&'static str],
    pub(super) help: &'static str,
}

/// The text, as far as it is written.
#[derive(Debug, Default)]
pub(super) struct Exposition(String);

/// Writes the samples of one metric.
pub(super) struct Family<'e> {
    text: &'e mut String,
    metric: &'static Metric,
}

// === impl Kind ===

impl Kind {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

// === impl Exposition ===

impl Exposition {
    /// Begins the next metric.
    pub(super) fn family(&mut self, metric: &'static Metric) -> Family<'_> {
        let _ = writeln!(
            self.0,
            "# HELP {0} {1}\n# TYPE {0} {2}",
            metric.name,
            metric.help,
            metric.kind.as_str()
        );
        Family { text: &mut self.0, metric }
    }

    pub(super) fn finish(self) -> String {
        self.0
    }
}

// === impl Family ===

impl Family<'_> {
    /// One sample; `values` are those of the metric's labels in their order.
    pub(super) fn sample(&mut self, values: &[&str], value: impl std::fmt::Display) -> &mut Self {
        self.line("", values, None, value)
    }

    /// The samples of one histogram, in seconds.
    pub(super) fn histogram(&mut self, values: &[&str], distribution: &Distribution) {
        let mut count = 0;
        for (bucket, bound) in distribution.buckets.iter().zip(BOUNDS) {
            count += bucket;
            self.line("_bucket", values, Some(&seconds(bound).to_string()), count);
        }
        let count = distribution.count();
        self.line("_bucket", values, Some("+Inf"), count);
        self.line("_sum", values, None, seconds(distribution.microseconds));
        self.line("_count", values, None, count);
    }

    fn line(
        &mut self,
        suffix: &str,
        values: &[&str],
        bound: Option<&str>,
        value: impl std::fmt::Display,
    ) -> &mut Self {
        let _ = write!(self.text, "{}{suffix}", self.metric.name);
        let labels = self.metric.labels.iter().copied().zip(values.iter().copied());
        let mut separator = '{';
        for (name, value) in labels.chain(bound.map(|bound| ("le", bound))) {
            let _ = write!(self.text, "{separator}{name}=\"");
            escape(self.text, value);
            self.text.push('"');
            separator = ',';
        }
        if separator == ',' {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
        self
    }
}

fn seconds(microseconds: u64) -> f64 {
    microseconds as f64 / 1e6
}

fn escape(text: &mut String, value: &str) {
    for character in value.chars() {
        match character {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            character => text.push(character),
        }
    }
}
