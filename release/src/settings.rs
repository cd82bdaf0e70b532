//! The configuration of `portcullis builder`.

mod builds;
mod store;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use k8s_openapi::jiff::Timestamp;
use portcullis_config::client_key;
use portcullis_config::problem::{Problem, Severity};
use portcullis_config::settings::access::{AccessSettings, IssuerSettings};
use portcullis_config::settings::{KubernetesSettings, issuer_problems};
use portcullis_config::yaml;
use serde::Deserialize;

use crate::model::{EnvironmentName, Scope, USER_PREFIX, is_host, is_tag};

pub use self::builds::{BuildSettings, JobSettings, RepositorySettings};
pub use self::store::{PostgresSettings, StoreSettings};

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
    /// The store: a file, or a database.
    pub store: StoreSettings,
    /// Files of keys that seal the data of Secrets in the store: the first one seals, each can open.
    /// Without one, templates may not have Secrets.
    #[serde(default)]
    pub sealing_keys: Vec<PathBuf>,
    /// The cluster that releases are deployed to.
    #[serde(default)]
    pub kubernetes: KubernetesSettings,
    /// The registries that images may come from.
    pub registries: Vec<RegistrySettings>,
    /// The tags that are moved to what runs.
    #[serde(default)]
    pub tags: Vec<TagSettings>,
    /// The callers of the API that have keys.
    #[serde(default)]
    pub callers: Vec<CallerSettings>,
    /// The issuers of the tokens of users, as in the gateway's `access.issuers`.
    #[serde(default)]
    pub issuers: Vec<IssuerSettings>,
    /// What users may do.
    #[serde(default)]
    pub users: Vec<UserSettings>,
    /// The gateway that splits the traffic of rollouts; without it, there are none.
    #[serde(default)]
    pub gateway: Option<GatewaySettings>,
    /// The Prometheus that the queries of rollouts are sent to; without it, they have none.
    #[serde(default)]
    pub prometheus: Option<PrometheusSettings>,
    /// The repositories that are followed; without it, none.
    #[serde(default)]
    pub builds: Option<BuildSettings>,
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

/// How the replicas of the gateway are found.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GatewaySettings {
    /// The Namespace of its pods.
    #[serde(default)]
    pub namespace: Option<String>,
    /// Instead of it, the addresses of the telemetry listeners of all of its replicas.
    #[serde(default)]
    pub replicas: Vec<SocketAddr>,
    /// A file with the token that they admit; by default that of the pod's ServiceAccount, for pods
    /// of a Namespace.
    #[serde(default)]
    pub token_file: Option<PathBuf>,
}

/// A server of Prometheus' HTTP API.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PrometheusSettings {
    /// Its URL, before `/api/v1/query`. `{namespace}` and `{environment}` in it stand for those of the
    /// service.
    pub url: String,
    /// A file with a bearer token for it.
    #[serde(default)]
    pub token_file: Option<PathBuf>,
    /// The authorities of its certificate in PEM; without it, those of the system.
    #[serde(default)]
    pub certificate_authorities: Option<PathBuf>,
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

/// What stands for the name of a service in the repository of a tag.
pub(crate) const SERVICE: &str = "{service}";

/// A tag that is moved to the image of the release that runs in an environment.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TagSettings {
    /// The environment.
    pub environment: EnvironmentName,
    /// The tag.
    pub tag: String,
    /// The repository of each service's images, such as `registry.example.com/{service}`. An image
    /// of another one gets no tag: whoever may deploy a service must not move the tags of others.
    pub repository: String,
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

