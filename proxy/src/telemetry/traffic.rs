//! The traffic feed: what a rollout needs to know of each service and variant.
//!
//! Each worker counts first attempts in counters of its own; they are summed when the feed is read.
//! Of splits that are running, it also counts windows of 10 seconds, with the buckets that met an
//! error: one noisy client is one vote.

mod bucket_map;
mod counts;
mod evidence;
pub mod feed;
mod latency;
mod recorder;
mod registry;
mod share;
mod view;
mod window;

pub use self::bucket_map::BucketMap;
pub(crate) use self::evidence::{Attempt, Ended, Ending, Response};
pub(crate) use self::recorder::{Entered, Recorder, Request};
pub(crate) use self::registry::Registry;
pub(crate) use self::view::Filter;
pub(super) use self::view::splits;

#[cfg(test)]
mod tests;
