//! The tokens of who signed in, kept in a file that nobody else may read.

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

use super::provider::TokenAnswer;
use crate::cli::problems::Failure;

/// Where somebody signs in.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::cli) struct Registration {
    pub(in crate::cli) issuer: String,
    pub(in crate::cli) client_id: String,
    pub(in crate::cli) scope: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::cli) certificate_authorities: Option<PathBuf>,
}

/// What is kept.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::cli) struct Kept {
    #[serde(flatten)]
    pub(in crate::cli) registration: Registration,
    id_token: Option<String>,
    access_token: Option<String>,
    pub(in crate::cli) refresh_token: Option<String>,
    /// When the access token ends, in seconds since 1970, if the provider said so.
    access_until: Option<u64>,
}

/// Which token is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum Which {
    Id,
    Access,
}

// === impl Kept ===

impl Kept {
    /// `refresh_token` is the one that stays in use where there is no new one (RFC 6749 §6).
    pub(in crate::cli) fn new(
        registration: Registration,
        answer: TokenAnswer,
        refresh_token: Option<String>,
        now: SystemTime,
    ) -> Self {
        let access_until = answer.expires_in.map(|lasts| seconds(now).saturating_add(lasts));
        Self {
            registration,
            id_token: answer.id_token,
            access_token: answer.access_token,
            refresh_token: answer.refresh_token.or(refresh_token),
            access_until,
        }
    }

    /// The token, however long it will be good.
    pub(in crate::cli) fn latest(&self, which: Which) -> Option<&str> {
        match which {
            Which::Id => self.id_token.as_deref(),
            Which::Access => self.access_token.as_deref(),
        }
    }

    /// The token, if it will still be good for a while.
    pub(in crate::cli) fn token(&self, which: Which, now: SystemTime) -> Option<&str> {
        let token = self.latest(which)?;
        let until = match which {
            Which::Id => claims(token).and_then(|claims| claims.get("exp")?.as_u64()),
            Which::Access => self.access_until,
        };
        let soon = seconds(now + Duration::from_secs(30));
        until.is_none_or(|until| until > soon).then_some(token)
    }

    /// What the person is called.
    pub(in crate::cli) fn name(&self) -> String {
        let claims = self.id_token.as_deref().and_then(claims).unwrap_or_default();
        let text = |name| claims.get(name).and_then(Value::as_str);
        let name = text("email")
            .or_else(|| text("preferred_username"))
            .or_else(|| text("sub"))
            .unwrap_or("somebody");
        name.chars().filter(|char| !char.is_control()).take(256).collect()
    }
}

/// The claims of a token that came from the provider itself, over a connection that is its own:
/// nothing is decided by them here.
fn claims(token: &str) -> Option<Value> {
    let payload = token.split('.').nth(1)?;
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()
}

/// What was kept last.
pub(in crate::cli) fn read() -> Result<Kept, Failure> {
    let file = file()?;
    let help = "sign in with `portcullis login --issuer URL --client-id ID`";
    let text = match fs::read(&file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Failure::with_help("you are not signed in", help));
        }
        text => text.map_err(|error| Failure::new(format!("{}: {error}", file.display())))?,
    };
    serde_json::from_slice(&text)
        .map_err(|_| Failure::with_help(format!("{} is not understood", file.display()), help))
}

/// Keeps it, in the place of what was there.
pub(in crate::cli) fn write(kept: &Kept) -> Result<(), Failure> {
    let file = file()?;
    let text = serde_json::to_vec_pretty(kept).map_err(Failure::new)?;
    atomic_file::replace(&file, &text)
        .map_err(|error| Failure::new(format!("{}: {error}", file.display())))
}

/// Keeps other runs from changing it, until it is dropped: a refresh token may be good for one use
/// only.
pub(in crate::cli) fn lock() -> Result<File, Failure> {
    let file = file()?.with_extension("lock");
    let lock = OpenOptions::new().create(true).append(true).mode(0o600).open(&file);
    lock.and_then(|lock| lock.lock().map(|()| lock))
        .map_err(|error| Failure::new(format!("{}: {error}", file.display())))
}

/// Where it is kept; its folder is made.
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

    fn kept(exp: u64, access_until: Option<u64>) -> Kept {
        let claims =
            URL_SAFE_NO_PAD.encode(format!("{{\"exp\":{exp},\"email\":\"ann@example.com\"}}"));
        let registration = Registration {
            issuer: String::new(),
            client_id: String::new(),
            scope: String::new(),
            certificate_authorities: None,
        };
        Kept {
            registration,
            id_token: Some(format!("h.{claims}.s")),
            access_token: Some("opaque".to_owned()),
            refresh_token: None,
            access_until,
        }
    }

    #[test]
    fn a_token_that_is_about_to_end_is_not_good_enough() {
        let now = UNIX_EPOCH + Duration::from_secs(1000);
        let good = |exp, until, which| kept(exp, until).token(which, now).is_some();
        assert!(good(1031, None, Which::Id));
        assert!(!good(1030, None, Which::Id));
        assert!(good(0, Some(1031), Which::Access));
        assert!(!good(0, Some(1030), Which::Access));
        assert!(good(0, None, Which::Access), "the provider did not say that it ends");
        assert_eq!(kept(0, None).name(), "ann@example.com");
    }
}
