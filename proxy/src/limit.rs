//! Limits of requests: the size of their bodies, and their number.

mod body;
mod gcra;
mod rate;
mod table;

pub(crate) use self::body::BodyBudget;
pub(crate) use self::rate::{RateExceeded, RateLimiter, RateLimits};
