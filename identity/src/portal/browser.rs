//! Binds a login that is under way to the browser that began it, so that no link and no code from
//! elsewhere logs anybody in (RFC 6749 §10.12).
//!
//! A cookie holds a secret; what travels through URLs names only its hash. All logins of one
//! browser share it, so that several tabs don't get in each other's way.

use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, HeaderValue};
use portcullis_config::unix_time::seconds;
use serde::{Deserialize, Serialize};

use crate::session::cookie::BROWSER;
use crate::session::{Purpose, Sealer, random_text};

/// How long a login may take.
pub(super) const LASTS: Duration = Duration::from_secs(600);

/// A browser in which a login is under way.
#[derive(Serialize, Deserialize)]
pub(super) struct Browser {
    secret: String,
    at: u64,
}

// === impl Browser ===

impl Browser {
    /// The browser that sent these headers to this host, if a login is under way in it.
    pub(super) fn find(
        sealer: &Sealer,
        host: &str,
        headers: &HeaderMap,
        now: SystemTime,
    ) -> Option<Self> {
        let browser: Self = sealer.open(Purpose::Browser, host, BROWSER.find(headers)?)?;
        (seconds(now).saturating_sub(browser.at) < LASTS.as_secs()).then_some(browser)
    }

    /// The same, or one in which a login begins now; and the cookie by which it will be found.
    /// `None` where there is no randomness.
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

    /// What may be known of it elsewhere.
    pub(super) fn hash(&self) -> String {
        hash(&self.secret)
    }
}

/// SHA-256 in base64 for URLs; also the S256 of PKCE (RFC 7636 §4.2).
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
    fn a_browser_is_known_again_on_that_host_for_ten_minutes() {
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
    fn the_challenge_is_that_of_the_standard() {
        // RFC 7636 appendix B.
        assert_eq!(
            hash("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"),
            "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
        );
    }
}
