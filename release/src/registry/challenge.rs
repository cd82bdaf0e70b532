//! What a registry asks for before it answers (RFC 9110 §11.6.1).

use std::collections::HashMap;

use http::{HeaderMap, header};

/// How a registry wants to be authenticated to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// By name and password (RFC 7617).
    Basic,
    /// By a token of a token server.
    Bearer {
        /// The URL of the token server.
        realm: String,
        /// The name of the registry at the token server.
        service: Option<String>,
    },
}

// === impl Challenge ===

impl Challenge {
    /// The challenge of a response: a token, if the registry accepts one.
    pub(super) fn read(headers: &HeaderMap) -> Option<Self> {
        let values = headers.get_all(header::WWW_AUTHENTICATE).iter();
        let mut challenges: Vec<Self> =
            values.filter_map(|value| Self::parse(value.to_str().ok()?)).collect();
        challenges.sort_by_key(|challenge| *challenge == Self::Basic);
        challenges.into_iter().next()
    }

    fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once(' ').unwrap_or((text, ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        let mut parameters =
            scheme.eq_ignore_ascii_case("bearer").then(|| parameters(rest)).flatten()?;
        Some(Self::Bearer {
            realm: parameters.remove("realm")?,
            service: parameters.remove("service"),
        })
    }
}

/// Parameters, each once. Escapes in quoted texts are rejected: no URL or name has one.
fn parameters(mut text: &str) -> Option<HashMap<String, String>> {
    let mut parameters = HashMap::new();
    loop {
        text = text.trim_start_matches([' ', ',']);
        if text.is_empty() {
            return Some(parameters);
        }
        let (name, rest) = text.split_once('=')?;
        let (value, rest) = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => rest.split_once(',').unwrap_or((rest, "")),
        };
        let is_first =
            parameters.insert(name.trim().to_ascii_lowercase(), value.to_owned()).is_none();
        if !is_first || value.contains('\\') {
            return None;
        }
        text = rest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_preferred_and_what_is_malformed_is_no_challenge() {
        let read = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::WWW_AUTHENTICATE, value.parse().unwrap());
            }
            Challenge::read(&headers)
        };
        let bearer =
            r#"Bearer realm="https://a.test/token",service="r.test",scope="x:y:pull,push""#;
        let expected = Challenge::Bearer {
            realm: "https://a.test/token".to_owned(),
            service: Some("r.test".to_owned()),
        };
        assert_eq!(read(&[bearer]), Some(expected));
        assert_eq!(read(&[r#"Basic realm="r""#]), Some(Challenge::Basic));
        let bearer = "bearer realm=https://a.test";
        assert!(matches!(read(&["Basic", bearer]), Some(Challenge::Bearer { .. })));
        for bad in ["", "Digest x=1", "Bearer", r#"Bearer realm="x"#, r#"Bearer realm="a\"b""#] {
            assert_eq!(read(&[bad]), None, "{bad}");
        }
        assert_eq!(read(&["Bearer realm=a,realm=b"]), None, "it has two readings");
    }
}
