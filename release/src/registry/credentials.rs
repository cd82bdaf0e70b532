//! Credentials for a registry, from a file of the format of `kubernetes.io/dockerconfigjson`.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use serde::Deserialize;

/// A name and a password. They are shown nowhere.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Credentials {
    username: String,
    password: String,
}

#[derive(Deserialize)]
struct DockerConfig {
    auths: HashMap<String, Login>,
}

#[derive(Deserialize)]
struct Login {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
}

// === impl Credentials ===

impl Credentials {
    /// Reads the credentials of a host.
    pub(super) fn read(path: &Path, host: &str) -> Result<Self, String> {
        let file = path.display();
        let text = fs::read(path).map_err(|error| format!("{file}: {error}"))?;
        // The error of the parser would show a part of the text.
        let config: DockerConfig = serde_json::from_slice(&text).map_err(|_| {
            format!("{file} is not of the format of `kubernetes.io/dockerconfigjson`")
        })?;
        let login = config
            .auths
            .get(host)
            .or_else(|| config.auths.get(&format!("https://{host}")))
            .ok_or_else(|| format!("{file} has no credentials for {host}"))?;
        login.credentials().ok_or_else(|| format!("{file} has no valid credentials for {host}"))
    }

    /// The password, and both parts as they are sent.
    pub(super) fn secrets(self) -> [String; 2] {
        let pair = STANDARD.encode(format!("{}:{}", self.username, self.password));
        [self.password, pair]
    }

    /// The value of `Authorization` (RFC 7617).
    pub(super) fn basic(&self) -> Option<HeaderValue> {
        let pair = STANDARD.encode(format!("{}:{}", self.username, self.password));
        let mut value = HeaderValue::from_str(&format!("Basic {pair}")).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

// === impl Login ===

impl Login {
    fn credentials(&self) -> Option<Credentials> {
        let pair = |username: &str, password: &str| Credentials {
            username: username.to_owned(),
            password: password.to_owned(),
        };
        if let (Some(username), Some(password)) = (&self.username, &self.password) {
            return Some(pair(username, password));
        }
        let text = String::from_utf8(STANDARD.decode(self.auth.as_ref()?).ok()?).ok()?;
        text.split_once(':').map(|(username, password)| pair(username, password))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_read_in_both_spellings_and_errors_show_none_of_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        let read = |text: &str| {
            fs::write(&path, text).unwrap();
            Credentials::read(&path, "registry.test:5000")
        };
        let auth = STANDARD.encode("ci:pa:ss");
        for text in [
            format!(r#"{{"auths":{{"registry.test:5000":{{"auth":"{auth}"}}}}}}"#),
            r#"{"auths":{"https://registry.test:5000":{"username":"ci","password":"pa:ss"}}}"#
                .to_owned(),
        ] {
            let basic = read(&text).ok().and_then(|credentials| credentials.basic()).unwrap();
            assert_eq!(basic, format!("Basic {auth}"));
            assert_eq!(format!("{basic:?}"), "Sensitive");
        }
        for bad in ["", "{}", r#"{"auths":{"registry.test:5000":{"auth":"c2VjcmV0"}}}"#] {
            let error = read(bad).err().unwrap();
            assert!(!error.contains("secret") && !error.contains("c2Vj"), "{error}");
        }
    }
}
