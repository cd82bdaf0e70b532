//! The tokens of the signed-in user, stored in a file that only its owner may read.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use portcullis_config::atomic_file;
use portcullis_config::unix_time::seconds;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::provider::TokenResponse;
use crate::cli::problems::Failure;

/// A public client that is registered with an issuer.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::cli) struct Registration {
    pub(in crate::cli) issuer: String,
    pub(in crate::cli) client_id: String,
    pub(in crate::cli) scope: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::cli) certificate_authorities: Option<PathBuf>,
}

/// The content of the token file.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::cli) struct StoredTokens {
    #[serde(flatten)]
    pub(in crate::cli) registration: Registration,
    id_token: Option<String>,
    access_token: Option<String>,
    pub(in crate::cli) refresh_token: Option<String>,
    /// When the access token expires, in seconds since 1970, if known.
    access_until: Option<u64>,
}

/// The kind of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum TokenKind {
    Id,
    Access,
}

// === impl StoredTokens ===

impl StoredTokens {
    /// Takes the tokens of a response. Without a new refresh token, `refresh_token` stays in use
    /// (RFC 6749 §6).
    pub(in crate::cli) fn new(
        registration: Registration,
        response: TokenResponse,
        refresh_token: Option<String>,
        now: SystemTime,
    ) -> Self {
        let access_until =
            response.expires_in.map(|lifetime| seconds(now).saturating_add(lifetime));
        Self {
            registration,
            id_token: response.id_token,
            access_token: response.access_token,
            refresh_token: response.refresh_token.or(refresh_token),
            access_until,
        }
    }

    /// Returns the token, even if it is expired.
    pub(in crate::cli) fn latest(&self, kind: TokenKind) -> Option<&str> {
        match kind {
            TokenKind::Id => self.id_token.as_deref(),
            TokenKind::Access => self.access_token.as_deref(),
        }
    }

    /// Returns the token if it does not expire within the next 30 seconds.
    pub(in crate::cli) fn valid(&self, kind: TokenKind, now: SystemTime) -> Option<&str> {
        let token = self.latest(kind)?;
        let until = match kind {
            TokenKind::Id => claims(token).and_then(|claims| claims.get("exp")?.as_u64()),
            TokenKind::Access => self.access_until,
        };
        let soon = seconds(now + Duration::from_secs(30));
        until.is_none_or(|until| until > soon).then_some(token)
    }

    /// Returns the display name of the user.
    pub(in crate::cli) fn name(&self) -> String {
        let claims = self.id_token.as_deref().and_then(claims).unwrap_or_default();
        let text = |name| claims.get(name).and_then(Value::as_str);
        let name = text("email")
            .or_else(|| text("preferred_username"))
            .or_else(|| text("sub"))
            .unwrap_or("unknown user");
        name.chars().filter(|char| !char.is_control()).take(256).collect()
    }
}

/// Returns the claims of a token, unverified: the provider itself returned it, and they decide
/// nothing here.
fn claims(token: &str) -> Option<Value> {
    let payload = token.split('.').nth(1)?;
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()
}

/// Reads the token file.
pub(in crate::cli) fn read() -> Result<StoredTokens, Failure> {
    let file = file()?;
    let help = "sign in with `portcullis login --issuer URL --client-id ID`";
    let text = match fs::read(&file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Failure::with_help("you are not signed in", help));
        }
        text => text.map_err(|error| Failure::new(format!("{}: {error}", file.display())))?,
    };
    serde_json::from_slice(&text)
        .map_err(|_| Failure::with_help(format!("failed to parse {}", file.display()), help))
}

/// Replaces the token file.
pub(in crate::cli) fn write(tokens: &StoredTokens) -> Result<(), Failure> {
    let file = file()?;
    let text = serde_json::to_vec_pretty(tokens).map_err(Failure::new)?;
    atomic_file::replace(&file, &text)
        .map_err(|error| Failure::new(format!("{}: {error}", file.display())))
}

/// Locks the token file against other processes until the lock is dropped: a refresh token can be
/// valid for one use only.
pub(in crate::cli) fn lock() -> Result<File, Failure> {
    let file = file()?.with_extension("lock");
    let lock = OpenOptions::new().create(true).append(true).mode(0o600).open(&file);
    lock.and_then(|lock| lock.lock().map(|()| lock))
        .map_err(|error| Failure::new(format!("{}: {error}", file.display())))
}

/// Returns the path of the token file, and creates its folder.
fn file() -> Result<PathBuf, Failure> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = set("XDG_CONFIG_HOME")
        .or_else(|| Some(set("HOME")?.join(".config")))
        .map(|folder| folder.join("portcullis"));
    let folder = folder.ok_or_else(|| {
        Failure::with_help("there is no configuration folder", "set HOME or XDG_CONFIG_HOME")
    })?;
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&folder)
        .map_err(|error| Failure::new(format!("{}: {error}", folder.display())))?;
    Ok(folder.join("tokens.json"))
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn tokens(exp: u64, access_until: Option<u64>) -> StoredTokens {
        let claims =
            URL_SAFE_NO_PAD.encode(format!("{{\"exp\":{exp},\"email\":\"ann@example.com\"}}"));
        let registration = Registration {
            issuer: String::new(),
            client_id: String::new(),
            scope: String::new(),
            certificate_authorities: None,
        };
        StoredTokens {
            registration,
            id_token: Some(format!("h.{claims}.s")),
            access_token: Some("opaque".to_owned()),
            refresh_token: None,
            access_until,
        }
    }

    #[test]
    fn a_token_that_expires_soon_is_not_valid() {
        let now = UNIX_EPOCH + Duration::from_secs(1000);
        let valid = |exp, until, kind| tokens(exp, until).valid(kind, now).is_some();
        assert!(valid(1031, None, TokenKind::Id));
        assert!(!valid(1030, None, TokenKind::Id));
        assert!(valid(0, Some(1031), TokenKind::Access));
        assert!(!valid(0, Some(1030), TokenKind::Access));
        assert!(valid(0, None, TokenKind::Access), "the provider returned no expiry");
        assert_eq!(tokens(0, None).name(), "ann@example.com");
    }
}
