//! The syntax of the annotations whose last valid value stays in effect while the current one is
//! invalid. None of them controls access.

mod rate_limit;
mod variant;

pub(crate) use self::rate_limit::{MAX_LIMITS, rate_limit, rate_limits};
pub use self::variant::NamedRange;
pub(crate) use self::variant::{MAX_SALT, cookie, header, header_value, percentage, ranges, salt};
use crate::model::Origin;
use crate::model::vocabulary::{
    CANARY_COOKIE, CANARY_HEADER, CANARY_HEADER_VALUE, CANARY_SALT, CANARY_WEIGHT, Key,
    MIRROR_PERCENT, RATE_LIMIT, SPLIT,
};

/// Whether a text is valid in whole, as the annotation of that object.
type IsValid = fn(&Origin, &str) -> bool;

/// The annotations whose last valid value stays in effect.
pub(super) const LASTING: [(Key, IsValid); 8] = [
    (CANARY_WEIGHT, |_, text| percentage(text).is_ok()),
    (CANARY_HEADER, |_, text| header(text).is_ok()),
    (CANARY_HEADER_VALUE, |_, text| header_value(text).is_ok()),
    (CANARY_COOKIE, |_, text| cookie(text).is_ok()),
    (CANARY_SALT, |_, text| salt(text).is_ok()),
    (SPLIT, |_, text| ranges(text).is_some()),
    (MIRROR_PERCENT, |_, text| percentage(text).is_ok()),
    (RATE_LIMIT, |origin, text| rate_limits(origin, text).is_some()),
];
