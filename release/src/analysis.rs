//! Judges a canary by arithmetic whose error rates are stated. Pure: counts in, a verdict out.
//!
//! The traffic of a rollout is cut into looks. A [`Trial`] has the evidence of all looks so far,
//! and gives a [`Report`] after each one: *alarm* if the canary is worse than the stable variant,
//! *clear* if it is not bad, else *hold*. No data is never a verdict.
//!
//! The unit of evidence is the unit of assignment. People who stick to their variant are counted as
//! buckets, each of which has one vote in a rollout; requests that are dealt one by one are counted
//! as they are. Both populations are judged by themselves: a release may fail for one alone.
//!
//! `docs/analysis.md` explains the words, and shows what a simulation says about the error rates.
//! This module uses no other one, so that the simulation can be built without the rest.

mod band;
mod buckets;
mod counts;
mod evidence;
mod latency;
mod numeric;
mod plan;
mod report;
mod trial;
mod votes;

pub use self::band::{Band, Quantile, band};
pub use self::buckets::Buckets;
pub use self::counts::{Counts, Sides, Tally};
pub use self::latency::{Latencies, edge, slower, threshold};
pub use self::plan::{Metric, OutOfRange, Plan, Ratio, Share};
pub use self::report::{
    Hold, MetricReport, Population, PopulationReport, Report, Standing, Verdict,
};
pub use self::trial::{Look, MIN_BUCKETS, MetricLook, Trial, least_weight};

#[cfg(test)]
mod tests;
