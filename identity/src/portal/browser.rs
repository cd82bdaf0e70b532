//! Binds a login in progress to its browser, so that a link or code from elsewhere logs nobody in
//! (RFC 6749 §10.12).
//!
//! A cookie has a secret; URLs carry only its hash. All logins of one browser share it, so that
//! several tabs do not interfere.

use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, HeaderValue};
use portcullis_config::unix_time::seconds;
use serde::{Deserialize, Serialize};

use crate::session::cookie::BROWSER;
use crate::session::{Purpose, Sealer, random_text};

/// Maximum duration of a login.
pub(super) const LASTS: Duration = Duration::from_secs(600);

/// A browser with a login in progress.
#[derive(Serialize, Deserialize)]
pub(super) struct Browser {
    secret: String,
    at: u64,
}

// === impl Browser ===

impl Browser {
    /// Returns the browser of these headers, if it has a login in progress on this host.
    pub(super) fn find(
        sealer: &Sealer,
        host: &str,
        headers: &HeaderMap,
        now: SystemTime,
    ) -> Option<Self> {
        let browser: Self = sealer.open(Purpose::Browser, host, BROWSER.find(headers)?)?;
        (seconds(now).saturating_sub(browser.at) < LASTS.as_secs()).then_some(browser)
    }

    /// Like [`find`](Self::find), or starts a login; returns the cookie too. `None` if the system
    /// returned no random numbers.
    pub(super) fn begin(
        sealer: &Sealer,
        host: &str,
        headers: &HeaderMap,
        now: SystemTime,
    ) -> Option<(Self, HeaderValue)> {
        let secret = match Self::find(sealer, host, headers, now) {
            Some(browser) => browser.secret,
            None => random_text::<32>().ok()?,
        };
        let browser = Self { secret, at: seconds(now) };
        let cookie = BROWSER.set(&sealer.seal(Purpose::Browser, host, &browser, now)?, LASTS)?;
        Some((browser, cookie))
    }

    /// The hash, which may be sent elsewhere.
    pub(super) fn hash(&self) -> String {
        hash(&self.secret)
    }
}

/// SHA-256 in base64url; also the S256 of PKCE (RFC 7636 §4.2).
pub(super) fn hash(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(digest(&SHA256, text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use http::header;

    use super::*;
    use crate::session::testing::at;

    fn returned(cookie: &HeaderValue) -> HeaderMap {
        let pair = cookie.to_str().unwrap().split(';').next().unwrap().to_owned();
        HeaderMap::from_iter([(header::COOKIE, HeaderValue::try_from(pair).unwrap())])
    }

    #[test]
    fn a_browser_is_recognized_on_its_host_for_ten_minutes() {
        let sealer = Sealer::new().unwrap();
        let (browser, cookie) = Browser::begin(&sealer, "a", &HeaderMap::new(), at(1000)).unwrap();
        let headers = returned(&cookie);
        let found = |host, now| {
            Browser::find(&sealer, host, &headers, at(now)).map(|browser| browser.hash())
        };
        assert_eq!(found("a", 1599), Some(browser.hash()));
        assert_eq!(found("a", 1600), None);
        assert_eq!(found("b", 1000), None);
        assert!(!cookie.to_str().unwrap().contains(&browser.secret));
    }

    #[test]
    fn tabs_of_one_browser_share_a_secret_and_two_browsers_do_not() {
        let sealer = Sealer::new().unwrap();
        let (first, cookie) = Browser::begin(&sealer, "a", &HeaderMap::new(), at(1000)).unwrap();
        let (second, _) = Browser::begin(&sealer, "a", &returned(&cookie), at(1100)).unwrap();
        assert_eq!(first.hash(), second.hash());
        let (other, _) = Browser::begin(&sealer, "a", &HeaderMap::new(), at(1000)).unwrap();
        assert_ne!(first.hash(), other.hash());
    }

    #[test]
    fn the_challenge_matches_the_example_of_rfc_7636() {
        // RFC 7636 appendix B.
        assert_eq!(
            hash("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"),
            "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
        );
    }
}