/// What users may do.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UserSettings {
    /// Names of users, with the prefix of their issuer.
    #[serde(default)]
    pub users: Vec<String>,
    /// Names of groups, with the prefix of their issuer.
    #[serde(default)]
    pub groups: Vec<String>,
    /// What they may do.
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
        // What a sandbox is given is read from another folder.
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        settings.resolve(path.parent().unwrap_or(Path::new("")));
        let problems = settings.problems();
        if problems.is_empty() { Ok(settings) } else { Err(problems) }
    }

    fn resolve(&mut self, folder: &Path) {
        let resolve = |path: &mut PathBuf| *path = folder.join(&*path);
        self.store.resolve(folder);
        self.sealing_keys.iter_mut().for_each(resolve);
        if let Some(tls) = &mut self.tls {
            resolve(&mut tls.certificate);
            resolve(&mut tls.key);
        }
        self.kubernetes.kubeconfig.iter_mut().for_each(resolve);
        for issuer in &mut self.issuers {
            issuer.certificate_authorities.iter_mut().for_each(resolve);
        }
        for registry in &mut self.registries {
            registry.credentials.iter_mut().for_each(resolve);
            registry.certificate_authorities.iter_mut().for_each(resolve);
        }
        self.gateway
            .iter_mut()
            .filter_map(|gateway| gateway.token_file.as_mut())
            .for_each(|path| *path = folder.join(&*path));
        self.prometheus
            .iter_mut()
            .flat_map(|one| one.token_file.iter_mut().chain(&mut one.certificate_authorities))
            .for_each(|path| *path = folder.join(&*path));
        self.builds.iter_mut().for_each(|builds| builds.resolve(folder));
    }

    /// The issuers as the gateway's settings have them.
    #[must_use]
    pub fn access(&self) -> AccessSettings {
        AccessSettings { issuers: self.issuers.clone(), ..AccessSettings::default() }
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
        self.check_registries(&mut report);
        self.check_tags(&mut report);
        self.check_names(&mut report);
        for caller in &self.callers {
            check_keys(caller, &mut report);
            check_grants(&format!("the caller `{}`", caller.name), &caller.grants, &mut report);
        }
        for (key, message, help) in issuer_problems(&self.access()) {
            report(format!("`{key}`: {message}"), &help);
        }
        for issuer in self.issuers.iter().filter(|issuer| issuer.introspection.is_some()) {
            report(
                format!("the issuer `{}` has `introspection`", issuer.name),
                "leave it out: the builder reads signed tokens alone",
            );
        }
        self.check_users(&mut report);
        if self
            .gateway
            .as_ref()
            .is_some_and(|one| one.namespace.is_some() != one.replicas.is_empty())
        {
            report(
                "`gateway` has neither or both of `namespace` and `replicas`".to_owned(),
                "write the `namespace` of the gateway's pods, or the addresses of the telemetry \
                 listeners of all `replicas`",
            );
        }
        let url = self.prometheus.as_ref().map(|one| one.url.as_str());
        if url.is_some_and(|url| !url.starts_with("http://") && !url.starts_with("https://")) {
            report(
                "`prometheus.url` is no URL".to_owned(),
                "write one such as `http://prometheus.monitoring.svc:9090`",
            );
        }
        self.builds.iter().for_each(|builds| builds.check(&self.registries, &mut report));
        problems
    }

    fn check_registries(&self, report: &mut impl FnMut(String, &str)) {
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
    }

    fn check_tags(&self, report: &mut impl FnMut(String, &str)) {
        for entry in self.tags.iter().filter(|entry| !is_tag(&entry.tag)) {
            report(
                format!("{:?} is not a tag", entry.tag),
                "write letters, digits, `_`, `.` and `-`, such as `production`",
            );
        }
        for entry in self.tags.iter().filter(|entry| !entry.repository.contains(SERVICE)) {
            report(
                format!(
                    "the repository {:?} of a tag does not contain `{SERVICE}`",
                    entry.repository
                ),
                "write the repository of each service's images, such as \
                 `registry.example.com/{service}`",
            );
        }
    }

    /// Reports what is there twice, and names that the audit log cannot show.
    fn check_names(&self, report: &mut impl FnMut(String, &str)) {
        // A second entry would replace the first one: its keys would get other grants.
        let names = || self.callers.iter().map(|caller| caller.name.as_str());
        let hashes = self.callers.iter().flat_map(|caller| &caller.keys).map(|key| &*key.hash);
        let hosts = self.registries.iter().map(|registry| registry.host.as_str());
        let tagged = self.tags.iter().map(|entry| entry.environment.as_str());
        let tags = self.tags.iter().map(|entry| entry.tag.as_str());
        for (what, twice) in [
            ("tag", repeated(tags)),
            ("environment of a tag", repeated(tagged)),
            ("caller", repeated(names())),
            ("key", repeated(hashes)),
            ("registry", repeated(hosts)),
        ] {
            for name in twice {
                report(format!("the {what} {name:?} is there twice"), "keep one of them");
            }
        }
        if names().any(|name| name.starts_with("portcullis:")) {
            report(
                "a caller has a `name` that starts with `portcullis:`".to_owned(),
                "write another one: the builder itself has these names in the audit log",
            );
        }
        if names().any(|name| name.is_empty() || name.chars().any(char::is_control)) {
            report(
                "a caller has an empty `name`, or one with control characters".to_owned(),
                "write the name that the audit log shows",
            );
        }
    }

    fn check_users(&self, report: &mut impl FnMut(String, &str)) {
        for (index, entry) in self.users.iter().enumerate() {
            let what = format!("`users.{index}`");
            check_grants(&what, &entry.grants, report);
            let mut names = entry.users.iter().chain(&entry.groups);
            let is_name = |name: &String| {
                !name.is_empty() && !name.contains(|char| char == '*' || char <= ' ')
            };
            if !names.clone().all(is_name) || names.next().is_none() {
                report(
                    format!("{what} has no `users` and no `groups`, or one that is not a name"),
                    "write names as tokens have them, without `*`",
                );
            }
        }
    }
}

