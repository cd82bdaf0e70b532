//! Limits of requests: the size of their bodies, and their number.

mod body;
mod budget;
mod gcra;
mod rate;
mod requester;
mod table;

pub(crate) use self::body::BodyBudget;
pub(crate) use self::rate::{RateExceeded, RateLimiter, RateLimits};
pub(crate) use self::requester::Requester;
