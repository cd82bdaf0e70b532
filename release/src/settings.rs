//! The configuration of `portcullis builder`.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use k8s_openapi::jiff::Timestamp;
use portcullis_config::client_key;
use portcullis_config::problem::{Problem, Severity};
use portcullis_config::settings::KubernetesSettings;
use portcullis_config::yaml;
use serde::Deserialize;

use crate::model::{Scope, is_host};

/// The configuration of `portcullis builder`. `docs/releases.md` describes it.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Settings {
    /// The address of the API.
    #[serde(default = "default_address")]
    pub address: SocketAddr,
    /// The certificate of the API; without it, `address` must be a loopback address.
    #[serde(default)]
    pub tls: Option<TlsSettings>,
    /// The file of the store; created if it does not exist.
    pub store: PathBuf,
    /// The cluster that releases are deployed to.
    #[serde(default)]
    pub kubernetes: KubernetesSettings,
    /// The registries that images may come from.
    pub registries: Vec<RegistrySettings>,
    /// The callers of the API.
    pub callers: Vec<CallerSettings>,
}

/// The certificate of the API.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TlsSettings {
    /// The chain in PEM, leaf first.
    pub certificate: PathBuf,
    /// The private key in PEM.
    pub key: PathBuf,
}

/// A registry.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RegistrySettings {
    /// Its host and port, as in the names of images.
    pub host: String,
    /// A file of the format of `kubernetes.io/dockerconfigjson`; without it, no credentials.
    #[serde(default)]
    pub credentials: Option<PathBuf>,
    /// The authorities of its certificate in PEM; without it, those of the system.
    #[serde(default)]
    pub certificate_authorities: Option<PathBuf>,
    /// The host and port of its token server, if that is another host: no other one receives the
    /// credentials.
    #[serde(default)]
    pub token_server: Option<String>,
}

/// A caller of the API.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CallerSettings {
    /// Its name, as in the audit log.
    pub name: String,
    /// The hashes of its keys: `sha256:` and 64 hexadecimal digits.
    pub keys: Vec<KeySettings>,
    /// What it may do.
    pub grants: Vec<GrantSettings>,
}

/// A key of a caller.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KeySettings {
    /// Its hash, as `portcullis key create --print` writes it.
    pub hash: String,
    /// When it expires (RFC 3339); without it, never.
    #[serde(default)]
    pub expires: Option<String>,
}

/// What a caller may do.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GrantSettings {
    /// What: each scope includes those before it.
    pub scope: Scope,
    /// To which services: names, or `*` for all.
    pub services: Vec<String>,
    /// In which environments: names, or `*` for all.
    pub environments: Vec<String>,
}

/// Parses a time (RFC 3339).
pub(crate) fn time(text: &str) -> Option<SystemTime> {
    text.parse::<Timestamp>().ok().map(SystemTime::from)
}

fn default_address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 8470))
}

// === impl Settings ===

impl Settings {
    /// Reads and validates the configuration file. Relative paths in it are relative to its folder.
    ///
    /// # Errors
    /// All problems.
    pub fn read(path: &Path) -> Result<Self, Vec<Problem>> {
        let mut settings: Self = yaml::read_file(path)?;
        settings.resolve(path.parent().unwrap_or(Path::new("")));
        let problems = settings.problems();
        if problems.is_empty() { Ok(settings) } else { Err(problems) }
    }

    fn resolve(&mut self, folder: &Path) {
        let resolve = |path: &mut PathBuf| *path = folder.join(&*path);
        resolve(&mut self.store);
        if let Some(tls) = &mut self.tls {
            resolve(&mut tls.certificate);
            resolve(&mut tls.key);
        }
        self.kubernetes.kubeconfig.iter_mut().for_each(resolve);
        for registry in &mut self.registries {
            registry.credentials.iter_mut().for_each(resolve);
            registry.certificate_authorities.iter_mut().for_each(resolve);
        }
    }

    fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut report = |message: String, help: &str| {
            problems.push(Problem {
                severity: Severity::Error,
                reason: "InvalidConfiguration",
                origin: portcullis_config::model::Origin::default(),
                message,
                help: help.to_owned(),
            });
        };
        if self.tls.is_none() && !self.address.ip().is_loopback() {
            report(
                format!(
                    "`address`: {} is not a loopback address, and there is no `tls`",
                    self.address
                ),
                "write `tls` with `certificate` and `key`: keys of callers must not cross a network \
                 readably",
            );
        }
        for registry in &self.registries {
            for host in std::iter::once(&registry.host).chain(&registry.token_server) {
                if !is_host(host) {
                    report(
                        format!("{host:?} is not the host of a registry"),
                        "write host and port alone, as in the names of images",
                    );
                }
            }
        }
        // A second entry would replace the first one: its keys would get other grants.
        let names = || self.callers.iter().map(|caller| caller.name.as_str());
        let hashes = self.callers.iter().flat_map(|caller| &caller.keys).map(|key| &*key.hash);
        let hosts = self.registries.iter().map(|registry| registry.host.as_str());
        for (what, twice) in [
            ("caller", repeated(names())),
            ("key", repeated(hashes)),
            ("registry", repeated(hosts)),
        ] {
            for name in twice {
                report(format!("the {what} {name:?} is there twice"), "keep one of them");
            }
        }
        if names().any(|name| name.is_empty() || name.chars().any(char::is_control)) {
            report(
                "a caller has an empty `name`, or one with control characters".to_owned(),
                "write the name that the audit log shows",
            );
        }
        for caller in &self.callers {
            for key in &caller.keys {
                if client_key::read_hash(&key.hash).is_none() {
                    report(
                        format!("the caller `{}` has a key without a valid `hash`", caller.name),
                        "write the hash that `portcullis key create NAME --print` prints",
                    );
                }
                if key.expires.as_deref().is_some_and(|text| time(text).is_none()) {
                    report(
                        format!("the caller `{}` has a key with an invalid `expires`", caller.name),
                        "write a time such as `2027-01-31T00:00:00Z`",
                    );
                }
            }
            for name in caller.grants.iter().flat_map(|grant| &grant.services) {
                check_name(&caller.name, name, &mut report);
            }
            for name in caller.grants.iter().flat_map(|grant| &grant.environments) {
                check_name(&caller.name, name, &mut report);
            }
        }
        problems
    }
}

/// What is there more than once.
fn repeated<'t>(texts: impl Iterator<Item = &'t str>) -> Vec<&'t str> {
    let mut seen = HashSet::new();
    texts.filter(|text| !seen.insert(*text)).collect()
}

fn check_name(caller: &str, name: &str, report: &mut impl FnMut(String, &str)) {
    if name != "*" && portcullis_config::model::check_label(name).is_err() {
        report(
            format!("the caller `{caller}` has a grant for {name:?}, which is not a name"),
            "write a name, or `*` for all",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_twice_or_is_no_host_is_reported() {
        let hash = format!("sha256:{}", "0".repeat(64));
        let caller =
            |name: &str| format!("{{name: {name:?}, keys: [{{hash: {hash}}}], grants: []}}");
        let problems = |registries: &str, callers: &[&str]| -> Vec<String> {
            let callers = callers.iter().map(|name| caller(name)).collect::<Vec<_>>().join(", ");
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("builder.yaml");
            let text = format!("store: s\nregistries: [{registries}]\ncallers: [{callers}]\n");
            std::fs::write(&path, text).unwrap();
            let read = Settings::read(&path).err().unwrap_or_default();
            read.into_iter().map(|problem| problem.message).collect()
        };
        assert_eq!(problems("{host: r.test:5000, tokenServer: t.test}", &["ci"]), [""; 0]);
        assert_eq!(
            problems("{host: r.test}, {host: r.test}", &["ci", "ci"]),
            [
                "the caller \"ci\" is there twice".to_owned(),
                format!("the key {hash:?} is there twice"),
                "the registry \"r.test\" is there twice".to_owned(),
            ]
        );
        assert_eq!(
            problems("{host: 'https://r.test'}, {host: r.test, tokenServer: t.test/x}", &[""])
                .len(),
            3
        );
    }
}