/// What is there more than once.
fn repeated<'t>(texts: impl Iterator<Item = &'t str>) -> Vec<&'t str> {
    let mut seen = HashSet::new();
    texts.filter(|text| !seen.insert(*text)).collect()
}

fn check_keys(caller: &CallerSettings, report: &mut impl FnMut(String, &str)) {
    /// One in use, and one that replaces it.
    const MAX: usize = 2;
    let name = &caller.name;
    if caller.keys.len() > MAX {
        report(
            format!("the caller `{name}` has more than {MAX} keys"),
            "keep the one in use and the one that replaces it; give each program its own caller",
        );
    }
    if name.starts_with(USER_PREFIX) {
        report(
            format!("the caller `{name}` could be confused with a user"),
            "write another name: those of users begin with `user:` in the audit log",
        );
    }
    for key in &caller.keys {
        if client_key::read_hash(&key.hash).is_none() {
            report(
                format!("the caller `{name}` has a key without a valid `hash`"),
                "write the hash that `portcullis key create NAME --print` prints",
            );
        }
        if key.expires.as_deref().is_some_and(|text| time(text).is_none()) {
            report(
                format!("the caller `{name}` has a key with an invalid `expires`"),
                "write a time such as `2027-01-31T00:00:00Z`",
            );
        }
    }
}

fn check_grants(who: &str, grants: &[GrantSettings], report: &mut impl FnMut(String, &str)) {
    let names = grants.iter().flat_map(|grant| grant.services.iter().chain(&grant.environments));
    for name in names {
        if name != "*" && portcullis_config::model::check_label(name).is_err() {
            report(
                format!("{who} has a grant for {name:?}, which is not a name"),
                "write a name, or `*` for all",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_found_from_any_folder() {
        let here = std::env::current_dir().unwrap();
        let folder = tempfile::tempdir_in(&here).unwrap();
        let path = folder.path().join("builder.yaml");
        let text = "store: s\nregistries: []\ncallers: []\nbuilds: {folder: m, baseImages: base, \
                    repositories: [], images: 'r.test/{service}'}\n";
        std::fs::write(&path, text.replace("registries: []", "registries: [{host: r.test}]"))
            .unwrap();
        let relative = path.strip_prefix(&here).unwrap();
        let settings = Settings::read(relative).unwrap();
        assert_eq!(settings.builds.unwrap().base_images.unwrap(), folder.path().join("base"));
    }

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
        assert_eq!(problems("", &["portcullis:build"]).len(), 1);
        assert_eq!(
            problems("{host: 'https://r.test'}, {host: r.test, tokenServer: t.test/x}", &[""])
                .len(),
            3
        );
    }
}
