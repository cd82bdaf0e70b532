//! How long a connection to a backend may be reused, by the backend's `Keep-Alive` (RFC 2068
//! §19.7.1; no later RFC defines its parameters, but nginx, Apache and Node.js send them).

use std::time::Duration;

use http::HeaderMap;

use crate::http1::head::KEEP_ALIVE;
use crate::normalize::tokens;

/// A connection is not reused in its last second: a request sent then can arrive after the backend
/// has closed it, and not every request can be sent again.
const MARGIN: Duration = Duration::from_secs(1);

/// What a backend says about the reuse of a connection after a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reuse {
    /// The connection is not to be reused.
    Never,
    /// It may be reused within this time.
    For(Duration),
    /// The backend states no limit.
    Unlimited,
}

/// Parses `timeout`, in seconds, and `max`, the number of further requests. Malformed parameters are
/// ignored.
pub(crate) fn reuse(headers: &HeaderMap) -> Reuse {
    let mut reuse = Reuse::Unlimited;
    for parameter in headers.get_all(&KEEP_ALIVE).iter().flat_map(tokens) {
        match parse(parameter) {
            Some((name, 0)) if name.eq_ignore_ascii_case("max") => return Reuse::Never,
            Some((name, seconds)) if name.eq_ignore_ascii_case("timeout") => {
                let left = Duration::from_secs(seconds).saturating_sub(MARGIN);
                reuse = match reuse {
                    _ if left.is_zero() => return Reuse::Never,
                    Reuse::For(other) => Reuse::For(other.min(left)),
                    Reuse::Unlimited | Reuse::Never => Reuse::For(left),
                };
            }
            _ => {}
        }
    }
    reuse
}

fn parse(parameter: &[u8]) -> Option<(&str, u64)> {
    let (name, value) = std::str::from_utf8(parameter).ok()?.split_once('=')?;
    // `u64::from_str` accepts a sign.
    let value = value.trim().trim_matches('"');
    let is_number = !value.is_empty() && value.bytes().all(|digit| digit.is_ascii_digit());
    is_number.then(|| value.parse().ok()).flatten().map(|value| (name.trim(), value))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn of(values: &[&'static str]) -> Reuse {
        let field = |value: &&'static str| (KEEP_ALIVE.clone(), HeaderValue::from_static(value));
        reuse(&values.iter().map(field).collect())
    }

    #[test]
    fn the_last_second_is_not_used() {
        let seconds = |seconds| Reuse::For(Duration::from_secs(seconds));
        assert_eq!(of(&["timeout=5"]), seconds(4));
        assert_eq!(of(&["timeout=5, max=100"]), seconds(4));
        assert_eq!(of(&["max=1", "Timeout = \"30\""]), seconds(29));
        assert_eq!(of(&["timeout=30", "timeout=3"]), seconds(2));
        assert_eq!(of(&["timeout=1"]), Reuse::Never);
        assert_eq!(of(&["timeout=0"]), Reuse::Never);
        assert_eq!(of(&["timeout=60, max=0"]), Reuse::Never);
    }

    #[test]
    fn malformed_parameters_are_ignored() {
        for value in ["", "5", "timeout", "timeout=", "timeout=+5", "timeout=-1", "max=x", "idle=5"]
        {
            assert_eq!(of(&[value]), Reuse::Unlimited, "{value}");
        }
        assert_eq!(of(&[]), Reuse::Unlimited);
    }
}
