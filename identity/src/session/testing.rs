//! Sessions for tests, here and in other crates.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use portcullis_config::settings::access::LoginSettings;

use super::{Id, Session};
use crate::caller::User;

/// Returns a time, in seconds since 1970.
#[must_use]
pub fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

/// A user of the issuer `corp`.
#[must_use]
pub fn user(name: &str) -> User {
    User {
        name: name.into(),
        prefix: 0,
        email: None,
        preferred_username: None,
        groups: Box::default(),
        issuer: "corp".into(),
        subject: name.into(),
    }
}

/// A session that began at this time, in seconds, and lasts 1,000 s.
#[must_use]
pub fn session(name: &str, issued_at: u64) -> Session {
    Session {
        id: Id::random().unwrap(),
        user: user(name).into(),
        provider_session: None,
        issued_at,
        expires_at: issued_at + 1000,
        renewed_at: issued_at,
        asked_at: issued_at,
        confirmed_at: issued_at,
        unavailable_at: None,
    }
}

/// Settings with 100 s idle time and 1,000 s lifetime.
#[must_use]
pub fn settings() -> LoginSettings {
    let json = serde_json::json!({"issuer": "corp", "clientId": "portcullis", "idle": "100s", "absolute": "1000s"});
    serde_json::from_value(json).unwrap()
}
