//! Descriptions and samples of metrics, in the types of the `prometheus` crate.

use std::collections::HashMap;

use prometheus::core::Desc;
use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric as Sample, MetricFamily, MetricType,
};

use super::counter::{BOUNDS, Distribution};

/// The kind of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// The name, kind, labels and help of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Metric {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) labels: &'static [&'static str],
    pub(super) help: &'static str,
}

/// The samples of one metric.
pub(super) struct Family {
    metric: &'static Metric,
    samples: Vec<Sample>,
}

/// Declares metrics, and `METRICS`, which lists them in the order of `docs/metrics.md`.
macro_rules! metrics {
    ($($name:ident: $kind:ident $text:literal [$($label:literal),*] $help:literal;)+) => {
        $(static $name: $crate::telemetry::metric::Metric = $crate::telemetry::metric::Metric {
            name: $text,
            kind: $crate::telemetry::metric::Kind::$kind,
            labels: &[$($label),*],
            help: $help,
        };)+

        pub(super) static METRICS: &[&$crate::telemetry::metric::Metric] = &[$(&$name),+];
    };
}

pub(super) use metrics;

// === impl Kind ===

impl Kind {
    fn metric_type(self) -> MetricType {
        match self {
            Self::Counter => MetricType::COUNTER,
            Self::Gauge => MetricType::GAUGE,
            Self::Histogram => MetricType::HISTOGRAM,
        }
    }
}

// === impl Metric ===

impl Metric {
    /// Creates a family without samples.
    pub(super) fn family(&'static self) -> Family {
        Family { metric: self, samples: Vec::new() }
    }

    /// Creates a family with one sample, for a metric without labels.
    pub(super) fn value(&'static self, value: f64) -> MetricFamily {
        let mut family = self.family();
        family.sample(&[], value);
        family.finish()
    }

    /// Creates a family with a sample for each value of the only label.
    pub(super) fn values<'v>(
        &'static self,
        samples: impl IntoIterator<Item = (&'v str, u64)>,
    ) -> MetricFamily {
        let mut family = self.family();
        for (value, count) in samples {
            family.sample(&[value], count as f64);
        }
        family.finish()
    }
}

/// Returns the descriptions of `metrics`, for a registry.
///
/// # Errors
/// Returns an error if a name is invalid.
pub(super) fn descriptions(metrics: &[&'static Metric]) -> prometheus::Result<Vec<Desc>> {
    let description = |metric: &&'static Metric| {
        Desc::new(
            metric.name.to_owned(),
            metric.help.to_owned(),
            metric.labels.iter().map(ToString::to_string).collect(),
            HashMap::new(),
        )
    };
    metrics.iter().map(description).collect()
}

// === impl Family ===

impl Family {
    /// Adds a sample; `values` are those of the metric's labels, in the same order.
    pub(super) fn sample(&mut self, values: &[&str], value: f64) {
        let mut sample = Sample::from_label(self.labels(values));
        if self.metric.kind == Kind::Counter {
            let mut counter = Counter::default();
            counter.set_value(value);
            sample.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            sample.set_gauge(gauge);
        }
        self.samples.push(sample);
    }

    /// Adds a histogram, in seconds.
    pub(super) fn histogram(&mut self, values: &[&str], distribution: &Distribution) {
        let mut count = 0;
        let buckets = distribution.buckets.iter().zip(BOUNDS).map(|(bucket, bound)| {
            count += bucket;
            let mut cumulative = Bucket::default();
            cumulative.set_cumulative_count(count);
            cumulative.set_upper_bound(seconds(bound));
            cumulative
        });
        let mut histogram = Histogram::default();
        histogram.set_bucket(buckets.collect());
        histogram.set_sample_count(distribution.count());
        histogram.set_sample_sum(seconds(distribution.microseconds));
        let mut sample = Sample::from_label(self.labels(values));
        sample.set_histogram(histogram);
        self.samples.push(sample);
    }

    pub(super) fn finish(self) -> MetricFamily {
        let mut family = MetricFamily::default();
        family.set_name(self.metric.name.to_owned());
        family.set_help(self.metric.help.to_owned());
        family.set_field_type(self.metric.kind.metric_type());
        family.set_metric(self.samples);
        family
    }

    fn labels(&self, values: &[&str]) -> Vec<LabelPair> {
        let pair = |(name, value): (&&str, &&str)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        };
        self.metric.labels.iter().zip(values).map(pair).collect()
    }
}

fn seconds(microseconds: u64) -> f64 {
    microseconds as f64 / 1e6
}
